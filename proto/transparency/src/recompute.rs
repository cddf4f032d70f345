//! The recompute audit: which released rounds are kept to be added up again, and what is kept.
//!
//! Whether a round is kept is drawn when it is too late to make its sum fit: by a hash over the
//! digest of its sum, which is in the log by then, and over the digests of the updates in the next
//! sum of the study, which are masked by every site for itself and bound to a log that has the
//! round's release. So the coordinator cannot know it when it releases a sum, and can steer it only by
//! letting sites drop out, which shows. A site that is in league with the coordinator, and whose update
//! comes last, could choose among updates of its own until the draw falls as both like it: the draw
//! holds against a coordinator alone. A round after which no sum was released has no such digests: it
//! is always kept.
//!
//! Anybody can draw again from the log alone:
//!
//! ```text
//! SHA-256("consilium/recompute/1\n" STUDY "\n" ROUND "\n" SLOT "\n" SUM "\n"
//!         and for each site of the next sum, in order of their names: SITE " " DIGEST "\n")
//! ```
//!
//! The round is kept if the first 53 bits of that, as a number, are below `share` times 2^53. Its
//! share is in the leaf of its release.

use std::collections::BTreeMap;
use std::fmt;

use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};

use crate::fact::Digest;

/// The file of a kept round that names the others.
pub const RECORD: &str = "record.json";
/// The longest record: 4,096 sites with as many masks each are not expected, and this is room for
/// 50,000 masks.
pub const MAX_RECORD_BYTES: usize = 8 << 20;
const VERSION: u32 = 1;

/// A released round, as the log has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Released {
    /// The study.
    pub study: Digest,
    /// Which round.
    pub round: u64,
    /// Which attempt.
    pub slot: u64,
    /// The digest of its sum.
    pub sum: Digest,
}

impl Released {
    /// Whether it is kept, if so much of all rounds are and these updates are in the study's next
    /// sum. A share that is no number keeps nothing.
    #[must_use]
    pub fn is_drawn(&self, share: f64, next: &BTreeMap<String, Digest>) -> bool {
        let Self { study, round, slot, sum } = self;
        let mut context = Context::new(&SHA256);
        let head = format!("consilium/recompute/1\n{study}\n{round}\n{slot}\n{sum}\n");
        context.update(head.as_bytes());
        for (site, digest) in next {
            context.update(format!("{site} {digest}\n").as_bytes());
        }
        let hash = context.finish();
        let first =
            hash.as_ref().first_chunk().map_or(u64::MAX, |bytes| u64::from_be_bytes(*bytes));
        #[expect(clippy::cast_precision_loss, reason = "53 bits are a float exactly")]
        let drawn = ((first >> 11) as f64) < share * ((1_u64 << 53) as f64);
        drawn
    }
}

/// What an update was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Upload {
    /// BLAKE3 of its bytes.
    pub digest: Digest,
    /// How many they are.
    pub bytes: u64,
}

/// A mask that was taken out.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MaskKey {
    /// Its key, in hexadecimal.
    pub key: String,
    /// Whether the mask is added to the updates' sum, and not taken away.
    pub add: bool,
}

impl fmt::Debug for MaskKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MaskKey").field("add", &self.add).finish_non_exhaustive()
    }
}

/// What is kept of a round besides the updates themselves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    v: u32,
    /// The study.
    pub study: Digest,
    /// Which round.
    pub round: u64,
    /// Which attempt.
    pub slot: u64,
    /// Bits of a lane.
    pub bits: u32,
    /// The updates in the sum, by site.
    pub uploads: BTreeMap<String, Upload>,
    /// The masks that were taken out of it; none of a study without masks.
    pub masks: Vec<MaskKey>,
}

/// Bytes that are no record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected the record of a kept round: {0}")]
pub struct NoRecord(String);

impl Record {
    /// The record of these updates and masks.
    #[must_use]
    pub fn new(
        released: &Released,
        bits: u32,
        uploads: BTreeMap<String, Upload>,
        masks: Vec<MaskKey>,
    ) -> Self {
        let Released { study, round, slot, .. } = released.clone();
        Self { v: VERSION, study, round, slot, bits, uploads, masks }
    }

