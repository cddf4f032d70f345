//! What the services and the drivers share: the studies as they stand, who is connected, and what
//! sites and operators are told.
//!
//! The board mirrors the store. It is written only after the store has kept the same thing, so
//! what a peer hears from here survives a restart.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use aggregation::ids::{Digest, HospitalId, SlotId, StudyId};
use aggregation::keys::identity::IdentityKey;
use aggregation::life::Life;
use aggregation::message::{ClosedNotice, FinalSet, Roster, SignedSet, Terms};
use aggregation::privacy::plan::Plan as NoisePlan;
use aggregation::study::Study;
use aggregation::units::Timestamp;
use bytes::Bytes;
use proto::encode;
use proto::federation as wire;
use tokio::sync::{broadcast, mpsc, watch};

use crate::driver::Command;
use crate::setup::Setup;
use crate::store::course::Courses;
use crate::store::rounds::RoundRow;

/// Notices that a slow watcher may be behind before its stream is ended; it reconnects and is told
/// the present state.
const BEHIND: usize = 1024;

/// Something that sites are told.
#[derive(Debug)]
pub(crate) struct Addressed {
    /// Who is told.
    pub(crate) to: BTreeSet<HospitalId>,
    /// What.
    pub(crate) what: Told,
}

/// What sites are told.
#[derive(Debug)]
pub(crate) enum Told {
    /// A study has changed; each site hears it with its own decision.
    Study(Arc<Entry>),
    /// A round is offered.
    Offer(Terms),
    /// A roster is frozen.
    Roster(Roster),
    /// The final set of a round is fixed.
    FinalSet(FinalSet),
    /// The final set is signed.
    SignedSet(SignedSet),
    /// A round has closed.
    Closed(ClosedNotice),
    /// How far the keys of a study are.
    Keys(Arc<wire::KeySetup>),
    /// The log has a new checkpoint.
    Log(wire::LogGrown),
}

/// What operators are told of a study.
#[derive(Debug, Clone)]
pub(crate) enum Happened {
    /// State or a decision changed.
    Changed,
    /// A round was announced.
    Started(Terms),
    /// A site says how far it is.
    Progress(wire::SiteProgress),
    /// A site is ready.
    Ready(u32, HospitalId),
    /// A site's update is complete.
    Uploaded(u32, HospitalId),
    /// A site has signed the final set.
    Signed(u32, HospitalId),
    /// A site has given its shares.
    Unmasked(u32, HospitalId),
    /// A round has closed.
    Closed(Box<RoundRow>),
}

/// A study in memory.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Its digest.
    pub(crate) id: StudyId,
    /// What it says.
    pub(crate) study: Study,
    /// The manifest, verbatim.
    pub(crate) manifest: String,
    /// Its noise, if it is private.
    pub(crate) noise: Option<NoisePlan>,
    /// The roster.
    pub(crate) sites: BTreeSet<HospitalId>,
    /// The keys that the sites are known by, since the study was proposed.
    pub(crate) identities: BTreeMap<HospitalId, IdentityKey>,
    /// How far the keys for its masks are; held from checking what is said to keeping it.
    pub(crate) setup: tokio::sync::Mutex<Setup>,
    /// Held by whoever changes the study's life or a decision, from reading to keeping.
    pub(crate) turn: tokio::sync::Mutex<()>,
    /// Held while a driver is looked for and, if there is none, started.
    pub(crate) driving: tokio::sync::Mutex<()>,
    standing: Mutex<Standing>,
    events: broadcast::Sender<Happened>,
}

