//! `recompute`: the sums of the rounds that were drawn for it, added up again from the updates as
//! they arrived.
//!
//! The log says which updates are in which sum, what digest the sum has, and, by a draw that anybody
//! can repeat, which rounds the coordinator must keep. What it kept is believed in nothing: every
//! update is held against the digest that the log has of it.

mod history;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use aggregation::ids::{Digest as Blake, HospitalId};
use aggregation::masking::group::Modulus;
use aggregation::masking::keystream::{KeyedMask, MaskKey, Sign};
use aggregation::recount::Recount;
use aggregation::secret::Secret;
use clap::Args;
use data_encoding::HEXLOWER;
use ring::digest::{SHA256, digest};
use serde::Serialize;
use transparency::fact::Digest;
use transparency::folder::{Folder, Source};
use transparency::policy;
use transparency::recompute::{self, MAX_RECORD_BYTES, RECORD, Record, folder_of, update_file};
use transparency::time::UtcTime;

use self::history::{Fate, Round, Sums, sums};
use crate::entries::{LogArguments, unreadable};
use crate::output::{Failure, Output, visible};
use crate::place::Place;
use crate::report::{each, find};

/// The longest update that is read: as long as the longest model.
const MAX_UPDATE_BYTES: u64 = 4 << 30;
/// Where a coordinator serves what it kept, below the address of its log.
const SERVED: &str = "kept/";

#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    log: LogArguments,
    /// The folder of the kept rounds, as the coordinator has it at state/kept. With the address of a
    /// log it need not be given: the coordinator serves them to auditors.
    #[arg(long, value_name = "DIR")]
    kept: Option<PathBuf>,
    /// One study alone: its name, or its digest or at least 8 digits of that.
    #[arg(long, value_name = "STUDY")]
    study: Option<String>,
    /// One round alone; otherwise every round that was drawn.
    #[arg(long, value_name = "ROUND")]
    round: Option<u64>,
}

/// How the adding up ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    /// The sum is the one that the log has.
    Same,
    /// It is not, or what the log tells of the round cannot be right.
    Wrong,
    /// It could not be added up, though it should be there.
    Unchecked,
    /// What was kept could not be read just now.
    Unreadable,
    /// It was kept for its time, which is over.
    Expired,
    /// The next sum of its study decides whether it is kept.
    Pending,
    /// It was not drawn, so nothing of it is kept.
    NotDrawn,
}

impl Outcome {
    const fn name(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Wrong => "wrong",
            Self::Unchecked => "unchecked",
            Self::Unreadable => "unreadable",
            Self::Expired => "expired",
            Self::Pending => "pending",
            Self::NotDrawn => "not drawn",
        }
    }

    /// The error that it is: of one round that was asked for, or of any.
    fn error(self, asked: bool) -> Option<&'static str> {
        match self {
            Self::Wrong => Some("recompute_failed"),
            Self::Unchecked => Some("not_kept"),
            Self::Unreadable => Some("unreadable"),
            Self::Expired | Self::Pending | Self::NotDrawn if asked => Some("not_kept"),
            Self::Same | Self::Expired | Self::Pending | Self::NotDrawn => None,
        }
    }
}

/// What came of one round.
#[derive(Debug, Serialize)]
struct Verdict {
    study: Digest,
    round: u64,
    slot: u64,
    /// What came of it.
    result: Outcome,
    /// Updates that were added up.
    updates: usize,
    /// Masks that were taken out.
    masks: usize,
    /// What is wrong, or why it was not checked.
    reasons: Vec<String>,
}

/// All of them.
#[derive(Debug, Default, Serialize)]
struct Verdicts {
    same: usize,
    wrong: usize,
    unchecked: usize,
    unreadable: usize,
    expired: usize,
    pending: usize,
    /// Released rounds that nothing was to be kept of.
    not_drawn: usize,
    /// Entries that do not say what their kinds say: a sum may hide in each.
    defects: Vec<String>,
    /// The share of rounds that each study keeps.
    shares: BTreeMap<String, f64>,
    rounds: Vec<Verdict>,
}

