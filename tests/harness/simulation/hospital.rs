//! One hospital: the real participant and keyring, and around them what the agent's shell does.
//! Every step is written down before anything leaves; a crash takes the memory and leaves the disk.

mod flawed;
mod ill;
mod keys;
mod shares;

use std::sync::Arc;

use aggregation::ids::{Digest, HospitalId, RoundId, SlotId};
use aggregation::keys::provision::Provision;
use aggregation::masking::keystream::apply_packed;
use aggregation::message::{DeclineReason, Said, SetStatement, Terms};
use aggregation::participant::{Action, Event, Participant};
use aggregation::refusal::Refusal;
use aggregation::setup::keyring::{Announced, Keyring};
use aggregation::vector::{Contribution, encode};

use crate::simulation::cast::Cast;
use crate::simulation::disk::{Disk, File, SlotPage, Work};
use crate::simulation::flaw::Flaw;
use crate::simulation::mischief::Mischief;
use crate::simulation::spoil::Spoil;
use crate::simulation::stage::{Errand, Fate, Halt, Happening, Stage};
use crate::simulation::trace::Who;
use crate::simulation::watch::Invariant;
use crate::simulation::words::{Answer, Call, Notice, Word};

/// A hospital.
#[derive(Debug)]
pub(crate) struct Hospital {
    id: HospitalId,
    place: usize,
    cast: Arc<Cast>,
    disk: Disk,
    mind: Option<Mind>,
    /// Counts restarts: what an earlier life has asked for is nobody's any more.
    life: u64,
    /// What it is up to; nothing, for an honest one.
    mischief: Option<Mischief>,
    spoil: Option<Spoil>,
    flaw: Option<Flaw>,
}

/// What a hospital has in memory while it runs.
#[derive(Debug)]
struct Mind {
    announced: Option<Announced>,
    keys: Option<Keyed>,
    participant: Participant,
    training: Option<SlotId>,
    /// Whose batches, of which number, the coordinator knows to be opened here.
    noted: Option<(u64, usize)>,
}

/// The keys, once they are agreed on.
#[derive(Debug)]
struct Keyed {
    provision: Arc<Provision>,
    keyring: Keyring,
}

impl Hospital {
    /// A hospital that has not been started.
    pub(crate) fn new(
        cast: &Arc<Cast>,
        place: usize,
        disk: Disk,
        mischief: Option<Mischief>,
        spoil: Option<Spoil>,
        flaw: Option<Flaw>,
    ) -> Option<Self> {
        let id = cast.names.get(place)?.clone();
        let cast = Arc::clone(cast);
        Some(Self { id, place, cast, disk, mind: None, life: 0, mischief, spoil, flaw })
    }

    const fn honest(&self) -> bool {
        self.mischief.is_none()
    }

    /// Its disk.
    pub(crate) const fn disk(&self) -> &Disk {
        &self.disk
    }

    /// Whether it runs.
    pub(crate) const fn is_up(&self) -> bool {
        self.mind.is_some()
    }

    /// Starts it: what was written down is played again, and what is due is said again.
    pub(crate) fn start(&mut self, stage: &mut Stage) -> Result<(), Halt> {
        self.life += 1;
        stage.say(self.who(), format_args!("starts"));
        self.remember(stage);
        self.trains_again(stage)?;
        self.hello(stage)
    }

    /// Its program ends, and its memory with it.
    pub(crate) fn stop(&mut self) {
        self.life += 1;
        self.mind = None;
    }

    /// What memory there is, from the disk alone.
    pub(crate) fn remember(&mut self, stage: &mut Stage) {
        let announced = self.announced();
        let keys = self.keys_from_disk();
        let participant = self.participant(stage, keys.as_ref());
        let training = None;
        self.mind = Some(Mind { announced, keys, participant, training, noted: None });
    }

    fn participant(&self, stage: &mut Stage, keys: Option<&Keyed>) -> Participant {
        let (me, charter) = (self.id.clone(), self.cast.charter.clone());
        let fresh = match self.disk.last {
            None => Participant::new(me, charter),
            Some((round, slot)) => Participant::resumed(me, charter, round, slot),
        };
        let mut participant = match keys {
            Some(keys) => fresh.with_keys(Arc::clone(&keys.provision)),
            None => fresh,
        };
        for event in self.disk.open.iter().flat_map(|page| self.played(page)) {
            // What follows from it is let fall; what is still due is asked for afterwards.
            if let Err(refusal) = participant.handle(event) {
                let seen = format!("{}: {refusal}", self.id);
                stage.watch.broken(Invariant::JournalReplays, seen);
            }
        }
        participant
    }