/// How a study stands just now.
#[derive(Debug, Clone)]
pub(crate) struct Standing {
    /// Where in its life.
    pub(crate) life: Life,
    /// Why there, if that needs saying.
    pub(crate) reason: String,
    /// What the sites have decided.
    pub(crate) decisions: BTreeMap<HospitalId, wire::Decision>,
    /// Released rounds.
    pub(crate) released: u32,
    /// Why nothing happens right now.
    pub(crate) waiting_for: String,
    /// The open round's terms.
    pub(crate) offer: Option<Terms>,
    /// The open round's roster, once frozen.
    pub(crate) roster: Option<Roster>,
    /// The final set, from when it is fixed until it is signed.
    pub(crate) final_set: Option<FinalSet>,
    /// The signed set, while shares are awaited.
    pub(crate) signed_set: Option<SignedSet>,
    /// What the sites of the open round have done in it.
    pub(crate) courses: Courses,
    /// Who was refused what by which rule in the open round, as far as the log was told.
    pub(crate) refused: BTreeSet<(HospitalId, &'static str)>,
    /// The slot that the next attempt will have.
    pub(crate) next_slot: SlotId,
    /// How far the keys are, as the sites are told of it; none without masks.
    pub(crate) keys: Option<Arc<wire::KeySetup>>,
    /// How the last round closed.
    pub(crate) last: Option<ClosedNotice>,
    /// The model on offer, by its digest.
    pub(crate) model: Option<(Digest, Bytes)>,
    /// How far the sites say that they are.
    pub(crate) progress: BTreeMap<HospitalId, wire::SiteProgress>,
    /// Reaches the driver while one runs.
    pub(crate) driver: Option<mpsc::Sender<Command>>,
}

impl Standing {
    /// A study that no driver has touched yet.
    pub(crate) fn new(life: Life, reason: String) -> Self {
        Self {
            life,
            reason,
            decisions: BTreeMap::new(),
            released: 0,
            waiting_for: String::new(),
            offer: None,
            roster: None,
            final_set: None,
            signed_set: None,
            courses: Courses::new(),
            refused: BTreeSet::new(),
            next_slot: SlotId::new(1),
            keys: None,
            last: None,
            model: None,
            progress: BTreeMap::new(),
            driver: None,
        }
    }

    /// No round is open any more.
    pub(crate) fn clear_round(&mut self) {
        self.offer = None;
        self.roster = None;
        self.final_set = None;
        self.signed_set = None;
        self.courses.clear();
        self.refused.clear();
    }
}

impl Entry {
    /// A study as it stands.
    pub(crate) fn new(
        id: StudyId,
        study: Study,
        manifest: String,
        sites: BTreeSet<HospitalId>,
        identities: BTreeMap<HospitalId, IdentityKey>,
        standing: Standing,
    ) -> Self {
        Self {
            id,
            // A study whose noise cannot be worked out has no charter either, and never runs.
            noise: study.noise_plan(sites.len()).ok().flatten(),
            study,
            manifest,
            sites,
            identities,
            setup: tokio::sync::Mutex::default(),
            turn: tokio::sync::Mutex::new(()),
            driving: tokio::sync::Mutex::new(()),
            standing: Mutex::new(standing),
            events: broadcast::channel(BEHIND).0,
        }
    }

    /// How it stands; never held across a wait.
    pub(crate) fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells whoever watches this study.
    pub(crate) fn tell(&self, what: Happened) {
        // Nobody watching is the common case.
        let _ = self.events.send(what);
    }

    /// What happens from now on.
    pub(crate) fn events(&self) -> broadcast::Receiver<Happened> {
        self.events.subscribe()
    }

    /// The study as one of its sites is told of it.
    pub(crate) fn notice(&self, site: &HospitalId) -> wire::StudyNotice {
        let standing = self.standing();
        let decision = standing.decisions.get(site).copied().unwrap_or(wire::Decision::Unspecified);
        wire::StudyNotice {
            digest: self.id.digest().as_bytes().to_vec(),
            manifest_toml: self.manifest.clone(),
            state: encode::life(standing.life).into(),
            decision: decision.into(),
            sites: self.sites.iter().map(ToString::to_string).collect(),
            rounds_released: standing.released,
            // As long as the sites, or empty: a study of an earlier version has none.
            identities: self.identities.values().map(|key| key.as_bytes().to_vec()).collect(),
        }
    }
}

#[derive(Debug, Default)]
struct Presence {
    open: usize,
    version: String,
    left: Option<Timestamp>,
}

/// Where everybody looks.
#[derive(Debug)]
pub(crate) struct Board {
    studies: RwLock<BTreeMap<StudyId, Arc<Entry>>>,
    presence: Mutex<HashMap<HospitalId, Presence>>,
    presence_changed: watch::Sender<()>,
    notices: broadcast::Sender<Arc<Addressed>>,
    expelled: broadcast::Sender<HospitalId>,
    closing: watch::Sender<bool>,
    opened: Timestamp,
}

impl Board {
    /// An empty board.
    pub(crate) fn new(now: Timestamp) -> Self {
        Self {
            studies: RwLock::default(),
            presence: Mutex::default(),
            presence_changed: watch::Sender::new(()),
            notices: broadcast::channel(BEHIND).0,
            expelled: broadcast::channel(BEHIND).0,
            closing: watch::Sender::new(false),
            opened: now,
        }
    }

    /// Puts a study up.
    pub(crate) fn put(&self, entry: Arc<Entry>) {
        self.studies.write().unwrap_or_else(PoisonError::into_inner).insert(entry.id, entry);
    }

