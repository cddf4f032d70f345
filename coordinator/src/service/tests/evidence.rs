//! What a receipt promises.

use aggregation::charter::Charter;
use aggregation::life::Change;

use super::*;
use crate::rehearsal::update;

async fn until<T>(found: impl Fn() -> Option<T>) -> T {
    let begun = clock::now();
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(clock::now().since(begun) < Duration::from_secs(60), "waited in vain");
        clock::wait_for(Duration::from_millis(5)).await;
    }
}

/// A site that has its receipt never sends the update again, and raises an alarm when the log lacks it:
/// so a power cut must not take it back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_update_gets_its_receipt_once_it_is_durable_and_not_before() {
    let running = Running::start().await;
    let alpha = running.admit("alpha").await;
    let mut site = FederationClient::new(running.channel(Some(alpha)).await);
    let house = &running.house;
    let entry = house.propose(include_str!("study.toml"), "test").await.expect("proposed");
    let study = entry.id.digest().as_bytes().to_vec();
    let decision = wire::Decision::Approved.into();
    let request = wire::DecideStudyRequest { study: study.clone(), decision };
    site.decide_study(request).await.expect("approved");
    let here = house.board.arrive(&name("alpha"), "test");
    house.change_life(&entry, Change::Start, "", "test").await.expect("started");
    let terms = until(|| entry.standing().offer.clone()).await;
    let (round, slot) = (terms.round.get(), terms.slot.get());
    let digest = terms.digest().as_bytes().to_vec();
    let ready = wire::ReadyRequest { study: study.clone(), round, slot, terms: digest.clone() };
    site.send_ready(ready).await.expect("ready");
    until(|| entry.standing().roster.clone()).await;

    let charter = Charter::new(entry.study.clone(), entry.sites.clone()).expect("valid");
    let packed = Bytes::from(update("alpha", 1, &charter, &terms));
    let header = wire::UpdateHeader {
        study,
        round,
        slot,
        terms: digest,
        bytes: packed.len() as u64,
        digest: Digest::blake3(&packed).as_bytes().to_vec(),
    };
    let parts = || {
        let part = |part| wire::UpdatePart { part: Some(part) };
        let parts = [part(Part::Header(header.clone())), part(Part::Data(packed.clone()))];
        tokio_stream::iter(parts)
    };
    house.store.refuse_settling(true);
    assert_eq!(code(site.send_update(parts()).await), Code::ResourceExhausted);
    while house.store.history(entry.id).await.expect("read").is_empty() {
        // It was kept all the same, and ends the round.
        clock::wait_for(Duration::from_millis(5)).await;
    }
    house.store.refuse_settling(false);
    site.send_update(parts()).await.expect("said again, it is durable");
    assert_eq!(house.store.leaves("round_contribution").await, 1);
    drop(here);
    running.end().await;
}
