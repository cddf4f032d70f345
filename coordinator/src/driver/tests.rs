//! Whole studies on a real store, with hospitals that are a few lines of test. A crash is the
//! driver and the store going away between two inputs; what comes back has only the disk.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aggregation::charter::Charter;
use aggregation::ids::{Digest, HospitalId, RoundId};
use aggregation::life::{Change, Life};
use aggregation::message::{DeclineReason, Roster, Terms};
use aggregation::refusal::Refusal;
use bytes::Bytes;
use proto::federation::Decision;
use tokio::sync::oneshot;

use super::{Command, Heard, Heed, Turned};
use crate::board::{Entry, Here};
use crate::clock;
use crate::coordinator::Coordinator;
use crate::rehearsal::{enrol, house, identity, update};
use crate::store::rounds::RoundRow;

mod ends;
mod masked;

const MANIFEST: &str = r#"
name = "test"
[task]
kind = "classification"
classes = ["clear", "nodule"]
input = { channels = 1, height = 8, width = 8 }
[model]
arch = "linear"
[train]
rounds = 2
strategy = "fedavg"
optimizer = "momentum"
seed = 7
[train.local]
learning_rate = 0.1
[privacy]
mode = "danger_no_privacy"
[cohort]
quorum = 2
danger_unmasked_updates = true
round_deadline = "30s"
upload_deadline = "30s"
[evaluate]
every = 0
split = "test"
metrics = ["auroc", "accuracy"]
"#;
const SITES: [&str; 3] = ["alpha", "beta", "gamma"];
const PATIENCE: Duration = Duration::from_secs(60);

fn site(name: &str) -> HospitalId {
    HospitalId::new(name).expect("a valid name")
}

/// A coordinator on a folder, with every site connected.
struct World {
    house: Arc<Coordinator>,
    entry: Arc<Entry>,
    here: Vec<Here>,
    sites: &'static [&'static str],
}

impl World {
    /// Opens the folder; the first time the study is proposed, approved and started.
    async fn open(folder: &Path) -> Self {
        Self::open_with(folder, MANIFEST).await
    }

    async fn open_with(folder: &Path, manifest: &str) -> Self {
        Self::open_for(folder, manifest, &SITES).await
    }

