//! The program while it serves: what its parts share, how it starts, and how it ends.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use aggregation::charter::Charter;
use aggregation::ids::{HospitalId, StudyId};
use aggregation::life::{Change, Life, Refused};
use aggregation::study::Study;
use aggregation::units::Timestamp;
use proto::cli::chain;
use proto::identity::{PartyName, Role};
use proto::syslog::Receiver;
use tokio::net::TcpListener;

use crate::board::{Board, Entry, Standing, Told};
use crate::clock::{self, Clock};
use crate::config::Config;
use crate::driver::{Command, Driver, Progress};
use crate::identity::Gate;
use crate::identity::authority::{Authority, AuthorityError, Issued};
use crate::identity::server_certificate::{ServerCertificate, ServerCertificateError};
use crate::log::{Log, LogError};
use crate::service;
use crate::service::listener::{self, ListenError};
use crate::store::sites::SiteState;
use crate::store::studies::StudyRow;
use crate::store::{Leaf, Store, StoreError};
use crate::syslog;

/// How long open calls may take to end when the program is asked to.
const DRAIN: Duration = Duration::from_secs(5);

/// Why the coordinator does not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// The consortium's name is none.
    #[error("the consortium's name cannot be used: {0}")]
    Consortium(#[from] aggregation::ids::InvalidId),
    /// The CA cannot be used.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The server's certificate cannot be used.
    #[error(transparent)]
    Server(#[from] ServerCertificateError),
    /// The state folder cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The log cannot be used.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The receiver of facts cannot be used.
    #[error("syslog: {0}")]
    Syslog(String),
    /// The address cannot be had.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// A study in the store is not one that this program can run.
    #[error("study {study} in the state folder cannot be read: {reason}")]
    Study {
        /// Which.
        study: StudyId,
        /// Why not.
        reason: String,
    },
    /// The server ended by itself.
    #[error("the server ended: {0}")]
    Ended(String),
}

/// Why a study's life cannot be changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChangeError {
    /// The change cannot follow the state it is in.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// It could not be kept.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The study cannot be run.
    #[error("the study cannot be run: {0}")]
    Unfit(String),
}

/// What the services and the drivers share.
#[derive(Debug)]
pub(crate) struct Coordinator {
    /// The settings.
    pub(crate) config: Config,
    /// The consortium's name.
    pub(crate) consortium: HospitalId,
    /// The CA.
    pub(crate) authority: Arc<Authority>,
    /// What survives a restart.
    pub(crate) store: Store,
    /// What everybody may see.
    pub(crate) board: Arc<Board>,
    /// Who may call what.
    pub(crate) gate: Arc<Gate>,
    /// What happened, for the world to see.
    pub(crate) log: Arc<Log>,
    /// By which studies are driven.
    pub(crate) clock: Clock,
}

impl Coordinator {
    /// Opens the state folder and puts on the board what is in it; drives nothing yet.
    ///
    /// # Errors
    /// When the folder cannot be used, or holds what this program cannot read.
    pub(crate) async fn open(
        config: Config,
        authority: Arc<Authority>,
    ) -> Result<Arc<Self>, StartError> {
        let consortium = HospitalId::new(&config.consortium)?;
        let now = clock::now();
        let store = Store::open(&config.state).await?;
        let gate = Arc::new(Gate::new(consortium.clone()));
        for (site, certificate) in store.revoked_certificates(now).await? {
            gate.expel(&site, [certificate]);
        }
        for site in store.sites().await? {
            if site.state == SiteState::Approved {
                gate.admit(site.name);
            }
        }
        let folder = config.state.join("log");
        let log =
            Log::open(folder, &config.log_key, &consortium, &store, Arc::clone(&gate)).await?;
        let board = Arc::new(Board::new(now));
        for mut row in store.studies().await? {
            if row.earlier && !row.life.ended() {
                end_earlier(&store, &mut row, now).await?;
            }
            let entry = entry_of(&store, &row).await?;
            board.put(Arc::new(entry));
        }
        let clock = Clock::default();
        Ok(Arc::new(Self { config, consortium, authority, store, board, gate, log, clock }))
    }

