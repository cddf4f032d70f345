//! The whole state folder is put back as it was: table and log agree, and only who has cosigned what
//! came after knows better.

use super::*;

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("made");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("readable");
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).expect("copied");
        }
    }
}

impl World {
    async fn tip(&self) -> SignedCheckpoint {
        self.log.checkpoints().await.expect("read").0
    }

    /// Another fact than [`World::happen`] tells of.
    async fn happen_otherwise(&self, facts: u64) {
        for fact in 0..facts {
            let leaf = Leaf::new("alarm").with("reason", format!("another {fact}"));
            self.store.record(Timestamp::from_millis(fact), &[leaf]).await.expect("kept");
        }
    }
}

/// A log of five entries, four more that were cosigned, and the five put back. What comes back is the
/// checkpoint of nine, and where its folder lies aside.
async fn put_back(folder: &Path) -> SignedCheckpoint {
    let world = open(folder).await.expect("opened");
    world.happen(5).await;
    world.integrate().await;
    world.close().await;
    copy(&folder.join("state"), &folder.join("backup"));
    let world = open(folder).await.expect("opened");
    world.happen(4).await;
    world.integrate().await;
    let cosigned = world.tip().await;
    world.close().await;
    std::fs::rename(folder.join("state"), folder.join("newest")).expect("aside");
    std::fs::rename(folder.join("backup"), folder.join("state")).expect("put back");
    cosigned
}

#[tokio::test]
async fn a_log_that_was_set_back_is_not_continued_once_a_witness_has_shown_what_it_cosigned() {
    // Whether it is still shorter than what was cosigned, or has another history by now.
    for since in [0, 7] {
        let folder = tempfile::tempdir().expect("a folder");
        let cosigned = put_back(folder.path()).await;
        let world = open(folder.path()).await.expect("it looks whole");
        world.happen_otherwise(since).await;
        world.integrate().await;
        world.log.show(cosigned.to_string().as_bytes()).await.expect("looked at");
        world.happen_otherwise(3).await;
        let refused = world.log.integrate(&world.store).await.expect_err("it was set back");
        assert!(matches!(refused, LogError::SetBack { known: 9 }), "{refused}");
        let refused = world.log.newest(&world.store).await.expect_err("no round opens on it");
        assert!(matches!(refused, LogError::SetBack { known: 9 }), "{refused}");
        assert_eq!(world.log.size().signed, 5 + since);
        world.log.offer(0, 0).await.expect("the witnesses are shown what there is");
        world.close().await;
        let refused = open(folder.path()).await.err().expect("nor after a restart");
        assert!(matches!(refused, LogError::SetBack { known: 9 }), "{refused}");

        // The newest is found again; what was shown is in its past.
        std::fs::rename(folder.path().join("state/log.known"), folder.path().join("log.known"))
            .expect("there");
        std::fs::remove_dir_all(folder.path().join("state")).expect("removed");
        std::fs::rename(folder.path().join("newest"), folder.path().join("state")).expect("found");
        std::fs::rename(folder.path().join("log.known"), folder.path().join("state/log.known"))
            .expect("evidence is kept");
        let world = open(folder.path()).await.expect("whole");
        world.happen(1).await;
        world.integrate().await;
        assert_eq!(world.log.size().signed, 10);
        world.close().await;
    }
}

/// What was shown once lies beside the log for good.
#[tokio::test]
async fn a_lost_folder_grows_again_beside_what_a_witness_has_shown() {
    let folder = tempfile::tempdir().expect("a folder");
    let cosigned = put_back(folder.path()).await;
    let (state, newest) = (folder.path().join("state"), folder.path().join("newest"));
    let known = cosigned.to_string();
    std::fs::write(newest.join("log.known"), &known).expect("kept");
    std::fs::remove_dir_all(newest.join("log")).expect("lost");
    std::fs::write(state.join("log.known"), &known).expect("kept");
    std::fs::remove_dir_all(state.join("log")).expect("lost");
    // What was set back stays refused, and signs nothing meanwhile.
    for happens in [0, 7] {
        let refused = open(folder.path()).await.err().expect("set back");
        assert!(matches!(refused, LogError::SetBack { known: 9 }), "{refused}");
        let store = Store::open(&state).await.expect("opened");
        for fact in 0..happens {
            let leaf = Leaf::new("alarm").with("reason", format!("another {fact}"));
            store.record(Timestamp::from_millis(fact), &[leaf]).await.expect("kept");
        }
        store.close().await;
    }
    let refused = open(folder.path()).await.err().expect("another history by now");
    assert!(matches!(refused, LogError::SetBack { known: 9 }), "{refused}");
    // The newest table has all that was shown.
    std::fs::remove_dir_all(&state).expect("removed");
    std::fs::rename(newest, &state).expect("found");
    let world = open(folder.path()).await.expect("whole");
    world.happen(1).await;
    world.integrate().await;
    assert_eq!(world.log.size().signed, 10);
    world.close().await;
}

#[tokio::test]
async fn what_this_log_has_not_signed_or_grew_out_of_changes_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let world = open(folder.path()).await.expect("opened");
    world.happen(5).await;
    world.integrate().await;
    let before = world.tip().await;
    world.happen(4).await;
    world.integrate().await;
    let foreign = Signer::from_seed(world.log.key().name(), &[9; 32]).expect("a seed");
    let head = Head { size: 99, root: [7; 32] };
    let checkpoint = transparency::checkpoint::Checkpoint::new(world.log.key().name(), head);
    let forged = SignedCheckpoint::sign(checkpoint.expect("a checkpoint"), &foreign);
    let forged = forged.expect("signed by another").to_string();
    for shown in [before.to_string(), forged, String::new(), "no checkpoint".to_owned()] {
        world.log.show(shown.as_bytes()).await.expect("looked at");
    }
    assert!(world.log.lost().is_none());
    world.happen(1).await;
    world.integrate().await;
    assert!(!folder.path().join("state/log.known").exists());
    world.close().await;
}