    async fn open_for(folder: &Path, manifest: &str, sites: &'static [&'static str]) -> Self {
        let house = house(folder).await;
        for name in sites {
            house.gate.admit(site(name));
        }
        let here = sites.iter().map(|name| house.board.arrive(&site(name), "test")).collect();
        let known = house.board.studies().first().cloned();
        let entry = match known {
            Some(entry) => {
                house.drive_all().await.expect("driven");
                entry
            }
            None => {
                for name in sites {
                    enrol(&house.store, name).await;
                }
                let entry = house.propose(manifest, "test").await.expect("proposed");
                for name in sites {
                    let (site, now) = (site(name), clock::now());
                    let (decision, life) = (Decision::Approved, Life::Approved);
                    let kept = house.store.decide(entry.id, &site, decision, life, now, &[]).await;
                    kept.expect("kept");
                    entry.standing().decisions.insert(site, decision);
                }
                entry.standing().life = Life::Approved;
                house.change_life(&entry, Change::Start, "", "test").await.expect("started");
                entry
            }
        };
        Self { house, entry, here, sites }
    }

    /// Takes everything away but the disk.
    async fn crash(self) {
        self.house.board.close();
        drop(self.here);
        until(|| self.entry.standing().driver.is_none()).await;
        self.house.store.close().await;
        let house = self.house;
        until(|| Arc::strong_count(&house) == 1).await;
    }

    async fn offer(&self, after: u64) -> Option<Terms> {
        let found = || {
            let standing = self.entry.standing();
            standing.offer.clone().filter(|terms| terms.slot.get() > after)
        };
        until(|| found().is_some() || self.entry.standing().life.ended()).await;
        found()
    }

    async fn roster(&self, slot: u64) -> Roster {
        let found = || {
            let standing = self.entry.standing();
            standing.roster.clone().filter(|roster| roster.slot.get() == slot)
        };
        until(|| found().is_some()).await;
        found().expect("just seen")
    }

    async fn say(&self, name: &str, heard: Heard) -> Result<Heed, Turned> {
        let driver = self.entry.standing().driver.clone().ok_or(Turned::NoRound)?;
        let (reply, answer) = oneshot::channel();
        let said = Command::Said { from: site(name), heard, reply };
        driver.send(said).await.map_err(|_| Turned::NoRound)?;
        answer.await.map_err(|_| Turned::NoRound)?
    }

    /// Asks whether an update may come, as the service does before its first byte.
    async fn expect(&self, name: &str, terms: &Terms) -> Result<usize, Turned> {
        let driver = self.entry.standing().driver.clone().ok_or(Turned::NoRound)?;
        let (reply, answer) = oneshot::channel();
        let (round, slot, terms) = (terms.round, terms.slot, terms.digest());
        let ask = Command::Expect { from: site(name), round, slot, terms, reply };
        driver.send(ask).await.map_err(|_| Turned::NoRound)?;
        answer.await.map_err(|_| Turned::NoRound)?
    }

    /// Stages what a site would upload for these terms; the same each time.
    async fn stage(&self, name: &str, terms: &Terms) -> Heard {
        let packed = update(name, self.sites.len(), &self.charter(), terms);
        let digest = self.stage_bytes(name, terms, packed).await;
        Heard::Update { terms: terms.digest(), digest }
    }

    fn charter(&self) -> Charter {
        Charter::new(self.entry.study.clone(), self.entry.sites.clone()).expect("valid")
    }

    async fn stage_bytes(&self, name: &str, terms: &Terms, packed: Vec<u8>) -> Digest {
        let packed = Bytes::from(packed);
        let digest = Digest::blake3(&packed);
        let blobs = &self.house.store.blobs;
        let mut staging =
            blobs.stage(terms.study, terms.slot, &site(name), digest).await.expect("begun");
        staging.write(packed).await.expect("written");
        staging.finish().await.expect("in its place");
        digest
    }

    async fn history(&self) -> Vec<RoundRow> {
        self.house.store.history(self.entry.id).await.expect("read")
    }

    /// Opens the folder; every site is ready for the first round, and all are on its roster.
    async fn in_first_round(folder: &Path) -> (Self, Terms) {
        let world = Self::open(folder).await;
        let terms = world.offer(0).await.expect("an offer");
        world.ready(&SITES, &terms).await;
        world.roster(1).await;
        (world, terms)
    }

    async fn ready(&self, sites: &[&str], terms: &Terms) {
        for name in sites {
            self.say(name, Heard::Ready(terms.digest())).await.expect("ready");
        }
    }

    async fn send(&self, sites: &[&str], terms: &Terms) {
        for name in sites {
            let update = self.stage(name, terms).await;
            self.say(name, update).await.expect("accepted");
        }
    }

    /// Every site is ready, and sends its update.
    async fn contribute(&self, terms: &Terms) {
        self.ready(&SITES, terms).await;
        self.roster(terms.slot.get()).await;
        self.send(&SITES, terms).await;
    }
}

async fn until(met: impl Fn() -> bool) {
    let begun = clock::now();
    while !met() {
        assert!(clock::now().since(begun) < PATIENCE, "waited in vain");
        tokio::task::yield_now().await;
    }
}

