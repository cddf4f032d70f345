//! A whole federation around one driver: the other hospitals as state machines in the test, the
//! coordinator as [`Gathering`] and [`Round`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use aggregation::ids::{Digest, HospitalId, SlotId};
use aggregation::keys::graph::GraphNonce;
use aggregation::keys::identity::{Identity, Signature};
use aggregation::keys::provision::Provision;
use aggregation::keys::roll::Roll;
use aggregation::keys::slots::{HeldShares, Kind, OwnSlot, PrekeyBatch};
use aggregation::masking::masks::Masks;
use aggregation::masking::sharing::{SecretScalar, Share};
use aggregation::message::{self, Shares};
use aggregation::participant::{Action, Event, Participant};
use aggregation::round::{Fact, Input, Output, Release, Round};
use aggregation::secret::Secret;
use aggregation::setup::SignedBatch;
use aggregation::setup::gathering::{Awaited, Gathering};
use aggregation::setup::keyring::{Announced, Keyring};
use aggregation::units::Timestamp;
use prost::Message as _;
use proto::federation::{self as wire, notice};
use proto::masks::round::{encode_final_set, encode_signed_set, set_signature, shares};
use proto::masks::setup::{self, KeySetup};
use proto::{decode, encode};

use super::fake::Said;
use super::stage::{Running, Stage, contribution, hospital, identity_of};

const NOW: Timestamp = Timestamp::from_millis(0);

/// The last thing that another hospital does in a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Last {
    Ready,
    Upload,
    Sign,
    Unmask,
}

/// How this site fares in a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    /// It is there all the time.
    Through,
    /// It is killed after each thing that it says for the first time.
    KilledOften,
    /// It is killed after it has said this, and comes back when the round is over.
    AwayAfter(Last),
    /// It is killed once it is ready, and comes back when shares are awaited.
    AwayUntilUnmask,
}

/// What a coordinator that is not honest says besides: before what it should say, and after.
pub(super) type Meddle = fn(&Federation, &Output) -> (Vec<notice::Notice>, Vec<notice::Notice>);

/// Another hospital.
pub(super) struct Other {
    pub(super) id: HospitalId,
    identity: Identity,
    announced: Option<Announced>,
    keys: Option<(Arc<Provision>, Keyring)>,
    own: BTreeMap<SlotId, OwnSlot>,
    pub(super) held: BTreeMap<SlotId, BTreeMap<HospitalId, HeldShares>>,
    own_share: Option<Share>,
    participant: Option<Participant>,
    packed: Vec<u8>,
    coordinate: usize,
}

pub(super) struct Federation {
    pub(super) stage: Stage,
    pub(super) gathering: Gathering,
    pub(super) roll: Roll,
    pub(super) others: Vec<Other>,
    /// Everything that the driver's site said, in its order.
    pub(super) said: Vec<Said>,
}

fn seed(text: &str) -> Secret<32> {
    Secret::new(*Digest::sha256(text.as_bytes()).as_bytes())
}

fn again(secret: &SecretScalar) -> SecretScalar {
    SecretScalar::from_canonical(Secret::new(*secret.secret().expose())).expect("canonical")
}

impl Federation {
    /// This site is the first.
    pub(super) async fn of(names: &[&str]) -> Self {
        let pinned: BTreeMap<_, _> =
            names.iter().map(|name| (hospital(name), identity_of(&hospital(name)).key())).collect();
        let stage = Stage::masked(pinned.clone()).await;
        let roll = Roll::new(&stage.charter, &pinned).expect("all are pinned");
        let mut gathering = Gathering::new(roll.clone());
        let mut others = Vec::new();
        for (coordinate, name) in names.iter().enumerate().skip(1) {
            let (id, identity) = (hospital(name), identity_of(&hospital(name)));
            let nonce = GraphNonce::new(*seed(&format!("nonce {name}")).expose());
            let secret = seed(&format!("agreement {name}"));
            let announced = Announced::new(&roll, &id, &identity, &secret, nonce);
            assert_eq!(gathering.announce(&id, announced.said().clone()), Ok(true));
            others.push(Other {
                id,
                identity,
                announced: Some(announced),
                keys: None,
                own: BTreeMap::new(),
                held: BTreeMap::new(),
                own_share: None,
                participant: None,
                packed: Vec::new(),
                coordinate,
            });
        }
        Self { stage, gathering, roll, others, said: Vec::new() }
    }

    fn me(&self) -> HospitalId {
        self.stage.house.me.clone()
    }

    pub(super) fn all(&self) -> BTreeSet<HospitalId> {
        self.roll.identities().keys().cloned().collect()
    }

