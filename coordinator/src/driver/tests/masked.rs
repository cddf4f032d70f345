//! The same studies with masks: the setup of the keys, and what is left of a round when anybody
//! goes away at any point of it.

use std::collections::BTreeSet;

use aggregation::ids::SlotId;
use aggregation::keys::graph::GraphNonce;
use aggregation::keys::identity::Signature;
use aggregation::masking::sharing::{SecretScalar, Share};
use aggregation::message::Shares;
use aggregation::participant::Event;
use aggregation::secret::Secret;
use aggregation::setup::SetupRefused;
use proto::masks::setup::{KeySetup, key_setup};

use super::*;
use crate::rehearsal::{Hospital, Step};
use crate::setup::{Key, SetupFault};
use crate::store::course::Course;

/// Of these, three have to be in the sum, to sign and to unmask.
const FOUR: [&str; 4] = ["alpha", "beta", "gamma", "delta"];

fn masked() -> String {
    MANIFEST.replace("quorum = 2\ndanger_unmasked_updates = true", "quorum = 3")
}

impl World {
    async fn masked(folder: &Path, manifest: &str, sites: &'static [&'static str]) -> Self {
        let world = Self::open_for(folder, manifest, sites).await;
        // A study is driven from a task of its own.
        until(|| {
            let standing = world.entry.standing();
            standing.driver.is_some() || standing.life.ended()
        })
        .await;
        world
    }

    fn hospitals(&self) -> Vec<Hospital> {
        let charter = self.charter();
        let new = |name: &&str| Hospital::new(name, &charter, &self.entry.identities);
        self.sites.iter().map(new).collect()
    }

    /// What the sites are told of the keys.
    fn keys(&self) -> KeySetup {
        let told = self.entry.standing().keys.clone().expect("a study with masks");
        key_setup(&told).expect("what we encode we can decode")
    }

    /// Does for one hospital what is missing on its side; whether anything was.
    async fn key(&self, hospital: &mut Hospital) -> bool {
        let setup = self.keys();
        let said = match hospital.step(&setup) {
            None => return false,
            Some(Step::Say(said)) => said,
            Some(Step::Fetch(owner)) => {
                let found = self.house.batch(&self.entry, &owner, setup.batch).await;
                hospital.open(&owner, setup.batch, &found.expect("it is told to be there"))
            }
        };
        self.house.hear_key(&self.entry, &hospital.id, said).await.expect("an honest key");
        // The sites are told a moment later.
        self.house.tell_keys(&self.entry).await.expect("told");
        true
    }

    /// Has the keys of all these hospitals made.
    async fn set_up(&self, hospitals: &mut [Hospital]) {
        loop {
            let mut done = true;
            for hospital in hospitals.iter_mut() {
                while self.key(hospital).await {
                    done = false;
                }
            }
            if done {
                return;
            }
        }
    }

    /// What a site that connects now is told of the open round.
    fn present(&self) -> Vec<Event> {
        let standing = self.entry.standing();
        let mut events = Vec::new();
        events.extend(standing.offer.clone().map(Event::Offered));
        events.extend(standing.roster.clone().map(Event::Frozen));
        events.extend(standing.final_set.clone().map(Event::Fixed));
        events.extend(standing.signed_set.clone().map(Event::Unmask));
        events
    }

    /// Shows a hospital the present state; says what it then says, up to `last`.
    async fn turn(&self, hospital: &mut Hospital, last: Last) -> bool {
        let mut said = false;
        for event in self.present() {
            for heard in hospital.hear(event) {
                if Last::of(&heard) > last {
                    continue;
                }
                let Some(terms) = self.entry.standing().offer.clone() else { return said };
                if let Heard::Update { .. } = &heard {
                    self.stage_bytes(hospital.id.as_str(), &terms, hospital.packed.clone()).await;
                }
                let late = matches!(heard, Heard::Signed(..) | Heard::Unmask(..));
                match self.say(hospital.id.as_str(), heard).await {
                    Ok(Heed::Kept | Heed::Repeated) => said = true,
                    // The others were enough: the round has ended, as everybody is about to see.
                    Err(Turned::NoRound) if late => {
                        let slot = |told: Option<Terms>| told.map(|terms| terms.slot);
                        until(|| slot(self.entry.standing().offer.clone()) != Some(terms.slot))
                            .await;
                        return said;
                    }
                    other => unreachable!("{other:?}"),
                }
            }
        }
        said
    }

    /// Every hospital takes one step; what follows from all of them is told a moment later.
    async fn phase(&self, hospitals: &mut [Hospital], phase: Last) {
        for hospital in hospitals {
            self.turn(hospital, phase).await;
        }
        until(|| {
            let standing = self.entry.standing();
            match phase {
                Last::Ready => standing.roster.is_some(),
                Last::Upload => standing.final_set.is_some(),
                Last::Sign => standing.signed_set.is_some(),
                Last::Unmask => standing.offer.is_none(),
            }
        })
        .await;
    }

    /// Plays the open round, of which three have to sign and to unmask, until nobody says anything more; each hospital stops after
    /// its last.
    async fn round(&self, hospitals: &mut [Hospital], lasts: &[Last]) {
        let slot = self.entry.standing().offer.as_ref().map(|terms| terms.slot);
        let open = || self.entry.standing().offer.as_ref().map(|terms| terms.slot) == slot;
        let phase = || {
            let standing = self.entry.standing();
            let round = (&standing.roster, &standing.final_set, &standing.signed_set);
            (round.0.is_some(), round.1.is_some(), round.2.is_some())
        };
        let all = hospitals.len();
        for (now, awaited) in
            [(Last::Ready, all), (Last::Upload, all), (Last::Sign, 3), (Last::Unmask, 3)]
        {
            let before = phase();
            for (hospital, last) in hospitals.iter_mut().zip(lasts) {
                if open() {
                    self.turn(hospital, *last).await;
                }
            }
            // Whoever is silent is waited for until the deadline.
            if lasts.iter().filter(|last| **last >= now).count() < awaited {
                self.house.clock.put_forward(Duration::from_secs(31));
            }
            until(|| !open() || phase() != before).await;
            if !open() {
                return;
            }
        }
    }

    /// The rows of history once there are so many.
    async fn closed(&self, rounds: usize) -> Vec<RoundRow> {
        let begun = clock::now();
        loop {
            let history = self.history().await;
            if history.len() >= rounds {
                return history;
            }
            assert!(clock::now().since(begun) < PATIENCE, "waited in vain");
            clock::wait_for(Duration::from_millis(5)).await;
        }
    }

    async fn hear(&self, from: &str, said: Key) -> Result<(), SetupFault> {
        self.house.hear_key(&self.entry, &site(from), said).await
    }

    /// The rule by which something is refused.
    async fn rule(&self, from: &str, said: Key) -> &'static str {
        match self.hear(from, said).await.expect_err("it does not hold") {
            SetupFault::Refused(refused) => refused.rule(),
            other @ (SetupFault::Unmasked
            | SetupFault::NotNow(_)
            | SetupFault::NoBatch { .. }
            | SetupFault::Store(_)) => unreachable!("expected a refusal, found {other:?}"),
        }
    }
}