/// Plays a study to its end; with `crashes`, everything goes away after each input.
async fn play(crashes: bool) -> (Digest, Vec<RoundRow>) {
    let folder = tempfile::tempdir().expect("a folder");
    let mut world = World::open(folder.path()).await;
    let mut slot = 0;
    while let Some(terms) = world.offer(slot).await {
        slot = terms.slot.get();
        for name in SITES {
            let said = world.say(name, Heard::Ready(terms.digest())).await;
            said.expect("ready is accepted");
            if crashes {
                world.crash().await;
                world = World::open(folder.path()).await;
                assert_eq!(world.offer(slot - 1).await, Some(terms.clone()), "the same round");
            }
        }
        let roster = world.roster(slot).await;
        assert_eq!(roster.members.len(), SITES.len());
        for (index, name) in SITES.into_iter().enumerate() {
            let update = world.stage(name, &terms).await;
            world.say(name, update.clone()).await.expect("the update is accepted");
            if crashes {
                world.crash().await;
                world = World::open(folder.path()).await;
                if index + 1 < SITES.len() {
                    world.say(name, update).await.expect("said again it is answered as before");
                }
            }
        }
    }
    let history = world.history().await;
    assert_eq!(world.entry.standing().life, Life::Completed);
    let model = history.last().expect("rounds").model;
    world.crash().await;
    (model, history)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_study_runs_to_its_end_and_its_model_changes_in_each_round_that_trains() {
    let (_, history) = play(false).await;
    let rounds: Vec<u32> = history.iter().map(|row| row.round.get()).collect();
    assert_eq!(rounds, [1, 2, 3]);
    assert!(history.iter().all(|row| row.released && row.contributed.len() == 3));
    assert_ne!(history[0].model, history[1].model);
    assert_eq!(history[1].model, history[2].model, "the last round only scores");
    assert_eq!(history[2].accuracy, Some(1.0));
    assert_eq!(history[0].loss, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_after_each_input_changes_nothing() {
    let (calm, _) = play(false).await;
    let (stormy, history) = play(true).await;
    assert_eq!(calm, stormy, "the same inputs give the same model");
    assert_eq!(history.len(), 3, "no attempt was lost");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_round_whose_staged_update_is_gone_is_abandoned_with_that_reason_and_tried_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let (world, terms) = World::in_first_round(folder.path()).await;
    world.send(&["alpha"], &terms).await;
    world.crash().await;
    std::fs::remove_dir_all(folder.path().join("state/blobs/staged")).expect("gone");
    let world = World::open(folder.path()).await;
    let again = world.offer(1).await.expect("another attempt");
    assert_eq!((again.round, again.slot.get()), (RoundId::FIRST, 2));
    let history = world.history().await;
    assert_eq!(history.len(), 1);
    assert_eq!(history[0].reason, "the coordinator was interrupted");
    assert!(!history[0].released);
    world.crash().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_round_goes_on_without_a_site_that_is_removed_or_declines() {
    let folder = tempfile::tempdir().expect("a folder");
    let world = World::open(folder.path()).await;
    let terms = world.offer(0).await.expect("an offer");
    world.ready(&["alpha", "beta"], &terms).await;
    world.house.remove_from_rounds(&site("gamma"), None).await;
    assert_eq!(world.roster(1).await.members.len(), 2);
    let late = world.say("gamma", Heard::Declined(terms.digest(), DeclineReason::Policy)).await;
    assert!(matches!(late, Err(Turned::Refused(Refusal::TooLate { .. }))), "{late:?}");
    world.send(&["alpha", "beta"], &terms).await;
    world.offer(1).await.expect("the next round");
    let history = world.history().await;
    assert!(history[0].released);
    assert_eq!(
        history[0].dropped.get(&site("gamma")).map(String::as_str),
        Some("was revoked or withdrew")
    );
    world.crash().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_round_closed_the_same_update_is_answered_as_before_and_another_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let (world, terms) = World::in_first_round(folder.path()).await;
    let first = world.stage("alpha", &terms).await;
    world.say("alpha", first.clone()).await.expect("accepted");
    let other = Heard::Update { terms: terms.digest(), digest: Digest::blake3(b"other") };
    assert!(
        matches!(world.say("alpha", other.clone()).await, Err(Turned::NotKept { .. })),
        "nothing was staged"
    );
    world.send(&["beta", "gamma"], &terms).await;
    let next = world.offer(1).await.expect("the next round");
    let again = world.say("alpha", first).await.expect("answered as the first time");
    assert_eq!(again, Heed::Repeated, "and nothing of it is needed");
    let changed = world.say("alpha", other).await;
    assert!(matches!(changed, Err(Turned::Refused(Refusal::Changed { .. }))), "{changed:?}");
    let stranger = Heard::Ready(Digest::sha256(b"other terms"));
    assert!(matches!(world.say("alpha", stranger).await, Err(Turned::NoRound)));
    assert_eq!(next.round.get(), 2);
    world.crash().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_study_abandons_its_round_and_a_paused_one_finishes_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let world = World::open(folder.path()).await;
    let terms = world.offer(0).await.expect("an offer");
    world.house.change_life(&world.entry, Change::Pause, "", "test").await.expect("paused");
    // The open round goes on.
    world.contribute(&terms).await;
    until(|| world.entry.standing().waiting_for == "paused").await;
    assert_eq!(world.history().await.len(), 1);
    world.house.change_life(&world.entry, Change::Resume, "", "test").await.expect("resumed");
    world.offer(1).await.expect("the next round");
    world.house.change_life(&world.entry, Change::Stop, "", "test").await.expect("stopped");
    until(|| world.entry.standing().driver.is_none()).await;
    let history = world.history().await;
    assert_eq!(history[1].reason, "the study was stopped");
    world.crash().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_staged_for_a_round_that_is_over_goes_with_its_study_or_at_the_next_start() {
    let folder = tempfile::tempdir().expect("a folder");
    let world = World::open(folder.path()).await;
    let staged = folder.path().join("state/blobs/staged").join(world.entry.id.digest().to_string());
    let slots = || std::fs::read_dir(&staged).map_or(0, Iterator::count);
    let first = world.offer(0).await.expect("an offer");
    world.contribute(&first).await;
    world.offer(1).await.expect("the next round");
    until(|| slots() == 0).await;
    world.stage("alpha", &first).await;
    assert_eq!(slots(), 1, "it arrived, and was not said");
    world.crash().await;
    let world = World::open(folder.path()).await;
    world.offer(1).await.expect("the same round");
    assert_eq!(slots(), 0, "seen at the start");
    world.stage("beta", &first).await;
    world.house.change_life(&world.entry, Change::Stop, "", "test").await.expect("stopped");
    until(|| slots() == 0).await;
    world.stage("gamma", &first).await;
    world.crash().await;
    let world = World::open(folder.path()).await;
    assert_eq!(slots(), 0, "seen at the start, though nothing drives the study any more");
    world.crash().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_could_not_be_kept_is_refused_and_counts_once_when_it_is_said_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let (world, terms) = World::in_first_round(folder.path()).await;
    world.send(&["alpha"], &terms).await;
    let beta = world.stage("beta", &terms).await;
    world.house.store.refuse_writes(true).await;
    let refused = world.say("beta", beta.clone()).await;
    assert!(matches!(refused, Err(Turned::NotKept { .. })), "{refused:?}");
    world.house.store.refuse_writes(false).await;
    world.say("beta", beta).await.expect("said again it is kept");
    world.send(&["gamma"], &terms).await;
    world.offer(1).await.expect("the next round");
    let history = world.history().await;
    assert!(history[0].released && history[0].contributed.len() == 3, "{history:?}");
    let (calm, _) = play(false).await;
    finish(&world, 2).await;
    assert_eq!(
        world.history().await.last().map(|row| row.model),
        Some(calm),
        "nobody counted twice"
    );
    world.crash().await;
}

/// Plays the rounds that are left, from this slot on.
async fn finish(world: &World, mut slot: u64) {
    slot -= 1;
    while let Some(terms) = world.offer(slot).await {
        slot = terms.slot.get();
        world.contribute(&terms).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_site_that_stays_away_is_not_invited_but_named_and_invited_again_when_it_is_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let hasty = MANIFEST.replace("round_deadline = \"30s\"", "round_deadline = \"5s\"");
    let mut world = World::open_with(folder.path(), &hasty).await;
    let first = world.offer(0).await.expect("an offer");
    assert_eq!(first.invited.len(), 3, "all are here");
    world.here.retain(|here| here.site() != &site("gamma"));
    world.ready(&["alpha", "beta"], &first).await;
    // Gamma is silent; the deadline ends the waiting.
    world.roster(1).await;
    world.send(&["alpha", "beta"], &first).await;
    let second = world.offer(1).await.expect("the next round");
    assert!(!second.invited.contains(&site("gamma")), "it has been away for a third of a round");
    world.here.push(world.house.board.arrive(&site("gamma"), "test"));
    world.ready(&["alpha", "beta"], &second).await;
    world.send(&["alpha", "beta"], &second).await;
    let third = world.offer(2).await.expect("the last round");
    assert!(third.invited.contains(&site("gamma")));
    let history = world.history().await;
    let why: Vec<_> = history.iter().filter_map(|row| row.dropped.get(&site("gamma"))).collect();
    assert_eq!(why, ["was not ready in time", "was not connected"]);
    world.crash().await;
}