    /// Starts a driver for each study that has something left to do.
    ///
    /// # Errors
    /// When what a study needs cannot be read.
    pub(crate) async fn drive_all(self: &Arc<Self>) -> Result<(), StartError> {
        self.recover_kept().await?;
        for row in self.store.studies().await? {
            let Some(entry) = self.board.study(row.study) else { continue };
            let unfinished = matches!(row.life, Life::Running | Life::Paused);
            if unfinished || self.store.opened(row.study).await?.is_some() {
                self.drive(&entry).await.map_err(|fault| StartError::Study {
                    study: row.study,
                    reason: fault.to_string(),
                })?;
            } else {
                self.store.blobs.clear_staged(row.study, None).await;
            }
        }
        Ok(())
    }

    /// Makes sure that a study has a driver, and tells the driver that its life has changed.
    async fn drive(self: &Arc<Self>, entry: &Arc<Entry>) -> Result<(), ChangeError> {
        let _driving = entry.driving.lock().await;
        let driver = entry.standing().driver.clone();
        if let Some(driver) = driver
            && driver.send(Command::Nudge).await.is_ok()
        {
            return Ok(());
        }
        let unfit = |what: String| ChangeError::Unfit(what);
        let charter = Charter::new(entry.study.clone(), entry.sites.clone()).map_err(|faults| {
            unfit(faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
        })?;
        let rows = self.store.studies().await?;
        let row = rows
            .into_iter()
            .find(|row| row.study == entry.id)
            .ok_or_else(|| unfit("it is not in the store".to_owned()))?;
        let progress = Progress::load(&self.store, &row, &charter).await?;
        entry.standing().next_slot = progress.next_slot;
        if charter.thresholds().is_some() {
            self.tell_keys_now(entry).await;
        }
        Driver::spawn(Arc::clone(self), Arc::clone(entry), charter, progress);
        Ok(())
    }

    /// Changes a study's life, keeps it, tells everybody, and starts or nudges its driver.
    ///
    /// # Errors
    /// When the change cannot follow, or cannot be kept. Then nothing has changed.
    pub(crate) async fn change_life(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        change: Change,
        reason: &str,
        by: &str,
    ) -> Result<(), ChangeError> {
        let _turn = entry.turn.lock().await;
        let before = entry.standing().life;
        let life = before.apply(change)?;
        if life == before {
            return Ok(());
        }
        let fact = Leaf::of(entry.id, "study_changed")
            .with("from", before.name())
            .with("to", life.name())
            .with("by", by)
            .with("reason", reason);
        let space = self.config.recompute.space;
        let keeping =
            self.store.set_life(entry.id, (life, reason), clock::now(), fact, space).await?;
        {
            let mut standing = entry.standing();
            standing.life = life;
            reason.clone_into(&mut standing.reason);
            if life.ended() {
                standing.waiting_for.clear();
            }
        }
        tracing::info!(study = %entry.id.short(), from = before.name(), to = life.name(), by, reason, "study changed");
        self.board.changed(entry);
        if life.ended() {
            self.log.ask();
            self.tidy(&keeping).await;
        }
        match life {
            Life::Running => self.drive_later(entry),
            Life::Paused | Life::Stopped | Life::Failed | Life::Completed => {
                let driver = entry.standing().driver.clone();
                if let Some(driver) = driver {
                    // A full inbox means that the driver is busy, and will look at the life next.
                    let _ = driver.try_send(Command::Nudge);
                }
            }
            Life::Proposed | Life::Approved => {}
        }
        Ok(())
    }

    /// Drives a study from a task of its own: the change that led here is kept already, and the
    /// driver itself may be the one that made it.
    fn drive_later(self: &Arc<Self>, entry: &Arc<Entry>) {
        let (house, entry) = (Arc::clone(self), Arc::clone(entry));
        tokio::spawn(async move {
            if let Err(fault) = house.drive(&entry).await {
                tracing::error!(study = %entry.id.short(), %fault, "study cannot be driven");
                entry.standing().waiting_for = fault.to_string();
            }
        });
    }

    /// Tells every running study that a site is gone.
    pub(crate) async fn remove_from_rounds(&self, site: &HospitalId, only: Option<StudyId>) {
        for entry in self.board.studies() {
            if !entry.sites.contains(site) || only.is_some_and(|study| study != entry.id) {
                continue;
            }
            let driver = entry.standing().driver.clone();
            if let Some(driver) = driver {
                // A driver that has ended has no round left.
                let _ = driver.send(Command::Removed(site.clone())).await;
            }
        }
    }

    /// A certificate for a site and the key of its request.
    ///
    /// # Errors
    /// When the request is not signed by its own key.
    pub(crate) fn certify_site(
        &self,
        site: &HospitalId,
        request: &[u8],
        now: Timestamp,
    ) -> Result<Issued, AuthorityError> {
        let party =
            PartyName { consortium: self.consortium.clone(), role: Role::Site, name: site.clone() };
        self.authority.certify_request(&party, request, self.config.certificates.site_lifetime, now)
    }

    /// Serves until `stop` comes.
    ///
    /// # Errors
    /// When something it needs is not there.
    pub(crate) async fn serve(
        self: &Arc<Self>,
        listener: TcpListener,
        stop: impl Future<Output = ()> + Send,
    ) -> Result<(), StartError> {
        let config = &self.config;
        let server = Arc::new(ServerCertificate::load(
            Arc::clone(&self.authority),
            &config.url.host,
            &config.certificates.server,
            &config.certificates.server_key,
            config.certificates.server_lifetime,
            clock::now(),
        )?);
        let tls = listener::tls(&self.authority, Arc::clone(&server))?;
        let renewal = tokio::spawn(server.keep_fresh());
        // Nobody is told of a log that is behind the facts.
        self.log.integrate(&self.store).await?;
        self.drive_all().await?;
        let logging = tokio::spawn(Arc::clone(self).keep_log());
        let feeding = match &self.config.syslog {
            Some(settings) => {
                let receiver = Receiver::load(settings).map_err(StartError::Syslog)?;
                Some(tokio::spawn(syslog::keep_fed(Arc::clone(self), receiver)))
            }
            None => None,
        };
        let incoming = listener::accept(listener, tls, &config.limits, self);
        let board = Arc::clone(&self.board);
        let signal = async move {
            stop.await;
            tracing::info!("stopping");
            board.close();
        };
        let served = service::server(self).serve_with_incoming_shutdown(
            service::Services::new(self),
            incoming,
            signal,
        );
        let ended = tokio::select! {
            ended = served => ended.map_err(|fault| StartError::Ended(fault.to_string())),
            () = self.drained() => Ok(()),
        };
        renewal.abort();
        if let Some(feeding) = feeding {
            feeding.abort();
        }
        // It ends by itself, with everything that there is to tell in the log.
        self.board.close();
        let _ = logging.await;
        if let Err(fault) = self.log.integrate(&self.store).await {
            let fault = chain(&fault);
            tracing::error!(%fault, "the log is behind; the next start catches up");
        }
        self.store.close().await;
        ended
    }

    /// Writes the log until the program ends, and tells the sites when there is more of it.
    async fn keep_log(self: Arc<Self>) {
        let mut told = crate::log::Size::default();
        loop {
            let ended = tokio::select! {
                () = self.log.until_asked() => false,
                () = self.board.until_closing() => true,
            };
            if let Err(fault) = self.log.integrate(&self.store).await {
                let fault = chain(&fault);
                tracing::error!(%fault, "the log is behind; it is tried again");
            }
            let size = self.log.size();
            if size.signed != told.signed {
                tracing::info!(size = size.signed, published = size.published, "log signed");
                self.board.tell(&self.gate.standing(), Told::Log(self.log_grown()));
                told = size;
            }
            if ended {
                return;
            }
        }
    }

    /// What sites are told of the log.
    pub(crate) fn log_grown(&self) -> proto::federation::LogGrown {
        let (key, size) = (self.log.key().to_string(), self.log.size().signed);
        proto::federation::LogGrown { key, size }
    }

    /// Some time after the program was asked to end, whoever is still connected is left alone.
    async fn drained(&self) {
        self.board.until_closing().await;
        clock::wait_for(DRAIN).await;
    }
}

/// Takes the address and says so.
///
/// # Errors
/// When it cannot be had.
pub(crate) async fn bind(address: SocketAddr) -> Result<TcpListener, StartError> {
    Ok(listener::bind(address).await?)
}

async fn entry_of(store: &Store, row: &StudyRow) -> Result<Entry, StartError> {
    let unreadable = |reason: String| StartError::Study { study: row.study, reason };
    let manifest = if row.earlier {
        unmasked(&row.manifest).ok_or_else(|| unreadable("its manifest is no TOML".to_owned()))?
    } else {
        row.manifest.clone()
    };
    let study: Study =
        proto::manifest::parse(&manifest).map_err(|faults| unreadable(faults.to_string()))?;
    if study.digest() != row.study && !row.earlier {
        return Err(unreadable("its manifest has another digest".to_owned()));
    }
    let mut standing = Standing::new(row.life, row.reason.clone());
    standing.decisions = store.decisions(row.study).await?;
    standing.released = store.released(row.study).await?;
    let (manifest, sites, identities) =
        (row.manifest.clone(), row.sites.clone(), row.identities.clone());
    Ok(Entry::new(row.study, study, manifest, sites, identities, standing))
}

/// A study that was proposed before there were masks cannot go on: its sites have approved a digest
/// that does not say whether its updates are masked.
async fn end_earlier(store: &Store, row: &mut StudyRow, now: Timestamp) -> Result<(), StoreError> {
    let reason = "it was proposed before updates were masked; propose it again";
    let fact = Leaf::of(row.study, "study_changed")
        .with("from", row.life.name())
        .with("to", Life::Stopped.name())
        .with("by", "coordinator")
        .with("reason", reason);
    // It kept no round: those are younger than masks.
    store.set_life(row.study, (Life::Stopped, reason), now, fact, 0).await?;
    store.blobs.clear_staged(row.study, None).await;
    tracing::warn!(study = %row.study.short(), reason, "study ended");
    row.life = Life::Stopped;
    reason.clone_into(&mut row.reason);
    Ok(())
}

/// A manifest from before there were masks, as it is to be read today.
fn unmasked(manifest: &str) -> Option<String> {
    let mut table: toml::Table = manifest.parse().ok()?;
    let cohort = table.get_mut("cohort")?.as_table_mut()?;
    cohort.insert("danger_unmasked_updates".to_owned(), true.into());
    toml::to_string(&table).ok()
}

/// Whether every site of a roster has approved.
pub(crate) fn all_approve(
    sites: &BTreeSet<HospitalId>,
    decisions: &std::collections::BTreeMap<HospitalId, proto::federation::Decision>,
) -> bool {
    sites.iter().all(|site| decisions.get(site) == Some(&proto::federation::Decision::Approved))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = include_str!("service/tests/study.toml");

    /// The first version knew no masks: what it left is kept and shown, and does not go on.
    #[tokio::test]
    async fn the_database_of_the_first_version_is_migrated_and_its_studies_are_ended() {
        let folder = tempfile::tempdir().expect("a folder");
        let study = aggregation::ids::Digest::sha256(b"a digest of then");
        let manifest = OLD.replace("danger_unmasked_updates = true\n", "");
        let state = folder.path().join("state");
        crate::store::schema::first_version(&state, &study.to_string(), &manifest).await;
        // The second time there is nothing left to migrate.
        for _ in 0..2 {
            let house = crate::rehearsal::house(folder.path()).await;
            let entry = house.board.study(StudyId::new(study)).expect("it is still there");
            assert_eq!(entry.manifest, manifest, "verbatim");
            let standing = entry.standing().clone();
            assert_eq!(standing.life, Life::Stopped);
            assert!(standing.reason.contains("before updates were masked"), "{}", standing.reason);
            assert_eq!(standing.released, 1);
            let history = house.store.history(entry.id).await.expect("read");
            assert_eq!((history.len(), history[0].contributed.len()), (1, 1));
            assert!(house.store.opened(entry.id).await.expect("read").is_none());
            assert_eq!(house.store.leaves("study_changed").await, 1);
            house.drive_all().await.expect("nothing to drive");
            house.store.close().await;
        }
    }
}
