//! What is secret is in no file as it is; what is erased can be read by nobody any more, whatever is
//! left in the files; of the two secrets of a site, one leaves.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use aggregation::charter::Charter;
use aggregation::keys::graph::GraphNonce;
use aggregation::keys::identity::Identity;
use aggregation::keys::provision::Provision;
use aggregation::keys::roll::Roll;
use aggregation::keys::slots::HeldShares;
use aggregation::message::{FinalSet, Roster, SignedSet};
use aggregation::secret::Secret;
use aggregation::setup::SignedBatch;
use aggregation::setup::keyring::{Announced, Keyring};
use proto::masks::round::shares;

use super::super::vault::{Secrets, Vault};
use super::*;
use crate::policy::tests::MANIFEST;

fn seed(text: &str) -> Secret<32> {
    Secret::new(*Digest::sha256(text.as_bytes()).as_bytes())
}

/// One study of three sites, seen from the first, with its keys in the journal; and everything that
/// is secret of it, by name.
struct House {
    journal: Journal,
    me: HospitalId,
    charter: Charter,
    provision: Provision,
    secrets: BTreeMap<String, Vec<u8>>,
}

impl House {
    fn ours(&self) -> Ours<'_> {
        Ours { me: &self.me, provision: &self.provision }
    }

    fn study(&self) -> StudyId {
        self.provision.roll().study()
    }

    fn terms(&self, slot: u64) -> Terms {
        let invited = self.provision.roll().identities().keys().cloned().collect();
        Terms { study: self.study(), invited, ..terms(slot) }
    }

    fn roster(&self, slot: u64) -> Roster {
        let terms = self.terms(slot);
        Roster {
            study: terms.study,
            round: terms.round,
            slot: terms.slot,
            terms: terms.digest(),
            members: terms.invited,
            upload_by: NOW,
        }
    }

    fn asked(&self, slot: u64, members: &[&str]) -> SignedSet {
        let Roster { study, round, slot, terms, .. } = self.roster(slot);
        let members = members.iter().map(|name| hospital(name)).collect();
        let set = FinalSet { study, round, slot, terms, members };
        SignedSet { set, signatures: BTreeMap::new() }
    }

    /// Up to the masked update of a slot.
    async fn mask(&self, slot: u64) {
        self.journal.begin(&self.terms(slot), NOW).await.expect("begun");
        let (study, at) = (self.study(), SlotId::new(slot));
        self.journal.trained(study, at, packed(b"abc")).await.expect("trained");
        self.journal.masked(self.ours(), &self.roster(slot), packed(b"xyz")).await.expect("masked");
    }

    async fn vault(&self) -> Vec<u8> {
        sqlx::query_scalar("SELECT key FROM vault")
            .fetch_one(&self.journal.pool)
            .await
            .expect("one")
    }
}

