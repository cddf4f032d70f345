//! Masked rounds from end to end, state machine against state machine: the setup, and then rounds
//! in which hospitals vanish at every point where they can.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use aggregation::architecture::Architecture;
use aggregation::charter::Charter;
use aggregation::ids::{Digest, HospitalId, RoundId, SlotId};
use aggregation::keys::graph::GraphNonce;
use aggregation::keys::identity::{Identity, IdentityKey};
use aggregation::keys::provision::Provision;
use aggregation::keys::roll::Roll;
use aggregation::keys::slots::{HeldShares, Kind, OwnSlot};
use aggregation::masking::keystream::apply_packed;
use aggregation::masking::sharing::{SecretScalar, Share};
use aggregation::message::{Abandoned, Outcome, Said, Shares, Terms};
use aggregation::participant::{Action, Event, Participant};
use aggregation::round::{Fact, Input, Output, Round};
use aggregation::secret::Secret;
use aggregation::setup::SignedAnnounce;
use aggregation::setup::gathering::{Awaited, Gathering};
use aggregation::setup::keyring::{Announced, Keyring};
use aggregation::study::{
    CohortRules, EvaluationRules, InitialModel, InputShape, Local, LocalOptimizer, Preprocess,
    Privacy, ServerOptimizer, Split, Strategy, Study, Task, Training, Window,
};
use aggregation::units::Timestamp;
use aggregation::vector::{Contribution, encode};

const NOW: Timestamp = Timestamp::from_millis(0);

fn seed(text: &str) -> Secret<32> {
    Secret::new(*Digest::sha256(text.as_bytes()).as_bytes())
}

fn site(index: usize) -> HospitalId {
    HospitalId::new(&format!("site-{index:02}")).expect("a name")
}