    /// The events that led to a page.
    fn played(&self, page: &SlotPage) -> Vec<Event> {
        let slot = page.terms.slot;
        let terms = page.terms.clone();
        let mut events = match page.declined {
            Some(reason) => vec![Event::Barred { terms, reason }],
            None => vec![Event::Offered(terms)],
        };
        if page.declined.is_none() && !self.forgets_its_update() {
            events.push(match page.work {
                Work::Begun | Work::Failed => Event::TrainerFailed { slot },
                Work::Trained(digest, bytes) => Event::Trained { slot, digest, bytes },
            });
        }
        events.extend(page.roster.clone().map(Event::Frozen));
        events.extend(page.masked.map(|(digest, bytes)| Event::Masked { slot, digest, bytes }));
        events.extend(page.set.clone().map(Event::Fixed));
        events.extend(page.signed.clone().map(|(signed, _)| Event::Unmask(signed)));
        events
    }

    /// Shows that it is there, says again what is due, and does so again in a while.
    fn hello(&mut self, stage: &mut Stage) -> Result<(), Halt> {
        let again = stage.chance.between(8_000, 15_000);
        let (site, life) = (self.place, self.life);
        stage.after(again, Happening::Clock { site, life, what: Errand::Hello });
        stage.call(self.place, Call::Hello);
        self.happen(stage, Event::Reconnected)
    }

    /// Its clock rings.
    pub(crate) fn ring(&mut self, stage: &mut Stage, life: u64, what: Errand) -> Result<(), Halt> {
        if life != self.life || self.mind.is_none() {
            return Ok(());
        }
        match what {
            Errand::Hello => self.hello(stage),
            Errand::Trained(slot) => self.trained(stage, slot),
        }
    }

    /// The coordinator says something.
    pub(crate) fn hear(&mut self, stage: &mut Stage, notice: &Notice) -> Result<(), Halt> {
        if self.mind.is_none() {
            return Ok(());
        }
        stage.say(self.who(), format_args!("hears {}", notice.name()));
        match notice {
            Notice::Keys(keys) => self.hear_of_keys(stage, keys),
            Notice::Offer(terms) => {
                let terms = terms.clone();
                let event = if self.has_keys_for(&terms) {
                    Event::Offered(terms)
                } else {
                    Event::Barred { terms, reason: DeclineReason::NoKeys }
                };
                self.happen(stage, event)
            }
            Notice::Freeze(roster) => self.happen(stage, Event::Frozen(roster.clone())),
            Notice::Fix(set) => self.happen(stage, Event::Fixed(set.clone())),
            Notice::Unmask(signed) => {
                if self.answers_carelessly(stage, signed)? {
                    return Ok(());
                }
                self.happen(stage, Event::Unmask(signed.clone()))
            }
            Notice::Close(closed) => self.happen(stage, Event::Closed(closed.clone())),
        }
    }

    /// The coordinator answers a call.
    pub(crate) fn answered(&mut self, stage: &mut Stage, answer: Answer) -> Result<(), Halt> {
        if self.mind.is_none() {
            return Ok(());
        }
        match answer {
            Answer::Kept { slot, word } => match word {
                Word::Update => self.happen(stage, Event::Uploaded { slot }),
                Word::Signature => self.happen(stage, Event::Signed { slot }),
                Word::Shares => self.happen(stage, Event::Unmasked { slot }),
                Word::Ready | Word::Decline => Ok(()),
            },
            Answer::Refused { slot, word } => {
                stage.say(self.who(), format_args!("was refused {word:?} in slot {slot}"));
                Ok(())
            }
            Answer::Noted { number, owners } => {
                if let Some(mind) = &mut self.mind {
                    mind.noted = Some((number, owners.len()));
                }
                Ok(())
            }
            Answer::Batch { number, owner, batch } => {
                self.open_batch(stage, number, &owner, &batch)
            }
        }
    }

    /// Something happened: asks the participant, writes down what follows, and does it.
    fn happen(&mut self, stage: &mut Stage, event: Event) -> Result<(), Halt> {
        let Some(mind) = &self.mind else { return Ok(()) };
        let mut next = mind.participant.clone();
        let actions = match next.handle(event.clone()) {
            Ok(actions) => actions,
            Err(refusal) => {
                self.refuses(stage, &refusal);
                return Ok(());
            }
        };
        if !self.write_down(stage, &event, &next, &actions)? {
            return Ok(());
        }
        if let Some(mind) = &mut self.mind {
            mind.participant = next;
        }
        actions.into_iter().try_for_each(|action| self.act(stage, action))
    }

