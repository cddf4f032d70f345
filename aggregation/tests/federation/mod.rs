#![allow(dead_code, reason = "each test file uses its own part of this harness")]
//! A federation of state machines in one value: hospitals with what their shells would keep, and a
//! round between them, message by message.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use aggregation::architecture::Architecture;
use aggregation::charter::Charter;
use aggregation::checkpoint::LogHead;
use aggregation::ids::{Digest, HospitalId, RoundId, SlotId};
use aggregation::keys::graph::GraphNonce;
use aggregation::keys::identity::{Identity, IdentityKey};
use aggregation::keys::provision::Provision;
use aggregation::keys::roll::Roll;
use aggregation::keys::slots::{HeldShares, Kind, OwnSlot};
use aggregation::masking::masks::Masks;
use aggregation::masking::sharing::{SecretScalar, Share};
use aggregation::message::{Outcome, Said, Shares, Terms, Work};
use aggregation::participant::{Action, Event, Participant};
use aggregation::refusal::Refusal;
use aggregation::round::{Fact, Input, Output, Release, Round};
use aggregation::secret::Secret;
use aggregation::setup::SignedAnnounce;
use aggregation::setup::gathering::{Awaited, Gathering};
use aggregation::setup::keyring::{Announced, Keyring};
use aggregation::study::{
    Augment, CohortRules, EvaluationRules, InitialModel, InputShape, Local, LocalOptimizer,
    Preprocess, Privacy, ServerOptimizer, Split, Strategy, Study, Task, TaskKind, Training,
};
use aggregation::units::Timestamp;
use aggregation::vector::{Contribution, encode};

pub(crate) const NOW: Timestamp = Timestamp::from_millis(0);

pub(crate) fn seed(text: &str) -> Secret<32> {
    Secret::new(*Digest::sha256(text.as_bytes()).as_bytes())
}

pub(crate) fn site(index: usize) -> HospitalId {
    HospitalId::new(&format!("site-{index:02}")).expect("a name")
}

pub(crate) fn study(quorum: u16, colluding: u16) -> Study {
    Study {
        name: "masked".to_owned(),
        task: Task {
            kind: TaskKind::Classification,
            classes: vec!["normal".to_owned(), "pneumonia".to_owned()],
            class_weights: Vec::new(),
            input: InputShape { channels: 1, depth: 1, height: 70, width: 70 },
            preprocess: Preprocess { mean: 0.5, sd: 0.25, ..Preprocess::PLAIN },
        },
        model: Architecture::Linear,
        training: Training {
            rounds: 10,
            strategy: Strategy::FedAvg,
            optimizer: ServerOptimizer::Sgd,
            learning_rate: 1.0,
            seed: 1,
            weight_average: 0.0,
            local: Local {
                epochs: 1,
                batch_size: 8,
                learning_rate: 0.1,
                optimizer: LocalOptimizer::Sgd,
                weight_decay: 0.0,
                augment: Augment::NONE,
            },
            update_range: 1.0,
            weight_cap: Training::DEFAULT_WEIGHT_CAP,
            initial: InitialModel::Seeded,
        },
        privacy: Privacy::DangerNone,
        cohort: CohortRules {
            sites: Vec::new(),
            quorum,
            colluding,
            danger_unmasked: false,
            round_deadline: Duration::from_secs(100),
            grace: Duration::from_secs(10),
            upload_deadline: Duration::from_secs(10),
        },
        evaluation: EvaluationRules { every: 5, split: Split::Test, danger_exact: false },
    }
}

/// One hospital, with all that its shell would keep for it.
pub(crate) struct Hospital {
    pub(crate) id: HospitalId,
    pub(crate) identity: Identity,
    pub(crate) provision: Arc<Provision>,
    pub(crate) keyring: Keyring,
    pub(crate) own: BTreeMap<SlotId, OwnSlot>,
    pub(crate) held: BTreeMap<SlotId, BTreeMap<HospitalId, HeldShares>>,
    /// Taken with the slot: the share of its own self secret.
    pub(crate) own_share: Option<Share>,
    pub(crate) participant: Participant,
    pub(crate) packed: Vec<u8>,
}