    /// How far the keys are, as the coordinator tells it.
    pub(super) fn told(&self, batch: u64) -> KeySetup {
        KeySetup {
            study: self.roll.study(),
            announced: self.gathering.announced().clone(),
            nonces: self.gathering.nonces().clone(),
            batch,
            owners: self.gathering.owners(batch).cloned().collect(),
        }
    }

    pub(super) fn keys(&self, batch: u64) -> notice::Notice {
        notice::Notice::Keys(setup::encode_key_setup(&self.told(batch)))
    }

    /// Until everyone can mask with everyone in the slots of this batch. With `kill`, this site is
    /// killed after each thing that it says for the first time.
    pub(super) async fn set_up(&mut self, mut running: Running, batch: u64, kill: bool) -> Running {
        if batch > 0 {
            self.make_batches(batch);
        }
        running.hears(self.keys(batch)).await;
        while !self.ready(batch) {
            let said = self.stage.next().await;
            self.take(&said);
            // The first time only, or nothing would ever be fetched.
            let kill = kill && !self.said.contains(&said);
            self.said.push(said);
            if kill {
                running.kill().await;
                running = self.stage.start().await;
            }
            running.hears(self.keys(batch)).await;
        }
        running
    }

    /// The first slot of a batch.
    pub(super) fn first_of(&self, batch: u64) -> u64 {
        self.gathering.provision().expect("agreed").first_of(batch).get()
    }

    fn ready(&self, batch: u64) -> bool {
        let first = self.gathering.provision().map(|provision| provision.first_of(batch));
        first.is_some_and(|first| self.gathering.able(first, &self.all()) == self.all())
    }

    /// Takes what this site said about keys. The same again is no change; another is refused.
    fn take(&mut self, said: &Said) {
        let me = self.me();
        match said {
            Said::Announcement(said) => {
                let said = setup::announcement(self.roll.study(), said).expect("decodes");
                let new = self.gathering.announce(&me, said).expect("it holds");
                if new && !matches!(self.gathering.awaited(), Awaited::Announcements(_)) {
                    for other in &self.others {
                        let announced = other.announced.as_ref().expect("not agreed yet");
                        let nonce = announced.reveal(&self.roll, self.gathering.announced());
                        let nonce = nonce.expect("everyone is honest");
                        assert_eq!(self.gathering.reveal(&other.id, nonce), Ok(true));
                    }
                }
            }
            Said::Nonce(nonce) => {
                let nonce = setup::nonce(nonce).expect("decodes");
                if self.gathering.reveal(&me, nonce).expect("the one committed to") {
                    for other in &mut self.others {
                        other.agree(&self.roll, &self.gathering, &self.stage);
                    }
                    self.make_batches(0);
                }
            }
            Said::Batch(header, batch) => {
                let signature = setup::batch_header(header).expect("decodes").signature;
                let batch = PrekeyBatch::decode(batch.clone()).expect("decodes");
                let said = SignedBatch { batch, signature };
                if self.gathering.batch(&me, header.batch, said).expect("it holds") {
                    for other in &mut self.others {
                        other.open_all(&mut self.gathering, header.batch);
                    }
                }
            }
            Said::Opened(batch, owners) => {
                let owners = owners.iter().map(|owner| hospital(owner)).collect();
                self.gathering.opened(&me, *batch, &owners).expect("there are such batches");
            }
            Said::FetchBatch(..) => {}
            Said::Ready(_)
            | Said::Declined(..)
            | Said::Update(..)
            | Said::Fetch(_)
            | Said::Charge(_)
            | Said::Decided(_)
            | Said::Signature(_)
            | Said::Shares(_) => unreachable!("no round is offered"),
        }
    }

    fn make_batches(&mut self, number: u64) {
        for other in &mut self.others {
            let said = other.make(number);
            let header = wire::BatchHeader {
                study: self.roll.study().digest().as_bytes().to_vec(),
                batch: number,
                owner: other.id.to_string(),
                bytes: u64::try_from(said.batch.encoded().len()).expect("small"),
                signature: said.signature.as_bytes().to_vec(),
            };
            let left = (header, said.batch.encoded().to_vec());
            let place = (number, other.id.to_string());
            self.stage.batches.lock().expect("no panic").insert(place, left);
            assert_eq!(self.gathering.batch(&other.id, number, said), Ok(true));
        }
    }

    /// Opens a round in a slot.
    pub(super) fn open(&mut self, slot: u64) -> (Round, Vec<Output>) {
        let terms = self.stage.terms(slot);
        let masks = self.gathering.masks(SlotId::new(slot)).map(Arc::new);
        let plan = self.stage.charter.plan(terms.work, masks).expect("a plan with masks");
        Round::open(NOW, terms, plan)
    }

