//! How rounds and studies end in the log, and that the log and the rows say the same.

use super::*;
use crate::store::Store;
use crate::store::recorded::Recorded;

impl World {
    /// Everything that the log will have, in order.
    async fn facts(&self) -> Vec<String> {
        self.house.store.facts_after(0, 1_000).await.expect("read")
    }
}

/// Where the one fact of this kind, with these words, stands.
fn at(facts: &[String], kind: &str, words: &str) -> usize {
    let kind = format!("\"kind\":\"{kind}\"");
    let found: Vec<usize> = facts
        .iter()
        .enumerate()
        .filter(|(_, fact)| fact.contains(&kind) && fact.contains(words))
        .map(|(at, _)| at)
        .collect();
    assert_eq!(found.len(), 1, "{kind} {words}: {facts:#?}");
    found[0]
}

/// An auditor who reads the log at any size finds no study that is over and nothing of its last round.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_became_of_the_last_round_is_told_before_the_end_of_its_study() {
    let folder = tempfile::tempdir().expect("a folder");
    let world = World::open(folder.path()).await;
    let first = world.offer(0).await.expect("an offer");
    world.contribute(&first).await;
    world.offer(1).await.expect("the next round");
    world.house.change_life(&world.entry, Change::Stop, "", "test").await.expect("stopped");
    let facts = world.facts().await;
    let kept = at(&facts, "round_kept", "\"slot\":1,");
    assert!(kept < at(&facts, "study_changed", "\"to\":\"stopped\""));
    until(|| world.entry.standing().driver.is_none()).await;
    assert_eq!(world.house.store.leaves("round_kept").await, 1, "it is told once");
    world.crash().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_round_that_is_released_when_its_study_is_over_is_kept_at_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let world = World::open(folder.path()).await;
    let first = world.offer(0).await.expect("an offer");
    // The end comes while the closing is under way.
    world.house.store.alter("UPDATE studies SET life = 'stopped'").await;
    world.contribute(&first).await;
    world.offer(1).await.expect("the driver has not heard of it");
    let rows = world.house.store.kept_rounds(None).await.expect("read");
    assert!(rows.len() == 1 && rows[0].kept, "{rows:?}");
    let facts = world.facts().await;
    assert!(at(&facts, "round_released", "") < at(&facts, "round_kept", "\"slot\":1,"));
    world.crash().await;
}

/// However often a site says it, the log is told once of a rule in an attempt.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_site_is_refused_is_in_the_log_once_in_an_attempt() {
    let folder = tempfile::tempdir().expect("a folder");
    let world = World::open(folder.path()).await;
    for round in 0..2 {
        let terms = world.offer(round).await.expect("an offer");
        for _ in 0..3 {
            // Most are turned away before they are sent.
            let asked = world.expect("alpha", &terms).await;
            assert!(matches!(asked, Err(Turned::Refused(_))), "{asked:?}");
            if round == 0 {
                continue;
            }
            let early = world.stage("alpha", &terms).await;
            let refused = world.say("alpha", early).await;
            assert!(matches!(refused, Err(Turned::Refused(_))), "{refused:?}");
        }
        world.contribute(&terms).await;
    }
    world.offer(2).await.expect("a third round");
    let facts = world.facts().await;
    for slot in 1..=2 {
        let words = format!(r#""rule":"R-08","site":"alpha","slot":{slot},"#);
        assert!(
            at(&facts, "round_refused", &words)
                < at(&facts, "round_frozen", &format!("\"slot\":{slot},"))
        );
    }
    assert_eq!(world.house.store.leaves("round_refused").await, 2);
    world.crash().await;
}

/// A site has its receipt before the round is closed, which may take as long as the disk likes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_update_that_closes_a_round_is_in_the_log_before_the_round_is_closed() {
    let folder = tempfile::tempdir().expect("a folder");
    let world = World::open(folder.path()).await;
    let terms = world.offer(0).await.expect("an offer");
    let models = folder.path().join("state/blobs/models");
    let aside = folder.path().join("aside");
    std::fs::rename(&models, &aside).expect("moved");
    std::fs::write(&models, b"no folder").expect("written");
    world.contribute(&terms).await;
    until(|| world.entry.standing().waiting_for.contains("blob store")).await;
    let facts = world.facts().await;
    for name in SITES {
        at(&facts, "round_contribution", &format!("\"site\":\"{name}\""));
    }
    assert_eq!(world.house.store.leaves("round_released").await, 0);
    std::fs::remove_file(&models).expect("removed");
    std::fs::rename(&aside, &models).expect("moved back");
    world.offer(1).await.expect("the next round");
    let facts = world.facts().await;
    let released = at(&facts, "round_released", "\"slot\":1,");
    for name in SITES {
        let words = format!("\"site\":\"{name}\",\"slot\":1,");
        assert!(at(&facts, "round_contribution", &words) < released, "{name}: once");
    }
    world.crash().await;
}