pub(crate) struct Federation {
    pub(crate) charter: Charter,
    pub(crate) gathering: Gathering,
    pub(crate) sites: Vec<Hospital>,
}

/// The setup, said as the wire would carry it.
pub(crate) fn federation(n: usize, t: u16, m: u16) -> Federation {
    federation_for(study(m, t), n)
}

/// The same for an update of a few hundred lanes: for rounds by the thousand.
pub(crate) fn small_federation(n: usize, t: u16, m: u16) -> Federation {
    let mut study = study(m, t);
    study.task.input = InputShape { channels: 1, depth: 1, height: 12, width: 12 };
    federation_for(study, n)
}

fn federation_for(study: Study, n: usize) -> Federation {
    let charter = Charter::new(study, (0..n).map(site).collect()).expect("a good study");
    let identities: Vec<Identity> = (0..n)
        .map(|i| Identity::from_seed(&seed(&format!("identity {i}"))).expect("a seed"))
        .collect();
    let pinned: BTreeMap<HospitalId, IdentityKey> =
        identities.iter().enumerate().map(|(i, id)| (site(i), id.key())).collect();
    let roll = Roll::new(&charter, &pinned).expect("all are pinned");
    let mut gathering = Gathering::new(roll.clone());
    let announced: Vec<Announced> = (0..n)
        .map(|i| {
            let nonce = GraphNonce::new(*seed(&format!("nonce {i}")).expose());
            let agreement = seed(&format!("agreement {i}"));
            Announced::new(&roll, &site(i), &identities[i], &agreement, nonce)
        })
        .collect();
    for (i, announced) in announced.iter().enumerate() {
        assert!(
            matches!(gathering.awaited(), Awaited::Announcements(silent) if silent.len() == n - i)
        );
        assert_eq!(gathering.announce(&site(i), announced.said().clone()), Ok(true));
        assert_eq!(gathering.announce(&site(i), announced.said().clone()), Ok(false));
    }
    let said: BTreeMap<HospitalId, SignedAnnounce> = gathering.announced().clone();
    for (i, announced) in announced.iter().enumerate() {
        let nonce = announced.reveal(&roll, &said).expect("everyone is honest");
        assert_eq!(gathering.reveal(&site(i), nonce), Ok(true));
    }
    assert_eq!(gathering.awaited(), Awaited::Nothing);
    let nonces = gathering.nonces().clone();
    let mut sites = Vec::new();
    for ((i, announced), identity) in announced.into_iter().enumerate().zip(identities) {
        let (provision, keyring) =
            announced.agree(&roll, &said, &nonces).map_err(|(_, why)| why).expect("honest keys");
        assert_eq!(Some(&provision), gathering.provision().map(Arc::as_ref));
        // Through the journal and back.
        let keyring = Keyring::resume(&provision, &site(i), &keyring.secrets()).expect("its own");
        let mut id = [0; 16];
        id.copy_from_slice(&seed(&format!("batch {i}")).expose()[..16]);
        let made = keyring.make(&provision, &identity, 0, id, seed(&format!("slots {i}")));
        let made = made.expect("the first batch is due");
        assert_eq!(gathering.batch(&site(i), 0, made.batch), Ok(true));
        let provision = Arc::new(provision);
        let participant =
            Participant::new(site(i), charter.clone()).with_keys(Arc::clone(&provision));
        sites.push(Hospital {
            id: site(i),
            identity,
            keyring,
            own: made.own.into_slots().collect(),
            held: BTreeMap::new(),
            own_share: None,
            participant,
            packed: Vec::new(),
            provision,
        });
    }
    let all: BTreeSet<HospitalId> = (0..n).map(site).collect();
    assert_eq!(gathering.able(SlotId::new(1), &all).len(), 1, "nobody has opened anything");
    for hospital in &mut sites {
        for owner in all.iter().filter(|owner| **owner != hospital.id) {
            let batch = gathering.batch_of(owner, 0).expect("it was sent");
            let opened = hospital.keyring.open(&hospital.provision, owner, 0, batch);
            for (slot, held) in opened.expect("an honest batch") {
                hospital.held.entry(slot).or_default().insert(owner.clone(), held);
            }
        }
        let others = all.iter().filter(|owner| **owner != hospital.id).cloned().collect();
        assert_eq!(gathering.opened(&hospital.id, 0, &others), Ok(true));
    }
    assert_eq!(gathering.able(SlotId::new(1), &all), all);
    Federation { charter, gathering, sites }
}