    /// Plays a round to its end; the others stop after the last things given for them.
    pub(super) async fn play(
        &mut self,
        running: Running,
        slot: u64,
        lasts: &[Last],
        how: How,
    ) -> (Running, Vec<Output>) {
        self.play_against(running, slot, lasts, how, |_, _| (Vec::new(), Vec::new())).await
    }

    /// The same with a coordinator that is not honest.
    pub(super) async fn play_against(
        &mut self,
        running: Running,
        slot: u64,
        lasts: &[Last],
        how: How,
        meddle: Meddle,
    ) -> (Running, Vec<Output>) {
        let me = self.me();
        let (mut round, mut waiting) = self.open(slot);
        let mut running = Some(running);
        let mut told = Vec::new();
        let mut now = NOW;
        loop {
            while !waiting.is_empty() {
                let mut heard = Vec::new();
                for output in &waiting {
                    if let Some(running) = &running
                        && let Some(notice) = noticed(output)
                    {
                        let (before, after) = meddle(self, output);
                        for notice in before.into_iter().chain([notice]).chain(after) {
                            running.hears(notice).await;
                        }
                    }
                    for (other, last) in self.others.iter_mut().zip(lasts) {
                        let said = other.hear(&self.stage, output).into_iter();
                        let said = said.filter(|said| step_of(said) <= *last);
                        heard.extend(said.map(|said| (other.id.clone(), said)));
                    }
                }
                told.append(&mut waiting);
                for (from, said) in heard {
                    let outputs = round.handle(now, Input::Said { from, said });
                    waiting.extend(outputs.expect("honest hospitals"));
                    waiting.extend(round.combine_here());
                }
            }
            if round.closed().is_some() {
                return (self.after(running, &told).await, told);
            }
            if how == How::AwayUntilUnmask && running.is_none() && round.signed_set().is_some() {
                let back = self.stage.start().await;
                self.present(&back, &round, slot).await;
                running = Some(back);
            }
            let patience = std::time::Duration::from_secs(1);
            let Some(heard) = self.stage.next_within(patience).await else {
                // Whoever is missing stays missing.
                now = now.saturating_add(std::time::Duration::from_secs(1_000));
                waiting.extend(round.handle(now, Input::Deadline).expect("never refused"));
                continue;
            };
            // A repetition of an earlier slot is answered by a round that is closed.
            let this = self.stage.terms(slot).digest();
            if let Some(said) = self.spoken(&heard).filter(|said| said.terms() == this) {
                let (step, from) = (step_of(&said), me.clone());
                let outputs = round.handle(now, Input::Said { from, said });
                waiting.extend(outputs.expect("an honest hospital, also when it repeats itself"));
                waiting.extend(round.combine_here());
                let new = !self.said.contains(&heard);
                let away = how == How::AwayAfter(step)
                    || (how == How::AwayUntilUnmask && step == Last::Ready);
                if away && let Some(running) = running.take() {
                    running.kill().await;
                }
                if how == How::KilledOften && new && round.closed().is_none() {
                    if let Some(running) = running.take() {
                        running.kill().await;
                    }
                    // What a kill in the middle of the masking may leave.
                    if step == Last::Ready {
                        self.stage.litter(&format!("{slot}.masked"));
                    }
                    self.stage.litter("0.masked");
                    let again = self.stage.start().await;
                    self.present(&again, &round, slot).await;
                    running = Some(again);
                }
            }
            self.said.push(heard);
        }
    }