    /// A study by its digest.
    pub(crate) fn study(&self, id: StudyId) -> Option<Arc<Entry>> {
        self.studies.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    /// Every study.
    pub(crate) fn studies(&self) -> Vec<Arc<Entry>> {
        self.studies.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Tells sites something.
    pub(crate) fn tell(&self, to: &BTreeSet<HospitalId>, what: Told) {
        // Nobody listening is told at the next connection.
        let _ = self.notices.send(Arc::new(Addressed { to: to.clone(), what }));
    }

    /// Tells a study's sites and its watchers that it has changed.
    pub(crate) fn changed(&self, entry: &Arc<Entry>) {
        self.tell(&entry.sites, Told::Study(Arc::clone(entry)));
        entry.tell(Happened::Changed);
    }

    /// What sites are told from now on.
    pub(crate) fn notices(&self) -> broadcast::Receiver<Arc<Addressed>> {
        self.notices.subscribe()
    }

    /// Ends what an expelled site has open.
    pub(crate) fn expel(&self, site: &HospitalId) {
        // Nothing of it may be open.
        let _ = self.expelled.send(site.clone());
    }

    /// Waits until a site is expelled.
    pub(crate) async fn until_expelled(&self, site: &HospitalId) {
        let mut expelled = self.expelled.subscribe();
        loop {
            match expelled.recv().await {
                Ok(gone) if gone == *site => return,
                Ok(_) => {}
                // Better to end one stream too many; the gate knows at the next call.
                Err(
                    broadcast::error::RecvError::Lagged(_) | broadcast::error::RecvError::Closed,
                ) => return,
            }
        }
    }

    /// The program is about to end.
    pub(crate) fn close(&self) {
        self.closing.send_replace(true);
    }

    /// Waits until the program is about to end.
    pub(crate) async fn until_closing(&self) {
        // The sender lives as long as this board.
        let _ = self.closing.subscribe().wait_for(|closing| *closing).await;
    }

    /// A site has connected; it is here until the guard goes.
    pub(crate) fn arrive(self: &Arc<Self>, site: &HospitalId, version: &str) -> Here {
        {
            let mut presence = self.presence.lock().unwrap_or_else(PoisonError::into_inner);
            let one = presence.entry(site.clone()).or_default();
            one.open += 1;
            version.clone_into(&mut one.version);
        }
        self.presence_changed.send_replace(());
        Here { board: Arc::clone(self), site: site.clone() }
    }

    /// Whether a site is connected, and the version it said that it is.
    pub(crate) fn present(&self, site: &HospitalId) -> (bool, String) {
        let presence = self.presence.lock().unwrap_or_else(PoisonError::into_inner);
        presence.get(site).map_or_else(Default::default, |one| (one.open > 0, one.version.clone()))
    }

    /// Since when this program has been running.
    pub(crate) const fn opened(&self) -> Timestamp {
        self.opened
    }

    /// When a site was last here: `None` while it is. Before it ever came, the board's beginning.
    pub(crate) fn left(&self, site: &HospitalId) -> Option<Timestamp> {
        let presence = self.presence.lock().unwrap_or_else(PoisonError::into_inner);
        match presence.get(site) {
            Some(one) if one.open > 0 => None,
            Some(one) => Some(one.left.unwrap_or(self.opened)),
            None => Some(self.opened),
        }
    }

    /// Signals whenever a site comes or goes.
    pub(crate) fn presence_changes(&self) -> watch::Receiver<()> {
        self.presence_changed.subscribe()
    }
}

/// A site's connection; the site is gone when the last of them is dropped.
#[derive(Debug)]
pub(crate) struct Here {
    board: Arc<Board>,
    site: HospitalId,
}

#[cfg(test)]
impl Here {
    /// Whose connection it is.
    pub(crate) fn site(&self) -> &HospitalId {
        &self.site
    }
}

impl Drop for Here {
    fn drop(&mut self) {
        {
            let mut presence = self.board.presence.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(one) = presence.get_mut(&self.site) {
                one.open = one.open.saturating_sub(1);
                one.left = Some(crate::clock::now());
            }
        }
        self.board.presence_changed.send_replace(());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_site_is_here_until_its_last_connection_goes() {
        let board = Arc::new(Board::new(Timestamp::from_millis(1)));
        let site = HospitalId::new("alpha").expect("a valid name");
        assert_eq!(board.left(&site), Some(Timestamp::from_millis(1)));
        let first = board.arrive(&site, "1");
        let second = board.arrive(&site, "2");
        drop(first);
        assert_eq!(board.present(&site), (true, "2".to_owned()));
        assert_eq!(board.left(&site), None);
        drop(second);
        assert!(!board.present(&site).0);
        assert!(board.left(&site).is_some_and(|left| left > Timestamp::from_millis(1)));
    }
}
