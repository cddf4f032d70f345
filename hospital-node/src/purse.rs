//! The privacy ledger's file: what this hospital has spent of its patients' privacy, in all studies.
//!
//! [`aggregation::privacy::ledger`] is the ledger as a value and says in which order things are done;
//! this is the disk below it. A charge is on the disk before the upload that it pays for is begun; the
//! file only grows. All data sets of the house share one purse: nobody has to show that no patient is
//! in two of them.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use aggregation::ids::{Digest, HospitalId, SlotId, StudyId};
use aggregation::privacy::charge::Figures;
use aggregation::privacy::ledger::{
    Broken, Caps, Declined, Entry, Head, Ledger, Promise, Record, RolledBack, Scope, State as Stage,
};

use crate::state::{State, sync_folder_of};

/// The file's name in the state folder.
pub(crate) const FILE: &str = "ledger";

/// Why the last comparison failed, for `doctor` and `ledger`; nothing is spent while it is there.
pub(crate) const ALARM: &str = "ledger.alarm";

/// Longest file that is read: four million records, a million years of hourly rounds in one study.
const MOST_BYTES: u64 = 1 << 30;

/// The ledger cannot be used, so nothing is spent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PurseError {
    /// The disk said no.
    #[error("the privacy ledger {}: {source}", path.display())]
    Disk {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not what we wrote.
    #[error("the privacy ledger {}: {source}; put back the newest copy of this file", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Broken,
    },
}

/// Why no charge was made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoCharge {
    /// A cap, or a slot that was charged before.
    #[error(transparent)]
    Declined(#[from] Declined),
    /// The ledger itself.
    #[error(transparent)]
    Unusable(#[from] PurseError),
    /// It went back in time.
    #[error(transparent)]
    RolledBack(#[from] RolledBack),
    /// It had gone back in time when this program last ran, and has not been compared since.
    #[error(
        "the ledger was an old copy when last compared; nothing is spent until it is found whole"
    )]
    Alarmed,
    /// This program is stopping.
    #[error("the ledger was not written: {0}")]
    Stopped(String),
}

/// What a charge has to stay within.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// The house's own.
    pub(crate) caps: Caps,
    /// The study's, as it was approved.
    pub(crate) promise: Option<Promise>,
}

/// The ledger and its file. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Purse {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    file: File,
    ledger: Ledger,
    /// Once the disk has failed, or the ledger is an old copy, nothing more is spent.
    closed: Option<Closed>,
}

#[derive(Debug, Clone, Copy)]
enum Closed {
    Failed(io::ErrorKind),
    Old(RolledBack),
    /// By an alarm of an earlier run.
    Alarm,
}

impl Inner {
    fn open_to_spend(&self) -> Result<(), NoCharge> {
        match self.closed {
            None => Ok(()),
            Some(Closed::Old(old)) => Err(old.into()),
            Some(Closed::Alarm) => Err(NoCharge::Alarmed),
            Some(Closed::Failed(kind)) => Err(self.disk(kind.into()).into()),
        }
    }

    fn disk(&self, source: io::Error) -> PurseError {
        PurseError::Disk { path: self.path.clone(), source }
    }

    /// The record of a charge, if it may be made.
    fn allowed(&self, entry: &Entry, limits: &Limits) -> Result<Record, NoCharge> {
        self.open_to_spend()?;
        if let Some(promise) = &limits.promise {
            self.ledger.keeps(entry, promise)?;
        }
        Ok(self.ledger.charge(entry, &limits.caps)?)
    }

    /// Writes a record to the disk, then to the ledger.
    fn write(&mut self, record: Record) -> Result<(), NoCharge> {
        let written = self.file.write_all(&record.encode()).and_then(|()| self.file.sync_all());
        if let Err(error) = written {
            // What is on the disk is not known any more: a restart reads it again.
            self.closed = Some(Closed::Failed(error.kind()));
            return Err(self.disk(error).into());
        }
        let path = self.path.clone();
        self.ledger
            .append(record)
            .map_err(|source| NoCharge::Unusable(PurseError::Damaged { path, source }))
    }
}

impl Purse {
    /// Opens the ledger of this site, making it where there is none; cuts off what a write that did
    /// not finish has left.
    ///
    /// # Errors
    /// When the disk says no, or the file is not a ledger of this site.
    pub(crate) fn open(state: &State, site: &HospitalId) -> Result<Self, PurseError> {
        let path = state.file(FILE);
        let disk = |source| PurseError::Disk { path: path.clone(), source };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(disk)?;
        let bytes = read(&mut file).map_err(disk)?;
        let reading = Ledger::read(purse_of(site), &bytes)
            .map_err(|source| PurseError::Damaged { path: path.clone(), source })?;
        let whole = bytes.len().saturating_sub(reading.torn);
        let whole = u64::try_from(whole).unwrap_or(u64::MAX);
        let mut ready = || {
            file.set_len(whole)?;
            file.seek(SeekFrom::Start(whole))?;
            // What was read may be in memory only, left there by a process that was killed.
            file.sync_all()?;
            sync_folder_of(&path)
        };
        ready().map_err(|source| PurseError::Disk { path: path.clone(), source })?;
        // An alarm outlives the process: a restart must not spend before the next comparison.
        let alarm = state.file(ALARM).exists().then_some(Closed::Alarm);
        let inner = Inner { path, file, ledger: reading.ledger, closed: alarm };
        Ok(Self { inner: Arc::new(Mutex::new(inner)) })
    }

