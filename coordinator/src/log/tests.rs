use std::collections::BTreeSet;

use aggregation::units::Timestamp;
use transparency::folder::{CHECKPOINT, SIGNED};
use transparency::policy::Policy;
use transparency::verify::verify;

use super::*;
use crate::store::Leaf;

fn name(text: &str) -> HospitalId {
    HospitalId::new(text).expect("a name")
}

/// A store and its log in a folder.
struct World {
    store: Store,
    log: Arc<Log>,
}

async fn open(folder: &Path) -> Result<World, LogError> {
    crate::rehearsal::log_key(folder);
    let state = folder.join("state");
    let store = Store::open(&state).await?;
    let gate = Arc::new(Gate::new(name("north")));
    let key = folder.join("log.key");
    let log = Log::open(state.join("log"), &key, &name("north"), &store, gate).await?;
    Ok(World { store, log })
}

impl World {
    async fn happen(&self, facts: u64) {
        for fact in 0..facts {
            let leaf = Leaf::new("alarm").with("reason", format!("number {fact}"));
            self.store.record(Timestamp::from_millis(fact), &[leaf]).await.expect("kept");
        }
    }

    async fn integrate(&self) {
        self.log.integrate(&self.store).await.expect("integrated");
    }

    async fn close(self) {
        self.store.close().await;
    }

    fn root(&self) -> String {
        std::fs::read_to_string(self.log.folder().join(SIGNED)).expect("signed")
    }
}

#[tokio::test]
async fn the_folder_follows_the_table_and_a_lost_one_grows_again_as_it_was() {
    let folder = tempfile::tempdir().expect("a folder");
    let world = open(folder.path()).await.expect("opened");
    world.happen(300).await;
    world.integrate().await;
    world.happen(1_500).await;
    world.integrate().await;
    assert_eq!(world.log.size(), Size { signed: 1_800, published: 1_800 }, "nobody has to cosign");
    let policy = Policy::threshold(world.log.key(), &[], 0).expect("a policy");
    let source = Folder::open(world.log.folder()).expect("there");
    let report = verify(&source, &policy, &[]).expect("readable");
    assert!(report.verified && report.size == 1_800, "{report:?}");
    let before = world.root();
    world.close().await;
    std::fs::remove_dir_all(folder.path().join("state/log")).expect("lost");
    let world = open(folder.path()).await.expect("begun anew");
    world.integrate().await;
    assert_eq!(world.root(), before, "the same leaves, root and signature");
    world.close().await;
}

#[tokio::test]
async fn a_table_behind_or_beside_the_folder_is_refused_with_what_disagrees() {
    let folder = tempfile::tempdir().expect("a folder");
    let world = open(folder.path()).await.expect("opened");
    world.happen(5).await;
    world.integrate().await;
    let alter = |sql: &'static str| {
        let state = folder.path().join("state");
        async move {
            let store = Store::open(&state).await.expect("opened");
            store.alter(sql).await;
            store.close().await;
        }
    };
    world.close().await;
    alter("UPDATE facts SET leaf = replace(leaf, 'number 3', 'number 8') WHERE id = 4").await;
    let refused = open(folder.path()).await.err().expect("altered");
    assert!(matches!(refused, LogError::Differs { entry: 3 }), "{refused}");
    alter("UPDATE facts SET leaf = replace(leaf, 'number 8', 'number 3') WHERE id = 4").await;
    alter("DELETE FROM facts WHERE id = 5").await;
    let refused = open(folder.path()).await.err().expect("behind");
    assert!(matches!(refused, LogError::Ahead { leaves: 5, facts: 4 }), "{refused}");
}

#[tokio::test]
async fn a_gap_in_the_table_stops_the_log_before_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let world = open(folder.path()).await.expect("opened");
    world.happen(5).await;
    world.store.alter("DELETE FROM facts WHERE id = 3").await;
    let refused = world.log.integrate(&world.store).await.expect_err("a gap");
    assert!(refused.to_string().contains("the fact number 3"), "{refused}");
    assert_eq!(world.log.size().signed, 0);
}

