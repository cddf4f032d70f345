//! The demo's processes and folders: one coordinator, and a node for each hospital.
//!
//! ```text
//! DIR/coordinator/coordinator.toml   and its state, certificates, log of the process
//! DIR/hospital-1/node.toml           and its keys, journal, log of the process
//! DIR/data/hospital-1/               DICOM files and manifest.csv, or hospital-1.npz
//! ```

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use proto::channel::{ClientIdentity, Proxy, Target, Trust};
use proto::cli::{Exit, Failure};
use proto::federation::operator_client::OperatorClient;
use proto::federation::{
    ApproveSiteRequest, CreateTokenRequest, ListSitesRequest, SiteState, SiteView,
};
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use tokio::process::{Child, Command};
use tonic::transport::Channel;

use super::privacy::Privacy;
use super::screen::Screen;
use super::{DemoArgs, refused};

/// How long any one step of the set-up may take.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(50);
/// How long the coordinator may take to notice that a killed hospital is gone.
const NOTICED: Duration = Duration::from_secs(5);

/// Patients of an average hospital in a private study.
const PRIVATE_PATIENTS: &str = "600";

/// Where the hospitals' images come from.
#[derive(Debug)]
pub(super) enum Source {
    /// Radiographs that we draw.
    Synthetic,
    /// A MedMNIST-style file that is split.
    Npz(PathBuf),
}

impl Source {
    pub(super) fn parse(text: &str) -> Result<Self, Failure> {
        if text == "synthetic" {
            return Ok(Self::Synthetic);
        }
        let path = PathBuf::from(text);
        if path.extension().is_none_or(|extension| extension != "npz") {
            return Err(Failure::usage(
                "bad_data",
                format!("--data: expected \"synthetic\" or a .npz file, found {text:?}"),
            ));
        }
        match fs::metadata(&path) {
            Ok(found) if found.is_file() => Ok(Self::Npz(path)),
            Ok(_) => Err(Failure::usage("bad_data", format!("--data: {text} is not a file"))),
            Err(error) => Err(Failure::usage("bad_data", format!("--data: {text}: {error}"))),
        }
    }
}

struct Hospital {
    name: String,
    config: PathBuf,
    process: Option<Child>,
    /// It was killed on purpose, and stays so until it is started again on purpose.
    down: bool,
}

/// Everything that runs.
pub(super) struct Federation {
    dir: PathBuf,
    url: String,
    coordinator: Child,
    hospitals: Vec<Hospital>,
    /// Patients to train on, in all hospitals together.
    patients: u32,
    keep: bool,
}

impl Federation {
    /// Sets up and starts a consortium in `dir`.
    pub(super) async fn build(
        dir: &Path,
        arguments: &DemoArgs,
        source: &Source,
        privacy: &Privacy,
        screen: &Screen,
    ) -> Result<Self, Failure> {
        let DemoArgs { hospitals, seed, keep, .. } = *arguments;
        let Data { sets, patients } =
            make_data(dir, hospitals, source, seed, privacy, screen).await?;
        let home = dir.join("coordinator");
        let port = free_port()?;
        let url = format!("https://127.0.0.1:{port}");
        let listen = format!("127.0.0.1:{port}");
        screen.step("A consortium: CA, server certificate, keys", &url);
        let mut init = Command::new(program("coordinator")?);
        init.arg("init").arg("--dir").arg(&home);
        init.args(["--consortium", "demo", "--url", &url, "--listen", &listen]);
        complete(init, "coordinator init").await?;
        let mut serve = Command::new(program("coordinator")?);
        serve.arg("serve").arg("--config").arg(home.join("coordinator.toml"));
        let coordinator = start(serve, &home.join("process.log"), keep)?;
        let mut federation =
            Self { dir: dir.to_owned(), url, coordinator, hospitals: Vec::new(), patients, keep };
        let mut operator = federation.operator().await?;
        for (name, data) in sets {
            let config = node_config(&data, privacy);
            let hospital = federation.admit(&mut operator, &name, &config).await?;
            screen.step("A hospital enrols", &format!("{name}, its key made by itself"));
            federation.hospitals.push(hospital);
        }
        federation.write_processes()?;
        federation.connected(&mut operator).await?;
        if keep {
            screen.step("Everything stays in", &dir.display().to_string());
            let pid = federation.coordinator.id().unwrap_or_default();
            screen.step("The coordinator's process", &pid.to_string());
        }
        Ok(federation)
    }