    /// The participant refused something. What came late is let be; anything else is worth an alarm.
    fn refuses(&self, stage: &mut Stage, refusal: &Refusal) {
        match refusal {
            Refusal::UsedSlot { .. } => {
                stage.say(self.who(), format_args!("refuses: {refusal}"));
            }
            other => stage.alarm(self.who(), format_args!("{} {other}", other.rule())),
        }
    }

    /// Journals an event that changes something. False when it cannot be acted on.
    fn write_down(
        &mut self,
        stage: &mut Stage,
        event: &Event,
        next: &Participant,
        actions: &[Action],
    ) -> Result<bool, Halt> {
        let page = self.disk.open.as_ref();
        let at_hand = page.map(|page| page.terms.slot);
        match event {
            Event::Offered(terms) | Event::Barred { terms, .. } => {
                self.begin_page(stage, next, terms, actions)?;
            }
            Event::Trained { slot, digest, bytes } => {
                let ready = actions.iter().any(|action| matches!(action, Action::Ready { .. }));
                if ready && at_hand == Some(*slot) && !self.loses_a_page() {
                    let work = Work::Trained(*digest, *bytes);
                    self.keep_page(stage, *slot, |page| page.work = work)?;
                }
            }
            Event::TrainerFailed { slot } => {
                if page.is_some_and(|page| page.terms.slot == *slot && page.work == Work::Begun) {
                    self.keep_page(stage, *slot, |page| page.work = Work::Failed)?;
                }
            }
            Event::Frozen(roster) => {
                let new = page.is_some_and(|p| p.terms.slot == roster.slot && p.roster.is_none());
                if new && next.phase() == "mask" && !self.forgets_its_update() {
                    let roster = roster.clone();
                    self.keep_page(stage, roster.slot, |page| page.roster = Some(roster))?;
                }
            }
            Event::Fixed(set) => {
                let new = page.is_some_and(|p| p.terms.slot == set.slot && p.set.is_none());
                if new && next.phase() == "sign" && self.flaw != Some(Flaw::SignsBeforeKeeping) {
                    let set = set.clone();
                    self.keep_page(stage, set.slot, |page| page.set = Some(set))?;
                }
            }
            Event::Unmask(signed) => return self.write_down_shares(stage, signed, actions),
            Event::Masked { .. }
            | Event::Uploaded { .. }
            | Event::Signed { .. }
            | Event::Unmasked { .. }
            | Event::Closed(_)
            | Event::Reconnected => {}
        }
        Ok(true)
    }

    /// A new slot gets a new page: it is taken up, or declined.
    fn begin_page(
        &mut self,
        stage: &mut Stage,
        next: &Participant,
        terms: &Terms,
        actions: &[Action],
    ) -> Result<(), Halt> {
        let at_hand = self.disk.open.as_ref().map(|page| page.terms.slot);
        if next.slot() != Some(terms.slot) || at_hand == Some(terms.slot) {
            return Ok(());
        }
        let answer = actions.iter().find_map(|action| match action {
            Action::Train(_) => Some(None),
            Action::Decline { reason, .. } => Some(Some(*reason)),
            Action::Ready { .. }
            | Action::Upload { .. }
            | Action::Mask { .. }
            | Action::Sign { .. }
            | Action::Unmask { .. }
            | Action::Forget(_) => None,
        });
        let Some(declined) = answer else { return Ok(()) };
        let page = SlotPage::new(terms.clone(), declined);
        self.keep(stage, |disk| disk.open = Some(page))
    }

    /// Does what the participant wants done.
    fn act(&mut self, stage: &mut Stage, action: Action) -> Result<(), Halt> {
        match action {
            Action::Train(terms) => {
                let slot = terms.slot;
                if let Some(mind) = &mut self.mind {
                    mind.training = Some(slot);
                }
                let takes = stage.chance.between(10, 8_000);
                let (site, life) = (self.place, self.life);
                stage.after(takes, Happening::Clock { site, life, what: Errand::Trained(slot) });
                Ok(())
            }
            Action::Ready { slot, terms, .. } => self.send(stage, slot, Said::Ready { terms }),
            Action::Decline { slot, terms, reason, .. } => {
                if reason == DeclineReason::Terms {
                    stage.alarm(self.who(), format_args!("terms that do not meet the charter"));
                }
                self.send(stage, slot, Said::Declined { terms, reason })
            }
            Action::Mask { slot, context, members } => self.mask(stage, slot, context, &members),
            Action::Upload { slot, terms, digest, .. } => {
                let Some(file) = self.disk.files.get(&(slot, File::Masked)) else {
                    stage.alarm(self.who(), format_args!("the masked update is gone"));
                    return Ok(());
                };
                let packed = file.as_ref().clone();
                self.send(stage, slot, Said::Update { terms, digest, packed })
            }
            Action::Sign { slot, terms, statement, .. } => {
                self.sign(stage, slot, terms, &statement)
            }
            Action::Unmask { slot, terms, .. } => {
                let page = self.disk.open.as_ref().filter(|page| page.terms.slot == slot);
                let Some((_, shares)) = page.and_then(|page| page.signed.clone()) else {
                    stage.alarm(self.who(), format_args!("the shares are gone"));
                    return Ok(());
                };
                let shares = self.repeats_carelessly(shares);
                self.send(stage, slot, Said::Unmask { terms, shares })
            }
            Action::Forget(slot) => self.forget(stage, slot),
        }
    }

