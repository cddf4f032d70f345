//! The driver between a coordinator of a few lines and a trainer made of a shell script.

use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};

use aggregation::charter::Charter;
use aggregation::ids::{Digest, RoundId};
use aggregation::message::{ClosedNotice, Roster};
use aggregation::study::Study;
use aggregation::units::Timestamp;
use futures_util::{Stream, stream};
use proto::encode;
use proto::federation::federation_server::{Federation, FederationServer};
use proto::federation::{self as wire, update_part::Part};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, Streaming};

use super::*;
use crate::config::{DataKind, DataSet, Proxy, Trainer};
use crate::policy::Policy;
use crate::worker::Job;
use crate::worker::tests::{done, opened, opening_bytes, part, say, script, task_bytes};

const MANIFEST: &str = r#"
name = "small"
[task]
kind = "classification"
classes = ["normal", "pneumonia"]
input = { channels = 1, height = 8, width = 8 }
[model]
arch = "linear"
[train]
rounds = 5
strategy = "fedavg"
local = { epochs = 1, batch_size = 32, optimizer = "sgd", learning_rate = 1e-3 }
[privacy]
mode = "danger_no_privacy"
[cohort]
quorum = 3
round_deadline = "120s"
[evaluate]
every = 0
split = "test"
metrics = ["auroc", "accuracy"]
"#;

/// What the coordinator heard.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Ready(u64),
    Declined(u64, wire::DeclineReason),
    Update(u64, Vec<u8>),
    Fetch(u64),
    Decided(wire::Decision),
}

struct Fake {
    model: Vec<u8>,
    /// Bytes that the first download gives before it breaks off.
    cut: AtomicUsize,
    said: mpsc::UnboundedSender<Said>,
}

type Pinned<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Fake {
    fn heard<T>(&self, said: Said, reply: T) -> Result<Response<T>, Status> {
        self.said.send(said).map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(reply))
    }
}

#[tonic::async_trait]
impl Federation for Fake {
    type WatchStream = Pinned<wire::Notice>;
    type FetchModelStream = Pinned<wire::Chunk>;

    async fn watch(
        &self,
        _: Request<wire::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("the test speaks to the driver itself"))
    }

    async fn list_studies(
        &self,
        _: Request<wire::ListStudiesRequest>,
    ) -> Result<Response<wire::ListStudiesReply>, Status> {
        Ok(Response::new(Default::default()))
    }

    async fn decide_study(
        &self,
        request: Request<DecideStudyRequest>,
    ) -> Result<Response<wire::DecideStudyReply>, Status> {
        self.heard(Said::Decided(request.get_ref().decision()), wire::DecideStudyReply::default())
    }

    async fn fetch_model(
        &self,
        request: Request<wire::FetchModelRequest>,
    ) -> Result<Response<Self::FetchModelStream>, Status> {
        let offset = request.get_ref().offset;
        let cut = self.cut.swap(usize::MAX, Ordering::SeqCst);
        let rest = &self.model[usize::try_from(offset).expect("small")..];
        let chunk = Ok(wire::Chunk { data: rest[..rest.len().min(cut)].to_vec().into() });
        let end = (cut < rest.len()).then(|| Err(Status::unavailable("the line broke")));
        let chunks: Self::FetchModelStream = Box::pin(stream::iter([chunk].into_iter().chain(end)));
        self.heard(Said::Fetch(offset), chunks)
    }

    async fn send_ready(
        &self,
        request: Request<wire::ReadyRequest>,
    ) -> Result<Response<wire::ReadyReply>, Status> {
        self.heard(Said::Ready(request.get_ref().slot), wire::ReadyReply {})
    }

    async fn send_decline(
        &self,
        request: Request<wire::DeclineRequest>,
    ) -> Result<Response<wire::DeclineReply>, Status> {
        let said = Said::Declined(request.get_ref().slot, request.get_ref().reason());
        self.heard(said, wire::DeclineReply {})
    }

    async fn send_update(
        &self,
        request: Request<Streaming<wire::UpdatePart>>,
    ) -> Result<Response<wire::UpdateReceipt>, Status> {
        let mut parts = request.into_inner();
        let first = parts.message().await?.and_then(|part| part.part);
        let Some(Part::Header(header)) = first else {
            return Err(Status::invalid_argument("no header"));
        };
        let mut update = Vec::new();
        while let Some(part) = parts.next().await {
            match part?.part {
                Some(Part::Data(data)) => update.extend_from_slice(&data),
                Some(Part::Header(_)) | None => return Err(Status::invalid_argument("no data")),
            }
        }
        assert_eq!(header.bytes, u64::try_from(update.len()).expect("small"));
        assert_eq!(header.digest, Digest::blake3(&update).as_bytes());
        let receipt = wire::UpdateReceipt { digest: header.digest };
        self.heard(Said::Update(header.slot, update), receipt)
    }

    async fn report_progress(
        &self,
        _: Request<wire::ProgressRequest>,
    ) -> Result<Response<wire::ProgressReply>, Status> {
        Ok(Response::new(Default::default()))
    }

    async fn renew(
        &self,
        _: Request<wire::RenewRequest>,
    ) -> Result<Response<wire::RenewReply>, Status> {
        Err(Status::unimplemented("no certificates here"))
    }
}