    /// Patients to train on, in all hospitals together.
    pub(super) const fn patients(&self) -> u32 {
        self.patients
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.hospitals.iter().map(|hospital| hospital.name.clone()).collect()
    }

    /// A channel to the coordinator with the operator's certificate; waits while it comes up.
    pub(super) async fn operator(&mut self) -> Result<OperatorClient<Channel>, Failure> {
        let home = self.dir.join("coordinator");
        let read = |path: PathBuf| {
            fs::read_to_string(&path).map_err(|error| {
                Failure::failed("demo_files", format!("{}: {error}", path.display()))
            })
        };
        let target = Target {
            url: self.url.clone(),
            proxy: Proxy::Direct,
            trust: Trust::Ca(read(home.join("ca.pem"))?),
            client: Some(ClientIdentity {
                certificate_pem: read(home.join("operator.pem"))?,
                key_pem: read(home.join("operator.key"))?,
            }),
        };
        let mut waited = Duration::ZERO;
        loop {
            let error = match proto::channel::connect(&target).await {
                Ok(channel) => return Ok(OperatorClient::new(channel)),
                Err(error) => error,
            };
            if !self.keep
                && let Ok(Some(status)) = self.coordinator.try_wait()
            {
                let log = tail(&home.join("process.log"));
                let message = format!("the coordinator ended ({status}): {log}");
                return Err(Failure::failed("coordinator_ended", message));
            }
            if waited > PATIENCE && !self.keep {
                return Err(Failure::new(Exit::Connection, "no_coordinator", error.to_string()));
            }
            tokio::time::sleep(PAUSE).await;
            waited += PAUSE;
        }
    }

    async fn admit(
        &self,
        operator: &mut OperatorClient<Channel>,
        name: &str,
        settings: &str,
    ) -> Result<Hospital, Failure> {
        let home = self.dir.join(name);
        fs::create_dir_all(&home).map_err(|error| files(&home, &error))?;
        let config = home.join("node.toml");
        fs::write(&config, settings).map_err(|error| files(&config, &error))?;
        let token = operator
            .create_token(CreateTokenRequest { site: name.to_owned(), valid_seconds: 0 })
            .await
            .map_err(|status| refused("the token", &status))?
            .into_inner();
        let mut enrol = Command::new(program("hospital-node")?);
        enrol.arg("--config").arg(&config).arg("enroll");
        enrol.args(["--coordinator", &self.url, "--token", &token.token]);
        enrol.args(["--ca-fingerprint", &token.ca_fingerprint, "--wait", "1m"]);
        let enrolling = tokio::spawn(complete(enrol, "hospital-node enroll"));
        approve_site(operator, name).await?;
        enrolling.await.map_err(|error| Failure::failed("enrolment", error.to_string()))??;
        let mut run = Command::new(program("hospital-node")?);
        run.arg("--config").arg(&config).arg("run");
        let process = start(run, &home.join("process.log"), self.keep)?;
        Ok(Hospital { name: name.to_owned(), config, process: Some(process), down: false })
    }

    /// Waits until every node holds its stream, so that the first round misses nobody.
    async fn connected(&self, operator: &mut OperatorClient<Channel>) -> Result<(), Failure> {
        let mut waited = Duration::ZERO;
        loop {
            let sites = sites(operator).await?;
            let missing: Vec<_> = sites
                .iter()
                .filter(|site| !site.connected)
                .map(|site| site.site.as_str())
                .collect();
            if missing.is_empty() {
                return Ok(());
            }
            if waited > PATIENCE {
                let message =
                    format!("not connected after {} s: {}", PATIENCE.as_secs(), missing.join(", "));
                return Err(Failure::new(Exit::Timeout, "nodes_missing", message));
            }
            tokio::time::sleep(PAUSE).await;
            waited += PAUSE;
        }
    }