    /// Its bytes.
    ///
    /// # Errors
    /// When it is longer than a record may be.
    pub fn to_bytes(&self) -> Result<Vec<u8>, NoRecord> {
        let bytes = serde_json::to_vec(self).map_err(|error| NoRecord(error.to_string()))?;
        if bytes.len() > MAX_RECORD_BYTES { Err(too_long()) } else { Ok(bytes) }
    }

    /// Reads it.
    ///
    /// # Errors
    /// When it is none, or of another version.
    pub fn parse(bytes: &[u8]) -> Result<Self, NoRecord> {
        if bytes.len() > MAX_RECORD_BYTES {
            return Err(too_long());
        }
        // What is wrong is told by place, never by content: there are keys in it.
        let wrong = |error: serde_json::Error| {
            NoRecord(format!("line {}, column {}", error.line(), error.column()))
        };
        let read: Self = serde_json::from_slice(bytes).map_err(wrong)?;
        if read.v == VERSION {
            Ok(read)
        } else {
            Err(NoRecord(format!("it has version {}; version {VERSION} is known", read.v)))
        }
    }
}

fn too_long() -> NoRecord {
    NoRecord(format!("it has more than {MAX_RECORD_BYTES} bytes"))
}

/// The folder of a kept round, under that of all kept rounds.
#[must_use]
pub fn folder_of(study: &Digest, slot: u64) -> String {
    format!("{study}/{slot}")
}

/// What the file of a site's update is called in it.
#[must_use]
pub fn update_file(site: &str) -> String {
    format!("{site}.update")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(digit: char) -> Digest {
        Digest::new(&String::from(digit).repeat(64)).expect("64 digits")
    }

    fn released() -> Released {
        Released { study: digest('a'), round: 3, slot: 4, sum: digest('b') }
    }

    fn next(digit: char) -> BTreeMap<String, Digest> {
        [("north".to_owned(), digest(digit)), ("south".to_owned(), digest('d'))].into()
    }

    /// `printf` and `sha256sum` agree: the first 64 bits of the hash.
    #[test]
    fn the_draw_is_the_published_hash() {
        // sha256sum of the text in the module's head, cut to 53 bits.
        let number =
            f64::from(3_471_138_277_u32) * f64::from(1_u32 << 21) + f64::from(1_756_253_u32);
        let share = number / 9_007_199_254_740_992.0;
        assert!(!released().is_drawn(share, &next('c')), "below, not at");
        assert!(released().is_drawn(share + 2.0_f64.powi(-53), &next('c')));
    }

    #[test]
    fn nothing_all_and_about_a_quarter_are_drawn() {
        let mut drawn = 0;
        for round in 0..400 {
            let one = Released { round, ..released() };
            assert!(one.is_drawn(1.0, &next('c')) && !one.is_drawn(0.0, &next('c')));
            assert!(!one.is_drawn(f64::NAN, &next('c')));
            drawn += u32::from(one.is_drawn(0.25, &next('c')));
        }
        assert!((70..130).contains(&drawn), "{drawn} of 400");
        let other = |digit| {
            (0..64)
                .map(|round| Released { round, ..released() }.is_drawn(0.5, &next(digit)))
                .collect::<Vec<_>>()
        };
        assert_ne!(other('c'), other('e'), "what one site sends next changes it");
    }

    #[test]
    fn a_record_reads_back_and_shows_no_key() {
        let upload = Upload { digest: digest('c'), bytes: 9 };
        let mask = MaskKey { key: "5e".repeat(32), add: false };
        let record =
            Record::new(&released(), 24, [("north".to_owned(), upload)].into(), vec![mask]);
        let bytes = record.to_bytes().expect("short");
        assert_eq!(Record::parse(&bytes), Ok(record.clone()));
        assert!(!format!("{record:?}").contains("5e5e"));
        let newer = String::from_utf8(bytes).expect("text").replace("\"v\":1", "\"v\":2");
        let fault = Record::parse(newer.as_bytes()).expect_err("newer").to_string();
        assert!(fault.contains("version 2"), "{fault}");
        let fault = Record::parse(br#"{"v":1,"key":"5e5e"}"#).expect_err("none").to_string();
        assert!(!fault.contains("5e5e"), "{fault}");
    }
}