#[tokio::test]
async fn after_a_failed_write_the_log_goes_on_where_the_disk_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let world = open(folder.path()).await.expect("opened");
    world.happen(3).await;
    world.integrate().await;
    // A file where a folder is needed: nothing can be written below it.
    let tiles = world.log.folder().join("tile");
    std::fs::rename(&tiles, folder.path().join("aside")).expect("moved");
    std::fs::write(&tiles, "in the way").expect("written");
    world.happen(3).await;
    world.log.integrate(&world.store).await.expect_err("no folder for tiles");
    std::fs::remove_file(&tiles).expect("removed");
    std::fs::rename(folder.path().join("aside"), &tiles).expect("back");
    world.integrate().await;
    assert_eq!(world.log.size(), Size { signed: 6, published: 6 });
    world.close().await;
}

mod set_back;

mod cosigning {
    use aggregation::keys::identity::Identity;
    use aggregation::keys::witness::WitnessKey;
    use aggregation::secret::Secret;
    use transparency::cosignature::Cosigner;
    use transparency::note::Signature;
    use transparency::witness::Witness as Machine;

    use super::super::witnesses::{CosignError, Witness, key_of};
    use super::*;

    struct Site {
        id: HospitalId,
        cosigner: Cosigner,
        machine: Machine,
    }

    impl Site {
        fn new(log: &Log, at: u8) -> Self {
            let id = name(&format!("site-{at}"));
            let cosigner = Cosigner::from_seed(&format!("consilium/north/{id}"), &[at; 32]);
            let machine = Machine::new(log.key().clone());
            Self { id, cosigner: cosigner.expect("a seed"), machine }
        }

        fn witness(&self, log: &Log) -> Witness {
            let identity = Identity::from_seed(&Secret::new([9; 32])).expect("a seed");
            let key = *self.cosigner.key().public();
            let said =
                WitnessKey { log: log.key().name().to_owned(), hospital: self.id.clone(), key };
            Witness {
                key: key_of(&said.log, &self.id, key).expect("a key"),
                identity: identity.key(),
                said: identity.sign(&said),
                size: 0,
            }
        }

        async fn cosign(&mut self, log: &Arc<Log>) -> (u64, Signature) {
            let old = self.machine.latest().map_or(0, |signed| signed.checkpoint().size());
            let offer = log.offer(0, old).await.expect("read").expect("not above");
            let advance = self.machine.consider(&offer).expect("it grew");
            let size = offer.signed.checkpoint().size();
            (size, self.machine.cosign(advance, &self.cosigner, 1_800_000_000))
        }
    }

    /// Four sites that stand and have announced their keys.
    async fn four(folder: &Path) -> (World, Vec<Site>) {
        let world = open(folder).await.expect("opened");
        let sites: Vec<Site> = (1..=4).map(|at| Site::new(&world.log, at)).collect();
        for site in &sites {
            world.log.gate.admit(site.id.clone());
            world.log.learn(site.id.clone(), site.witness(&world.log));
        }
        (world, sites)
    }

    fn published(log: &Log) -> SignedCheckpoint {
        let bytes = std::fs::read(log.folder().join(CHECKPOINT)).expect("published");
        SignedCheckpoint::parse(&bytes).expect("a checkpoint")
    }

    #[tokio::test]
    async fn most_of_the_sites_must_cosign_and_more_are_added() {
        let folder = tempfile::tempdir().expect("a folder");
        let (world, mut sites) = four(folder.path()).await;
        world.happen(7).await;
        world.integrate().await;
        assert_eq!(world.log.size(), Size { signed: 7, published: 0 });
        for (count, site) in (1..).zip(&mut sites) {
            let (size, line) = site.cosign(&world.log).await;
            world.log.cosigned(&site.id, size, &line).await.expect("taken");
            // Said twice, it is answered as the first time.
            world.log.cosigned(&site.id, size, &line).await.expect("taken again");
            let shown = published(&world.log);
            let expected = if count < 3 { (0, 1) } else { (7, 1 + count) };
            assert_eq!((shown.checkpoint().size(), shown.note().signatures().len()), expected);
        }
        // One site that is shut out no longer counts, neither for nor against.
        world.log.gate.expel(&sites[3].id, []);
        world.happen(1).await;
        world.integrate().await;
        for site in &mut sites[..2] {
            let (size, line) = site.cosign(&world.log).await;
            world.log.cosigned(&site.id, size, &line).await.expect("taken");
        }
        assert_eq!(world.log.size(), Size { signed: 8, published: 8 });
        world.close().await;
    }

