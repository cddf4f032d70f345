//! Masked rounds: the setup of the keys, rounds with restarts in every stage, a coordinator that is
//! not honest.

use super::federation::{Federation, Last, given, released, second_batch};
use super::*;

/// Every update that this site sent for a slot, and so on: whatever was said twice was the same.
fn same_each_time(said: &[Said]) {
    let mut updates: BTreeMap<u64, &[u8]> = BTreeMap::new();
    let mut signatures: BTreeMap<u64, &wire::SignatureRequest> = BTreeMap::new();
    let mut shares: BTreeMap<Digest, &[u8]> = BTreeMap::new();
    for said in said {
        match said {
            Said::Update(slot, packed) => {
                assert_eq!(*updates.entry(*slot).or_insert(packed), packed, "another update");
            }
            Said::Signature(said) => {
                assert_eq!(*signatures.entry(said.slot).or_insert(said), said, "another set");
            }
            Said::Shares(encoded) => {
                let (terms, _) = given(encoded);
                assert_eq!(*shares.entry(terms).or_insert(encoded), encoded, "other shares");
            }
            _ => {}
        }
    }
    for encoded in shares.values() {
        let (_, shares) = given(encoded);
        assert!(shares.own.keys().all(|site| !shares.recovery.contains_key(site)), "both kinds");
    }
}

fn count(said: &[Said], what: impl Fn(&Said) -> bool) -> usize {
    said.iter().filter(|said| what(said)).count()
}

/// Whether the sum is exact: each site moved a coordinate of its own.
fn exact(told: &[aggregation::round::Output], sites: &[usize], first: f64) {
    let release = released(told).expect("a release");
    let among = f64::from(u32::try_from(sites.len()).expect("few"));
    for (index, mean) in release.total.update.iter().enumerate() {
        let wanted = match index {
            0 if sites.contains(&0) => first,
            _ if sites.contains(&index) => 0.5,
            _ => 0.0,
        };
        assert!((mean * among - wanted).abs() < 1e-3, "coordinate {index}: {mean}");
    }
}

#[tokio::test]
async fn keys_are_set_up_and_masked_rounds_are_exact() {
    let mut federation = Federation::of(&["anna", "bert", "carl"]).await;
    let running = federation.stage.start().await;
    let running = federation.set_up(running, 0, false).await;
    let (running, told) = federation.play(running, 1, &[Last::Unmask; 2], false).await;
    exact(&told, &[0, 1, 2], 0.125);
    let (running, told) = federation.play(running, 2, &[Last::Unmask; 2], false).await;
    exact(&told, &[0, 1, 2], 0.25);
    federation.stage.leaves(&[&federation.stage.model_name()]).await;
    same_each_time(&federation.said);
    let sent = federation.said.iter().find_map(|said| match said {
        Said::Update(1, packed) => Some(packed),
        _ => None,
    });
    assert_ne!(sent, Some(&federation.stage.update(1)), "what is sent is not what was trained");
    running.kill().await;
}

#[tokio::test]
async fn killed_after_each_thing_that_it_says_this_site_goes_on_where_it_was() {
    let mut federation = Federation::of(&["anna", "bert", "carl"]).await;
    let running = federation.stage.start().await;
    let running = federation.set_up(running, 0, true).await;
    let (running, told) = federation.play(running, 1, &[Last::Unmask; 2], true).await;
    exact(&told, &[0, 1, 2], 0.125);
    assert_eq!(federation.stage.trained_runs(), 1);
    same_each_time(&federation.said);
    federation.stage.leaves(&[&federation.stage.model_name()]).await;
    let (running, told) = federation.play(running, 2, &[Last::Unmask; 2], true).await;
    exact(&told, &[0, 1, 2], 0.25);
    same_each_time(&federation.said);
    running.kill().await;
}
