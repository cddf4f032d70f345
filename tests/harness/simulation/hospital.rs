//! One hospital: the real participant and keyring, and around them what the agent's shell does.
//! Every step is written down before anything leaves; a crash takes the memory and leaves the disk.

mod flawed;
mod ill;
mod journal;
mod keys;
mod shares;
mod work;

use std::sync::Arc;

use aggregation::ids::{HospitalId, SlotId};
use aggregation::keys::provision::Provision;
use aggregation::message::{DeclineReason, Said};
use aggregation::participant::{Action, Event, Participant};
use aggregation::refusal::Refusal;
use aggregation::setup::keyring::{Announced, Keyring};

use crate::simulation::cast::Cast;
use crate::simulation::disk::{Disk, File};
use crate::simulation::flaw::Flaw;
use crate::simulation::mischief::Mischief;
use crate::simulation::spoil::Spoil;
use crate::simulation::stage::{Errand, Halt, Happening, Stage};
use crate::simulation::trace::Who;
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
        stage.say(self.who(), format_args!("hears {notice}"));
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
        if matches!(refusal, Refusal::UsedSlot { .. }) {
            stage.say(self.who(), format_args!("refuses: {refusal}"));
        } else {
            stage.alarm(self.who(), format_args!("{} {refusal}", refusal.rule()));
        }
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

    fn keyring(&self) -> Option<&Keyring> {
        Some(&self.mind.as_ref()?.keys.as_ref()?.keyring)
    }

    pub(crate) const fn who(&self) -> Who {
        Who::Site(self.place)
    }
}
