//! A hospital in a folder, with a trainer made of a shell script, and a coordinator to speak with.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize};

use aggregation::charter::Charter;
use aggregation::checkpoint::LogHead;
use aggregation::ids::{Digest, RoundId};
use aggregation::keys::identity::IdentityKey;
use aggregation::message::{ClosedNotice, Roster};
use aggregation::secret::Secret;
use aggregation::study::Study;
use aggregation::units::Timestamp;
use aggregation::vector::Contribution;
use proto::encode;
use proto::federation::federation_server::FederationServer;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;

use super::super::*;
use super::fake::{Batches, Fake, Said};
use crate::config::{DataKind, DataSet, Proxy, Trainer};
use crate::policy::Policy;
use crate::policy::tests::MANIFEST;
use crate::purse::Purse;
use crate::witness::Desk;
use crate::worker::Job;
use crate::worker::tests::{done, opened, opening_bytes, part, say, script, task_bytes};

/// A hospital, its folder, and the coordinator that it speaks with.
pub(super) struct Stage {
    pub(super) folder: tempfile::TempDir,
    pub(super) house: House,
    client: Client,
    heard: mpsc::UnboundedReceiver<Said>,
    /// What other sites left, for this one to fetch.
    pub(super) batches: Batches,
    /// Whether its updates get no receipt.
    pub(super) silent: Arc<AtomicBool>,
    pub(super) model: Vec<u8>,
    pub(super) charter: Charter,
}

/// A running driver.
pub(super) struct Running {
    tells: mpsc::Sender<Heard>,
    task: JoinHandle<()>,
}

impl Running {
    /// As kill -9 does: nothing is said, nothing is tidied up.
    pub(super) async fn kill(self) {
        self.task.abort();
        assert!(self.task.await.expect_err("killed").is_cancelled());
    }

    pub(super) async fn hears(&self, notice: notice::Notice) {
        self.tells.send(Heard::Notice(Box::new(notice))).await.expect("the driver listens");
    }

    pub(super) async fn offer(&self, terms: &Terms) {
        self.hears(notice::Notice::Offer(encode::terms(terms))).await;
    }
}

impl Stage {
    pub(super) async fn set(cut: usize) -> Self {
        Self::set_with(cut, 0).await
    }

    /// With a coordinator whose model has so many bytes more or fewer than it should.
    pub(super) async fn set_with(cut: usize, change: isize) -> Self {
        let sites = ["anna", "bert", "carl"].map(hospital).into();
        Self::make(cut, change, MANIFEST, sites, BTreeMap::new()).await
    }

    /// With a study whose updates are masked, among these sites.
    pub(super) async fn masked(identities: BTreeMap<HospitalId, IdentityKey>) -> Self {
        let manifest = MANIFEST.replace("danger_unmasked_updates = true", "");
        let sites = identities.keys().cloned().collect();
        Self::make(usize::MAX, 0, &manifest, sites, identities).await
    }