/// The keys of `name`d study in the journal of the folder.
async fn house(folder: &tempfile::TempDir, name: &str) -> House {
    let manifest = MANIFEST.replace("danger_unmasked_updates = true", "").replace("small", name);
    let study = proto::manifest::parse(&manifest).expect("valid");
    let names = ["anna", "bert", "carl"].map(hospital);
    let charter = Charter::new(study, names.clone().into()).expect("valid");
    let identity = |site: &HospitalId| Identity::from_seed(&seed(site.as_str())).expect("a seed");
    let pinned = names.iter().map(|site| (site.clone(), identity(site).key())).collect();
    let roll = Roll::new(&charter, &pinned).expect("all are pinned");
    let announced: BTreeMap<HospitalId, Announced> = names
        .iter()
        .map(|site| {
            let nonce = GraphNonce::new(*seed(&format!("nonce {site}")).expose());
            let agreement = seed(&format!("agreement {site} {name}"));
            (site.clone(), Announced::new(&roll, site, &identity(site), &agreement, nonce))
        })
        .collect();
    let said: BTreeMap<_, _> =
        announced.iter().map(|(site, one)| (site.clone(), one.said().clone())).collect();
    let nonces: BTreeMap<_, _> = announced
        .iter()
        .map(|(site, one)| (site.clone(), one.reveal(&roll, &said).expect("honest")))
        .collect();
    let [me, others @ ..] = &names;
    let journal = open(folder).await;
    let nonce = GraphNonce::new(*seed(&format!("nonce {me}")).expose());
    let agreement = || seed(&format!("agreement {me} {name}"));
    let mut secrets = BTreeMap::new();
    secrets.insert("agreement".to_owned(), agreement().expose().to_vec());
    journal.announce(&roll, agreement(), nonce).await.expect("kept");
    let (kept, _) = journal.announcement(roll.study()).await.expect("read").expect("there");
    assert_eq!(kept, agreement());
    journal.announced(roll.study(), &said).await.expect("kept");

    let mut agreed: BTreeMap<HospitalId, (Provision, Keyring)> = BTreeMap::new();
    for (site, announced) in announced {
        let keys = announced.agree(&roll, &said, &nonces).map_err(|(_, why)| why).expect("honest");
        agreed.insert(site, keys);
    }
    let (provision, keyring) = agreed.remove(me).expect("ours");
    journal.agreed(roll.study(), &said, &nonces, &keyring).await.expect("kept");
    let kept = journal.keys(roll.study()).await.expect("read").expect("there");
    assert_eq!(kept.provision(&roll).expect("drawn"), Some(provision.clone()));
    for (index, pair) in keyring.secrets().expose().chunks(72).enumerate() {
        secrets.insert(format!("chain {index}"), pair[8..40].to_vec());
        secrets.insert(format!("share root {index}"), pair[40..].to_vec());
    }
    let ours = Ours { me, provision: &provision };
    let make = || {
        let made = keyring.make(&provision, &identity(me), 0, [1; 16], seed("own"));
        made.expect("due")
    };
    for (slot, own) in make().own.into_slots() {
        let (b, share) = (own.secret().secret().expose(), own.share().value().secret().expose());
        secrets.insert(format!("b {slot}"), b.to_vec());
        secrets.insert(format!("own share {slot}"), share.to_vec());
    }
    journal.made(ours, 0, make()).await.expect("kept");
    for (owner, (provision, theirs)) in others.iter().filter_map(|site| agreed.get_key_value(site))
    {
        let made = theirs.make(provision, &identity(owner), 0, [2; 16], seed(owner.as_str()));
        let batch: SignedBatch = made.expect("due").batch;
        let opened = || keyring.open(ours.provision, owner, 0, &batch).expect("honest");
        for (slot, held) in opened() {
            let bytes = HeldShares::secrets(&held);
            secrets.insert(format!("held own {slot} {owner}"), bytes.expose()[..32].to_vec());
            secrets.insert(format!("held recovery {slot} {owner}"), bytes.expose()[32..].to_vec());
        }
        journal.hold(ours, owner, 0, opened()).await.expect("kept");
        journal.hold(ours, owner, 0, opened()).await.expect("kept again");
    }
    House { journal, me: me.clone(), charter, provision, secrets }
}

/// Every byte that the journal has on the disk.
fn raw(folder: &Path) -> Vec<u8> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        all.extend(std::fs::read(entry.expect("readable").path()).expect("readable"));
    }
    all
}

/// Which of these are somewhere in the bytes. Each is looked for by its first eight bytes, which
/// random bytes share with nothing.
fn found<'a>(
    raw: &[u8],
    secrets: impl IntoIterator<Item = (&'a String, &'a Vec<u8>)>,
) -> Vec<&'a String> {
    let mut begins: BTreeMap<&[u8], Vec<(&String, &Vec<u8>)>> = BTreeMap::new();
    for (name, secret) in secrets {
        begins.entry(&secret[..8]).or_default().push((name, secret));
    }
    let mut found = Vec::new();
    for (at, window) in raw.windows(8).enumerate() {
        for (name, secret) in begins.get(window).into_iter().flatten() {
            if raw[at..].starts_with(secret) {
                found.push(*name);
            }
        }
    }
    found
}

#[tokio::test]
async fn nothing_secret_is_in_a_file_as_it_is_at_any_time() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let house = house(&folder, "first").await;
    assert!(house.secrets.len() > 3 * 256, "{}", house.secrets.len());
    assert_eq!(found(&raw(folder.path()), &house.secrets), Vec::<&String>::new());
    // The search would find what is there: the vault's key is.
    let vault = BTreeMap::from([("vault".to_owned(), house.vault().await)]);
    assert!(!found(&raw(folder.path()), &vault).is_empty());

    house.mask(1).await;
    let asked = house.asked(1, &["anna", "bert"]);
    let (own, recovery) = ([house.me.clone(), hospital("bert")].into(), [hospital("carl")].into());
    house.journal.release(house.ours(), &asked, &own, &recovery).await.expect("given");
    assert_eq!(found(&raw(folder.path()), &house.secrets), Vec::<&String>::new());
    let close = house.journal.close(house.study(), SlotId::new(1), "over", Some(house.ours()));
    close.await.expect("closed");
    assert_eq!(found(&raw(folder.path()), &house.secrets), Vec::<&String>::new());
}

