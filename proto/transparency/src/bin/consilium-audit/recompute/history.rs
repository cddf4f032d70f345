//! The released rounds of a log, and what had to become of each.

use std::collections::{BTreeMap, BTreeSet};

use transparency::fact::{Digest, Fact, Told};
use transparency::folder::ReadError;
use transparency::recompute::{Released, Upload};

/// A released round.
#[derive(Debug)]
pub(super) struct Round {
    /// Where it is, and its sum.
    pub(super) released: Released,
    /// The updates in its sum, as they arrived.
    pub(super) updates: BTreeMap<String, Upload>,
    /// What became of it.
    pub(super) fate: Fate,
}

/// What became of a released round.
#[derive(Debug)]
pub(super) enum Fate {
    /// It is kept, under the record of this digest.
    Kept { record: Digest },
    /// It was to be kept, and is not.
    Forgotten { reason: String },
    /// It had to be kept, and the log is silent.
    Withheld,
    /// It need not be kept.
    NotDrawn,
    /// It is the last one so far of a study that goes on.
    Undecided,
    /// From before rounds were drawn.
    Untold,
}

/// What the log tells of one attempt.
#[derive(Debug, Default)]
struct Attempt {
    round: u64,
    arrived: BTreeMap<String, Upload>,
    contributed: Option<BTreeSet<String>>,
    sum: Option<Digest>,
    share: Option<f64>,
    kept: Option<Digest>,
    forgotten: Option<String>,
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
        let Ok(Told { study: Some(study), round, slot, fact, .. }) = told else { return };
        let study = studies.entry(study).or_default();
        if let Fact::StudyChanged { to, .. } = &fact {
            study.ended = ["completed", "failed", "stopped"].contains(&to.as_str());
        }
        if let (Some(round), Some(slot)) = (round, slot) {
            take(study.attempts.entry(slot).or_default(), round, fact);
        }
    })?;
    Ok(studies.into_iter().flat_map(|(digest, study)| of_study(&digest, study)).collect())
}

fn take(attempt: &mut Attempt, number: u64, fact: Fact) {
    if let Fact::RoundContribution { site, digest, bytes } = fact {
        attempt.arrived.insert(site, Upload { digest, bytes });
    } else if let Fact::RoundReleased { contributed, sum, recompute_share, .. } = fact {
        attempt.round = number;
        attempt.contributed = Some(contributed.into_iter().collect());
        (attempt.sum, attempt.share) = (sum, recompute_share);
    } else if let Fact::RoundKept { record, .. } = fact {
        attempt.kept = Some(record);
    } else if let Fact::RoundForgotten { reason } = fact {
        attempt.forgotten = Some(reason);
    }
}

fn of_study(study: &Digest, told: Study) -> Vec<Round> {
    let Study { attempts, ended } = told;
    let mut rounds = Vec::new();
    // From the end: what became of a round hangs on the one after it.
    let mut next: Option<BTreeMap<String, Digest>> = None;
    for (slot, attempt) in attempts.into_iter().rev() {
        let Attempt { round, arrived, contributed, sum, share, kept, forgotten } = attempt;
        let Some(contributed) = contributed else { continue };
        let digests = |(site, upload): (&String, &Upload)| {
            contributed.contains(site).then(|| (site.clone(), upload.digest.clone()))
        };
        let own: BTreeMap<_, _> = arrived.iter().filter_map(digests).collect();
        let after = next.replace(own);
        let Some((sum, share)) = sum.zip(share) else {
            // Its place alone is known.
            let released = Released { study: study.clone(), round, slot, sum: study.clone() };
            rounds.push(Round { released, updates: BTreeMap::new(), fate: Fate::Untold });
            continue;
        };
        let released = Released { study: study.clone(), round, slot, sum };
        let must = match &after {
            Some(after) => released.is_drawn(share, after),
            None => ended && share > 0.0,
        };
        let fate = match (forgotten, kept) {
            (Some(reason), _) => Fate::Forgotten { reason },
            (None, Some(record)) => Fate::Kept { record },
            (None, None) if must => Fate::Withheld,
            (None, None) if after.is_none() && !ended => Fate::Undecided,
            (None, None) => Fate::NotDrawn,
        };
        let updates = contributed
            .into_iter()
            .filter_map(|site| arrived.get(&site).map(|upload| (site, upload.clone())))
            .collect();
        rounds.push(Round { released, updates, fate });
    }
    rounds.reverse();
    rounds
}