/// A hospital, its folder, and the coordinator that it speaks with.
struct Stage {
    folder: tempfile::TempDir,
    house: House,
    client: Client,
    heard: mpsc::UnboundedReceiver<Said>,
    model: Vec<u8>,
    charter: Charter,
}

/// A running driver.
struct Running {
    tells: mpsc::Sender<Heard>,
    task: JoinHandle<()>,
}

impl Running {
    /// As kill -9 does: nothing is said, nothing is tidied up.
    async fn kill(self) {
        self.task.abort();
        assert!(self.task.await.expect_err("killed").is_cancelled());
    }

    async fn hears(&self, notice: notice::Notice) {
        self.tells.send(Heard::Notice(Box::new(notice))).await.expect("the driver listens");
    }

    async fn offer(&self, terms: &Terms) {
        self.hears(notice::Notice::Offer(encode::terms(terms))).await;
    }
}

impl Stage {
    async fn set(cut: usize) -> Self {
        Self::set_with(cut, 0).await
    }

    /// With a coordinator whose model has so many bytes more or fewer than it should.
    async fn set_with(cut: usize, change: isize) -> Self {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let study: Study = proto::manifest::parse(MANIFEST).expect("a valid manifest");
        let sites: BTreeSet<HospitalId> = ["anna", "bert", "carl"].map(hospital).into();
        let charter = Charter::new(study, sites.clone()).expect("a charter");
        let right = charter.study().layout().parameters() * 4;
        let model = vec![0; right.saturating_add_signed(change)];
        let local = LocalStudy {
            id: charter.id(),
            name: "small".to_owned(),
            manifest: MANIFEST.to_owned(),
            sites,
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
            policy: Policy { danger_allow_no_privacy: true, ..Policy::default() },
            trainer,
            data: [("images".to_owned(), data)].into(),
        };
        let house = House { config: Arc::new(config), state, me, journal };
        let (said, heard) = mpsc::unbounded_channel();
        let fake = Fake { model: model.clone(), cut: AtomicUsize::new(cut), said };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        tokio::spawn(
            tonic::transport::Server::builder()
                .add_service(FederationServer::new(fake))
                .serve_with_incoming(TcpListenerStream::new(listener)),
        );
        let client = Client::connect(url).await.expect("connected");
        Self { folder, house, client, heard, model, charter }
    }

    async fn start(&self) -> Running {
        let (tells, hears) = mpsc::channel(8);
        let driver = Driver::new(self.house.clone(), Arc::new(Notify::new()));
        let task = tokio::spawn(driver.run(hears, std::future::pending()));
        tells.send(Heard::Connected(self.client.clone())).await.expect("the driver listens");
        Running { tells, task }
    }

    fn terms(&self, slot: u64) -> Terms {
        Terms {
            study: self.charter.id(),
            round: RoundId::FIRST,
            slot: SlotId::new(slot),
            work: self.charter.study().work_in(RoundId::FIRST),
            model: Digest::sha256(&self.model),
            invited: self.charter.sites().clone(),
            ready_by: Timestamp::from_millis(u64::MAX),
        }
    }