/// The last thing that a hospital does in a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Last {
    Ready,
    Upload,
    Sign,
    Unmask,
}

impl Last {
    fn of(heard: &Heard) -> Self {
        match heard {
            Heard::Ready(_) | Heard::Declined(..) => Self::Ready,
            Heard::Update { .. } => Self::Upload,
            Heard::Signed(..) => Self::Sign,
            Heard::Unmask(..) => Self::Unmask,
        }
    }
}

/// Plays a masked study to its end; with `crashes`, everything but the disk and the hospitals goes
/// away after each thing that is said.
async fn play_masked(crashes: bool) -> (Digest, Vec<RoundRow>) {
    let folder = tempfile::tempdir().expect("a folder");
    let manifest = masked();
    let mut world = World::masked(folder.path(), &manifest, &SITES).await;
    let mut hospitals = world.hospitals();
    loop {
        let mut acted = false;
        for hospital in &mut hospitals {
            while world.key(hospital).await {
                acted = true;
                if crashes {
                    world.crash().await;
                    world = World::masked(folder.path(), &manifest, &SITES).await;
                }
            }
        }
        if !acted {
            break;
        }
    }
    let mut slot = 0;
    while let Some(terms) = world.offer(slot).await {
        slot = terms.slot.get();
        loop {
            let open =
                |world: &World| world.entry.standing().offer.as_ref().map(|terms| terms.slot.get());
            if open(&world) != Some(slot) {
                break;
            }
            for hospital in &mut hospitals {
                if open(&world) == Some(slot) {
                    world.turn(hospital, Last::Unmask).await;
                    if crashes {
                        world.crash().await;
                        world = World::masked(folder.path(), &manifest, &SITES).await;
                        until(|| {
                            let standing = world.entry.standing();
                            standing.offer.is_some() || standing.driver.is_none()
                        })
                        .await;
                    }
                }
            }
        }
    }
    let history = world.history().await;
    assert_eq!(world.entry.standing().life, Life::Completed, "{history:?}");
    let model = history.last().expect("rounds").model;
    world.crash().await;
    (model, history)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_masked_study_gives_the_model_of_an_unmasked_one() {
    let (plain, _) = play(false).await;
    let (masked, history) = play_masked(false).await;
    assert_eq!(plain, masked);
    assert_eq!(history.len(), 3);
    let done = Course { ready: true, uploaded: true, signed: true, unmasked: true, away: false };
    for row in &history {
        assert_eq!(row.courses, SITES.map(|name| (site(name), done)).into(), "{row:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_after_each_thing_that_is_said_costs_a_masked_study_nothing() {
    let (plain, _) = play(false).await;
    let (stormy, history) = play_masked(true).await;
    assert_eq!(plain, stormy);
    assert_eq!(history.len(), 3, "no attempt was lost");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_goes_away_when_the_round_ends_without_it_or_is_tried_again() {
    use Last::{Ready, Sign, Unmask, Upload};
    let folder = tempfile::tempdir().expect("a folder");
    let manifest = masked().replace("rounds = 2", "rounds = 6");
    let world = World::masked(folder.path(), &manifest, &FOUR).await;
    let mut hospitals = world.hospitals();
    world.set_up(&mut hospitals).await;
    let cases = [
        ([Unmask, Unmask, Unmask, Ready], Ok(3)),
        ([Unmask, Unmask, Unmask, Upload], Ok(4)),
        ([Unmask, Upload, Unmask, Unmask], Ok(4)),
        ([Sign, Unmask, Unmask, Unmask], Ok(4)),
        ([Unmask, Unmask, Ready, Ready], Err("2 updates were complete; the quorum is 3")),
        ([Unmask, Unmask, Upload, Upload], Err("2 sites signed the final set; 3 have to")),
        ([Unmask, Unmask, Sign, Sign], Err("2 sites gave their shares; the masks need more")),
        ([Unmask, Unmask, Unmask, Unmask], Ok(4)),
    ];
    for (index, (lasts, wanted)) in cases.into_iter().enumerate() {
        let slot = u64::try_from(index).expect("few");
        world.offer(slot).await.expect("a round follows");
        world.round(&mut hospitals, &lasts).await;
        let history = world.closed(index + 1).await;
        let row = &history[index];
        let found = if row.released { Ok(row.contributed.len()) } else { Err(row.reason.as_str()) };
        assert_eq!(found, wanted, "{lasts:?}: {row:?}");
        for (name, last) in FOUR.into_iter().zip(lasts) {
            let course = row.courses[&site(name)];
            assert!(course.ready && course.uploaded == (last >= Upload), "{lasts:?}: {course:?}");
            assert!(last >= Sign || !course.signed, "{lasts:?}: {course:?}");
            assert!(last >= Unmask || !course.unmasked, "{lasts:?}: {course:?}");
        }
    }
    world.crash().await;
}

/// Breaks at the coordinator's door: a refusal costs the others nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_signature_and_bad_shares_are_refused_and_the_round_goes_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let world = World::masked(folder.path(), &masked(), &SITES).await;
    let mut hospitals = world.hospitals();
    world.set_up(&mut hospitals).await;
    let terms = world.offer(0).await.expect("an offer").digest();
    let refused = |turned: Result<Heed, Turned>| match turned.expect_err("it does not hold") {
        Turned::Refused(refusal) => refusal.rule(),
        other @ (Turned::NoRound | Turned::OtherPlace { .. } | Turned::NotKept { .. }) => {
            unreachable!("expected a refusal, found {other:?}")
        }
    };
    let early = Heard::Signed(terms, Signature::new([1; 64]));
    assert_eq!(refused(world.say("alpha", early.clone()).await), "R-08");
    world.phase(&mut hospitals, Last::Ready).await;
    world.phase(&mut hospitals, Last::Upload).await;
    assert_eq!(refused(world.say("alpha", early).await), "R-22");
    let none = Heard::Unmask(terms, Arc::new(Shares::default()));
    assert_eq!(refused(world.say("alpha", none.clone()).await), "R-08");
    world.phase(&mut hospitals, Last::Sign).await;
    assert_eq!(refused(world.say("alpha", none).await), "R-23");
    for hospital in &mut hospitals {
        world.turn(hospital, Last::Unmask).await;
    }
    assert!(world.closed(1).await[0].released);
    world.crash().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_share_is_found_out_by_name_and_the_sum_is_exact() {
    let folder = tempfile::tempdir().expect("a folder");
    let world = World::masked(folder.path(), &masked(), &FOUR).await;
    let mut hospitals = world.hospitals();
    world.set_up(&mut hospitals).await;
    world.offer(0).await.expect("an offer");
    for phase in [Last::Ready, Last::Upload, Last::Sign] {
        world.phase(&mut hospitals, phase).await;
    }
    let signed = world.entry.standing().signed_set.clone().expect("just seen");
    let given = hospitals[0].hear(Event::Unmask(signed));
    let [Heard::Unmask(terms, shares)] = given.as_slice() else { unreachable!("{given:?}") };
    let other = |share: &Share| {
        let value = SecretScalar::from_wide(&Secret::new([9; 64]));
        Share::new(share.holder(), value)
    };
    let own = shares.own.iter().map(|(id, share)| (id.clone(), other(share))).collect();
    let wrong = Arc::new(Shares { own, recovery: std::collections::BTreeMap::new() });
    world.say("alpha", Heard::Unmask(*terms, wrong)).await.expect("nobody can tell yet");
    for hospital in &mut hospitals[1..] {
        world.turn(hospital, Last::Unmask).await;
    }
    let history = world.closed(1).await;
    assert!(history[0].released && history[0].contributed.len() == 4, "{history:?}");
    assert_eq!(world.house.store.leaves("round_wrong_share").await, 4, "one for each secret");
    world.crash().await;
}

/// Breaks M-08, M-18, M-25, M-26 and M-27, and then finishes the setup as if nothing had been.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_hold_in_the_setup_is_refused_by_its_rule() {
    let folder = tempfile::tempdir().expect("a folder");
    let world = World::masked(folder.path(), &masked(), &SITES).await;
    let mut hospitals = world.hospitals();
    let say = |hospital: &mut Hospital| match hospital.step(&world.keys()) {
        Some(Step::Say(key)) => key,
        Some(Step::Fetch(_)) | None => unreachable!("it has something to say"),
    };
    let nonce = |byte| Key::Nonce(GraphNonce::new([byte; 32]));
    assert_eq!(world.rule("alpha", nonce(1)).await, "M-27", "nobody has announced");
    let alphas = say(&mut hospitals[0]);
    assert_eq!(world.rule("beta", alphas).await, "M-27", "it is alpha's");
    let Key::Announcement(mut said) = say(&mut hospitals[0]) else {
        unreachable!("it announces first")
    };
    said.signature = Signature::new([0; 64]);
    assert_eq!(world.rule("alpha", Key::Announcement(said)).await, "M-08");
    for hospital in &mut hospitals {
        let first = say(hospital);
        world.hear(hospital.id.as_str(), first).await.expect("honest");
        let second = say(hospital);
        world.hear(hospital.id.as_str(), second).await.expect("the same again");
    }
    world.house.tell_keys(&world.entry).await.expect("told");
    assert_eq!(world.rule("alpha", nonce(1)).await, "M-25", "not what it committed to");
    let early = SetupFault::Refused(SetupRefused::Early {
        what: "a batch",
        before: "revealed their nonces",
    });
    let expects = world.house.expects_batch(&world.entry, &site("alpha"), 0).await;
    assert_eq!(expects.expect_err("too early").to_string(), early.to_string());
    for hospital in &mut hospitals {
        let revealed = say(hospital);
        world.hear(hospital.id.as_str(), revealed).await.expect("honest");
    }
    world.house.tell_keys(&world.entry).await.expect("told");
    let opened = Key::Opened { number: 0, owners: [site("beta")].into() };
    assert_eq!(world.rule("alpha", opened).await, "M-27", "there is no batch yet");
    let Key::Batch { said, .. } = say(&mut hospitals[0]) else { unreachable!("it is time for it") };
    let late = Key::Batch { number: 7, said: said.clone() };
    assert_eq!(world.rule("alpha", late).await, "M-27", "it is not due");
    let mut unsigned = said.clone();
    unsigned.signature = Signature::new([0; 64]);
    let unsigned = Key::Batch { number: 0, said: unsigned };
    assert_eq!(world.rule("alpha", unsigned).await, "M-18");
    let betas = Key::Batch { number: 0, said };
    assert_eq!(world.rule("beta", betas).await, "M-18", "it is alpha's");
    world.set_up(&mut hospitals).await;
    world.offer(0).await.expect("all have their keys");
    world.crash().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_no_keys_is_waited_for_then_named_and_invited_again_when_it_has_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let world = World::masked(folder.path(), &masked(), &FOUR).await;
    let mut hospitals = world.hospitals();
    until(|| world.entry.standing().waiting_for == "the keys of alpha, beta, delta, gamma").await;
    // Everybody announces and reveals; delta leaves no batch.
    for _ in 0..2 {
        for hospital in &mut hospitals {
            world.key(hospital).await;
        }
    }
    let (delta, others) = hospitals.split_last_mut().expect("four");
    world.set_up(others).await;
    until(|| world.entry.standing().waiting_for.starts_with("the keys of delta")).await;
    world.house.clock.put_forward(Duration::from_secs(31));
    let first = world.offer(0).await.expect("the others are enough");
    assert!(!first.invited.contains(&site("delta")));
    world.set_up(std::slice::from_mut(delta)).await;
    world.set_up(others).await;
    world.round(others, &[Last::Unmask; 3]).await;
    let row = world.closed(1).await.remove(0);
    assert!(row.released && row.contributed.len() == 3, "{row:?}");
    assert_eq!(
        row.dropped.get(&site("delta")).map(String::as_str),
        Some("had no keys for this slot")
    );
    let second = world.offer(1).await.expect("the next round");
    assert!(second.invited.contains(&site("delta")));
    world.crash().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_whose_blob_is_gone_is_asked_for_again_and_only_the_same_is_taken() {
    let folder = tempfile::tempdir().expect("a folder");
    let world = World::masked(folder.path(), &masked(), &SITES).await;
    let mut hospitals = world.hospitals();
    world.house.change_life(&world.entry, Change::Pause, "", "test").await.expect("paused");
    world.set_up(&mut hospitals).await;
    let betas = world.house.batch(&world.entry, &site("beta"), 0).await.expect("there");
    world.crash().await;
    std::fs::remove_dir_all(folder.path().join("state/blobs/batches")).expect("gone");
    let world = World::masked(folder.path(), &masked(), &SITES).await;
    assert!(world.keys().owners.is_empty());
    // Beta has lost its journal and made another batch with another seed.
    let charter = world.charter();
    let mut forged = Hospital::new("beta", &charter, &world.entry.identities);
    let (provision, keyring) = forged.agreed(&world.keys());
    let other = keyring.make(&provision, &identity("beta"), 0, [9; 16], Secret::new([9; 32]));
    let other = other.expect("due").batch;
    assert_ne!(other, betas);
    assert_eq!(world.rule("beta", Key::Batch { number: 0, said: other }).await, "M-27");
    world.set_up(&mut hospitals).await;
    world.house.change_life(&world.entry, Change::Resume, "", "test").await.expect("resumed");
    let terms = world.offer(0).await.expect("all are able again, and what they had opened counts");
    assert_eq!(terms.invited.len(), 3);
    world.crash().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_slots_of_a_batch_end_the_next_is_due_and_the_last_is_forgotten() {
    let folder = tempfile::tempdir().expect("a folder");
    let world = World::masked(folder.path(), &masked(), &SITES).await;
    let mut hospitals = world.hospitals();
    world.house.change_life(&world.entry, Change::Pause, "", "test").await.expect("paused");
    world.set_up(&mut hospitals).await;
    world.house.store.set_next_slot(world.entry.id, SlotId::new(256)).await;
    world.crash().await;
    let world = World::masked(folder.path(), &masked(), &SITES).await;
    world.house.change_life(&world.entry, Change::Resume, "", "test").await.expect("resumed");
    let terms = world.offer(0).await.expect("the last slot of the first batch");
    assert_eq!(terms.slot.get(), 256);
    until(|| world.keys().batch == 1).await;
    for hospital in &mut hospitals {
        hospital.pass(SlotId::new(255));
    }
    world.round(&mut hospitals, &[Last::Unmask; 3]).await;
    assert!(world.closed(1).await[0].released, "the first batch is still there");
    until(|| world.entry.standing().waiting_for.starts_with("the keys of alpha, beta, gamma"))
        .await;
    world.set_up(&mut hospitals).await;
    let terms = world.offer(256).await.expect("the first slot of the second batch");
    assert_eq!(terms.slot.get(), 257);
    let numbers = || async {
        let rows = world.house.store.batches(world.entry.id).await.expect("read");
        rows.into_iter().map(|row| row.number).collect::<BTreeSet<_>>()
    };
    let begun = clock::now();
    while numbers().await != [1].into() {
        assert!(clock::now().since(begun) < PATIENCE, "the first batch is still there");
        clock::wait_for(Duration::from_millis(5)).await;
    }
    world.round(&mut hospitals, &[Last::Unmask; 3]).await;
    assert!(world.closed(2).await[1].released);
    world.crash().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_disk_refuses_of_the_setup_is_taken_when_it_is_said_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let world = World::masked(folder.path(), &masked(), &SITES).await;
    let mut hospitals = world.hospitals();
    let mut points = 0;
    for _ in 0..3 {
        for hospital in &mut hospitals {
            world.house.tell_keys(&world.entry).await.expect("told");
            let setup = world.keys();
            let Some(Step::Say(said)) = hospital.step(&setup) else { continue };
            points += 1;
            world.house.store.refuse_writes(true).await;
            let refused = world.hear(hospital.id.as_str(), said.clone()).await;
            assert!(matches!(refused, Err(SetupFault::Store(_))), "{refused:?}");
            world.house.tell_keys(&world.entry).await.expect("told");
            assert_eq!(world.keys(), setup, "what is not kept is not told");
            world.house.store.refuse_writes(false).await;
            world.hear(hospital.id.as_str(), said.clone()).await.expect("kept");
        }
    }
    assert_eq!(points, 9, "announcement, nonce and batch of each");
    world.set_up(&mut hospitals).await;
    world.offer(0).await.expect("all have their keys");
    world.crash().await;
}
