//! One line of the ledger, and its bytes.
//!
//! | bytes | field |
//! |---|---|
//! | 8 | number, from 1 |
//! | 32 | hash of the record before, or of the purse |
//! | 32 | study |
//! | 4 | round, from 1 |
//! | 8 | slot |
//! | 1 | mode: 1 distributed, 2 silo |
//! | 8 | noise multiplier that the accountant is told, in units of 2^-32 |
//! | 8 | sampling rate, in units of 2^-63 |
//! | 2 | honest noise shares |
//! | 4 | noised steps |
//! | 8 | draws from the noise table: its distance from ideal noise in units of 2^-116 |
//! | 1 | state: 1 charged, 2 released |
//! | 32 | SHA-256 over a transcript of all of the above |
//! | 108 | zeros |
//!
//! Numbers are little-endian. There is one way to write a record, and no other is read. The zeros
//! make a record half of the least sector that disks write at once, so that a record is on the disk
//! or is not: without them a crash could leave its first half, and an honest crash would look like
//! a record that somebody changed.

use super::{Broken, Entry};
use crate::ids::{Digest, RoundId, SlotId, StudyId};
use crate::privacy::charge::{BadCharge, Charge, ChargeParts, Mode};
use crate::transcript::Transcript;

/// Bytes of a record.
pub const RECORD_BYTES: usize = 256;

/// How far the upload of a charge has come. Both states cost the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The upload may have left.
    Charged,
    /// The sum that it is part of was released.
    Released,
}

/// One line of the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    seq: u64,
    previous: Digest,
    entry: Entry,
    state: State,
    hash: Digest,
}

impl Record {
    pub(super) fn new(seq: u64, previous: Digest, entry: Entry, state: State) -> Self {
        let ChargeParts { mode, noise, rate, honest, steps, draws } = entry.charge.parts();
        let hash = Transcript::new("consilium/ledger/1")
            .u64(seq)
            .bytes(previous.as_bytes())
            .bytes(entry.study.digest().as_bytes())
            .u32(entry.round.get())
            .u64(entry.slot.get())
            .bytes(&[mode_byte(mode)])
            .u64(noise)
            .u64(rate)
            .bytes(&honest.to_le_bytes())
            .u32(steps)
            .u64(draws)
            .bytes(&[state_byte(state)])
            .finish();
        Self { seq, previous, entry, state, hash }
    }

    /// Its number, from 1.
    #[must_use]
    pub const fn seq(&self) -> u64 {
        self.seq
    }

    /// The hash of the record before it.
    #[must_use]
    pub const fn previous(&self) -> Digest {
        self.previous
    }

    /// What was charged.
    #[must_use]
    pub const fn entry(&self) -> &Entry {
        &self.entry
    }

    /// How far it has come.
    #[must_use]
    pub const fn state(&self) -> State {
        self.state
    }

    /// The hash that the next record continues: what is signed, and told to the log.
    #[must_use]
    pub const fn hash(&self) -> Digest {
        self.hash
    }

    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; RECORD_BYTES] {
        let ChargeParts { mode, noise, rate, honest, steps, draws } = self.entry.charge.parts();
        let mut bytes = [0; RECORD_BYTES];
        let mut rest = &mut bytes[..];
        for field in [
            &self.seq.to_le_bytes()[..],
            self.previous.as_bytes(),
            self.entry.study.digest().as_bytes(),
            &self.entry.round.get().to_le_bytes(),
            &self.entry.slot.get().to_le_bytes(),
            &[mode_byte(mode)],
            &noise.to_le_bytes(),
            &rate.to_le_bytes(),
            &honest.to_le_bytes(),
            &steps.to_le_bytes(),
            &draws.to_le_bytes(),
            &[state_byte(self.state)],
            self.hash.as_bytes(),
        ] {
            let (place, after) = rest.split_at_mut(field.len());
            place.copy_from_slice(field);
            rest = after;
        }
        bytes
    }

    /// The record with these bytes, as another house sends one; whether it continues a ledger is not
    /// known.
    ///
    /// # Errors
    /// When a field is what no ledger writes, or the hash is not that of the fields.
    pub fn read(bytes: &[u8; RECORD_BYTES]) -> Result<Self, Broken> {
        Self::decode(bytes, 0)
    }

    /// The record with these bytes, said to be the one with number `place`.
    ///
    /// # Errors
    /// When a field is what no ledger writes, or the hash is not that of the fields.
    pub(super) fn decode(bytes: &[u8; RECORD_BYTES], place: u64) -> Result<Self, Broken> {
        let value = |what| Broken::Value { seq: place, what };
        let mut fields = Fields(bytes);
        let seq = fields.u64();
        let previous = Digest::new(fields.array());
        let study = StudyId::new(Digest::new(fields.array()));
        let round = u32::from_le_bytes(fields.array());
        let slot = SlotId::new(fields.u64());
        let [mode] = fields.array();
        let noise = fields.u64();
        let rate = fields.u64();
        let honest = u16::from_le_bytes(fields.array());
        let steps = u32::from_le_bytes(fields.array());
        let draws = fields.u64();
        let [state] = fields.array();
        let hash = Digest::new(fields.array());
        if fields.0.iter().any(|byte| *byte != 0) {
            return Err(value("bytes past its end"));
        }

        let mode = match mode {
            1 => Mode::Distributed,
            2 => Mode::Silo,
            _ => return Err(value("a mode")),
        };
        let state = match state {
            1 => State::Charged,
            2 => State::Released,
            _ => return Err(value("a state")),
        };
        let round = RoundId::new(round).map_err(|_| value("a round"))?;
        let parts = ChargeParts { mode, noise, rate, honest, steps, draws };
        let charge = Charge::from_parts(parts).map_err(|bad| match bad {
            BadCharge::Noise => value("a noise multiplier"),
            BadCharge::Rate { .. } => value("a sampling rate"),
            BadCharge::NoSteps => value("a number of steps"),
            BadCharge::Shares { .. } => value("a number of honest shares"),
        })?;
        let record = Self::new(seq, previous, Entry { study, round, slot, charge }, state);
        if record.hash == hash { Ok(record) } else { Err(Broken::Changed { seq: place }) }
    }
}

const fn mode_byte(mode: Mode) -> u8 {
    match mode {
        Mode::Distributed => 1,
        Mode::Silo => 2,
    }
}

const fn state_byte(state: State) -> u8 {
    match state {
        State::Charged => 1,
        State::Released => 2,
    }
}

/// Fields of a record, one after the other. The lengths add up to less than a record's.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn array<const N: usize>(&mut self) -> [u8; N] {
        let (field, rest) =
            self.0.split_first_chunk().expect("the fields together are shorter than a record");
        self.0 = rest;
        *field
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }
}