    /// Each hospital's administrator says yes to this digest, on the hospital's own machine.
    pub(super) async fn approve(&self, digest: &str) -> Result<(), Failure> {
        for hospital in &self.hospitals {
            let mut approve = Command::new(program("hospital-node")?);
            approve.arg("--config").arg(&hospital.config);
            approve.args(["study", "approve", digest, "--yes"]);
            complete(approve, "hospital-node study approve").await?;
        }
        Ok(())
    }

    /// Process numbers, for whoever wants to kill something and watch.
    fn write_processes(&self) -> Result<(), Failure> {
        let mut text = format!("coordinator {}\n", self.coordinator.id().unwrap_or_default());
        for hospital in &self.hospitals {
            let id = hospital.process.as_ref().and_then(Child::id).unwrap_or_default();
            text.push_str(&format!("{} {id}\n", hospital.name));
        }
        let path = self.dir.join("processes.txt");
        fs::write(&path, text).map_err(|error| files(&path, &error))
    }

    /// Starts the coordinator again when it has died; not with `--keep`, where that is left to the
    /// person who watches.
    pub(super) fn revive_coordinator(&mut self) -> Result<bool, Failure> {
        if self.keep || !matches!(self.coordinator.try_wait(), Ok(Some(_))) {
            return Ok(false);
        }
        let home = self.dir.join("coordinator");
        let mut serve = Command::new(program("coordinator")?);
        serve.arg("serve").arg("--config").arg(home.join("coordinator.toml"));
        self.coordinator = start(serve, &home.join("process.log"), self.keep)?;
        Ok(true)
    }

    /// Starts every node again that has died; returns their names.
    pub(super) fn revive_nodes(&mut self) -> Result<Vec<String>, Failure> {
        let mut revived = Vec::new();
        for hospital in self.hospitals.iter_mut().filter(|hospital| !hospital.down) {
            let ended = hospital
                .process
                .as_mut()
                .is_none_or(|process| matches!(process.try_wait(), Ok(Some(_))));
            if ended {
                hospital.start(&self.dir, self.keep)?;
                revived.push(hospital.name.clone());
            }
        }
        Ok(revived)
    }

    fn hospital(&mut self, name: &str) -> Result<&mut Hospital, Failure> {
        let unknown = || Failure::failed("demo_process", format!("there is no hospital {name}"));
        self.hospitals.iter_mut().find(|hospital| hospital.name == name).ok_or_else(unknown)
    }

    /// Stops a hospital's process where it stands, until it is released or killed.
    pub(super) fn hold(&mut self, name: &str) -> Result<(), Failure> {
        self.hospital(name)?.signal(Signal::STOP)
    }

    /// Lets a hospital's process go on.
    pub(super) fn release(&mut self, name: &str) -> Result<(), Failure> {
        self.hospital(name)?.signal(Signal::CONT)
    }

    /// Kills a hospital's process; comes back when it is gone and the coordinator has noticed.
    pub(super) async fn kill(
        &mut self,
        name: &str,
        operator: &mut OperatorClient<Channel>,
    ) -> Result<(), Failure> {
        let hospital = self.hospital(name)?;
        hospital.down = true;
        if let Some(mut process) = hospital.process.take() {
            process
                .kill()
                .await
                .map_err(|error| Failure::failed("demo_process", format!("{name}: {error}")))?;
        }
        let mut waited = Duration::ZERO;
        while waited < NOTICED {
            let sites = sites(operator).await.unwrap_or_default();
            if !sites.iter().any(|site| site.site == name && site.connected) {
                break;
            }
            tokio::time::sleep(PAUSE).await;
            waited += PAUSE;
        }
        Ok(())
    }

    /// Starts a hospital again that was killed on purpose.
    pub(super) fn start_again(&mut self, name: &str) -> Result<(), Failure> {
        let (dir, keep) = (self.dir.clone(), self.keep);
        let hospital = self.hospital(name)?;
        hospital.down = false;
        hospital.start(&dir, keep)
    }