/// Each change takes with it the key of what was there before.
#[tokio::test]
async fn what_was_sealed_before_a_change_can_be_opened_no_more() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let house = house(&folder, "first").await;
    let study = house.study();
    let sealed = |journal: Journal| async move {
        sqlx::query_scalar::<_, Vec<u8>>("SELECT sealed FROM keys")
            .fetch_one(&journal.pool)
            .await
            .expect("one study")
    };
    house.journal.settle().await.expect("settled");
    let before = (house.vault().await, sealed(house.journal.clone()).await);
    let open = |vault: &[u8], piece: &[u8]| {
        Vault::new(Secret::from_slice(vault).expect("32 bytes")).open(study, piece.to_vec())
    };
    let Ok(Secrets::Agreed(agreed)) = open(&before.0, &before.1) else {
        unreachable!("agreed");
    };
    assert!(agreed.shelf.key(SlotId::new(1)).is_some(), "a thief of the disk reads slot 1 now");

    house.mask(1).await;
    let masked = house.vault().await;
    let asked = house.asked(1, &["anna", "bert", "carl"]);
    let own: BTreeSet<_> = asked.set.members.clone();
    house.journal.release(house.ours(), &asked, &own, &BTreeSet::new()).await.expect("given");
    let now = (house.vault().await, sealed(house.journal.clone()).await);
    let old: BTreeMap<String, Vec<u8>> =
        [("before", before.0.clone()), ("masked", masked)].map(|(n, v)| (n.to_owned(), v)).into();
    assert_eq!(
        found(&raw(folder.path()), &old).iter().collect::<BTreeSet<_>>().len(),
        2,
        "the log has them until it is settled"
    );
    house.journal.settle().await.expect("settled");
    assert_eq!(found(&raw(folder.path()), &old), Vec::<&String>::new());
    assert!(open(&now.0, &before.1).is_err(), "the new key does not open the old piece");
    let Ok(Secrets::Agreed(agreed)) = open(&now.0, &now.1) else { unreachable!("agreed") };
    assert!(agreed.shelf.key(SlotId::new(1)).is_none(), "nobody reads the rows of slot 1 any more");
    assert!(agreed.shelf.key(SlotId::new(2)).is_some());
}

#[tokio::test]
async fn of_each_site_one_kind_of_share_leaves_and_the_same_each_time() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let house = house(&folder, "first").await;
    house.mask(1).await;
    let (anna, bert, carl) = (hospital("anna"), hospital("bert"), hospital("carl"));
    let asked = house.asked(1, &["anna", "bert"]);
    let release = |own: Vec<&HospitalId>, recovery: Vec<&HospitalId>| {
        let (journal, asked) = (house.journal.clone(), asked.clone());
        let own = own.into_iter().cloned().collect();
        let recovery = recovery.into_iter().cloned().collect();
        let (me, provision) = (house.me.clone(), house.provision.clone());
        async move {
            let ours = Ours { me: &me, provision: &provision };
            journal.release(ours, &asked, &own, &recovery).await
        }
    };
    // Not both, even if both are asked for at once; then nothing was given.
    assert!(release(vec![&anna, &bert], vec![&anna]).await.is_err(), "our own recovery share");
    assert!(house.journal.shares(house.study(), SlotId::new(1)).await.is_err());
    release(vec![&anna, &bert], vec![&carl]).await.expect("given");
    let given = house.journal.shares(house.study(), SlotId::new(1)).await.expect("kept");
    for (own, recovery) in
        [(vec![&carl], vec![&bert]), (vec![&anna, &bert], vec![&carl]), (vec![&anna], vec![])]
    {
        assert!(release(own, recovery).await.is_err(), "a second time");
    }
    assert!(
        !house
            .journal
            .has_keys(house.study(), SlotId::new(1), &[&bert, &carl].into())
            .await
            .expect("read")
    );
    // After a restart: the very same words.
    let reopened = open(&folder).await;
    let again = reopened.shares(house.study(), SlotId::new(1)).await.expect("kept");
    assert_eq!(prost::Message::encode_to_vec(&again), prost::Message::encode_to_vec(&given));
    let (_, given) = shares(&given).expect("decodes");
    let value =
        |share: &aggregation::masking::sharing::Share| share.value().secret().expose().to_vec();
    assert_eq!(value(&given.own[&anna]), house.secrets["own share 1"]);
    assert_eq!(value(&given.own[&bert]), house.secrets["held own 1 bert"]);
    assert_eq!(value(&given.recovery[&carl]), house.secrets["held recovery 1 carl"]);
    assert_eq!((given.own.len(), given.recovery.len()), (2, 1));
    // And when the slot is over, nothing.
    let close = house.journal.close(house.study(), SlotId::new(1), "over", Some(house.ours()));
    close.await.expect("closed");
    assert!(house.journal.shares(house.study(), SlotId::new(1)).await.is_err());
}

