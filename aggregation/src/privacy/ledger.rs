//! What was spent of some patients' privacy, for ever; and whether the next round may be.
//!
//! A purse is a set of patients of one hospital; it has one ledger over all studies. A record is
//! made before the upload that it pays for, made durable, and only then does a byte leave (PROTOCOL
//! D-21). Nothing is given back: a charge is spent though its round fails, and what was released
//! costs no more than what was charged (PROTOCOL D-22). Records are chained by hash, so a changed one
//! shows; the last hash is also told to the log, so a ledger that was restored from an old copy shows
//! too (PROTOCOL D-23).
//!
//! This is the ledger as a value; the file is the shell's, in this order:
//!
//! 1. At the start it reads the file ([`Ledger::read`]), cuts off the torn end that a write which
//!    did not finish has left, and **syncs file and folder**: what it has read may be in memory only,
//!    left there by a process that was killed before it synced. Then [`Ledger::check`] against the
//!    [`Head`] that the log has seen last; on an error nothing is ever spent from this file.
//! 2. Slots that are [`waiting`](Ledger::waiting) were charged: they are closed, or their upload is
//!    sent again byte for byte.
//! 3. For each upload: [`Ledger::charge`] before training, [`Record::encode`] to the file's end, sync
//!    file and folder, [`Ledger::append`], and only then the first byte, with [`Ledger::head`].

mod record;

use std::collections::BTreeMap;

pub use self::record::{RECORD_BYTES, Record, State};
use super::accountant::{Accountant, Spent};
use super::charge::{Charge, Figures, Spending};
use crate::ids::{Digest, RoundId, SlotId, StudyId};
use crate::transcript::Transcript;
use crate::units::{Delta, Epsilon, count};

/// What a hospital allows to be spent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Caps {
    /// By one study.
    pub study: Cap,
    /// By all studies together.
    pub lifetime: Cap,
    /// The delta at which epsilon is counted.
    pub delta: Delta,
    /// By which bound it is counted.
    pub accountant: Accountant,
}

/// Caps on both figures.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cap {
    /// On epsilon against the coordinator and the tolerated sites.
    pub planned: Epsilon,
    /// On epsilon against everybody else together.
    pub solo: Epsilon,
}

/// What a study has promised to spend at most, retried rounds included, by its own measure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Promise {
    /// Of both figures.
    pub cap: Cap,
    /// The delta at which epsilon is counted.
    pub delta: Delta,
    /// By which bound it is counted.
    pub accountant: Accountant,
}

/// Whose cap a charge would cross.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// What was approved of the study.
    Promise,
    /// The study's.
    Study,
    /// That of all studies together.
    Lifetime,
}

impl std::fmt::Display for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Promise => "this study as it was approved",
            Self::Study => "this study",
            Self::Lifetime => "all studies together",
        })
    }
}

/// Why a charge is not made. Nothing has changed then.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum Declined {
    /// It would cross a cap.
    #[error("the {figure} epsilon of {scope} may be {cap}; with this round it would be {spent}")]
    Cap {
        /// `planned` or `solo`.
        figure: &'static str,
        /// Whose cap.
        scope: Scope,
        /// The cap.
        cap: Epsilon,
        /// What would be spent.
        spent: Spent,
    },
    /// Its slot, or a later one, is charged already.
    #[error("slots of a study ascend; {found} does not come after {last}")]
    SlotUsed {
        /// The last slot charged.
        last: SlotId,
        /// The slot found.
        found: SlotId,
    },
    /// What is to be released was never charged, or is released already.
    #[error("slot {slot} is not a charge that waits for its release")]
    NotCharged {
        /// The slot.
        slot: SlotId,
    },
}

/// What is wrong with a ledger's bytes, or with a record that does not continue it.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum Broken {
    /// A record out of its place.
    #[error("record {expected} was expected; found {found}")]
    Sequence {
        /// The number that follows.
        expected: u64,
        /// The number found.
        found: u64,
    },
    /// A record that does not follow the one before it.
    #[error("record {seq} does not continue the chain")]
    Chain {
        /// The record's number.
        seq: u64,
    },
    /// A record that is not what was written.
    #[error("record {seq} was changed after it was written")]
    Changed {
        /// The place of the record.
        seq: u64,
    },
    /// Values that no ledger writes.
    #[error("record {seq} has {what} that no ledger writes")]
    Value {
        /// The place of the record.
        seq: u64,
        /// Which of its fields.
        what: &'static str,
    },
    /// A charge or release that the records before it do not allow.
    #[error("record {seq}: {why}")]
    Order {
        /// The record's number.
        seq: u64,
        /// Why not.
        why: Declined,
    },
}

