//! A consortium in a folder: its coordinator, its sites, and an operator who types commands.
//!
//! ```text
//! FOLDER/coordinator/   coordinator.toml, certificates, state, process.log
//! FOLDER/site-1/        node.toml, state, process.log
//! ```

use std::ffi::OsStr;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::thread;

use proto::channel::{ClientIdentity, Proxy, Target, Trust};
use serde_json::Value;
use tempfile::TempDir;

use crate::command::Order;
use crate::patience::{STEP, wait_for};
use crate::programs::Programs;
use crate::running::Running;
use crate::site::{Site, Work};
use crate::{Outcome, Trouble};

/// A one-time token, as the operator hands it over.
#[derive(Debug, Clone)]
pub struct Token {
    /// The token itself.
    pub token: String,
    /// The CA's fingerprint.
    pub ca_fingerprint: String,
}

/// The coordinator, its sites, and where everything lies. Dropped, all of it is ended and removed.
#[derive(Debug)]
pub struct Consortium {
    // Processes before the folder that they write into: fields are dropped in this order.
    server: Option<Running>,
    /// The sites that were invited, in order.
    pub sites: Vec<Site>,
    programs: Programs,
    name: String,
    port: u16,
    filter: Option<String>,
    folder: TempDir,
}

impl Consortium {
    /// `coordinator init` on a free port of loopback. Nothing runs yet.
    ///
    /// # Errors
    /// When the programs are not built, or the command fails.
    pub fn found(name: &str) -> Outcome<Self> {
        let consortium = Self {
            server: None,
            sites: Vec::new(),
            programs: Programs::find()?,
            name: name.to_owned(),
            port: free_port()?,
            filter: None,
            folder: tempfile::Builder::new().prefix("consilium-").tempdir()?,
        };
        let listen = format!("127.0.0.1:{}", consortium.port);
        Order::new(consortium.programs.coordinator())
            .args(["--format", "json", "init", "--consortium", name])
            .args(["--url", &consortium.url(), "--listen", &listen, "--dir"])
            .arg(consortium.home())
            .data()?;
        Ok(consortium)
    }

    /// A consortium that serves, with sites `site-1` and so on, enrolled and connected.
    ///
    /// # Errors
    /// When any step of that fails.
    pub fn with_sites(name: &str, work: &[Work]) -> Outcome<Self> {
        let mut consortium = Self::found(name)?;
        consortium.serve()?;
        consortium.settle(work)?;
        consortium.start_sites()?;
        Ok(consortium)
    }

    /// Enrols one site for each entry, as `site-1` and so on; their agents do not run yet.
    ///
    /// # Errors
    /// When a command fails.
    pub fn settle(&mut self, work: &[Work]) -> Outcome<()> {
        let url = self.url();
        self.settle_at(work, &url)
    }

    /// Enrols one more site, which from then on reaches the coordinator at this address.
    ///
    /// # Errors
    /// When a command fails.
    pub fn settle_through(&mut self, work: &Work, url: &str) -> Outcome<()> {
        self.settle_at(std::slice::from_ref(work), url)
    }

    fn settle_at(&mut self, work: &[Work], url: &str) -> Outcome<()> {
        let mut enrolling = Vec::new();
        for work in work {
            let name = format!("site-{}", self.sites.len() + 1);
            let site = Site::settle(&self.programs, &self.dir().join(&name), &name, work)?;
            let token = self.token(&name, &[])?;
            let enroll = self.enroll(&site, &token, url);
            self.sites.push(site);
            enrolling.push((name, thread::spawn(move || enroll.data())));
        }
        // The nodes ask every few seconds; together they wait no longer than one alone.
        for (name, enrolling) in enrolling {
            self.approve(&name)?;
            enrolling.join().map_err(|_| Trouble::new("a thread ended badly"))??;
        }
        Ok(())
    }

    /// Starts every agent and waits until each is connected.
    ///
    /// # Errors
    /// When one does not get there.
    pub fn start_sites(&mut self) -> Outcome<()> {
        self.start_first(self.sites.len())
    }

    /// The same for the first so many sites.
    ///
    /// # Errors
    /// When one does not get there.
    pub fn start_first(&mut self, count: usize) -> Outcome<()> {
        let mut started = Vec::new();
        for site in self.sites.iter_mut().take(count) {
            site.start()?;
            started.push(site.name.clone());
        }
        for name in started {
            self.await_site(&name, |view| view["connected"] == true)?;
        }
        Ok(())
    }