    /// Ends every process: asks first, then insists.
    pub(super) async fn stop(&mut self) {
        let nodes = self.hospitals.iter_mut().filter_map(|hospital| hospital.process.as_mut());
        let mut children: Vec<&mut Child> = nodes.chain([&mut self.coordinator]).collect();
        for child in &mut children {
            // Closing its standard input is how the demo asks; see `--until-stdin-closes`.
            drop(child.stdin.take());
        }
        for child in children {
            let ended = tokio::time::timeout(Duration::from_secs(5), child.wait()).await;
            if ended.is_err() {
                // It may have ended in between; then there is nothing to kill.
                let _ = child.kill().await;
            }
        }
    }
}

impl Hospital {
    fn start(&mut self, dir: &Path, keep: bool) -> Result<(), Failure> {
        let mut run = Command::new(program("hospital-node")?);
        run.arg("--config").arg(&self.config).arg("run");
        let log = dir.join(&self.name).join("process.log");
        self.process = Some(start(run, &log, keep)?);
        Ok(())
    }

    /// A process that has ended is started again elsewhere.
    fn signal(&self, signal: Signal) -> Result<(), Failure> {
        let id = self.process.as_ref().and_then(Child::id);
        let Some(pid) = id.and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)) else {
            return Ok(());
        };
        kill_process(pid, signal)
            .map_err(|error| Failure::failed("demo_process", format!("{}: {error}", self.name)))
    }
}

async fn sites(operator: &mut OperatorClient<Channel>) -> Result<Vec<SiteView>, Failure> {
    let listed = operator.list_sites(ListSitesRequest {}).await;
    let listed = listed.map_err(|status| refused("the list of sites", &status))?;
    Ok(listed.into_inner().sites)
}

async fn approve_site(operator: &mut OperatorClient<Channel>, name: &str) -> Result<(), Failure> {
    let mut waited = Duration::ZERO;
    loop {
        let site = sites(operator).await?.into_iter().find(|site| site.site == name);
        if let Some(site) = site.filter(|site| site.state() == SiteState::Pending) {
            let identity_fingerprint = site.identity_fingerprint;
            operator
                .approve_site(ApproveSiteRequest { site: site.site, identity_fingerprint })
                .await
                .map_err(|status| refused("the approval", &status))?;
            return Ok(());
        }
        if waited > PATIENCE {
            let message = format!("{name} has not asked for its certificate");
            return Err(Failure::new(Exit::Timeout, "enrolment", message));
        }
        tokio::time::sleep(PAUSE).await;
        waited += PAUSE;
    }
}

/// The hospitals' images.
struct Data {
    /// Name and `[data.demo]` lines of each.
    sets: Vec<(String, String)>,
    /// Patients to train on, in all of them together.
    patients: u32,
}

/// What the trainer says that it has made.
#[derive(Deserialize)]
struct Made {
    #[serde(default)]
    patients: u32,
    #[serde(default)]
    training_images: u32,
}

/// The trainer's envelope.
#[derive(Deserialize)]
struct Answer {
    data: Made,
}