    /// Whoever was away hears how the round ended; everybody's keys of the slot are gone.
    async fn after(&self, running: Option<Running>, told: &[Output]) -> Running {
        let running = match running {
            Some(running) => running,
            None => {
                let running = self.stage.start().await;
                running.hears(self.keys(0)).await;
                for notice in told.iter().filter_map(noticed) {
                    running.hears(notice).await;
                }
                running
            }
        };
        for _ in 0..100 {
            let last = self.stage.house.journal.last_slot(self.roll.study()).await.expect("read");
            if last.is_some_and(|last| last.stage == crate::journal::Stage::Closed) {
                return running;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        unreachable!("the slot does not close");
    }

    /// What a site hears of a round when it connects.
    pub(super) async fn present(&self, running: &Running, round: &Round, slot: u64) {
        running.hears(self.keys(0)).await;
        running.offer(&self.stage.terms(slot)).await;
        if let Some(roster) = round.roster() {
            running.hears(notice::Notice::Roster(encode::roster(&roster))).await;
        }
        if let Some(set) = round.final_set() {
            running.hears(notice::Notice::FinalSet(encode_final_set(&set))).await;
        }
        if let Some(signed) = round.signed_set() {
            running.hears(notice::Notice::SignedSet(encode_signed_set(&signed))).await;
        }
    }

    /// What this site said, as the coordinator's service would put it.
    pub(super) fn spoken(&self, said: &Said) -> Option<message::Said> {
        match said {
            Said::Ready(slot) => {
                Some(message::Said::Ready { terms: self.stage.terms(*slot).digest() })
            }
            Said::Declined(slot, reason) => {
                let reason = decode::decline_reason((*reason).into()).expect("a reason");
                let terms = self.stage.terms(*slot).digest();
                Some(message::Said::Declined { terms, reason })
            }
            Said::Update(slot, packed) => {
                let (terms, digest) = (self.stage.terms(*slot).digest(), Digest::blake3(packed));
                Some(message::Said::Update { terms, digest, packed: packed.clone() })
            }
            Said::Signature(said) => {
                let (place, signature) = set_signature(said).expect("decodes");
                Some(message::Said::Signed { terms: place.terms, signature })
            }
            Said::Shares(encoded) => {
                let (terms, given) = given(encoded);
                Some(message::Said::Unmask { terms, shares: Arc::new(given) })
            }
            Said::Fetch(_)
            | Said::Charge(_)
            | Said::Decided(_)
            | Said::Announcement(_)
            | Said::Nonce(_)
            | Said::Batch(..)
            | Said::FetchBatch(..)
            | Said::Opened(..) => None,
        }
    }

    /// What the others sign of a set without its last member: so many signatures that do not hold
    /// for the whole one.
    pub(super) fn forged(&self, signed: &message::SignedSet) -> message::SignedSet {
        let mut set = signed.set.clone();
        set.members.pop_last();
        let statement = message::SetStatement {
            context: self.context(&signed.set),
            members: set.members.clone(),
        };
        let others = self.others.iter();
        let signatures: BTreeMap<HospitalId, Signature<message::SetStatement>> =
            others.map(|other| (other.id.clone(), other.identity.sign(&statement))).collect();
        message::SignedSet { set, signatures }
    }

    fn context(&self, set: &message::FinalSet) -> aggregation::context::ContextDigest {
        let terms = self.stage.terms(set.slot.get());
        let format = self.stage.charter.format(terms.work).expect("a format");
        let provision = self.gathering.provision().expect("agreed");
        provision.context(&terms, &terms.invited, &format).expect("all are on the roll")
    }
}

/// The shares in a request.
pub(super) fn given(encoded: &[u8]) -> (Digest, Shares) {
    let request = wire::SharesRequest::decode(encoded).expect("decodes");
    let (place, given) = shares(&request).expect("decodes");
    (place.terms, given)
}

fn noticed(output: &Output) -> Option<notice::Notice> {
    match output {
        Output::Offer(terms) => Some(notice::Notice::Offer(encode::terms(terms))),
        Output::Freeze(roster) => Some(notice::Notice::Roster(encode::roster(roster))),
        Output::Fix(set) => Some(notice::Notice::FinalSet(encode_final_set(set))),
        Output::Unmask(signed) => Some(notice::Notice::SignedSet(encode_signed_set(signed))),
        Output::Close(closed) => Some(notice::Notice::Closed(encode::closed(&closed.notice()))),
        Output::WakeAt(_) | Output::Fact(_) | Output::Release(_) => None,
    }
}

const fn step_of(said: &message::Said) -> Last {
    match said {
        message::Said::Ready { .. } | message::Said::Declined { .. } => Last::Ready,
        message::Said::Update { .. } => Last::Upload,
        message::Said::Signed { .. } => Last::Sign,
        message::Said::Unmask { .. } => Last::Unmask,
    }
}

/// The release among what was told, when the round was exact and gave no alarm.
pub(super) fn released(told: &[Output]) -> Option<&Release> {
    assert!(!told.iter().any(|o| matches!(o, Output::Fact(Fact::Alarm { .. }))), "an alarm");
    told.iter().find_map(Output::release)
}

impl Other {
    fn agree(&mut self, roll: &Roll, gathering: &Gathering, stage: &Stage) {
        let announced = self.announced.take().expect("agrees once");
        let agreed = announced.agree(roll, gathering.announced(), gathering.nonces());
        let (provision, keyring) = agreed.map_err(|(_, why)| why).expect("honest keys");
        let provision = Arc::new(provision);
        let participant = Participant::new(self.id.clone(), stage.charter.clone());
        self.participant = Some(participant.with_keys(Arc::clone(&provision)));
        self.keys = Some((provision, keyring));
    }

    fn make(&mut self, number: u64) -> SignedBatch {
        let (provision, keyring) = self.keys.as_mut().expect("agreed");
        // Rounds that the test leaves out.
        let before = provision.first_of(number.saturating_sub(1)).get() - 1;
        keyring.pass(SlotId::new(before)).expect("near");
        let id = [self.id.as_str().as_bytes()[0]; 16];
        let seed = seed(&format!("slots {} {number}", self.id));
        let made = keyring.make(provision, &self.identity, number, id, seed).expect("it is due");
        self.own.extend(made.own.into_slots());
        made.batch
    }

    fn open_all(&mut self, gathering: &mut Gathering, number: u64) {
        let (provision, keyring) = self.keys.as_ref().expect("agreed");
        let owners: BTreeSet<_> =
            gathering.owners(number).filter(|owner| **owner != self.id).cloned().collect();
        for owner in &owners {
            let batch = gathering.batch_of(owner, number).expect("it was sent");
            let opened = keyring.open(provision, owner, number, batch).expect("an honest batch");
            for (slot, held) in opened {
                self.held.entry(slot).or_default().insert(owner.clone(), held);
            }
        }
        gathering.opened(&self.id, number, &owners).expect("they are there");
    }

    fn hear(&mut self, stage: &Stage, output: &Output) -> Vec<message::Said> {
        let event = match output {
            Output::Offer(terms) => Event::Offered(terms.clone()),
            Output::Freeze(roster) => Event::Frozen(roster.clone()),
            Output::Fix(set) => Event::Fixed(set.clone()),
            Output::Unmask(signed) => Event::Unmask(signed.clone()),
            Output::Close(closed) => Event::Closed(closed.notice()),
            Output::WakeAt(_) | Output::Fact(_) | Output::Release(_) => return Vec::new(),
        };
        let mut said = Vec::new();
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            let participant = self.participant.as_mut().expect("agreed");
            for action in participant.handle(event).expect("an honest coordinator") {
                match action {
                    Action::Train(terms) => {
                        self.packed = contribution(&stage.charter, self.coordinate, 0.5);
                        let (digest, bytes) = (Digest::blake3(&self.packed), self.packed.len());
                        events.push(Event::Trained { slot: terms.slot, digest, bytes });
                    }
                    Action::Mask { slot, context, members } => {
                        let own = self.own.remove(&slot).expect("the slot is there");
                        let (_, keyring) = self.keys.as_mut().expect("agreed");
                        let seeds = keyring.take(slot).expect("ahead");
                        let masks = keyring.masks(context, &members, &own, &seeds);
                        let format = stage.charter.format(stage.terms(slot.get()).work);
                        let format = format.expect("a format");
                        let masks = Masks::new(format.modulus(), masks);
                        masks.pass(format.lanes()).mask(&mut self.packed).expect("whole");
                        let share = own.share();
                        self.own_share = Some(Share::new(share.holder(), again(share.value())));
                        let (digest, bytes) = (Digest::blake3(&self.packed), self.packed.len());
                        events.push(Event::Masked { slot, digest, bytes });
                    }
                    Action::Ready { terms, .. } => said.push(message::Said::Ready { terms }),
                    Action::Decline { terms, reason, .. } => {
                        said.push(message::Said::Declined { terms, reason });
                    }
                    Action::Upload { terms, digest, .. } => {
                        let packed = self.packed.clone();
                        said.push(message::Said::Update { terms, digest, packed });
                    }
                    Action::Sign { terms, statement, .. } => {
                        let signature = self.identity.sign(&statement);
                        said.push(message::Said::Signed { terms, signature });
                    }
                    Action::Unmask { slot, terms, own, recovery, .. } => {
                        let mut held = self.held.remove(&slot).expect("it holds shares");
                        let mut shares = Shares::default();
                        for id in own {
                            let share = if id == self.id {
                                self.own_share.take().expect("it has masked")
                            } else {
                                held.remove(&id).expect("held").release(Kind::Own)
                            };
                            shares.own.insert(id, share);
                        }
                        for id in recovery {
                            let share = held.remove(&id).expect("held").release(Kind::Recovery);
                            shares.recovery.insert(id, share);
                        }
                        said.push(message::Said::Unmask { terms, shares: Arc::new(shares) });
                    }
                    Action::Forget(_) => {}
                }
            }
        }
        said
    }
}