    fn with<T>(&self, work: impl FnOnce(&mut Inner) -> T) -> T {
        work(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether the house's caps and the study's promise allow a charge. Asked before any work begins.
    ///
    /// # Errors
    /// When they do not, or nothing may be spent at all.
    pub(crate) fn check(&self, entry: &Entry, limits: &Limits) -> Result<(), NoCharge> {
        self.with(|inner| inner.allowed(entry, limits).map(drop))
    }

    /// Charges, durably. When this returns, the upload may begin.
    ///
    /// # Errors
    /// As [`Purse::check`], and when the disk says no. Then nothing may leave.
    pub(crate) fn charge(&self, entry: &Entry, limits: &Limits) -> Result<(), NoCharge> {
        self.with(|inner| {
            let record = inner.allowed(entry, limits)?;
            inner.write(record)
        })
    }

    /// Writes down that a charged sum was released. It costs nothing more; a failure is not worth
    /// more than a line in the log.
    ///
    /// # Errors
    /// When it was not charged, or the disk says no.
    pub(crate) fn release(&self, study: StudyId, slot: SlotId) -> Result<(), NoCharge> {
        self.with(|inner| {
            inner.open_to_spend()?;
            let record = inner.ledger.release(study, slot)?;
            inner.write(record)
        })
    }

    /// Compares with what the coordinator has heard from this house. An old copy is closed for good.
    ///
    /// # Errors
    /// When the ledger here is older, or another one.
    pub(crate) fn compare(&self, seen: &Head) -> Result<(), RolledBack> {
        self.with(|inner| {
            let compared = inner.ledger.check(seen);
            match (compared, inner.closed) {
                (Err(old), _) => inner.closed = Some(Closed::Old(old)),
                (Ok(()), Some(Closed::Alarm)) => inner.closed = None,
                (Ok(()), _) => {}
            }
            compared
        })
    }

    /// The charge of a slot, to be told to the coordinator; none when there is none.
    pub(crate) fn charged(&self, study: StudyId, slot: SlotId) -> Option<Record> {
        self.with(|inner| {
            let of_slot = |record: &&Record| {
                let entry = record.entry();
                record.state() == Stage::Charged && entry.study == study && entry.slot == slot
            };
            inner.ledger.records().iter().rev().find(of_slot).copied()
        })
    }

    /// Epsilon of a study so far.
    pub(crate) fn epsilon(&self, study: StudyId, caps: &Caps) -> Figures {
        self.with(|inner| inner.ledger.epsilon(Scope::Study, study, caps))
    }
}

/// Reads a ledger without touching its file, as the command line does beside the daemon.
///
/// # Errors
/// As [`Purse::open`].
pub(crate) fn look(state: &State, site: &HospitalId) -> Result<Ledger, PurseError> {
    let path = state.file(FILE);
    let disk = |source| PurseError::Disk { path: path.clone(), source };
    let bytes = match File::open(&path) {
        Ok(mut file) => read(&mut file).map_err(disk)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(disk(error)),
    };
    let reading = Ledger::read(purse_of(site), &bytes)
        .map_err(|source| PurseError::Damaged { path: path.clone(), source })?;
    Ok(reading.ledger)
}

fn read(file: &mut File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(MOST_BYTES + 1).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length <= MOST_BYTES) {
        Ok(bytes)
    } else {
        Err(io::Error::new(io::ErrorKind::FileTooLarge, "no ledger is that long"))
    }
}

/// The name of the purse: all patients of this site.
fn purse_of(site: &HospitalId) -> Digest {
    Digest::blake3(format!("consilium/purse/all-patients/1/{site}").as_bytes())
}

#[cfg(test)]
mod tests {
    use aggregation::ids::RoundId;
    use aggregation::privacy::charge::{Charge, ChargeParts, Mode};
    use aggregation::privacy::ledger::Cap;
    use aggregation::units::Epsilon;

    use super::*;
    use crate::policy::Policy;

    fn entry(slot: u64) -> Entry {
        let parts = ChargeParts {
            mode: Mode::Distributed,
            noise: 2 << 32,
            rate: 1 << 60,
            honest: 3,
            steps: 1,
            draws: 1_000,
        };
        Entry {
            study: StudyId::new(Digest::new([7; 32])),
            round: RoundId::after(u32::try_from(slot).expect("small")),
            slot: SlotId::new(slot),
            charge: Charge::from_parts(parts).expect("a charge"),
        }
    }

    fn caps() -> Caps {
        Policy::default().budget
    }

    fn limits() -> Limits {
        Limits { caps: caps(), promise: None }
    }

    fn site() -> HospitalId {
        HospitalId::new("alpha").expect("a name")
    }