    /// Says something in a round; or vanishes just before, or just after.
    fn send(&mut self, stage: &mut Stage, slot: SlotId, said: Said) -> Result<(), Halt> {
        if stage.vanishes() {
            return Err(Halt::Drop);
        }
        if self.honest() {
            match &said {
                Said::Signed { .. } => stage.counts.signatures += 1,
                Said::Unmask { .. } => stage.counts.shares += 1,
                Said::Ready { .. } | Said::Declined { .. } | Said::Update { .. } => {}
            }
            stage.watch.leaves(&self.id, slot, &said);
            stage.call(self.place, Call::Said { slot, said });
        } else {
            self.send_turned(stage, slot, said);
        }
        if stage.vanishes() { Err(Halt::Drop) } else { Ok(()) }
    }

    /// Its trainer is done.
    fn trained(&mut self, stage: &mut Stage, slot: SlotId) -> Result<(), Halt> {
        let Some(mind) = self.mind.as_mut().filter(|mind| mind.training == Some(slot)) else {
            return Ok(());
        };
        mind.training = None;
        let page = self.disk.open.as_ref().filter(|page| page.terms.slot == slot);
        let Some(terms) = page.map(|page| page.terms.clone()) else { return Ok(()) };
        if stage.trainer_fails() {
            return self.happen(stage, Event::TrainerFailed { slot });
        }
        let Some(mut packed) = self.update(stage, &terms) else {
            stage.alarm(self.who(), format_args!("its own update cannot be encoded"));
            return Ok(());
        };
        self.poison(stage, &terms, &mut packed);
        stage.watch.trained(&self.id, slot, &packed);
        let (digest, bytes) = (Digest::blake3(&packed), packed.len());
        let packed = Arc::new(packed);
        self.keep(stage, |disk| {
            disk.files.insert((slot, File::Trained), packed);
        })?;
        self.happen(stage, Event::Trained { slot, digest, bytes })
    }

    /// What a trainer would make: every hospital its own, so that a missing one shows in the sum.
    fn update(&self, stage: &mut Stage, terms: &Terms) -> Option<Vec<u8>> {
        let format = self.cast.charter.format(terms.work).ok()?;
        let chance = &mut stage.chance;
        let mut value = || {
            let step = u16::try_from(chance.below(2_001)).unwrap_or(0);
            f32::from(step) / 1_000.0 - 1.0
        };
        let update = (0..format.model()).map(|_| value()).collect();
        let metrics = format.metrics().map(|shape| {
            let mut tally = aggregation::evaluation::MetricTally::new(shape);
            for label in [0, 1, 1] {
                // Two logits for two classes, and a label that is one of them.
                let counted = tally.record(&[value(), value()], label);
                debug_assert_eq!(counted, Ok(()), "the study has two classes");
            }
            tally
        });
        let weight = stage.chance.between(1, 5_000);
        encode(&format, &Contribution { weight, update, metrics }).ok().map(|said| said.packed)
    }

