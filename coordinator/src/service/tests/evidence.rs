//! What a receipt promises, and whose cosignature counts.

use aggregation::charter::Charter;
use aggregation::keys::identity::Statement as _;
use aggregation::keys::witness::WitnessKey;
use aggregation::life::Change;
use transparency::cosignature::Cosigner;

use super::*;
use crate::rehearsal::{enrol, identity, update};
use crate::service::log::announce;

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

fn cosigner(site: &str, seed: u8) -> Cosigner {
    Cosigner::from_seed(&format!("consilium/north/{site}"), &[seed; 32]).expect("a seed")
}

/// `site` says that it cosigns with a key, and `holder` proves to hold it.
fn announcement(site: &str, key: &Cosigner, holder: &Cosigner) -> wire::WitnessKeyRequest {
    let key = *key.key().public();
    let said = WitnessKey { log: "consilium/north".to_owned(), hospital: name(site), key };
    wire::WitnessKeyRequest {
        key: key.to_vec(),
        signature: identity(site).sign(&said).as_bytes().to_vec(),
        proof: holder.prove_held(said.digest().as_bytes()),
    }
}

/// One hospital's cosignature would count for two.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_site_can_neither_take_anothers_cosigning_key_nor_share_it() {
    let running = Running::start().await;
    let house = &running.house;
    for site in ["alpha", "beta"] {
        enrol(&house.store, site).await;
        house.gate.admit(name(site));
    }
    let (alphas, betas) = (cosigner("alpha", 1), cosigner("beta", 2));
    let own = announcement("alpha", &alphas, &alphas);
    announce(house, &name("alpha"), &own).await.expect("its own");
    announce(house, &name("alpha"), &own).await.expect("said again");
    let mut unproven = announcement("beta", &betas, &betas);
    unproven.proof.clear();
    // What is public of alpha's: the key, and at the coordinator the proof.
    let mut replayed = announcement("beta", &alphas, &betas);
    replayed.proof.clone_from(&own.proof);
    for wrong in [unproven, replayed, announcement("beta", &alphas, &betas)] {
        let refused = announce(house, &name("beta"), &wrong).await;
        assert_eq!(code(refused), Code::InvalidArgument);
    }
    // Alpha lends it the key.
    let lent = announcement("beta", &alphas, &alphas);
    assert_eq!(code(announce(house, &name("beta"), &lent).await), Code::AlreadyExists);
    assert_eq!(house.log.unannounced(), [name("beta")]);
    let own = announcement("beta", &betas, &betas);
    announce(house, &name("beta"), &own).await.expect("its own");
    assert_eq!(house.store.leaves("witness_announced").await, 2);
    running.end().await;
}