impl Verdicts {
    fn count(&mut self, outcome: Outcome) {
        *match outcome {
            Outcome::Same => &mut self.same,
            Outcome::Wrong => &mut self.wrong,
            Outcome::Unchecked => &mut self.unchecked,
            Outcome::Unreadable => &mut self.unreadable,
            Outcome::Expired => &mut self.expired,
            Outcome::Pending => &mut self.pending,
            Outcome::NotDrawn => &mut self.not_drawn,
        } += 1;
    }
}

pub(crate) fn run(arguments: &Arguments, output: &mut Output) -> Result<(), Failure> {
    let (reader, policy) = arguments.log.opened()?;
    let kept = match &arguments.kept {
        Some(folder) => Kept { place: open_kept(folder)?, prefix: "" },
        None => match arguments.log.place()? {
            place @ Place::Url(_) => Kept { place, prefix: SERVED },
            Place::Folder(_) => {
                let message = "expected --kept DIR beside the folder of a log";
                return Err(Failure::usage("no_kept", message)
                    .hint("the coordinator keeps rounds in its state folder, as state/kept"));
            }
        },
    };
    let study = arguments.study.as_deref().map(|wanted| find(&reader, wanted)).transpose()?;
    let Sums { rounds: mut all, defects } =
        sums(study.as_ref(), cosigned(&policy), |visit| each(&reader, visit))
            .map_err(|error| unreadable(&error))?;
    if let Some(number) = arguments.round {
        all.retain(|round| round.released.round == number);
        if all.is_empty() {
            let message = format!("expected a round {number} that was released, found none");
            return Err(Failure::usage("no_such_round", message));
        }
    }
    let mut verdicts = Verdicts { defects, ..Verdicts::default() };
    for defect in &verdicts.defects {
        output.line(&visible(&format!("{:<12} {defect}", Outcome::Wrong.name())))?;
    }
    let asked = arguments.round.is_some();
    for round in &all {
        if let Some(share) = round.share {
            verdicts.shares.entry(round.released.study.to_string()).or_insert(share);
        }
        let verdict = kept.judge(round);
        verdicts.count(verdict.result);
        if verdict.result == Outcome::NotDrawn && !asked {
            continue;
        }
        output.line(&visible(&describe(&verdict)))?;
        verdicts.rounds.push(verdict);
    }
    for (study, share) in &verdicts.shares {
        let study = study.get(..12).unwrap_or(study);
        output.line(&if *share > 0.0 {
            format!("study {study} keeps a share of {share} of its rounds")
        } else {
            format!("study {study} keeps no round: none of its sums can be added up again")
        })?;
    }
    let Verdicts { same, wrong, unchecked, unreadable, expired, pending, not_drawn, .. } =
        &verdicts;
    output.line(&format!(
        "{same} sums are as the log has them, {wrong} are not; {} could not be added up; \
         {not_drawn} rounds were not drawn, {expired} were kept for their time, {pending} are undecided",
        unchecked + unreadable
    ))?;
    if let Some(defect) = verdicts.defects.first() {
        return Err(Failure::failed("recompute_failed", visible(defect)).data(&verdicts));
    }
    // What is wrong weighs more than what could not be seen.
    for error in ["recompute_failed", "not_kept", "unreadable"] {
        let bad = |verdict: &&Verdict| verdict.result.error(asked) == Some(error);
        if let Some(first) = verdicts.rounds.iter().find(bad) {
            return Err(Failure::failed(error, visible(&describe(first))).data(&verdicts));
        }
    }
    Ok(output.data(&verdicts)?)
}

/// When the newest of the policy's witnesses saw the log, with a minute for its clock.
fn cosigned(policy: &policy::Verdict) -> Option<UtcTime> {
    let seen = policy.witnesses.iter().filter_map(|witness| witness.cosigned.as_ref().ok());
    UtcTime::from_millis(seen.max()?.saturating_add(60).saturating_mul(1_000))
}

