//! A hospital in a page, for tests: `aggregation`'s own types, with all that a node keeps held in
//! memory, which a crash of the coordinator does not touch.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use aggregation::charter::Charter;
use aggregation::context::ContextDigest;
use aggregation::evaluation::{MetricShape, MetricTally};
use aggregation::ids::{Digest, HospitalId, SlotId};
use aggregation::keys::graph::GraphNonce;
use aggregation::keys::identity::{Identity, IdentityKey};
use aggregation::keys::provision::Provision;
use aggregation::keys::roll::Roll;
use aggregation::keys::slots::{HeldShares, Kind, OwnSlot};
use aggregation::masking::masks::Masks;
use aggregation::masking::sharing::{SecretScalar, Share};
use aggregation::message::{Shares, Terms};
use aggregation::participant::{Action, Event, Participant};
use aggregation::secret::Secret;
use aggregation::setup::SignedBatch;
use aggregation::setup::keyring::{Announced, Keyring};
use aggregation::vector::{Contribution, VectorFormat, encode};
use proto::masks::setup::KeySetup;

use crate::clock;
use crate::config::Config;
use crate::coordinator::Coordinator;
use crate::driver::Heard;
use crate::identity::authority::Authority;
use crate::setup::Key;
use crate::store::Store;
use crate::store::tokens::Request;

/// A secret that is always the same.
pub(crate) fn seed(text: &str) -> Secret<32> {
    Secret::new(*Digest::sha256(text.as_bytes()).as_bytes())
}

/// A key for the log, in the folder of a configuration; the one that is there stays.
pub(crate) fn log_key(folder: &Path) {
    let path = folder.join("log.key");
    if !path.exists() {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("a key");
        std::fs::write(path, key.serialize_pem()).expect("written");
    }
}

/// The least that a configuration says.
pub(crate) const CONFIG: &str =
    "consortium = \"north\"\nurl = \"https://localhost:1\"\nlisten = \"127.0.0.1:1\"\n";

/// A coordinator on a folder, which serves nobody; what is there of an earlier one goes on.
pub(crate) async fn house(folder: &Path) -> Arc<Coordinator> {
    let file = folder.join("coordinator.toml");
    if !file.exists() {
        std::fs::write(&file, CONFIG).expect("written");
    }
    log_key(folder);
    let config = Config::load(&file).expect("valid");
    let (authority, _) = Authority::create("north", clock::now()).expect("a CA");
    Coordinator::open(config, Arc::new(authority)).await.expect("opened")
}

/// The identity of the site of this name.
pub(crate) fn identity(name: &str) -> Identity {
    Identity::from_seed(&seed(&format!("identity of {name}"))).expect("a seed")
}

/// A site asks for its certificate; its identity is that of its name.
pub(crate) async fn enrol(store: &Store, name: &str) {
    let (now, day) = (clock::now(), std::time::Duration::from_secs(86_400));
    let site = HospitalId::new(name).expect("a valid name");
    let (token, _) = store.create_token(&site, day, "test", now).await.expect("a token");
    let key = identity(name).key();
    let request = Request { csr: name.as_bytes(), identity_key: key.as_bytes() };
    store.enrol(&token, &request, now).await.expect("enrolled");
}

/// What a site sends for these terms; the same each time, and of each site another.
pub(crate) fn update(name: &str, sites: usize, charter: &Charter, terms: &Terms) -> Vec<u8> {
    let format = VectorFormat::for_work(charter.study(), sites, terms.work).expect("a format");
    let rank = f32::from(u8::try_from(name.len()).expect("short"));
    let round = f32::from(u8::try_from(terms.round.get()).expect("few"));
    let update = vec![rank * round / 64.0; format.model()];
    let metrics = terms.work.evaluates().then(|| {
        let mut tally = MetricTally::new(MetricShape::new(2));
        tally.record(&[0.0, 1.0], 1).expect("an example");
        tally.record(&[1.0, 0.0], 0).expect("an example");
        tally
    });
    let weight = if terms.work.trains() { 10 } else { 0 };
    encode(&format, &Contribution { weight, update, metrics }).expect("encoded").packed
}