    /// Masks the update for this roster. The masked bytes are on the disk before the keys are
    /// erased, and the keys are erased before a byte leaves.
    fn mask(
        &mut self,
        stage: &mut Stage,
        slot: SlotId,
        context: aggregation::context::ContextDigest,
        members: &std::collections::BTreeSet<HospitalId>,
    ) -> Result<(), Halt> {
        let plain = self.disk.files.get(&(slot, File::Trained)).cloned();
        let own = self.own_slot(slot);
        let seeds = self.mind.as_mut().and_then(|mind| {
            let keyring = &mut mind.keys.as_mut()?.keyring;
            keyring.take(slot).ok()
        });
        let page = self.disk.open.as_ref().filter(|page| page.terms.slot == slot);
        let format = page.and_then(|page| self.cast.charter.format(page.terms.work).ok());
        let (Some(plain), Some(own), Some(seeds), Some(format)) = (plain, own, seeds, format) else {
            stage.alarm(self.who(), format_args!("the keys or the update of slot {slot} are gone"));
            return Ok(());
        };
        let Some(keyring) = self.keyring() else { return Ok(()) };
        let masks = keyring.masks(context, members, &own, &seeds);
        let secrets = keyring.secrets().expose().to_vec();
        let mut packed = plain.as_ref().clone();
        self.slips_a_lane(&mut packed, &format);
        if self.flaw != Some(Flaw::SendsUnmasked)
            && apply_packed(&masks, format.modulus(), 0, &mut packed).is_err()
        {
            stage.alarm(self.who(), format_args!("the update is no whole number of lanes"));
            return Ok(());
        }
        let (digest, bytes) = (Digest::blake3(&packed), packed.len());
        stage.watch.adds(&self.id, slot, digest, plain);
        let packed = Arc::new(packed);
        self.keep(stage, |disk| {
            disk.files.insert((slot, File::Masked), packed);
        })?;
        let share = *own.share().value().secret().expose();
        if self.forgets_its_update() {
            return self.happen(stage, Event::Masked { slot, digest, bytes });
        }
        self.keep(stage, |disk| {
            disk.own_erased = disk.own_erased.max(slot);
            if let Some(keys) = &mut disk.keys {
                keys.keyring = secrets;
            }
            if let Some(page) = disk.open.as_mut().filter(|page| page.terms.slot == slot) {
                page.masked = Some((digest, bytes));
                page.own_share = Some(share);
            }
            disk.files.remove(&(slot, File::Trained));
        })?;
        self.happen(stage, Event::Masked { slot, digest, bytes })
    }

    fn sign(
        &mut self,
        stage: &mut Stage,
        slot: SlotId,
        terms: Digest,
        statement: &SetStatement,
    ) -> Result<(), Halt> {
        let Some(identity) = self.cast.identities.get(self.place) else { return Ok(()) };
        let signed = match &self.mischief {
            Some(mischief) if !stage.calm => mischief.set(&mut stage.chance, statement),
            Some(_) | None => statement.clone(),
        };
        let signature = identity.sign(&signed);
        if self.honest() {
            stage.watch.signed(&self.id, slot, statement);
        }
        self.send(stage, slot, Said::Signed { terms, signature })?;
        self.keeps_what_it_signed(stage, slot, terms, statement)
    }

    /// A slot is over: nothing of it, or of those before it, is needed any more.
    fn forget(&mut self, stage: &mut Stage, slot: SlotId) -> Result<(), Halt> {
        if let Some(mind) = &mut self.mind {
            if mind.training == Some(slot) {
                mind.training = None;
            }
            if let Some(keys) = &mut mind.keys {
                // A slot beyond all that can be meant has no keys that could be erased.
                let _ = keys.keyring.pass(slot);
            }
        }
        let secrets = self.keyring().map(|keyring| keyring.secrets().expose().to_vec());
        let through = self.erases_through(slot);
        self.keep(stage, |disk| {
            disk.erase_through(through);
            if let (Some(keys), Some(secrets)) = (&mut disk.keys, secrets) {
                keys.keyring = secrets;
            }
            if let Some(page) = disk.open.take_if(|page| page.terms.slot == slot) {
                // The round of a slot that was declined was never taken up.
                let before = disk.last.map_or(RoundId::FIRST, |(round, _)| round);
                let round = if page.declined.is_some() { before } else { page.terms.round };
                disk.last = Some((round, slot));
            }
        })
    }

    fn keyring(&self) -> Option<&Keyring> {
        Some(&self.mind.as_ref()?.keys.as_ref()?.keyring)
    }

    /// Writes to the page of the slot at hand.
    fn keep_page(
        &mut self,
        stage: &mut Stage,
        slot: SlotId,
        write: impl FnOnce(&mut SlotPage),
    ) -> Result<(), Halt> {
        self.keep(stage, |disk| {
            if let Some(page) = disk.open.as_mut().filter(|page| page.terms.slot == slot) {
                write(page);
            }
        })
    }

    /// One transaction: all of it is on the disk, or nothing.
    fn keep(&mut self, stage: &mut Stage, write: impl FnOnce(&mut Disk)) -> Result<(), Halt> {
        match stage.fate(self.who()) {
            Fate::Kept => {
                write(&mut self.disk);
                Ok(())
            }
            Fate::Refused => Err(Halt::Refused),
            Fate::Lost => Err(Halt::Crash),
            Fate::KeptThenLost => {
                write(&mut self.disk);
                Err(Halt::Crash)
            }
        }
    }

    pub(crate) const fn who(&self) -> Who {
        Who::Site(self.place)
    }
}
