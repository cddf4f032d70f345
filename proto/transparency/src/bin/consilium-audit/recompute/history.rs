//! The released rounds of a log, and what had to become of each.

use std::collections::{BTreeMap, BTreeSet};

use transparency::fact::{Digest, Fact, Told};
use transparency::folder::ReadError;
use transparency::recompute::{Released, Upload};
use transparency::time::UtcTime;

/// The shortest time for which a coordinator can be told to keep rounds.
const SHORTEST_RETENTION_MILLIS: u64 = 86_400_000;

/// A released round.
#[derive(Debug)]
pub(super) struct Round {
    /// Where it is, and its sum.
    pub(super) released: Released,
    /// The updates in its sum, as they arrived.
    pub(super) updates: BTreeMap<String, Upload>,
    /// What became of it.
    pub(super) fate: Fate,
    /// The share of rounds that it was drawn with.
    pub(super) share: Option<f64>,
    /// The most masks that can have been in its sum.
    pub(super) most_masks: usize,
    /// What the log says twice, or of another round, or not at all: none of it can be right.
    pub(super) faults: Vec<String>,
}

/// What became of a released round.
#[derive(Debug)]
pub(super) enum Fate {
    /// It is kept, under the record of this digest.
    Kept { record: Digest },
    /// It was to be kept, and is not.
    Forgotten {
        /// Why, in the coordinator's words.
        reason: String,
        /// It was kept for as long as a coordinator has to.
        in_time: bool,
    },
    /// It had to be kept, and the log is silent.
    Withheld,
    /// It need not be kept.
    NotDrawn,
    /// It is the last one so far of a study that goes on.
    Undecided,
    /// From before rounds were drawn.
    Untold,
}

/// What the log tells of one attempt. What it told first counts; a later word is a fault.
#[derive(Debug, Default)]
struct Attempt {
    round: u64,
    invited: usize,
    arrived: BTreeMap<String, Upload>,
    released: Option<Sum>,
    kept: Option<Digest>,
    forgotten: Option<(UtcTime, String)>,
    faults: Vec<String>,
}

/// What was released.
#[derive(Debug)]
struct Sum {
    time: UtcTime,
    contributed: BTreeSet<String>,
    digest: Option<Digest>,
    share: Option<f64>,
}

#[derive(Debug, Default)]
struct Study {
    attempts: BTreeMap<u64, Attempt>,
    ended: bool,
}

type Visit<'a> = &'a mut dyn FnMut(Result<Told, String>);

/// The released rounds that `tell` tells of, by study and in order.
///
/// # Errors
/// What `tell` meets.
pub(super) fn rounds(
    tell: impl FnOnce(Visit<'_>) -> Result<(), ReadError>,
) -> Result<Vec<Round>, ReadError> {
    let mut studies: BTreeMap<Digest, Study> = BTreeMap::new();
    tell(&mut |told| {
        let Ok(Told { time, study: Some(study), round, slot, fact }) = told else { return };
        let study = studies.entry(study).or_default();
        if let Fact::StudyChanged { to, .. } = &fact {
            study.ended = ["completed", "failed", "stopped"].contains(&to.as_str());
        }
        if let (Some(round), Some(slot)) = (round, slot) {
            study.attempts.entry(slot).or_default().take(time, round, fact);
        }
    })?;
    Ok(studies.into_iter().flat_map(|(digest, study)| of_study(&digest, study)).collect())
}

impl Attempt {
    fn take(&mut self, time: UtcTime, number: u64, fact: Fact) {
        if self.round == 0 {
            self.round = number;
        } else if self.round != number {
            self.faults.push(format!("its slot is round {number} as well"));
        }
        if let Fact::RoundAnnounced { invited, .. } = fact {
            self.invited = invited.len();
        } else if let Fact::RoundContribution { site, digest, bytes } = fact {
            let upload = Upload { digest, bytes };
            let first = self.arrived.entry(site.clone()).or_insert_with(|| upload.clone());
            if *first != upload {
                self.faults.push(format!("two updates of {site} are in the log"));
            }
        } else if let Fact::RoundReleased { contributed, sum: digest, recompute_share, .. } = fact {
            if self.released.is_some() {
                self.faults.push("it was released twice".to_owned());
                return;
            }
            let contributed = contributed.into_iter().collect();
            self.released = Some(Sum { time, contributed, digest, share: recompute_share });
        } else if let Fact::RoundKept { record, .. } = fact {
            if self.kept.as_ref().is_some_and(|first| *first != record) {
                self.faults.push("two records of it are in the log".to_owned());
            }
            self.kept.get_or_insert(record);
        } else if let Fact::RoundForgotten { reason } = fact {
            self.forgotten.get_or_insert((time, reason));
        }
    }
}

fn of_study(study: &Digest, told: Study) -> Vec<Round> {
    let Study { attempts, ended } = told;
    let shares = attempts.values().filter_map(|attempt| attempt.released.as_ref()?.share);
    // The coordinator names the share; it may not name another once it knows what is in a sum.
    let begun_with = shares.clone().next();
    let mut rounds = Vec::new();
    // From the end: what became of a round hangs on the one after it.
    let mut next: Option<BTreeMap<String, Digest>> = None;
    for (slot, attempt) in attempts.into_iter().rev() {
        let Attempt { round, invited, arrived, released, kept, forgotten, mut faults } = attempt;
        let Some(Sum { time, contributed, digest, share }) = released else { continue };
        let digests = |(site, upload): (&String, &Upload)| {
            contributed.contains(site).then(|| (site.clone(), upload.digest.clone()))
        };
        let own: BTreeMap<_, _> = arrived.iter().filter_map(digests).collect();
        for site in contributed.iter().filter(|site| !own.contains_key(*site)) {
            faults.push(format!("{site} is in the sum, and no update of it is in the log"));
        }
        if let (Some(share), Some(first)) = (share, begun_with)
            && share.total_cmp(&first).is_ne()
        {
            faults.push(format!(
                "it was drawn with a share of {share}, where its study began with {first}"
            ));
        }
        // A mask of its own for each site in the sum, and one with each that is missing.
        let most_masks = contributed.len().saturating_mul(invited.max(contributed.len()) + 1);
        let after = next.replace(own);
        let mut push = |released, updates, fate, share| {
            let faults = std::mem::take(&mut faults);
            rounds.push(Round { released, updates, fate, share, most_masks, faults });
        };
        let Some((sum, share)) = digest.zip(share) else {
            // Its place alone is known.
            let released = Released { study: study.clone(), round, slot, sum: study.clone() };
            push(released, BTreeMap::new(), Fate::Untold, share);
            continue;
        };
        let released = Released { study: study.clone(), round, slot, sum };
        let must = match &after {
            Some(after) => released.is_drawn(share, after),
            None => ended && share > 0.0,
        };
        let fate = match (forgotten, kept) {
            (Some((then, reason)), _) => {
                let kept_for = then.as_millis().saturating_sub(time.as_millis());
                let in_time = reason == "retention" && kept_for >= SHORTEST_RETENTION_MILLIS;
                Fate::Forgotten { reason, in_time }
            }
            (None, Some(record)) => Fate::Kept { record },
            (None, None) if must => Fate::Withheld,
            (None, None) if after.is_none() && !ended => Fate::Undecided,
            (None, None) => Fate::NotDrawn,
        };
        let updates = contributed
            .into_iter()
            .filter_map(|site| arrived.get(&site).map(|upload| (site, upload.clone())))
            .collect();
        push(released, updates, fate, Some(share));
    }
    rounds.reverse();
    rounds
}