#[tokio::test]
async fn a_slot_is_masked_once() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let house = house(&folder, "first").await;
    let (terms, members) = (house.terms(1), house.roster(1).members);
    let format = house.charter.format(terms.work).expect("a format");
    let context = house.provision.context(&terms, &members, &format).expect("all are on the roll");
    let masks = |slot: u64| house.journal.masks(house.ours(), SlotId::new(slot), context, &members);
    assert_eq!(masks(1).await.expect("there").len(), 3, "one's own and two neighbours'");
    assert_eq!(masks(1).await.expect("nothing has left").len(), 3);
    house.mask(1).await;
    assert!(matches!(masks(1).await, Err(JournalError::NoKeys { slot: 1, .. })));
    let again = house.journal.masked(house.ours(), &house.roster(1), packed(b"abc")).await;
    assert!(matches!(again, Err(JournalError::NoKeys { slot: 1, .. })));
    // What is passed over is gone, too; what comes after is there.
    let close = house.journal.close(house.study(), SlotId::new(7), "over", Some(house.ours()));
    close.await.expect("closed");
    for slot in 1..=7 {
        assert!(masks(slot).await.is_err(), "slot {slot}");
    }
    assert_eq!(masks(8).await.expect("there").len(), 3);
    let left = house.journal.keys_left(house.study()).await.expect("read");
    assert_eq!(left, Some(KeysLeft::Agreed { slots: 256 - 7 }));
    // A number that cannot be meant moves nothing.
    let far = SlotId::new(1 << 40);
    let close = house.journal.close(house.study(), far, "over", Some(house.ours())).await;
    assert!(matches!(close, Err(JournalError::NoKeys { .. })), "{close:?}");
    assert_eq!(masks(8).await.expect("still there").len(), 3);
}

#[tokio::test]
async fn the_end_of_one_study_leaves_the_others_keys() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let (first, second) = (house(&folder, "first").await, house(&folder, "second").await);
    first.mask(1).await;
    second.mask(1).await;
    let old = BTreeMap::from([("vault".to_owned(), first.vault().await)]);
    // Two connections to one file: only when the other reads nothing can the log be emptied.
    first.journal.erase_keys(first.study()).await.expect("erased");
    first.journal.erase_keys(first.study()).await.expect("nothing there");
    assert_eq!(found(&raw(folder.path()), &old), Vec::<&String>::new());
    assert_eq!(first.journal.keys_left(first.study()).await.expect("read"), None);
    assert!(first.journal.keyring(first.ours()).await.is_err());
    for table in ["batch", "own_slot", "held", "opened"] {
        let count = sqlx::AssertSqlSafe(format!("SELECT count(*) FROM {table} WHERE study = ?1"));
        let rows: i64 = sqlx::query_scalar(count)
            .bind(first.study().digest().as_bytes().as_slice())
            .fetch_one(&first.journal.pool)
            .await
            .expect("read");
        assert_eq!(rows, 0, "{table}");
    }
    let asked = second.asked(1, &["anna", "bert", "carl"]);
    let own = asked.set.members.clone();
    second.journal.release(second.ours(), &asked, &own, &BTreeSet::new()).await.expect("given");
}