pub(crate) fn again(secret: &SecretScalar) -> SecretScalar {
    SecretScalar::from_canonical(Secret::new(*secret.secret().expose())).expect("canonical")
}

impl Hospital {
    /// Every site moves a coordinate of its own, so a missing or doubled one shows.
    pub(crate) fn train(&mut self, charter: &Charter, terms: &Terms) -> (Digest, usize) {
        let format = charter.format(terms.work).expect("a format");
        let index: usize = self.id.as_str()[5..].parse().expect("a number");
        let mut update = vec![0.0; format.model()];
        update[index] = 0.5;
        let metrics = format.metrics().map(aggregation::evaluation::MetricTally::new);
        let said = Contribution { weight: 4_096, update, metrics };
        self.packed = encode(&format, &said).expect("it fits").packed;
        (Digest::blake3(&self.packed), self.packed.len())
    }

    /// What its shell does: acts on the participant's wishes until only words are left.
    pub(crate) fn hear(&mut self, charter: &Charter, event: Event) -> Vec<Said> {
        let mut said = Vec::new();
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            let actions = self.participant.handle(event).expect("an honest coordinator");
            for action in actions {
                match action {
                    Action::Train(terms) => {
                        let (digest, bytes) = self.train(charter, &terms);
                        events.push(Event::Trained { slot: terms.slot, digest, bytes });
                    }
                    Action::Mask { slot, context, members } => {
                        let own = self.own.remove(&slot).expect("the slot is there");
                        let seeds = self.keyring.take(slot).expect("ahead");
                        let masks = self.keyring.masks(context, &members, &own, &seeds);
                        let format = charter.format(Work::Train).expect("a format");
                        let masks = Masks::new(format.modulus(), masks);
                        let mut pass = masks.pass(format.lanes());
                        pass.mask(&mut self.packed).expect("the whole update");
                        let share = own.share();
                        self.own_share = Some(Share::new(share.holder(), again(share.value())));
                        let (digest, bytes) = (Digest::blake3(&self.packed), self.packed.len());
                        events.push(Event::Masked { slot, digest, bytes });
                    }
                    Action::Ready { terms, .. } => said.push(Said::Ready { terms }),
                    Action::Decline { terms, reason, .. } => {
                        said.push(Said::Declined { terms, reason });
                    }
                    Action::Upload { terms, digest, .. } => {
                        said.push(Said::Update { terms, digest, packed: self.packed.clone() });
                    }
                    Action::Sign { terms, statement, .. } => {
                        said.push(Said::Signed {
                            terms,
                            signature: self.identity.sign(&statement),
                        });
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
                        said.push(Said::Unmask { terms, shares: Arc::new(shares) });
                    }
                    Action::Forget(_) => {}
                }
            }
        }
        said
    }
}

/// One round being played: what the hospitals have said and the coordinator has not heard yet.
pub(crate) struct Play {
    pub(crate) charter: Charter,
    pub(crate) terms: Terms,
    pub(crate) round: Round,
    pub(crate) now: Timestamp,
    pub(crate) told: Vec<Output>,
    pub(crate) pending: VecDeque<(HospitalId, Said)>,
    /// Those who have vanished, once it is asked for: who may not say something hears no more.
    pub(crate) vanished: Option<BTreeSet<usize>>,
}