/// A ledger's end, as it is told to the log: enough to notice that it went back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// How many records there are.
    pub seq: u64,
    /// The hash of the last one; of the purse when there is none.
    pub hash: Digest,
}

/// A ledger that is older than, or other than, the one that the log has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RolledBack {
    /// Records are missing.
    #[error(
        "the log has seen {seen} ledger records; here are {found}: this is an old copy of the ledger, and spending from it would be counted twice"
    )]
    Missing {
        /// How many the log has seen.
        seen: u64,
        /// How many there are.
        found: u64,
    },
    /// Another history.
    #[error("ledger record {seq} is not the one that the log has seen")]
    Forked {
        /// The record's number.
        seq: u64,
    },
}

/// What is to be charged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// For which study.
    pub study: StudyId,
    /// For which round.
    pub round: RoundId,
    /// For which attempt.
    pub slot: SlotId,
    /// How much.
    pub charge: Charge,
}

/// All records of a purse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ledger {
    genesis: Digest,
    records: Vec<Record>,
    /// The last slot of each study, and its charge while it waits for its release.
    last: BTreeMap<StudyId, SlotId>,
    waiting: BTreeMap<(StudyId, SlotId), Entry>,
}

/// A ledger from its bytes, and how many bytes at their end belong to no record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// The whole records.
    pub ledger: Ledger,
    /// Bytes of a write that was cut off, to be removed before the next one.
    pub torn: usize,
}

impl Ledger {
    /// An empty ledger for a set of patients, named by a digest of the site's own.
    #[must_use]
    pub fn new(purse: Digest) -> Self {
        Self {
            genesis: Transcript::new("consilium/ledger/purse/1").bytes(purse.as_bytes()).finish(),
            records: Vec::new(),
            last: BTreeMap::new(),
            waiting: BTreeMap::new(),
        }
    }

    /// Reads a ledger, every record checked. A last record that is not whole, or zeros that a file
    /// system left for it, are a write that was cut off.
    ///
    /// # Errors
    /// When a record is not what a ledger of this purse would have written there.
    pub fn read(purse: Digest, bytes: &[u8]) -> Result<Reading, Broken> {
        let mut ledger = Self::new(purse);
        let (whole, rest) = bytes.as_chunks::<RECORD_BYTES>();
        for (place, bytes) in whole.iter().enumerate() {
            let after = &whole[place..];
            // One write leaves no more than a record of zeros behind; more is a ledger that lost some.
            let torn = after.as_flattened().len() + rest.len();
            let zeros = rest.iter().chain(after.as_flattened()).all(|byte| *byte == 0);
            if zeros && torn <= RECORD_BYTES {
                return Ok(Reading { ledger, torn });
            }
            let record = Record::decode(bytes, count(place) + 1)?;
            ledger.append(record)?;
        }
        Ok(Reading { ledger, torn: rest.len() })
    }

    /// The ledger's end.
    #[must_use]
    pub fn head(&self) -> Head {
        let hash = self.records.last().map_or(self.genesis, Record::hash);
        Head { seq: count(self.records.len()), hash }
    }

    /// All records, oldest first.
    #[must_use]
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// Charges that no release followed: their slots are to be closed, or sent again byte by byte.
    pub fn waiting(&self) -> impl Iterator<Item = &Entry> {
        self.waiting.values()
    }

    /// The record for a charge, if the caps allow it. It counts once it is appended.
    ///
    /// # Errors
    /// When it would cross a cap, or its slot was charged before.
    pub fn charge(&self, entry: &Entry, caps: &Caps) -> Result<Record, Declined> {
        self.follows(entry)?;
        for (scope, cap) in [(Scope::Study, caps.study), (Scope::Lifetime, caps.lifetime)] {
            let mut spending = self.spending(scope, entry.study);
            spending.add(&entry.charge, 1);
            over(&spending, scope, cap, (caps.accountant, caps.delta))?;
        }
        Ok(self.next(entry, State::Charged))
    }

    /// Whether a charge leaves a study within what it promised (PROTOCOL D-24).
    ///
    /// # Errors
    /// When it would not.
    pub fn keeps(&self, entry: &Entry, promise: &Promise) -> Result<(), Declined> {
        let mut spending = self.spending(Scope::Study, entry.study);
        spending.add(&entry.charge, 1);
        over(&spending, Scope::Promise, promise.cap, (promise.accountant, promise.delta))
    }

    /// The record that a charged slot's sum was released.
    ///
    /// # Errors
    /// When the slot was not charged, or is released already.
    pub fn release(&self, study: StudyId, slot: SlotId) -> Result<Record, Declined> {
        let entry = self.waiting.get(&(study, slot)).ok_or(Declined::NotCharged { slot })?;
        Ok(self.next(entry, State::Released))
    }

