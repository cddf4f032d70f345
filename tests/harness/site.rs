//! One hospital, from the outside: its folder, its configuration, its agent.

use std::fs;
use std::path::{Path, PathBuf};

use proto::channel::ClientIdentity;
use serde_json::Value;

use crate::command::Order;
use crate::programs::Programs;
use crate::running::Running;
use crate::{Outcome, Trouble};

/// What the hospital's node trains on, and with what.
#[derive(Debug, Clone)]
pub enum Work {
    /// The stand-in trainer, which looks at no data.
    StandIn,
    /// The real trainer on a folder of DICOM files with its `manifest.csv`.
    Dicom(PathBuf),
    /// The real trainer on a folder of `NIfTI` files with its `manifest.csv`.
    Nifti(PathBuf),
    /// The real trainer on an NPZ file.
    Npz(PathBuf),
}

impl Work {
    fn sections(&self, programs: &Programs) -> String {
        match self {
            Self::StandIn => format!(
                "[trainer]\nprogram = {:?}\n\n[data.set]\nkind = \"images\"\npath = \"unused\"\n\
                 manifest = \"unused.csv\"\n",
                programs.stand_in()
            ),
            Self::Dicom(folder) => Self::folder("dicom", folder),
            Self::Nifti(folder) => Self::folder("nifti", folder),
            Self::Npz(file) => format!("[data.set]\nkind = \"npz\"\npath = {file:?}\n"),
        }
    }

    fn folder(kind: &str, folder: &Path) -> String {
        let manifest = folder.join("manifest.csv");
        format!("[data.set]\nkind = {kind:?}\npath = {folder:?}\nmanifest = {manifest:?}\n")
    }
}

/// A hospital.
#[derive(Debug)]
pub struct Site {
    /// As the consortium knows it.
    pub name: String,
    home: PathBuf,
    config: PathBuf,
    program: PathBuf,
    filter: Option<String>,
    json: bool,
    agent: Option<Running>,
}

impl Site {
    /// Makes its folder and writes its configuration.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub fn settle(programs: &Programs, home: &Path, name: &str, work: &Work) -> Outcome<Self> {
        fs::create_dir_all(home)?;
        let config = home.join("node.toml");
        let text = format!(
            "state = \"state\"\n\n[network]\nproxy = \"none\"\n\n\
             [policy]\ndanger_allow_no_privacy = true\ndanger_accept_unmasked_updates = true\nmin_cohort = 2\n\n{}",
            work.sections(programs)
        );
        fs::write(&config, text)?;
        Ok(Self {
            name: name.to_owned(),
            home: home.to_owned(),
            config,
            program: programs.node(),
            filter: None,
            json: false,
            agent: None,
        })
    }

    /// From now on the agent logs what this filter lets through.
    pub fn log(&mut self, filter: &str) {
        self.filter = Some(filter.to_owned());
    }

    /// From now on the agent's log is one JSON object a line.
    pub fn log_as_json(&mut self) {
        self.json = true;
    }

    /// Its folder.
    #[must_use]
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// Its configuration file.
    #[must_use]
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// A command of its administrator, answered in JSON.
    #[must_use]
    pub fn order<A: AsRef<std::ffi::OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = A>,
    ) -> Order {
        Order::new(&self.program)
            .arg("--config")
            .arg(&self.config)
            .args(["--format", "json"])
            .args(arguments)
    }

    /// Where its agent's words go.
    #[must_use]
    pub fn log_file(&self) -> PathBuf {
        self.home.join("process.log")
    }

    /// Starts the agent.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(&mut self) -> Outcome<()> {
        let mut order = Order::new(&self.program).arg("--config").arg(&self.config);
        if let Some(filter) = &self.filter {
            order = order.args(["--log", filter]).env("RUST_LOG", filter);
        }
        if self.json {
            order = order.args(["--log-format", "json"]);
        }
        self.agent = Some(Running::start(&order.arg("run"), &self.log_file())?);
        Ok(())
    }

    /// The agent, if it was started.
    ///
    /// # Errors
    /// When it was not.
    pub fn agent(&mut self) -> Outcome<&mut Running> {
        let name = &self.name;
        self.agent.as_mut().ok_or_else(|| Trouble::new(format!("{name}'s agent is not running")))
    }

    /// kill -9.
    ///
    /// # Errors
    /// When it was not running.
    pub fn crash(&mut self) -> Outcome<()> {
        self.take()?.crash()
    }

    /// SIGTERM.
    ///
    /// # Errors
    /// When it was not running, or does not end well.
    pub fn stop(&mut self) -> Outcome<()> {
        self.take()?.stop()
    }

    fn take(&mut self) -> Outcome<Running> {
        let name = &self.name;
        self.agent.take().ok_or_else(|| Trouble::new(format!("{name}'s agent is not running")))
    }

    /// Its administrator says yes to a study.
    ///
    /// # Errors
    /// When the command fails.
    pub fn approve(&self, study: &str) -> Outcome<Value> {
        self.order(["study", "approve", study, "--yes"]).data()
    }

    /// Certificate, key and CA as they lie in its state folder.
    ///
    /// # Errors
    /// When it is not enrolled.
    pub fn identity(&self) -> Outcome<(ClientIdentity, String)> {
        let read = |file: &str| {
            let path = self.home.join("state").join(file);
            fs::read_to_string(&path)
                .map_err(|error| Trouble::new(format!("{}: {error}", path.display())))
        };
        let client =
            ClientIdentity { certificate_pem: read("certificate.pem")?, key_pem: read("tls.key")? };
        Ok((client, read("ca.pem")?))
    }
}