/// What is to be done next for the keys.
pub(crate) enum Step {
    /// Say this.
    Say(Key),
    /// Fetch the batch of this owner, and give it to [`Hospital::open`].
    Fetch(HospitalId),
}

/// A hospital.
pub(crate) struct Hospital {
    pub(crate) id: HospitalId,
    charter: Charter,
    roll: Roll,
    identity: Identity,
    announced: Option<Announced>,
    keys: Option<(Arc<Provision>, Keyring)>,
    made: BTreeMap<u64, SignedBatch>,
    own: BTreeMap<SlotId, OwnSlot>,
    held: BTreeMap<SlotId, BTreeMap<HospitalId, HeldShares>>,
    opened: BTreeMap<u64, Vec<HospitalId>>,
    own_share: Option<Share>,
    given: BTreeMap<SlotId, Arc<Shares>>,
    pub(crate) participant: Participant,
    pub(crate) packed: Vec<u8>,
}

fn again(share: &Share) -> Share {
    let value = Secret::new(*share.value().secret().expose());
    Share::new(share.holder(), SecretScalar::from_canonical(value).expect("canonical"))
}

impl Hospital {
    pub(crate) fn new(
        name: &str,
        charter: &Charter,
        pinned: &BTreeMap<HospitalId, IdentityKey>,
    ) -> Self {
        let id = HospitalId::new(name).expect("a valid name");
        let roll = Roll::new(charter, pinned).expect("all are pinned");
        let identity = identity(name);
        let nonce = GraphNonce::new(*seed(&format!("nonce of {name}")).expose());
        let agreement = seed(&format!("agreement of {name}"));
        let announced = Announced::new(&roll, &id, &identity, &agreement, nonce);
        Self {
            participant: Participant::new(id.clone(), charter.clone()),
            id,
            charter: charter.clone(),
            roll,
            identity,
            announced: Some(announced),
            keys: None,
            made: BTreeMap::new(),
            own: BTreeMap::new(),
            held: BTreeMap::new(),
            opened: BTreeMap::new(),
            own_share: None,
            given: BTreeMap::new(),
            packed: Vec::new(),
        }
    }

    /// What is missing on this side, as the setup stands.
    pub(crate) fn step(&mut self, setup: &KeySetup) -> Option<Step> {
        let everyone = self.charter.sites().len();
        if let Some(announced) = &self.announced {
            if !setup.announced.contains_key(&self.id) {
                return Some(Step::Say(Key::Announcement(announced.said().clone())));
            }
            if setup.announced.len() < everyone {
                return None;
            }
            if !setup.nonces.contains_key(&self.id) {
                let nonce = announced.reveal(&self.roll, &setup.announced).expect("honest");
                return Some(Step::Say(Key::Nonce(nonce)));
            }
            if setup.nonces.len() < everyone {
                return None;
            }
            let (provision, keyring) = self.agreed(setup);
            let provision = Arc::new(provision);
            self.participant = self.participant.clone().with_keys(Arc::clone(&provision));
            self.keys = Some((provision, keyring));
        }
        let number = setup.batch;
        if !setup.owners.contains(&self.id) {
            return Some(Step::Say(self.batch(number)));
        }
        let opened = self.opened.entry(number).or_default();
        let others = setup.owners.iter().filter(|owner| **owner != self.id);
        others.into_iter().find(|owner| !opened.contains(owner)).cloned().map(Step::Fetch)
    }

    /// Agrees with all others; what they have said is all there.
    pub(crate) fn agreed(&mut self, setup: &KeySetup) -> (Provision, Keyring) {
        let announced = self.announced.take().expect("it agrees once");
        let agreed = announced.agree(&self.roll, &setup.announced, &setup.nonces);
        agreed.map_err(|(_, why)| why).expect("honest")
    }

    /// The batch of this number: the same bytes each time.
    pub(crate) fn batch(&mut self, number: u64) -> Key {
        let (provision, keyring) = self.keys.as_ref().expect("it has agreed");
        if !self.made.contains_key(&number) {
            let name = &self.id;
            let mut id = [0; 16];
            id.copy_from_slice(&seed(&format!("batch {number} of {name}")).expose()[..16]);
            let secret = seed(&format!("slots {number} of {name}"));
            let made = keyring.make(provision, &self.identity, number, id, secret);
            let made = made.expect("it is due");
            self.own.extend(made.own.into_slots());
            self.made.insert(number, made.batch);
        }
        Key::Batch { number, said: self.made[&number].clone() }
    }