fn open_kept(folder: &Path) -> Result<Place, Failure> {
    Folder::open(folder).map(Place::Folder).map_err(|error| {
        let message =
            format!("expected the folder of kept rounds at {}: {error}", folder.display());
        Failure::usage("no_kept", visible(&message))
    })
}

fn describe(verdict: &Verdict) -> String {
    let Verdict { study, round, slot, result, updates, masks, reasons } = verdict;
    let place = format!("round {round} (slot {slot}) of study {}", study.short());
    let what = if *result == Outcome::Same {
        format!("{updates} updates less {masks} masks give the sum that the log has")
    } else {
        reasons.join("; ")
    };
    format!("{:<12} {place}: {what}", result.name())
}

/// Where kept rounds lie.
struct Kept {
    place: Place,
    prefix: &'static str,
}

impl Kept {
    fn judge(&self, round: &Round) -> Verdict {
        let released = &round.released;
        let mut verdict = Verdict {
            study: released.study.clone(),
            round: released.round,
            slot: released.slot,
            result: Outcome::Wrong,
            updates: 0,
            masks: 0,
            reasons: round.faults.clone(),
        };
        if !round.faults.is_empty() {
            return verdict;
        }
        let (result, reason) = match &round.fate {
            Fate::Kept { record } => {
                self.add_up(round, record, &mut verdict);
                return verdict;
            }
            Fate::Withheld => (
                Outcome::Wrong,
                "it was drawn, and the log has nothing of it being kept".to_owned(),
            ),
            Fate::NotDrawn => {
                (Outcome::NotDrawn, "it was not drawn, so nothing of it is kept".to_owned())
            }
            Fate::Undecided => (
                Outcome::Pending,
                "the next sum of its study decides whether it is kept".to_owned(),
            ),
            Fate::Untold => {
                (Outcome::Unchecked, "the log has neither its digest nor a share".to_owned())
            }
            Fate::Forgotten { reason, in_time: true } => {
                (Outcome::Expired, format!("it was drawn, and kept for its time: {reason}"))
            }
            Fate::Forgotten { reason, in_time: false } => {
                (Outcome::Unchecked, format!("it was drawn, and is forgotten: {reason}"))
            }
        };
        verdict.result = result;
        verdict.reasons.push(reason);
        verdict
    }

    /// Adds the round up; what is wrong goes into the verdict.
    fn add_up(&self, round: &Round, named: &Digest, verdict: &mut Verdict) {
        let folder = folder_of(&round.released.study, round.released.slot);
        let bytes = match self.read(&format!("{folder}/{RECORD}"), MAX_RECORD_BYTES) {
            Ok(bytes) => bytes,
            Err(fault) => return verdict.blame("its record", fault),
        };
        let mut wrong = |what: String| verdict.reasons.push(what);
        if HEXLOWER.encode(digest(&SHA256, &bytes).as_ref()) != named.as_str() {
            return wrong("its record is not the one that the log names".to_owned());
        }
        let record = match Record::parse(&bytes) {
            Ok(record) => record,
            Err(error) => return wrong(error.to_string()),
        };
        let place = (&record.study, record.round, record.slot);
        if place != (&round.released.study, round.released.round, round.released.slot) {
            return wrong("its record is that of another round".to_owned());
        }
        let Some(modulus) = Modulus::ALL.into_iter().find(|one| one.bits() == record.bits) else {
            return wrong(format!(
                "lanes of 16, 24 or 32 bits were expected; found {}",
                record.bits
            ));
        };
        if record.masks.len() > round.most_masks {
            return wrong(format!(
                "at most {} masks can be in its sum, its record has {}",
                round.most_masks,
                record.masks.len()
            ));
        }
        let masks: Option<Vec<KeyedMask>> = record.masks.iter().map(mask).collect();
        let Some(masks) = masks else {
            return wrong("its record has a key that is none".to_owned());
        };
        let logged: Vec<_> = round.updates.keys().collect();
        if !record.uploads.keys().eq(logged) {
            return wrong("its record is over other sites than the log has in the sum".to_owned());
        }
        let mut sum: Option<Recount> = None;
        for (site, upload) in &round.updates {
            let update = match self.update(&folder, site, upload) {
                Ok(update) => update,
                Err(fault) => {
                    verdict.blame(&format!("the update of {site}"), fault);
                    continue;
                }
            };
            let total = match &mut sum {
                Some(total) => total,
                none @ None => match Recount::new(modulus, update.len()) {
                    Some(total) => none.insert(total),
                    None => {
                        let what = format!("the update of {site} is no whole number of lanes");
                        verdict.reasons.push(what);
                        continue;
                    }
                },
            };
            match total.add(&update) {
                Ok(()) => verdict.updates += 1,
                Err(error) => verdict.reasons.push(format!("the update of {site}: {error}")),
            }
        }
        // With a fault the sum would say nothing that the fault does not.
        if let (true, Some(sum)) = (verdict.reasons.is_empty(), sum) {
            verdict.masks = masks.len();
            let found = sum.finish(&masks).to_string();
            let expected = &round.released.sum;
            if found == expected.as_str() {
                verdict.result = Outcome::Same;
            } else {
                let what = format!("the log has the sum {expected}, the updates give {found}");
                verdict.reasons.push(what);
            }
        } else if verdict.reasons.is_empty() {
            verdict.reasons.push("the log has no update in its sum".to_owned());
        }
    }