    /// The folder that holds everything.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.folder.path()
    }

    /// The coordinator's folder.
    #[must_use]
    pub fn home(&self) -> PathBuf {
        self.dir().join("coordinator")
    }

    /// The coordinator's configuration.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.home().join("coordinator.toml")
    }

    /// The consortium's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where the coordinator serves.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The same as an address.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// The programs that play.
    #[must_use]
    pub const fn programs(&self) -> &Programs {
        &self.programs
    }

    /// From now on the coordinator logs what this filter lets through.
    pub fn log(&mut self, filter: &str) {
        self.filter = Some(filter.to_owned());
    }

    /// Where the coordinator's words go.
    #[must_use]
    pub fn log_file(&self) -> PathBuf {
        self.home().join("process.log")
    }

    /// `coordinator serve`, as an order.
    #[must_use]
    pub fn serve_order(&self) -> Order {
        let order = Order::new(self.programs.coordinator()).arg("--config").arg(self.config());
        let order = order.arg("serve");
        match &self.filter {
            Some(filter) => order.args(["--log-level", filter]).env("RUST_LOG", filter),
            None => order,
        }
    }

    /// Starts the coordinator and waits until it answers.
    ///
    /// # Errors
    /// When it ends instead.
    pub fn serve(&mut self) -> Outcome<()> {
        self.serve_as(&self.serve_order())
    }

    /// The same with a command of the story's own.
    ///
    /// # Errors
    /// As [`Consortium::serve`].
    pub fn serve_as(&mut self, order: &Order) -> Outcome<()> {
        let log = self.log_file();
        self.server = Some(Running::start(order, &log)?);
        wait_for("the coordinator to answer", STEP, || {
            let server = self.server()?;
            if let Some(status) = server.ended()? {
                let said = server.said();
                return Err(Trouble::new(format!("the coordinator ended ({status}): {said}")));
            }
            let answer = self.operator(["site", "list"]).run()?;
            Ok((answer.exit == Some(0)).then_some(()))
        })
    }

    /// The coordinator's process.
    ///
    /// # Errors
    /// When it was not started.
    pub fn server(&mut self) -> Outcome<&mut Running> {
        self.server.as_mut().ok_or_else(|| Trouble::new("the coordinator is not running"))
    }

    /// kill -9 of the coordinator.
    ///
    /// # Errors
    /// When it was not running.
    pub fn crash(&mut self) -> Outcome<()> {
        let running = self.server.take();
        running.ok_or_else(|| Trouble::new("the coordinator is not running"))?.crash()
    }

    /// SIGTERM to the coordinator.
    ///
    /// # Errors
    /// When it was not running, or does not end well.
    pub fn stop(&mut self) -> Outcome<()> {
        let running = self.server.take();
        running.ok_or_else(|| Trouble::new("the coordinator is not running"))?.stop()
    }

    /// A command of the operator, answered in JSON.
    #[must_use]
    pub fn operator<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Order {
        Order::new(self.programs.coordinator())
            .arg("--config")
            .arg(self.config())
            .args(["--format", "json"])
            .args(arguments)
    }

    /// Makes a token for a site; `more` are further arguments.
    ///
    /// # Errors
    /// When the command fails.
    pub fn token(&self, site: &str, more: &[&str]) -> Outcome<Token> {
        let data = self.operator(["site", "token", site]).args(more).data()?;
        Ok(Token { token: text(&data, "token")?, ca_fingerprint: text(&data, "ca_fingerprint")? })
    }

    /// `hospital-node enroll`, as an order.
    #[must_use]
    pub fn enroll(&self, site: &Site, token: &Token, url: &str) -> Order {
        site.order(["enroll", "--coordinator", url, "--wait", "50s"]).args([
            "--token",
            &token.token,
            "--ca-fingerprint",
            &token.ca_fingerprint,
        ])
    }

    /// Approves a site as soon as it has enrolled.
    ///
    /// # Errors
    /// When it does not enrol, or the command fails.
    pub fn approve(&self, site: &str) -> Outcome<()> {
        self.await_site(site, |view| view["state"] == "pending")?;
        self.operator(["site", "approve", site]).data().map(|_| ())
    }

    /// What the operator sees of a site.
    ///
    /// # Errors
    /// When the command fails, or does not name the site.
    pub fn site_view(&self, site: &str) -> Outcome<Value> {
        let mut data = self.operator(["site", "list"]).data()?;
        let sites = data["sites"].as_array_mut().map(std::mem::take).unwrap_or_default();
        sites
            .into_iter()
            .find(|view| view["site"] == site)
            .ok_or_else(|| Trouble::new(format!("`site list` does not name {site}")))
    }

    /// Waits until the operator sees of a site what the story needs.
    ///
    /// # Errors
    /// When it does not come to that.
    pub fn await_site(&self, site: &str, seen: impl Fn(&Value) -> bool) -> Outcome<Value> {
        wait_for(&format!("{site} to get there"), STEP, || {
            Ok(Some(self.site_view(site)?).filter(&seen))
        })
    }

    /// The certificate and key that the operator's commands use.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn operator_identity(&self) -> Outcome<ClientIdentity> {
        let read = |file: &str| std::fs::read_to_string(self.home().join(file));
        Ok(ClientIdentity {
            certificate_pem: read("operator.pem")?,
            key_pem: read("operator.key")?,
        })
    }

    /// The CA's certificate.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn ca_pem(&self) -> Outcome<String> {
        Ok(std::fs::read_to_string(self.home().join("ca.pem"))?)
    }

    /// The coordinator, as someone with this identity reaches it.
    ///
    /// # Errors
    /// When the CA's certificate cannot be read.
    pub fn target(&self, client: Option<ClientIdentity>) -> Outcome<Target> {
        Ok(Target {
            url: self.url(),
            proxy: Proxy::Direct,
            trust: Trust::Ca(self.ca_pem()?),
            client,
        })
    }
}

/// A field that must be text.
///
/// # Errors
/// When it is not there.
pub fn text(data: &Value, key: &str) -> Outcome<String> {
    data[key]
        .as_str()
        .map(str::to_owned)
        .ok_or_else(|| Trouble::new(format!("expected a text {key:?}, found {data}")))
}

/// A port of loopback that is free now.
///
/// # Errors
/// When there is none.
pub fn free_port() -> Outcome<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}