    #[tokio::test]
    async fn an_admitted_site_that_has_announced_no_key_counts_all_the_same() {
        let folder = tempfile::tempdir().expect("a folder");
        let (world, mut sites) = four(folder.path()).await;
        let late = ["late-1", "late-2"].map(name);
        for site in &late {
            world.log.gate.admit(site.clone());
        }
        assert_eq!((world.log.quorum(), world.log.unannounced()), (4, late.to_vec()));
        world.happen(7).await;
        world.integrate().await;
        for (count, site) in (1..).zip(&mut sites) {
            let (size, line) = site.cosign(&world.log).await;
            world.log.cosigned(&site.id, size, &line).await.expect("taken");
            assert_eq!(world.log.size().published, if count < 4 { 0 } else { 7 });
        }
        world.close().await;
    }

    /// What was kept before it was refused.
    #[tokio::test]
    async fn of_two_sites_that_said_the_same_key_the_first_has_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let world = open(folder.path()).await.expect("opened");
        let key = *Site::new(&world.log, 1).cosigner.key().public();
        for site in ["beta", "alpha"] {
            crate::rehearsal::enrol(&world.store, site).await;
            let log = world.log.key().name().to_owned();
            let said = WitnessKey { log, hospital: name(site), key };
            let identity = crate::rehearsal::identity(site);
            let (signature, now) = (identity.sign(&said), Timestamp::from_millis(1));
            let kept = world.store.keep_witness(&said, &identity.key(), &signature, now).await;
            kept.expect("kept");
        }
        world.log.load_witnesses(&world.store).await.expect("loaded");
        for site in ["beta", "alpha"] {
            world.log.gate.admit(name(site));
        }
        assert_eq!(world.log.standing().into_keys().collect::<Vec<_>>(), [name("beta")]);
        world.close().await;
    }

    #[tokio::test]
    async fn a_slow_site_may_cosign_what_is_not_the_newest_any_more() {
        let folder = tempfile::tempdir().expect("a folder");
        let (world, mut sites) = four(folder.path()).await;
        world.happen(7).await;
        world.integrate().await;
        let mut early = Vec::new();
        for site in &mut sites[..3] {
            early.push((site.id.clone(), site.cosign(&world.log).await));
        }
        world.happen(7).await;
        world.integrate().await;
        for (site, (size, line)) in early {
            world.log.cosigned(&site, size, &line).await.expect("taken");
        }
        assert_eq!(world.log.size(), Size { signed: 14, published: 7 });
        world.close().await;
    }

    #[tokio::test]
    async fn what_is_no_cosignature_of_this_site_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let (world, mut sites) = four(folder.path()).await;
        world.happen(7).await;
        world.integrate().await;
        let (size, line) = sites[0].cosign(&world.log).await;
        let other = world.log.cosigned(&sites[1].id, size, &line).await;
        assert!(matches!(other, Err(CosignError::Invalid(7))), "{other:?}");
        let unheard = world.log.cosigned(&sites[0].id, 6, &line).await;
        assert!(matches!(unheard, Err(CosignError::NotAwaited(6))), "{unheard:?}");
        let stranger = world.log.cosigned(&name("stranger"), size, &line).await;
        assert!(matches!(stranger, Err(CosignError::Unannounced)), "{stranger:?}");
        assert_eq!(world.log.offer(8, 0).await.expect("read"), None);
        assert_eq!(world.log.offer(3, 5).await.expect("read"), None);
        world.close().await;
    }

    #[tokio::test]
    async fn any_two_sizes_have_a_proof_between_them() {
        let folder = tempfile::tempdir().expect("a folder");
        let (world, _) = four(folder.path()).await;
        world.happen(20).await;
        world.integrate().await;
        let mut roots = BTreeSet::new();
        for size in 1..=20_u64 {
            for old in 0..=size {
                let offer = world.log.offer(size, old).await.expect("read").expect("not above");
                assert_eq!((offer.old_size, offer.signed.checkpoint().size()), (old, size));
                offer.signed.verify(world.log.key()).expect("signed");
                roots.insert(offer.signed.checkpoint().root());
            }
        }
        assert_eq!(roots.len(), 20);
        world.close().await;
    }
}