    /// Adds a record that was made by this ledger, or read from its file.
    ///
    /// # Errors
    /// When it does not continue the ledger. Caps are not asked: what was spent was spent.
    pub fn append(&mut self, record: Record) -> Result<(), Broken> {
        let head = self.head();
        let seq = record.seq();
        if seq != head.seq + 1 {
            return Err(Broken::Sequence { expected: head.seq + 1, found: seq });
        }
        if record.previous() != head.hash {
            return Err(Broken::Chain { seq });
        }
        let entry = *record.entry();
        let key = (entry.study, entry.slot);
        match record.state() {
            State::Charged => {
                self.follows(&entry).map_err(|why| Broken::Order { seq, why })?;
                self.last.insert(entry.study, entry.slot);
                self.waiting.insert(key, entry);
            }
            State::Released => {
                if self.waiting.get(&key) != Some(&entry) {
                    let why = Declined::NotCharged { slot: entry.slot };
                    return Err(Broken::Order { seq, why });
                }
                self.waiting.remove(&key);
            }
        }
        self.records.push(record);
        Ok(())
    }

    /// What was charged, by one study or by all.
    #[must_use]
    pub fn spending(&self, scope: Scope, study: StudyId) -> Spending {
        let mut spending = Spending::new();
        for record in &self.records {
            let counts = match scope {
                Scope::Promise | Scope::Study => record.entry().study == study,
                Scope::Lifetime => true,
            };
            // Charged and Released are one event, counted where it was charged.
            if counts && record.state() == State::Charged {
                spending.add(&record.entry().charge, 1);
            }
        }
        spending
    }

    /// Epsilon so far, of one study or of all.
    #[must_use]
    pub fn epsilon(&self, scope: Scope, study: StudyId, caps: &Caps) -> Figures {
        self.spending(scope, study).epsilon(caps.accountant, caps.delta)
    }

    /// How many more rounds at this price the caps allow a study.
    #[must_use]
    pub fn rounds_left(&self, study: StudyId, charge: &Charge, caps: &Caps) -> u32 {
        let spent = [(Scope::Study, caps.study), (Scope::Lifetime, caps.lifetime)]
            .map(|(scope, cap)| (self.spending(scope, study), scope, cap));
        let affordable = |rounds: u32| {
            spent.iter().all(|(spending, scope, cap)| {
                let mut spending = spending.clone();
                spending.add(charge, rounds);
                over(&spending, *scope, *cap, (caps.accountant, caps.delta)).is_ok()
            })
        };
        // Doubling, then halving: the answer is usually small beside what a u32 holds.
        let (mut most, mut too_many) = (0, 1_u32);
        while affordable(too_many) {
            if too_many == u32::MAX {
                return u32::MAX;
            }
            most = too_many;
            too_many = too_many.saturating_mul(2);
        }
        while too_many - most > 1 {
            let middle = most + (too_many - most) / 2;
            if affordable(middle) {
                most = middle;
            } else {
                too_many = middle;
            }
        }
        most
    }

    /// Whether this is the ledger that the log has seen, or one that went on from it.
    ///
    /// # Errors
    /// When records are missing or differ: a restored copy, from which nothing may be spent.
    pub fn check(&self, seen: &Head) -> Result<(), RolledBack> {
        let found = self.head().seq;
        let hash = match seen.seq.checked_sub(1) {
            None => Some(self.genesis),
            Some(place) => usize::try_from(place)
                .ok()
                .and_then(|place| self.records.get(place))
                .map(Record::hash),
        };
        match hash {
            None => Err(RolledBack::Missing { seen: seen.seq, found }),
            Some(hash) if hash != seen.hash => Err(RolledBack::Forked { seq: seen.seq }),
            Some(_) => Ok(()),
        }
    }

    fn follows(&self, entry: &Entry) -> Result<(), Declined> {
        match self.last.get(&entry.study) {
            Some(&last) if entry.slot <= last => {
                Err(Declined::SlotUsed { last, found: entry.slot })
            }
            Some(_) | None => Ok(()),
        }
    }

    fn next(&self, entry: &Entry, state: State) -> Record {
        let head = self.head();
        Record::new(head.seq + 1, head.hash, *entry, state)
    }
}

/// Whether spending crosses a cap, and which. The cheap figure comes first.
fn over(
    spending: &Spending,
    scope: Scope,
    cap: Cap,
    (accountant, delta): (Accountant, Delta),
) -> Result<(), Declined> {
    let planned = spending.planned(accountant, delta);
    if !planned.within(cap.planned) {
        return Err(Declined::Cap { figure: "planned", scope, cap: cap.planned, spent: planned });
    }
    let solo = spending.solo(accountant, delta);
    if !solo.within(cap.solo) {
        return Err(Declined::Cap { figure: "solo", scope, cap: cap.solo, spent: solo });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