    fn roster(&self, slot: u64) -> notice::Notice {
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

    fn closed(&self, slot: u64) -> notice::Notice {
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

    async fn next(&mut self) -> Said {
        tokio::time::timeout(Duration::from_secs(20), self.heard.recv())
            .await
            .expect("something is said in time")
            .expect("the coordinator lives")
    }

    fn update(&self, run: u8) -> Vec<u8> {
        lanes(&self.charter, run)
    }

    /// What lies in the study's folder.
    fn left(&self) -> Vec<String> {
        let folder = folder_of(&self.house, self.charter.id());
        let entries = std::fs::read_dir(folder).expect("a folder");
        let mut names: Vec<String> = entries
            .map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    /// Waits until the study's folder holds `expected`.
    async fn leaves(&self, expected: &[&str]) {
        for _ in 0..200 {
            if self.left() == expected {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(self.left(), expected);
    }

    fn model_name(&self) -> String {
        format!("model-{}.f32", Digest::sha256(&self.model))
    }

    fn trained_runs(&self) -> usize {
        std::fs::read_to_string(self.folder.path().join("runs")).unwrap_or_default().lines().count()
    }
}

fn hospital(name: &str) -> HospitalId {
    HospitalId::new(name).expect("a name")
}

fn lanes(charter: &Charter, run: u8) -> Vec<u8> {
    let work = charter.study().work_in(RoundId::FIRST);
    vec![run; charter.format(work).expect("a format").packed_bytes()]
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

#[tokio::test]
async fn a_round_goes_from_the_offer_to_the_upload_and_leaves_only_the_model() {
    let mut stage = Stage::set(usize::MAX).await;
    let running = stage.start().await;
    for (slot, run) in [(1, 1), (2, 2)] {
        running.offer(&stage.terms(slot)).await;
        if slot == 1 {
            assert_eq!(stage.next().await, Said::Fetch(0));
        }
        assert_eq!(stage.next().await, Said::Ready(slot));
        running.hears(stage.roster(slot)).await;
        assert_eq!(stage.next().await, Said::Update(slot, stage.update(run)));
        running.hears(stage.closed(slot)).await;
        stage.leaves(&[&stage.model_name()]).await;
    }
    let last =
        stage.house.journal.last_slot(stage.charter.id()).await.expect("read").expect("used");
    assert_eq!((last.terms.slot.get(), last.stage), (2, crate::journal::Stage::Closed));
}

#[tokio::test]
async fn after_a_kill_the_very_same_bytes_are_sent_and_nothing_is_trained_twice() {
    let mut stage = Stage::set(usize::MAX).await;
    let running = stage.start().await;
    running.offer(&stage.terms(1)).await;
    assert_eq!(stage.next().await, Said::Fetch(0));
    assert_eq!(stage.next().await, Said::Ready(1));
    running.kill().await;

    let running = stage.start().await;
    running.offer(&stage.terms(1)).await;
    assert_eq!(stage.next().await, Said::Ready(1));
    running.hears(stage.roster(1)).await;
    assert_eq!(stage.next().await, Said::Update(1, stage.update(1)));
    running.kill().await;

    // Killed before the receipt was heard, for all we know: the same once more.
    let running = stage.start().await;
    running.offer(&stage.terms(1)).await;
    assert_eq!(stage.next().await, Said::Ready(1));
    running.hears(stage.roster(1)).await;
    assert_eq!(stage.next().await, Said::Update(1, stage.update(1)));
    assert_eq!(stage.trained_runs(), 1);
    running.kill().await;

    // The bytes are lost: then nothing is sent at all.
    let update = folder_of(&stage.house, stage.charter.id()).join("1.update");
    std::fs::write(update, b"other bytes").expect("written");
    let running = stage.start().await;
    running.offer(&stage.terms(1)).await;
    assert_eq!(stage.next().await, Said::Declined(1, wire::DeclineReason::Trainer));
    assert_eq!(stage.trained_runs(), 1);
    running.kill().await;
}

#[tokio::test]
async fn killed_while_training_the_slot_is_declined_and_the_next_one_is_worked_on() {
    let mut stage = Stage::set(usize::MAX).await;
    let wait = stage.folder.path().join("wait");
    std::fs::write(&wait, "").expect("written");
    let running = stage.start().await;
    running.offer(&stage.terms(1)).await;
    assert_eq!(stage.next().await, Said::Fetch(0));
    while stage.trained_runs() == 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    running.kill().await;
    std::fs::remove_file(&wait).expect("removed");

    let running = stage.start().await;
    running.offer(&stage.terms(1)).await;
    assert_eq!(stage.next().await, Said::Declined(1, wire::DeclineReason::Trainer));
    running.offer(&stage.terms(2)).await;
    assert_eq!(stage.next().await, Said::Ready(2));
    assert_eq!(stage.trained_runs(), 2);
    running.kill().await;
}

#[tokio::test]
async fn an_interrupted_download_goes_on_where_it_stopped() {
    let mut stage = Stage::set(100).await;
    let running = stage.start().await;
    running.offer(&stage.terms(1)).await;
    assert_eq!(stage.next().await, Said::Fetch(0));
    assert_eq!(stage.next().await, Said::Fetch(100));
    assert_eq!(stage.next().await, Said::Ready(1));
    running.kill().await;
}

#[tokio::test]
async fn a_model_that_is_not_the_offered_one_is_not_trained_on() {
    let mut stage = Stage::set(usize::MAX).await;
    let running = stage.start().await;
    let terms = Terms { model: Digest::sha256(b"another"), ..stage.terms(1) };
    running.offer(&terms).await;
    assert_eq!(stage.next().await, Said::Fetch(0));
    assert_eq!(stage.next().await, Said::Declined(1, wire::DeclineReason::Trainer));
    stage.leaves(&[]).await;
    assert_eq!(stage.trained_runs(), 0);
    running.kill().await;
}

#[tokio::test]
async fn a_model_that_is_too_short_or_too_long_is_declined_at_once() {
    for change in [-4_isize, 4] {
        let mut stage = Stage::set_with(usize::MAX, change).await;
        let running = stage.start().await;
        running.offer(&stage.terms(1)).await;
        assert_eq!(stage.next().await, Said::Fetch(0));
        assert_eq!(stage.next().await, Said::Declined(1, wire::DeclineReason::Trainer));
        stage.leaves(&[]).await;
        running.kill().await;
    }
}

#[tokio::test]
async fn a_house_that_says_no_is_heard_with_its_reason() {
    let closed_hours = ["00:00-00:01", "12:00-12:01"].map(|text| text.parse().expect("a window"));
    let now = clock::now();
    // One of the two windows is shut at any time.
    let shut = closed_hours
        .into_iter()
        .find(|window| !Policy { hours: vec![*window], ..Policy::default() }.open_at(now));
    let shut = Policy {
        danger_allow_no_privacy: true,
        hours: shut.into_iter().collect(),
        ..Policy::default()
    };
    let cases = [
        (Policy::default(), wire::DeclineReason::Policy),
        (
            Policy { danger_allow_no_privacy: true, min_cohort: 4, ..Policy::default() },
            wire::DeclineReason::Policy,
        ),
        (shut, wire::DeclineReason::OutsideHours),
    ];
    for (policy, reason) in cases {
        let mut stage = Stage::set(usize::MAX).await;
        let config = Config { policy, ..Config::clone(&stage.house.config) };
        stage.house.config = Arc::new(config);
        let running = stage.start().await;
        running.offer(&stage.terms(1)).await;
        assert_eq!(stage.next().await, Said::Declined(1, reason));
        assert_eq!(stage.trained_runs(), 0);
        running.kill().await;
    }
}

#[tokio::test]
async fn a_cap_that_is_tightened_while_we_run_binds_the_next_round() {
    let mut stage = Stage::set(usize::MAX).await;
    let running = stage.start().await;
    running.offer(&stage.terms(1)).await;
    assert_eq!(stage.next().await, Said::Fetch(0));
    assert_eq!(stage.next().await, Said::Ready(1));

    let faulty = "state = \"state\"\ncolour = 1\n";
    let strict = "state = \"state\"\n[network]\nproxy = \"none\"\n[data.images]\nkind = \"npz\"\npath = \"a.npz\"\n";
    for text in [faulty, strict] {
        std::fs::write(&stage.house.config.file, text).expect("written");
        tokio::time::sleep(LOOK_EVERY * 2).await;
    }
    running.offer(&stage.terms(2)).await;
    assert_eq!(stage.next().await, Said::Declined(2, wire::DeclineReason::Policy));
    running.kill().await;
}

#[tokio::test]
async fn a_withdrawal_on_the_command_line_ends_the_round_and_later_ones() {
    let mut stage = Stage::set(usize::MAX).await;
    let running = stage.start().await;
    running.offer(&stage.terms(1)).await;
    assert_eq!(stage.next().await, Said::Fetch(0));
    assert_eq!(stage.next().await, Said::Ready(1));

    // As `study withdraw` does it: another process on the same journal.
    let command = Journal::open(&stage.house.state.journal()).await.expect("opens");
    let approved = command.study(stage.charter.id()).await.expect("read").expect("there");
    let withdrawn =
        LocalStudy { decision: Decision::Withdrawn, data: None, told: false, ..approved };
    command.decide(&withdrawn).await.expect("recorded");
    while folder_of(&stage.house, stage.charter.id()).exists() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    running.hears(stage.roster(1)).await;
    running.offer(&stage.terms(2)).await;
    assert_eq!(stage.next().await, Said::Declined(2, wire::DeclineReason::NotApproved));
    let notice = StudyNotice {
        digest: stage.charter.id().digest().as_bytes().to_vec(),
        manifest_toml: MANIFEST.to_owned(),
        state: StudyState::Running.into(),
        decision: wire::Decision::Approved.into(),
        sites: stage.charter.sites().iter().map(ToString::to_string).collect(),
        rounds_released: 0,
    };
    running.hears(notice::Notice::Study(notice)).await;
    assert_eq!(stage.next().await, Said::Decided(wire::Decision::Withdrawn));
    running.kill().await;
}