    /// Opens another's batch; says so.
    pub(crate) fn open(&mut self, owner: &HospitalId, number: u64, batch: &SignedBatch) -> Key {
        let (provision, keyring) = self.keys.as_ref().expect("it has agreed");
        for (slot, held) in keyring.open(provision, owner, number, batch).expect("honest") {
            self.held.entry(slot).or_default().insert(owner.clone(), held);
        }
        let opened = self.opened.entry(number).or_default();
        opened.push(owner.clone());
        Key::Opened { number, owners: opened.iter().cloned().collect() }
    }

    /// The node's slots up to this one are past.
    pub(crate) fn pass(&mut self, slot: SlotId) {
        let (_, keyring) = self.keys.as_mut().expect("it has agreed");
        keyring.pass(slot).expect("not too far");
    }

    /// Acts on what the coordinator says until only words are left.
    pub(crate) fn hear(&mut self, event: Event) -> Vec<Heard> {
        let mut said = Vec::new();
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            for action in self.participant.handle(event).expect("an honest coordinator") {
                match action {
                    Action::Train(terms) => {
                        let name = self.id.as_str();
                        let sites = self.charter.sites().len();
                        self.packed = update(name, sites, &self.charter, &terms);
                        let (digest, bytes) = (Digest::blake3(&self.packed), self.packed.len());
                        events.push(Event::Trained { slot: terms.slot, digest, bytes });
                    }
                    Action::Mask { slot, context, members } => {
                        self.mask(slot, context, &members);
                        let (digest, bytes) = (Digest::blake3(&self.packed), self.packed.len());
                        events.push(Event::Masked { slot, digest, bytes });
                    }
                    Action::Ready { terms, .. } => said.push(Heard::Ready(terms)),
                    Action::Decline { terms, reason, .. } => {
                        said.push(Heard::Declined(terms, reason));
                    }
                    Action::Upload { terms, digest, .. } => {
                        said.push(Heard::Update { terms, digest });
                    }
                    Action::Sign { terms, statement, .. } => {
                        said.push(Heard::Signed(terms, self.identity.sign(&statement)));
                    }
                    Action::Unmask { slot, terms, own, recovery, .. } => {
                        if !self.given.contains_key(&slot) {
                            let mut held = self.held.remove(&slot).expect("it holds shares");
                            let mut shares = Shares::default();
                            for id in own {
                                let share = match held.remove(&id) {
                                    Some(held) => held.release(Kind::Own),
                                    None => self.own_share.take().expect("it has masked"),
                                };
                                shares.own.insert(id, share);
                            }
                            for id in recovery {
                                let share = held.remove(&id).expect("held");
                                shares.recovery.insert(id, share.release(Kind::Recovery));
                            }
                            self.given.insert(slot, Arc::new(shares));
                        }
                        said.push(Heard::Unmask(terms, Arc::clone(&self.given[&slot])));
                    }
                    Action::Forget(_) => {}
                }
            }
        }
        said
    }

    fn mask(
        &mut self,
        slot: SlotId,
        context: ContextDigest,
        members: &std::collections::BTreeSet<HospitalId>,
    ) {
        let (_, keyring) = self.keys.as_mut().expect("it has agreed");
        let own = self.own.remove(&slot).expect("the slot is there");
        let seeds = keyring.take(slot).expect("ahead");
        let masks = keyring.masks(context, members, &own, &seeds);
        let work = aggregation::message::Work::Train;
        // The width is the same for every work; the length is that of this round's update.
        let modulus = self.charter.format(work).expect("a format").modulus();
        let lanes = self.packed.len() / modulus.bytes();
        let masks = Masks::new(modulus, masks);
        masks.pass(lanes).mask(&mut self.packed).expect("the whole update");
        self.own_share = Some(again(own.share()));
    }
}