    /// A site's update, if it is the one that the log has.
    fn update(
        &self,
        folder: &str,
        site: &str,
        upload: &recompute::Upload,
    ) -> Result<Vec<u8>, Fault> {
        // The log's texts are the coordinator's; this one becomes a part of a path.
        HospitalId::new(site)
            .map_err(|error| Fault::Wrong(format!("has a name that no site has: {error}")))?;
        let limit = usize::try_from(upload.bytes.min(MAX_UPDATE_BYTES))
            .map_err(|_| Fault::Unreadable("is longer than this machine can hold".to_owned()))?;
        let bytes = self.read(&format!("{folder}/{}", update_file(site)), limit)?;
        let found = Blake::blake3(&bytes).to_string();
        if found == upload.digest.as_str() {
            return Ok(bytes);
        }
        let (expected, found) = (upload.digest.short(), found.get(..12).unwrap_or_default());
        let what = format!("is not the one that arrived: the log has {expected}, found {found}");
        Err(Fault::Wrong(what))
    }

    fn read(&self, path: &str, limit: usize) -> Result<Vec<u8>, Fault> {
        match self.place.read(&format!("{}{path}", self.prefix), limit) {
            Ok(Some(bytes)) => Ok(bytes),
            Ok(None) => Err(Fault::Wrong("is missing".to_owned())),
            Err(error) if error.kind() == io::ErrorKind::FileTooLarge => {
                Err(Fault::Wrong(format!("is too long: {error}")))
            }
            Err(error) => Err(Fault::Unreadable(format!("cannot be read: {error}"))),
        }
    }
}

/// Why something that was kept is of no use.
enum Fault {
    /// It is not what the log says that it is.
    Wrong(String),
    /// It may be; nobody could look. A slow or refused connection accuses nobody.
    Unreadable(String),
}

impl Verdict {
    /// Notes a fault; one that is wrong outweighs those that could not be read.
    fn blame(&mut self, what: &str, fault: Fault) {
        let first = self.reasons.is_empty();
        let (result, why) = match fault {
            Fault::Wrong(why) => (Outcome::Wrong, why),
            Fault::Unreadable(why) if first => (Outcome::Unreadable, why),
            Fault::Unreadable(why) => (self.result, why),
        };
        self.result = result;
        self.reasons.push(format!("{what} {why}"));
    }
}

fn mask(mask: &recompute::MaskKey) -> Option<KeyedMask> {
    let bytes = HEXLOWER.decode(mask.key.as_bytes()).ok()?;
    let key = MaskKey::new(Secret::from_slice(&bytes)?);
    Some(KeyedMask { key, sign: if mask.add { Sign::Add } else { Sign::Subtract } })
}