/// A site that is told of a sum with its update in it holds the coordinator to that: what a power cut
/// could still take may not be told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_site_is_told_of_a_sum_before_what_it_rests_on_is_durable() {
    let folder = tempfile::tempdir().expect("a folder");
    let world = World::open(folder.path()).await;
    let terms = world.offer(0).await.expect("an offer");
    world.house.store.refuse_settling(true);
    world.contribute(&terms).await;
    until(|| world.entry.standing().waiting_for.contains("disk")).await;
    assert!(world.entry.standing().last.is_none(), "nobody is told that it closed");
    world.house.store.refuse_settling(false);
    world.offer(1).await.expect("the next round");
    assert!(world.entry.standing().last.is_some());
    world.crash().await;
}

/// An auditor takes a share that changes under way for a coordinator that picks its rounds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_share_that_is_kept_is_that_of_the_first_release_whatever_is_configured_later() {
    let folder = tempfile::tempdir().expect("a folder");
    let world = World::open(folder.path()).await;
    let first = world.offer(0).await.expect("an offer");
    world.contribute(&first).await;
    world.offer(1).await.expect("the next round");
    world.crash().await;
    let config = format!("{}[recompute]\nshare = 1\n", crate::rehearsal::CONFIG);
    std::fs::write(folder.path().join("coordinator.toml"), config).expect("written");
    let world = World::open(folder.path()).await;
    let second = world.offer(1).await.expect("an offer");
    world.contribute(&second).await;
    world.offer(second.slot.get()).await.expect("a third round");
    let facts = world.facts().await;
    for slot in [first.slot, second.slot] {
        let words = format!("\"recompute_share\":0.1,\"round\":{slot},\"slot\":{slot},");
        at(&facts, "round_released", &words);
    }
    world.crash().await;
}

/// What is done to the state folder while nothing runs.
async fn aside<T>(folder: &Path, act: impl AsyncFnOnce(&Store) -> T) -> T {
    let store = Store::open(&folder.join("state")).await.expect("opened");
    let done = act(&store).await;
    store.close().await;
    done
}

/// The last update of a round closes it, and is told of with the closing. A power cut between the two
/// leaves the receipt, and perhaps not the bytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_update_with_a_receipt_is_in_the_log_though_its_round_cannot_be_rebuilt() {
    let folder = tempfile::tempdir().expect("a folder");
    let (world, terms) = World::in_first_round(folder.path()).await;
    world.send(&["alpha", "beta"], &terms).await;
    world.crash().await;
    aside(folder.path(), async |store| {
        let (digest, now) = (Digest::blake3(b"gone"), clock::now());
        let last = Recorded::Update { from: site("gamma"), terms: terms.digest(), digest };
        let kept = store.journal(terms.study, terms.slot, 5, &[(now, last)], now, &[]).await;
        kept.expect("journaled");
    })
    .await;
    std::fs::remove_dir_all(folder.path().join("state/blobs/staged")).expect("gone");
    let world = World::open(folder.path()).await;
    world.offer(1).await.expect("another attempt");
    let facts = world.facts().await;
    let abandoned = at(&facts, "round_abandoned", "interrupted");
    for name in SITES {
        let words = format!("\"site\":\"{name}\"");
        assert!(at(&facts, "round_contribution", &words) < abandoned, "{name}: once, and before");
    }
    world.crash().await;
}

/// Breaks R-20: neither the log nor a site is told of a release.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sum_that_makes_no_model_is_no_release_in_the_log_the_row_and_the_notice() {
    let folder = tempfile::tempdir().expect("a folder");
    let world = World::open(folder.path()).await;
    let first = world.offer(0).await.expect("an offer");
    world.crash().await;
    let short = Bytes::from(aggregation::architecture::model_bytes(&[0.5; 3]));
    aside(folder.path(), async |store| {
        let digest = store.blobs.put_model(short).await.expect("kept");
        let order = format!("UPDATE studies SET model = '{digest}'");
        store.alter(Box::leak(order.into_boxed_str())).await;
    })
    .await;
    let world = World::open(folder.path()).await;
    world.offer(0).await.expect("the same");
    world.contribute(&first).await;
    let again = world.offer(1).await.expect("another attempt");
    assert_eq!(again.round, RoundId::FIRST);
    let row = world.history().await.remove(0);
    assert!(!row.released && row.reason.contains("cannot take a sum"), "{row:?}");
    let facts = world.facts().await;
    at(&facts, "round_abandoned", &row.reason);
    let store = &world.house.store;
    for kind in ["round_released", "model_changed", "round_kept"] {
        assert_eq!(store.leaves(kind).await, 0, "{kind}");
    }
    assert!(store.kept_rounds(None).await.expect("read").is_empty());
    let told = world.entry.standing().last.clone().expect("a round has closed");
    assert_eq!((told.released, told.reason), (false, row.reason));
    assert_eq!(world.entry.standing().released, 0);
    world.crash().await;
}