/// Each hospital's images.
async fn make_data(
    dir: &Path,
    hospitals: u16,
    source: &Source,
    seed: u64,
    privacy: &Privacy,
    screen: &Screen,
) -> Result<Data, Failure> {
    let data = dir.join("data");
    fs::create_dir_all(&data).map_err(|error| files(&data, &error))?;
    let name = |index: u16| format!("hospital-{index}");
    match source {
        Source::Synthetic => {
            screen.step("Drawing radiographs, as DICOM files", &data.display().to_string());
            let mut drawing = Vec::new();
            for index in 1..=hospitals {
                let mut generate = Command::new(program("hospital-trainer")?);
                generate.arg("generate").args(["--sites", &hospitals.to_string()]);
                generate.args(["--site", &index.to_string(), "--seed", &seed.to_string()]);
                generate.arg("--out").arg(data.join(name(index))).args(["--format", "json"]);
                if privacy.epsilon.is_some() {
                    // Noise hides one patient among many: with few there is little to learn.
                    generate.args(["--patients", PRIVATE_PATIENTS]);
                }
                drawing.push(tokio::spawn(complete(generate, "hospital-trainer generate")));
            }
            let mut patients = 0;
            for task in drawing {
                let said = task.await;
                let said =
                    said.map_err(|error| Failure::failed("demo_data", error.to_string()))??;
                // Eight in ten are trained on.
                patients += made(&said)?.patients * 8 / 10;
            }
            let sets = (1..=hospitals)
                .map(|index| {
                    let path = format!("../data/{}", name(index));
                    let manifest = format!("{path}/manifest.csv");
                    (
                        name(index),
                        format!("kind = \"dicom\"\npath = {path:?}\nmanifest = {manifest:?}\n"),
                    )
                })
                .collect();
            Ok(Data { sets, patients })
        }
        Source::Npz(file) => {
            screen.step("Splitting the images unevenly", &file.display().to_string());
            let mut split = Command::new(program("hospital-trainer")?);
            split.arg("split").arg("--npz").arg(file).args(["--sites", &hospitals.to_string()]);
            split.args(["--seed", &seed.to_string()]).arg("--out").arg(&data);
            split.args(["--format", "json"]);
            let said = complete(split, "hospital-trainer split").await?;
            let patients = made(&said)?.training_images;
            let sets = (1..=hospitals)
                .map(|index| {
                    let path = format!("../data/{}.npz", name(index));
                    (name(index), format!("kind = \"npz\"\npath = {path:?}\n"))
                })
                .collect();
            Ok(Data { sets, patients })
        }
    }
}

/// Reads what the trainer says.
fn made(said: &str) -> Result<Made, Failure> {
    let answer: Result<Answer, _> = serde_json::from_str(said);
    answer
        .map(|answer| answer.data)
        .map_err(|error| Failure::failed("demo_data", format!("hospital-trainer: {error}")))
}

fn node_config(data: &str, privacy: &Privacy) -> String {
    let policy = privacy.policy();
    format!(
        "# Written by `coordinator demo`.\n\
         state = \"state\"\n\
         \n[network]\nproxy = \"none\"\n\
         \n[policy]\n{policy}\
         \n[trainer]\nthreads = 1\n\
         \n[data.demo]\n{data}"
    )
}

/// The program that was built beside this one.
pub(super) fn program(name: &str) -> Result<PathBuf, Failure> {
    let own = std::env::current_exe()
        .map_err(|error| Failure::failed("demo_programs", error.to_string()))?;
    let path = own.with_file_name(name);
    if path.is_file() {
        return Ok(path);
    }
    let message = format!("expected the program {name} beside {}, found none", own.display());
    Err(Failure::failed("demo_programs", message).hint("cargo build --release builds all of them"))
}

/// A port that is free now; whoever takes it in between is told of when the coordinator starts.
fn free_port() -> Result<u16, Failure> {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(|error| Failure::failed("no_port", format!("no free port on loopback: {error}")))
}

/// Runs a command to its end.
async fn complete(mut command: Command, what: &'static str) -> Result<String, Failure> {
    let output = command
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|error| Failure::failed("demo_process", format!("{what}: {error}")))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let lines = || said.trim().lines();
    let error = lines().find_map(|line| line.strip_prefix("error: "));
    let said = error.or_else(|| lines().last()).unwrap_or("it said nothing").to_owned();
    Err(Failure::failed("demo_process", format!("{what}: {said}")))
}

/// Starts a command that stays. It ends by itself when this process does, unless it is to be kept.
fn start(mut command: Command, log: &Path, keep: bool) -> Result<Child, Failure> {
    let out =
        File::options().create(true).append(true).open(log).map_err(|error| files(log, &error))?;
    let err = out.try_clone().map_err(|error| files(log, &error))?;
    if keep {
        command.stdin(Stdio::null());
    } else {
        command.arg("--until-stdin-closes").stdin(Stdio::piped()).kill_on_drop(true);
    }
    command
        .stdout(out)
        .stderr(err)
        .spawn()
        .map_err(|error| Failure::failed("demo_process", error.to_string()))
}

fn files(path: &Path, error: &std::io::Error) -> Failure {
    Failure::failed("demo_files", format!("{}: {error}", path.display()))
}

fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    text.trim_end().lines().last().unwrap_or("its log is empty").to_owned()
}