fn study(quorum: u16, colluding: u16) -> Study {
    Study {
        name: "masked".to_owned(),
        task: Task {
            classes: vec!["normal".to_owned(), "pneumonia".to_owned()],
            input: InputShape { channels: 1, height: 70, width: 70 },
            preprocess: Preprocess { window: Window::Full, mean: 0.5, sd: 0.25 },
        },
        model: Architecture::Linear,
        training: Training {
            rounds: 10,
            strategy: Strategy::FedAvg,
            optimizer: ServerOptimizer::Sgd,
            learning_rate: 1.0,
            seed: 1,
            local: Local {
                epochs: 1,
                batch_size: 8,
                learning_rate: 0.1,
                optimizer: LocalOptimizer::Sgd,
                weight_decay: 0.0,
                augment: false,
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
            upload_deadline: Duration::from_secs(10),
        },
        evaluation: EvaluationRules { every: 5, split: Split::Test },
    }
}

/// One hospital, with all that its shell would keep for it.
struct Hospital {
    id: HospitalId,
    identity: Identity,
    provision: Arc<Provision>,
    keyring: Keyring,
    own: BTreeMap<SlotId, OwnSlot>,
    held: BTreeMap<SlotId, BTreeMap<HospitalId, HeldShares>>,
    /// Taken with the slot: the share of its own self secret.
    own_share: Option<Share>,
    participant: Participant,
    packed: Vec<u8>,
}

struct Federation {
    charter: Charter,
    gathering: Gathering,
    sites: Vec<Hospital>,
}

/// The setup, said as the wire would carry it.
fn federation(n: usize, t: u16, m: u16) -> Federation {
    let charter = Charter::new(study(m, t), (0..n).map(site).collect()).expect("a good study");
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

fn again(secret: &SecretScalar) -> SecretScalar {
    SecretScalar::from_canonical(Secret::new(*secret.secret().expose())).expect("canonical")
}

impl Hospital {
    /// Every site moves a coordinate of its own, so a missing or doubled one shows.
    fn train(&mut self, charter: &Charter, terms: &Terms) -> (Digest, usize) {
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
    fn hear(&mut self, charter: &Charter, event: Event) -> Vec<Said> {
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
                        let modulus = charter
                            .format(aggregation::message::Work::Train)
                            .expect("a format")
                            .modulus();
                        apply_packed(&masks, modulus, 0, &mut self.packed).expect("whole lanes");
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

/// The last thing that each hospital does in a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Last {
    Nothing,
    Ready,
    Upload,
    Sign,
    Unmask,
}

const LASTS: [Last; 5] = [Last::Nothing, Last::Ready, Last::Upload, Last::Sign, Last::Unmask];

const fn step_of(said: &Said) -> Last {
    match said {
        Said::Ready { .. } | Said::Declined { .. } => Last::Ready,
        Said::Update { .. } => Last::Upload,
        Said::Signed { .. } => Last::Sign,
        Said::Unmask { .. } => Last::Unmask,
    }
}

/// Plays one round; everyone stops after the last thing given for them.
fn play(federation: &mut Federation, slot: u64, lasts: &[Last]) -> (Round, Vec<Output>) {
    let charter = federation.charter.clone();
    let slot = SlotId::new(slot);
    let terms = Terms {
        study: charter.id(),
        round: RoundId::FIRST,
        slot,
        work: charter.study().work_in(RoundId::FIRST),
        model: Digest::sha256(b"model"),
        invited: charter.sites().clone(),
        ready_by: Timestamp::from_millis(100_000),
    };
    let masks = federation.gathering.masks(slot).map(Arc::new);
    let plan = charter.plan(terms.work, masks).expect("a plan with masks");
    let (mut round, outputs) = Round::open(NOW, terms, plan);
    let mut told = outputs.clone();
    let mut waiting = outputs;
    let mut now = NOW;
    loop {
        let mut heard: Vec<(HospitalId, Said)> = Vec::new();
        for output in waiting.drain(..) {
            for (hospital, last) in federation.sites.iter_mut().zip(lasts) {
                let event = match &output {
                    Output::Offer(terms) => Event::Offered(terms.clone()),
                    Output::Freeze(roster) => Event::Frozen(roster.clone()),
                    Output::Fix(set) => Event::Fixed(set.clone()),
                    Output::Unmask(signed) => Event::Unmask(signed.clone()),
                    Output::Close(closed) => Event::Closed(closed.notice()),
                    Output::WakeAt(_) | Output::Fact(_) | Output::Release(_) => continue,
                };
                for said in hospital.hear(&charter, event) {
                    if step_of(&said) <= *last {
                        heard.push((hospital.id.clone(), said));
                    }
                }
            }
        }
        if round.closed().is_some() {
            return (round, told);
        }
        if heard.is_empty() {
            now = now.saturating_add(Duration::from_secs(200));
            waiting.extend(round.handle(now, Input::Deadline).expect("never refused"));
        }
        for (from, said) in heard {
            let outputs = round.handle(now, Input::Said { from, said });
            waiting.extend(outputs.expect("honest hospitals"));
            waiting.extend(round.combine_here());
        }
        told.extend(waiting.clone());
    }
}

fn check(n: usize, m: usize, t: usize, lasts: &[Last], round: &Round, told: &[Output]) {
    let closed = round.closed().expect("it has ended");
    let summed: BTreeSet<HospitalId> =
        (0..n).filter(|i| lasts[*i] >= Last::Upload).map(site).collect();
    let shares = (n + t) / 2 + 1;
    let signed = lasts.iter().filter(|last| **last >= Last::Sign).count();
    let answered = lasts.iter().filter(|last| **last >= Last::Unmask).count();
    let possible = summed.len() >= m && signed >= shares && answered >= shares;
    assert_eq!(closed.outcome == Outcome::Released, possible, "{lasts:?}: {:?}", closed.outcome);
    assert!(!told.iter().any(|o| matches!(o, Output::Fact(Fact::Alarm { .. }))), "{lasts:?}");
    let release = told.iter().find_map(|output| match output {
        Output::Release(release) => Some(release),
        _ => None,
    });
    assert_eq!(release.is_some(), possible, "{lasts:?}");
    if let Some(release) = release {
        assert_eq!(release.contributed, summed, "{lasts:?}");
        for (index, mean) in release.total.update.iter().enumerate() {
            let wanted = if index < n && summed.contains(&site(index)) { 0.5 } else { 0.0 };
            let found = mean * f64::from(u32::try_from(summed.len()).expect("few"));
            assert!((found - wanted).abs() < 1e-4, "{lasts:?}: coordinate {index} is {found}");
        }
    }
}

/// Every combination of last deeds for a few hospitals: exact, or nothing.
#[test]
fn a_masked_sum_is_exact_or_there_is_none_whoever_drops_out_when() {
    for (n, t, m) in [(3, 1, 3), (4, 1, 3), (4, 1, 4)] {
        let mut federation =
            federation(n, u16::try_from(t).expect("few"), u16::try_from(m).expect("few"));
        let mut slot = 0;
        for number in 0..5_usize.pow(u32::try_from(n).expect("few")) {
            let lasts: Vec<Last> = (0..n)
                .map(|i| LASTS[number / 5_usize.pow(u32::try_from(i).expect("few")) % 5])
                .collect();
            if slot == 256 {
                federation = self::federation(
                    n,
                    u16::try_from(t).expect("few"),
                    u16::try_from(m).expect("few"),
                );
                slot = 0;
            }
            slot += 1;
            let (round, told) = play(&mut federation, slot, &lasts);
            check(n, m, t, &lasts, &round, &told);
        }
    }
}

/// The coordinator alone cannot read an update: what it stages is uniform, and nothing it is given
/// in a round that fails before the shares takes the masks off.
#[test]
fn what_is_uploaded_is_not_what_was_trained() {
    let mut federation = federation(3, 1, 3);
    let (_, told) = play(&mut federation, 1, &[Last::Unmask; 3]);
    assert!(told.iter().any(|o| matches!(o, Output::Release(_))));
    let zeros = |packed: &[u8]| packed.iter().filter(|byte| **byte == 0).count();
    for hospital in &federation.sites {
        let len = hospital.packed.len();
        assert!(zeros(&hospital.packed) < len / 64, "the trained update is nearly all zeros");
    }
}

#[test]
fn too_few_signatures_or_shares_end_the_round_with_that_reason() {
    let mut federation = federation(4, 1, 3);
    let (round, _) =
        play(&mut federation, 1, &[Last::Sign, Last::Sign, Last::Upload, Last::Upload]);
    let outcome = &round.closed().expect("ended").outcome;
    assert_eq!(*outcome, Outcome::Abandoned(Abandoned::TooFewSignatures { signed: 2, needed: 3 }));
    let (round, _) =
        play(&mut federation, 2, &[Last::Unmask, Last::Unmask, Last::Sign, Last::Sign]);
    let outcome = &round.closed().expect("ended").outcome;
    assert_eq!(*outcome, Outcome::Abandoned(Abandoned::TooFewShares { answered: 2 }));
}
