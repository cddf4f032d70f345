//! Masked rounds: the setup of the keys, rounds with restarts in every stage, a coordinator that is
//! not honest.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use aggregation::message::{FinalSet, Shares};
use aggregation::round::Output;
use proto::masks::round::{encode_final_set, encode_signed_set};

use super::federation::{Federation, How, Last, given, released};
use super::stage::{hospital, identity_of};
use super::*;

/// Every update that this site sent for a slot, and so on: whatever was said twice was the same.
fn same_each_time(said: &[Said]) {
    let mut updates: BTreeMap<u64, &[u8]> = BTreeMap::new();
    let mut signatures: BTreeMap<u64, &wire::SignatureRequest> = BTreeMap::new();
    let mut shares: BTreeMap<Digest, &[u8]> = BTreeMap::new();
    for said in said {
        if let Said::Update(slot, packed) = said {
            assert_eq!(*updates.entry(*slot).or_insert(packed), packed, "another update");
        }
        if let Said::Signature(said) = said {
            assert_eq!(*signatures.entry(said.slot).or_insert(said), said, "another set");
        }
        if let Said::Shares(encoded) = said {
            let (terms, _) = given(encoded);
            assert_eq!(*shares.entry(terms).or_insert(encoded), encoded, "other shares");
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
fn exact(told: &[Output], sites: &[usize], first: f64) {
    let release = released(told).unwrap_or_else(|| unreachable!("no release among {sites:?}"));
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

/// The shares that this site gave for a slot.
fn given_for(federation: &Federation, slot: u64) -> Option<Shares> {
    let digest = federation.stage.terms(slot).digest();
    let given = federation.said.iter().filter_map(|said| {
        let Said::Shares(encoded) = said else { return None };
        Some(given(encoded))
    });
    given.into_iter().find(|(terms, _)| *terms == digest).map(|(_, shares)| shares)
}

#[tokio::test]
async fn keys_are_set_up_and_masked_rounds_are_exact() {
    let mut federation = Federation::of(&["anna", "bert", "carl"]).await;
    let running = federation.stage.start().await;
    let running = federation.set_up(running, 0, false).await;
    let (running, told) = federation.play(running, 1, &[Last::Unmask; 2], How::Through).await;
    exact(&told, &[0, 1, 2], 0.125);
    let (running, told) = federation.play(running, 2, &[Last::Unmask; 2], How::Through).await;
    exact(&told, &[0, 1, 2], 0.25);
    federation.stage.leaves(&[&federation.stage.model_name()]).await;
    same_each_time(&federation.said);
    let once = [
        count(&federation.said, |said| matches!(said, Said::Announcement(_))),
        count(&federation.said, |said| matches!(said, Said::Nonce(_))),
        count(&federation.said, |said| matches!(said, Said::Batch(..))),
    ];
    assert_eq!(once, [1, 1, 1], "however often the coordinator tells how far the keys are");
    let trained = Said::Update(1, federation.stage.update(1));
    assert!(!federation.said.contains(&trained), "what is sent is not what was trained");
    running.kill().await;
}

/// A coordinator that keeps its receipt to itself could put something else into the log otherwise.
#[tokio::test]
async fn an_update_is_owed_once_it_is_in_a_final_set_though_no_receipt_comes() {
    let mut federation = Federation::of(&["anna", "bert", "carl"]).await;
    federation.stage.silent.store(true, Ordering::SeqCst);
    let running = federation.stage.start().await;
    let running = federation.set_up(running, 0, false).await;
    let witness = Arc::clone(&federation.stage.house.witness);
    // Taken in, and not in any set: nobody says that it arrived.
    let (running, told) = federation.play(running, 1, &[Last::Ready; 2], How::Through).await;
    assert!(released(&told).is_none());
    assert_eq!(witness.owes(SlotId::new(1)), Some(false));
    // In a set that this house signed, of which no sum came.
    let (running, told) = federation.play(running, 2, &[Last::Sign; 2], How::Through).await;
    assert!(released(&told).is_none());
    assert_eq!(witness.owes(SlotId::new(2)), Some(true));
    running.kill().await;
}

#[tokio::test]
async fn killed_after_each_thing_that_it_says_this_site_goes_on_where_it_was() {
    let mut federation = Federation::of(&["anna", "bert", "carl"]).await;
    let running = federation.stage.start().await;
    let mut running = federation.set_up(running, 0, true).await;
    for (slot, moved) in [(1, 0.125), (2, 0.25)] {
        let (again, told) =
            federation.play(running, slot, &[Last::Unmask; 2], How::KilledOften).await;
        running = again;
        exact(&told, &[0, 1, 2], moved);
        same_each_time(&federation.said);
    }
    assert_eq!(federation.stage.trained_runs(), 2);
    federation.stage.leaves(&[&federation.stage.model_name()]).await;
    running.kill().await;
}

#[tokio::test]
async fn a_site_that_vanishes_is_taken_out_again_whoever_it_is() {
    let mut federation = Federation::of(&["anna", "bert", "carl", "dora"]).await;
    let running = federation.stage.start().await;
    let mut running = federation.set_up(running, 0, false).await;
    let all = Last::Unmask;
    let cases = [
        ([all, all, Last::Ready], How::Through, vec![0, 1, 2]),
        ([all, all, Last::Upload], How::Through, vec![0, 1, 2, 3]),
        ([all, all, Last::Sign], How::KilledOften, vec![0, 1, 2, 3]),
        ([all; 3], How::AwayAfter(Last::Ready), vec![1, 2, 3]),
        ([all; 3], How::AwayAfter(Last::Upload), vec![0, 1, 2, 3]),
        ([all; 3], How::AwayAfter(Last::Sign), vec![0, 1, 2, 3]),
        ([all; 3], How::AwayAfter(Last::Unmask), vec![0, 1, 2, 3]),
    ];
    for (slot, (lasts, how, summed)) in (1..).zip(cases) {
        // The trainer's answers differ in the first three runs, and then come to nothing.
        std::fs::write(federation.stage.folder.path().join("runs"), "").expect("written");
        let (again, told) = federation.play(running, slot, &lasts, how).await;
        running = again;
        exact(&told, &summed, 0.125);
        same_each_time(&federation.said);
        federation.stage.leaves(&[&federation.stage.model_name()]).await;
    }
    let shares = given_for(&federation, 1).expect("given");
    assert_eq!(shares.recovery.keys().collect::<Vec<_>>(), [&hospital("dora")]);
    assert_eq!(shares.own.len(), 3, "our own, bert's and carl's");
    running.kill().await;
}

/// It was away when the others masked, and is back when they unmask.
#[tokio::test]
async fn a_site_that_is_not_in_the_sum_gives_its_shares_of_those_that_are() {
    let mut federation = Federation::of(&["anna", "bert", "carl", "dora"]).await;
    let running = federation.stage.start().await;
    let running = federation.set_up(running, 0, false).await;
    // The last one's shares are missing, so the round waits.
    let lasts = [Last::Unmask, Last::Unmask, Last::Sign];
    let (running, told) = federation.play(running, 1, &lasts, How::AwayUntilUnmask).await;
    assert!(released(&told).is_none(), "it takes three others to recover our own secret");
    let shares = given_for(&federation, 1).expect("given");
    let others: BTreeSet<_> = ["bert", "carl", "dora"].map(hospital).into();
    assert_eq!(shares.own.keys().cloned().collect::<BTreeSet<_>>(), others);
    assert!(shares.recovery.is_empty());
    assert_eq!(count(&federation.said, |said| matches!(said, Said::Update(..))), 0);
    federation.stage.leaves(&[&federation.stage.model_name()]).await;
    running.kill().await;
}

/// Breaks from outside: nothing is signed twice, nothing is given for another
/// set than was signed, also after a restart.
#[tokio::test]
async fn a_coordinator_that_shows_two_sets_gets_one_signature_and_one_kind_of_share() {
    for how in [How::Through, How::KilledOften] {
        let mut federation = Federation::of(&["anna", "bert", "carl", "dora"]).await;
        let running = federation.stage.start().await;
        let running = federation.set_up(running, 0, false).await;
        let lasts = [Last::Unmask, Last::Unmask, Last::Ready];
        let (running, told) = federation
            .play_against(running, 1, &lasts, how, |federation, output| match output {
                Output::Freeze(roster) => {
                    let mut other = roster.clone();
                    other.members.pop_last();
                    let other = notice::Notice::Roster(proto::encode::roster(&other));
                    (vec![], vec![other])
                }
                Output::Fix(set) => {
                    let mut other = FinalSet::clone(set);
                    other.members.insert(hospital("dora"));
                    let more = notice::Notice::FinalSet(encode_final_set(&other));
                    other.members.insert(hospital("eric"));
                    let stranger = notice::Notice::FinalSet(encode_final_set(&other));
                    (vec![stranger], vec![more])
                }
                Output::Unmask(signed) => {
                    let forged = federation.forged(signed);
                    let mut unsigned = signed.clone();
                    unsigned.signatures = forged.signatures.clone();
                    let told = |signed| notice::Notice::SignedSet(encode_signed_set(signed));
                    (vec![told(&forged), told(&unsigned)], vec![told(&forged)])
                }
                Output::Offer(_)
                | Output::WakeAt(_)
                | Output::Fact(_)
                | Output::Release(_)
                | Output::Close(_) => (vec![], vec![]),
            })
            .await;
        exact(&told, &[0, 1, 2], 0.125);
        same_each_time(&federation.said);
        assert!(federation.stage.is_silent().await);
        running.kill().await;
    }
}

#[tokio::test]
async fn later_batches_are_made_when_they_are_due_also_after_a_long_absence() {
    let mut federation = Federation::of(&["anna", "bert", "carl"]).await;
    let running = federation.stage.start().await;
    let mut running = federation.set_up(running, 0, false).await;
    for (batch, kill) in [(1, false), (2, true), (6, false), (9, true)] {
        std::fs::write(federation.stage.folder.path().join("runs"), "").expect("written");
        running = federation.set_up(running, batch, kill).await;
        let slot = federation.first_of(batch);
        let (again, told) = federation.play(running, slot, &[Last::Unmask; 2], How::Through).await;
        running = again;
        exact(&told, &[0, 1, 2], 0.125);
    }
    same_each_time(&federation.said);
    running.kill().await;
}

#[tokio::test]
async fn without_keys_for_a_slot_a_masked_round_is_declined() {
    let mut federation = Federation::of(&["anna", "bert", "carl"]).await;
    let running = federation.stage.start().await;
    let no_keys = |slot| Said::Declined(slot, wire::DeclineReason::NoKeys);
    running.offer(&federation.stage.terms(1)).await;
    assert_eq!(federation.stage.next().await, no_keys(1), "before the setup");
    let running = federation.set_up(running, 0, false).await;
    let beyond = federation.first_of(1);
    running.offer(&federation.stage.terms(beyond)).await;
    assert_eq!(federation.stage.next().await, no_keys(beyond), "after the last slot");
    assert_eq!(federation.stage.trained_runs(), 0);
    running.kill().await;
}

fn study_notice(federation: &Federation, changed: Option<&str>) -> notice::Notice {
    let identities = federation.roll.identities().iter().map(|(site, key)| {
        let other = changed == Some(site.as_str());
        let key = if other { identity_of(&hospital("mallory")).key() } else { *key };
        key.as_bytes().to_vec()
    });
    notice::Notice::Study(StudyNotice {
        digest: federation.roll.study().digest().as_bytes().to_vec(),
        manifest_toml: MANIFEST.replace("danger_unmasked_updates = true", ""),
        state: StudyState::Running.into(),
        decision: wire::Decision::Approved.into(),
        sites: federation.all().iter().map(ToString::to_string).collect(),
        rounds_released: 0,
        identities: identities.collect(),
    })
}

#[tokio::test]
async fn a_changed_identity_is_refused_until_it_is_accepted() {
    let mut federation = Federation::of(&["anna", "bert", "carl"]).await;
    let running = federation.stage.start().await;
    running.hears(study_notice(&federation, None)).await;
    let running = federation.set_up(running, 0, false).await;
    running.hears(study_notice(&federation, Some("bert"))).await;
    running.offer(&federation.stage.terms(1)).await;
    assert_eq!(federation.stage.next().await, Said::Declined(1, wire::DeclineReason::Terms));
    let (bert, other) = (hospital("bert"), identity_of(&hospital("mallory")).key());
    let pin = |pins: BTreeMap<HospitalId, crate::journal::Pin>| pins[&hospital("bert")];
    let journal = federation.stage.house.journal.clone();
    let changed = pin(journal.pins().await.expect("read"));
    assert_eq!(changed.key.map(|(key, _)| key), Some(identity_of(&bert).key()));
    assert_eq!(changed.found.map(|(key, _)| key), Some(other));
    // Accepted, the key counts for approvals to come. The one that was given still means the old
    // key, so the study has to be approved again.
    journal.accept(&bert, other, clock::now()).await.expect("written");
    running.offer(&federation.stage.terms(2)).await;
    assert_eq!(federation.stage.next().await, Said::Declined(2, wire::DeclineReason::Terms));
    let study = federation.roll.study();
    let mut ours = journal.study(study).await.expect("read").expect("approved");
    ours.identities.insert(bert, other);
    journal.decide(&ours).await.expect("recorded");
    running.offer(&federation.stage.terms(3)).await;
    assert_eq!(
        federation.stage.next().await,
        Said::Declined(3, wire::DeclineReason::NoKeys),
        "the keys were agreed on with another roll"
    );
    // The keys begin anew: another roll, another announcement.
    let mut begun = federation.told(0);
    begun.announced.clear();
    begun.nonces.clear();
    begun.owners.clear();
    let begun = proto::masks::setup::encode_key_setup(&begun);
    running.hears(notice::Notice::Keys(begun)).await;
    let Said::Announcement(anew) = federation.stage.next().await else {
        unreachable!("the first thing that is said of keys");
    };
    let before = federation.gathering.announced()[&hospital("anna")].announce.charter;
    assert_ne!(anew.charter, before.as_bytes().to_vec());
    running.kill().await;
}

/// Breaks M-08: the announcement of a site under another identity than the one that was approved.
#[tokio::test]
async fn a_substituted_key_gets_no_nonce_and_no_keys() {
    let mut federation = Federation::of(&["anna", "bert", "carl"]).await;
    let running = federation.stage.start().await;
    running.hears(federation.keys(0)).await;
    let Said::Announcement(ours) = federation.stage.next().await else {
        unreachable!("the first thing that is said of keys");
    };
    let study = federation.roll.study();
    let ours = proto::masks::setup::announcement(study, &ours).expect("decodes");
    let honest = federation.told(0);
    let mut substituted = honest.clone();
    substituted.announced.insert(hospital("anna"), ours.clone());
    let carl = substituted.announced.get_mut(&hospital("carl")).expect("announced");
    carl.announce.agreement = aggregation::keys::announce::AgreementKey::new([9; 32]);
    carl.signature = identity_of(&hospital("mallory")).sign(&carl.announce);
    let told = |setup| notice::Notice::Keys(proto::masks::setup::encode_key_setup(setup));
    for _ in 0..2 {
        running.hears(told(&substituted)).await;
        assert!(federation.stage.is_silent().await);
    }
    // The true one after all: the setup goes on, and from then on no other is believed.
    let mut complete = honest;
    complete.announced.insert(hospital("anna"), ours);
    running.hears(told(&complete)).await;
    assert!(matches!(federation.stage.next().await, Said::Nonce(_)));
    running.hears(told(&substituted)).await;
    assert!(federation.stage.is_silent().await);
    running.kill().await;
}

#[tokio::test]
async fn the_end_of_a_study_leaves_no_keys() {
    let mut federation = Federation::of(&["anna", "bert", "carl"]).await;
    let running = federation.stage.start().await;
    let running = federation.set_up(running, 0, false).await;
    let journal = federation.stage.house.journal.clone();
    let study = federation.roll.study();
    assert_eq!(
        journal.keys_left(study).await.expect("read"),
        Some(crate::journal::KeysLeft::Agreed { slots: 256 })
    );
    let notice::Notice::Study(mut over) = study_notice(&federation, None) else {
        unreachable!("a study");
    };
    over.state = StudyState::Completed.into();
    running.hears(notice::Notice::Study(over)).await;
    for _ in 0..100 {
        if journal.keys_left(study).await.expect("read").is_none() {
            return running.kill().await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    unreachable!("the keys are still there");
}