impl Federation {
    /// Opens round 1 in this slot.
    pub(crate) fn open(&self, slot: u64) -> Play {
        let charter = self.charter.clone();
        let terms = Terms {
            study: charter.id(),
            round: RoundId::FIRST,
            slot: SlotId::new(slot),
            work: charter.study().work_in(RoundId::FIRST),
            model: Digest::sha256(b"model"),
            invited: charter.sites().clone(),
            ready_by: Timestamp::from_millis(100_000),
            log: LogHead::empty(),
        };
        let masks = self.gathering.masks(terms.slot).map(Arc::new);
        let plan = charter.plan(terms.work, masks).expect("a plan with masks");
        let (round, told) = Round::open(NOW, terms.clone(), plan);
        Play { charter, terms, round, now: NOW, told, pending: VecDeque::new(), vanished: None }
    }

    /// Tells the hospitals what the coordinator says, from this output on; who says what is
    /// `heard`, if it may.
    pub(crate) fn tell(
        &mut self,
        play: &mut Play,
        outputs: &[Output],
        may: impl Fn(usize, &Said) -> bool,
    ) {
        for output in outputs {
            for (index, hospital) in self.sites.iter_mut().enumerate() {
                if play.vanished.as_ref().is_some_and(|gone| gone.contains(&index)) {
                    continue;
                }
                let event = match output {
                    Output::Offer(terms) => Event::Offered(terms.clone()),
                    Output::Freeze(roster) => Event::Frozen(roster.clone()),
                    Output::Fix(set) => Event::Fixed(set.clone()),
                    Output::Unmask(signed) => Event::Unmask(signed.clone()),
                    Output::Close(closed) => Event::Closed(closed.notice()),
                    Output::WakeAt(_) | Output::Fact(_) | Output::Release(_) => continue,
                };
                for said in hospital.hear(&play.charter, event) {
                    if may(index, &said) {
                        play.pending.push_back((hospital.id.clone(), said));
                    } else if let Some(gone) = &mut play.vanished {
                        gone.insert(index);
                    }
                }
            }
        }
    }

    /// Plays until the coordinator is in this phase, or nothing is left to be said.
    pub(crate) fn until(
        &mut self,
        play: &mut Play,
        phase: &str,
        may: impl Fn(usize, &Said) -> bool,
    ) {
        if play.told.len() < 4 {
            let opening = play.told.clone();
            self.tell(play, &opening, &may);
        }
        while play.round.phase() != phase {
            let Some((from, said)) = play.pending.pop_front() else { return };
            let outputs = play.hear(from, said).expect("honest hospitals");
            self.tell(play, &outputs, &may);
        }
    }
}

impl Play {
    /// The coordinator hears something, and combines if it can.
    pub(crate) fn hear(&mut self, from: HospitalId, said: Said) -> Result<Vec<Output>, Refusal> {
        let before = self.round.clone();
        let mut outputs = match self.round.handle(self.now, Input::Said { from, said }) {
            Ok(outputs) => outputs,
            Err(refusal) => {
                // PROTOCOL R-17
                let [before, after] = [&before, &self.round].map(|round| format!("{round:?}"));
                assert_eq!(before, after, "a refusal changed something");
                return Err(refusal);
            }
        };
        outputs.extend(self.round.combine_here());
        self.told.extend(outputs.clone());
        Ok(outputs)
    }

    /// The deadline of whatever is waited for has come.
    pub(crate) fn deadline(&mut self) -> Vec<Output> {
        self.now = self.now.saturating_add(Duration::from_secs(200));
        let outputs = self.round.handle(self.now, Input::Deadline).expect("never refused");
        self.told.extend(outputs.clone());
        outputs
    }

    /// How it ended.
    pub(crate) fn outcome(&self) -> Option<&Outcome> {
        self.round.closed().map(|closed| &closed.outcome)
    }

    /// The facts that were told.
    pub(crate) fn facts(&self) -> impl Iterator<Item = &Fact> {
        self.told.iter().filter_map(Output::fact)
    }

    /// The sum that was released.
    pub(crate) fn release(&self) -> Option<&Release> {
        self.told.iter().find_map(Output::release)
    }
}