    async fn make(
        cut: usize,
        change: isize,
        manifest: &str,
        sites: BTreeSet<HospitalId>,
        identities: BTreeMap<HospitalId, IdentityKey>,
    ) -> Self {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let study: Study = proto::manifest::parse(manifest).expect("a valid manifest");
        let charter = Charter::new(study, sites.clone()).expect("a charter");
        let right = charter.study().layout().parameters() * 4;
        let model = vec![0; right.saturating_add_signed(change)];
        let local = LocalStudy {
            id: charter.id(),
            name: "small".to_owned(),
            manifest: manifest.to_owned(),
            sites,
            identities,
            data: Some("images".to_owned()),
            decision: Decision::Approved,
            decided: clock::now(),
            told: true,
        };
        let state = State::open(&folder.path().join("state")).expect("ours");
        let journal = Journal::open(&state.journal()).await.expect("opens");
        journal.decide(&local).await.expect("recorded");
        let data =
            DataSet { kind: DataKind::Npz, path: folder.path().join("a.npz"), manifest: None };
        let me = hospital("anna");
        let open = work::opening(&local, &data, &me, &crate::identity::pseudonym_key(&state));
        let job = Job {
            round: 1,
            work: 1,
            model: folder.path().to_owned(),
            model_bytes: u64::try_from(right).expect("small"),
            update: folder.path().to_owned(),
            update_bytes: 0,
        };
        let trainer = scripted(folder.path(), opening_bytes(&open), task_bytes(&job), &charter);
        let config = Config {
            file: folder.path().join("node.toml"),
            state: state.root().to_owned(),
            proxy: Proxy::Direct,
            policy: lenient(),
            trainer,
            syslog: None,
            data: [("images".to_owned(), data)].into(),
            pull: BTreeMap::new(),
        };
        let identity = Arc::new(identity_of(&me));
        let purse = Purse::open(&state, &me).expect("a new ledger");
        let desk = Desk::open(state.clone(), &hospital("north"), me.clone(), Arc::clone(&identity));
        let witness = Arc::new(desk.expect("a new witness"));
        witness.learn(&log());
        let house =
            House { config: Arc::new(config), state, me, identity, journal, purse, witness };
        let (said, heard) = mpsc::unbounded_channel();
        let (batches, silent) = (Batches::default(), Arc::default());
        let fake = Fake {
            model: model.clone(),
            cut: AtomicUsize::new(cut),
            said,
            batches: Arc::clone(&batches),
            silent: Arc::clone(&silent),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        tokio::spawn(
            tonic::transport::Server::builder()
                .add_service(FederationServer::new(fake))
                .serve_with_incoming(TcpListenerStream::new(listener)),
        );
        let client = Client::connect(url).await.expect("connected");
        Self { folder, house, client, heard, batches, silent, model, charter }
    }

    pub(super) async fn start(&self) -> Running {
        let (tells, hears) = mpsc::channel(8);
        let driver = Driver::new(self.house.clone(), Arc::new(Notify::new()));
        let task = tokio::spawn(driver.run(hears, std::future::pending()));
        tells.send(Heard::Connected(self.client.clone())).await.expect("the driver listens");
        Running { tells, task }
    }

    pub(super) fn terms(&self, slot: u64) -> Terms {
        Terms {
            study: self.charter.id(),
            round: RoundId::FIRST,
            slot: SlotId::new(slot),
            work: self.charter.study().work_in(RoundId::FIRST),
            model: Digest::sha256(&self.model),
            invited: self.charter.sites().clone(),
            ready_by: Timestamp::from_millis(u64::MAX),
            log: log(),
        }
    }

    pub(super) fn roster(&self, slot: u64) -> notice::Notice {
        let terms = self.terms(slot);
        notice::Notice::Roster(encode::roster(&Roster {
            study: terms.study,
            round: terms.round,
            slot: terms.slot,
            terms: terms.digest(),
            members: terms.invited.clone(),
            upload_by: terms.ready_by,
        }))
    }

    pub(super) fn closed(&self, slot: u64) -> notice::Notice {
        let terms = self.terms(slot);
        notice::Notice::Closed(encode::closed(&ClosedNotice {
            study: terms.study,
            round: terms.round,
            slot: terms.slot,
            released: true,
            reason: String::new(),
            contributed: terms.invited,
            dropped: BTreeSet::new(),
        }))
    }

    /// Nothing, when nothing is said for so long.
    pub(super) async fn next_within(&mut self, patience: Duration) -> Option<Said> {
        tokio::time::timeout(patience, self.heard.recv()).await.ok().flatten()
    }

    pub(super) async fn next(&mut self) -> Said {
        tokio::time::timeout(Duration::from_secs(20), self.heard.recv())
            .await
            .expect("something is said in time")
            .expect("the coordinator lives")
    }

    pub(super) fn update(&self, run: u8) -> Vec<u8> {
        lanes(&self.charter, run)
    }

    /// Leaves a file in the study's folder, as if a kill had interrupted its writing.
    pub(super) fn litter(&self, name: &str) {
        let folder = folder_of(&self.house, self.charter.id());
        std::fs::write(folder.join(name), b"half").expect("written");
    }

    /// Whether anything else is said.
    pub(super) async fn is_silent(&mut self) -> bool {
        self.next_within(Duration::from_millis(500)).await.is_none()
    }

    /// What lies in the study's folder.
    pub(super) fn left(&self) -> Vec<String> {
        let folder = folder_of(&self.house, self.charter.id());
        let entries = std::fs::read_dir(folder).expect("a folder");
        let mut names: Vec<String> = entries
            .map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    /// Waits until the study's folder holds `expected`.
    pub(super) async fn leaves(&self, expected: &[&str]) {
        for _ in 0..200 {
            if self.left() == expected {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(self.left(), expected);
    }

    pub(super) fn model_name(&self) -> String {
        format!("model-{}.f32", Digest::sha256(&self.model))
    }

    pub(super) fn trained_runs(&self) -> usize {
        std::fs::read_to_string(self.folder.path().join("runs")).unwrap_or_default().lines().count()
    }
}

/// The log that rounds name; the house has looked at it.
fn log() -> LogHead {
    LogHead { size: 1, root: Digest::sha256(b"log") }
}

/// What a study without privacy and masks needs.
pub(super) fn lenient() -> Policy {
    Policy {
        danger_allow_no_privacy: true,
        danger_accept_unmasked_updates: true,
        ..Policy::default()
    }
}

pub(super) fn hospital(name: &str) -> HospitalId {
    HospitalId::new(name).expect("a name")
}

/// The identity of a site in a test.
pub(super) fn identity_of(site: &HospitalId) -> Identity {
    let seed = Secret::new(*Digest::sha256(site.as_str().as_bytes()).as_bytes());
    Identity::from_seed(&seed).expect("a seed")
}

/// What this site's trainer makes the so-many-th time: it moves the first coordinate.
pub(super) fn lanes(charter: &Charter, run: u8) -> Vec<u8> {
    contribution(charter, 0, f32::from(run) / 8.0)
}

/// A site moves one coordinate.
pub(super) fn contribution(charter: &Charter, coordinate: usize, by: f32) -> Vec<u8> {
    let format = charter.format(charter.study().work_in(RoundId::FIRST)).expect("a format");
    let mut update = vec![0.0; format.model()];
    update[coordinate] = by;
    let said = Contribution { weight: 100, update, metrics: None };
    aggregation::vector::encode(&format, &said).expect("it fits").packed
}

/// Gives other lanes at each run, so that training twice would show; waits for a file `go` first.
fn scripted(folder: &Path, open: usize, task: usize, charter: &Charter) -> Trainer {
    for run in 1..=3 {
        let answer = [part(&lanes(charter, run)), done()].concat();
        std::fs::write(folder.join(format!("answer-{run}")), answer).expect("written");
    }
    let body = format!(
        "head -c {open} >/dev/null; {}
         while head -c {task} >got && [ -s got ]; do
           echo run >>runs
           while [ -e wait ]; do sleep 0.02; done
           cat answer-$(wc -l <runs)
         done",
        say(&[opened()])
    );
    script(folder, "trainer", &body)
}