    #[test]
    fn what_was_charged_is_still_charged_after_a_restart() {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let state = State::open(scratch.path()).expect("ours");
        let purse = Purse::open(&state, &site()).expect("a new ledger");
        for slot in 1..=3 {
            purse.check(&entry(slot), &limits()).expect("affordable");
            purse.charge(&entry(slot), &limits()).expect("affordable");
        }
        purse.release(entry(2).study, SlotId::new(2)).expect("charged");
        let spent = purse.epsilon(entry(1).study, &caps());
        drop(purse);
        // A write that was cut off.
        let path = state.file(FILE);
        let mut file = OpenOptions::new().append(true).open(&path).expect("there");
        file.write_all(&[1; 77]).expect("written");
        assert_eq!(look(&state, &site()).expect("readable").records().len(), 4);
        let purse = Purse::open(&state, &site()).expect("the torn end is cut off");
        assert_eq!(std::fs::metadata(&path).expect("there").len(), 4 * 256);
        assert_eq!(purse.epsilon(entry(1).study, &caps()), spent);
        assert!(purse.charged(entry(3).study, SlotId::new(3)).is_some());
        assert!(purse.charged(entry(3).study, SlotId::new(4)).is_none());
        assert!(matches!(
            purse.charge(&entry(3), &limits()),
            Err(NoCharge::Declined(Declined::SlotUsed { .. }))
        ));
        assert!(matches!(
            Purse::open(&state, &HospitalId::new("beta").expect("a name")),
            Err(PurseError::Damaged { .. })
        ));
    }

    #[test]
    fn a_cap_is_not_crossed() {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let state = State::open(scratch.path()).expect("ours");
        let purse = Purse::open(&state, &site()).expect("a new ledger");
        let empty = look(&state, &site()).expect("readable");
        let left = empty.rounds_left(entry(1).study, &entry(1).charge, &caps());
        assert!(left > 1, "the test's rounds are cheap");
        for slot in 1..=u64::from(left) {
            purse.charge(&entry(slot), &limits()).expect("within the caps");
        }
        let next = entry(u64::from(left) + 1);
        assert!(matches!(
            purse.charge(&next, &limits()),
            Err(NoCharge::Declined(Declined::Cap { .. }))
        ));
        assert_eq!(
            std::fs::metadata(state.file(FILE)).expect("there").len(),
            256 * u64::from(left)
        );
    }

    /// D-24: rounds that are tried again are paid for again, up to what was approved.
    #[test]
    fn a_study_never_spends_more_than_was_approved() {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let state = State::open(scratch.path()).expect("ours");
        let purse = Purse::open(&state, &site()).expect("a new ledger");
        purse.charge(&entry(1), &limits()).expect("within the caps");
        let spent = purse.epsilon(entry(1).study, &caps());
        let cap = Cap {
            planned: Epsilon::new(spent.planned.get() * 1.01).expect("above zero"),
            solo: caps().study.solo,
        };
        let promise = Promise { cap, delta: caps().delta, accountant: caps().accountant };
        let kept = Limits { promise: Some(promise), ..limits() };
        let refused = purse.charge(&entry(2), &kept).expect_err("more than was approved");
        assert!(refused.to_string().contains("as it was approved"), "{refused}");
        assert!(purse.check(&entry(2), &kept).is_err());
        assert!(purse.check(&entry(2), &limits()).is_ok());
    }

    /// D-23: an old copy of the file, put back.
    #[test]
    fn a_restored_copy_is_never_spent_from() {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let state = State::open(scratch.path()).expect("ours");
        let purse = Purse::open(&state, &site()).expect("a new ledger");
        purse.charge(&entry(1), &limits()).expect("affordable");
        let copy = std::fs::read(state.file(FILE)).expect("there");
        purse.charge(&entry(2), &limits()).expect("affordable");
        let told = purse.charged(entry(2).study, SlotId::new(2)).expect("charged");
        let seen = Head { seq: told.seq(), hash: told.hash() };
        assert_eq!(purse.compare(&seen), Ok(()));
        drop(purse);
        std::fs::write(state.file(FILE), copy).expect("put back");
        let purse = Purse::open(&state, &site()).expect("whole in itself");
        purse.compare(&seen).expect_err("a record is missing");
        let refused = purse.charge(&entry(3), &limits()).expect_err("closed");
        assert!(refused.to_string().contains("old copy"), "{refused}");
        assert!(purse.check(&entry(3), &limits()).is_err());
    }

    #[test]
    fn an_alarm_outlives_a_restart_until_the_ledger_is_found_whole() {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let state = State::open(scratch.path()).expect("ours");
        drop(Purse::open(&state, &site()).expect("a new ledger"));
        std::fs::write(state.file(ALARM), "an old copy\n").expect("written");
        let purse = Purse::open(&state, &site()).expect("whole in itself");
        assert!(matches!(purse.charge(&entry(1), &limits()), Err(NoCharge::Alarmed)));
        let empty = look(&state, &site()).expect("readable").head();
        assert_eq!(purse.compare(&empty), Ok(()));
        purse.charge(&entry(1), &limits()).expect("compared since");
    }
}
