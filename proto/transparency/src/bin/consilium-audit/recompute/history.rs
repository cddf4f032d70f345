//! The released rounds of a log, and what had to become of each.

use std::collections::{BTreeMap, BTreeSet};

use transparency::fact::{Digest, Fact, Told};
use transparency::folder::ReadError;
use transparency::leaf::Leaf;
use transparency::recompute::{Released, Upload};
use transparency::time::UtcTime;

/// The shortest time for which a coordinator can be told to keep rounds, once they are drawn.
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
        /// The log said that it is kept, and for as long as a coordinator has to.
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
    /// The place among the leaves at which it was kept, and its record.
    kept: Option<(usize, Digest)>,
    /// The place among the leaves at which it was forgotten, and why.
    forgotten: Option<(usize, String)>,
    /// Whether a model was made of it.
    made: bool,
    faults: Vec<String>,
}

/// What was released.
#[derive(Debug)]
struct Sum {
    contributed: BTreeSet<String>,
    digest: Option<Digest>,
    share: Option<f64>,
}

#[derive(Debug, Default)]
struct Study {
    attempts: BTreeMap<u64, Attempt>,
    ended: bool,
}

type Visit<'a> = &'a mut dyn FnMut(u64, &Leaf, Result<Told, String>);

/// What a log tells of sums.
#[derive(Debug, Default)]
pub(super) struct Sums {
    /// The released rounds, by study and in order.
    pub(super) rounds: Vec<Round>,
    /// Leaves that do not say what their kinds say: a round may hide in each.
    pub(super) defects: Vec<String>,
}

/// When each leaf was written. A time is whatever its writer says, so it counts only as far as the
/// leaves around it, and whoever cosigned them, bear it out.
struct Times {
    /// At the latest: not after any later leaf, nor after a cosignature.
    latest: Vec<UtcTime>,
    /// At the earliest: not before any earlier leaf.
    earliest: Vec<UtcTime>,
}

impl Times {
    fn new(said: Vec<UtcTime>, cosigned: Option<UtcTime>) -> Self {
        let (mut after, mut before) = (cosigned, None);
        let mut latest = said.clone();
        for time in latest.iter_mut().rev() {
            *time = after.map_or(*time, |after| after.min(*time));
            after = Some(*time);
        }
        let mut earliest = said;
        for time in &mut earliest {
            *time = before.map_or(*time, |before: UtcTime| before.max(*time));
            before = Some(*time);
        }
        Self { latest, earliest }
    }

    /// How long it was at least from one leaf to another.
    fn between(&self, from: usize, to: usize) -> u64 {
        let millis = |times: &[UtcTime], at: usize| times.get(at).map(|time| time.as_millis());
        let from = millis(&self.earliest, from).unwrap_or(u64::MAX);
        millis(&self.latest, to).unwrap_or(0).saturating_sub(from)
    }
}

/// The sums that `tell` tells of. `study` says of which study alone, `cosigned` when somebody other
/// than the log has seen all of it.
///
/// # Errors
/// What `tell` meets.
pub(super) fn sums(
    only: Option<&Digest>,
    cosigned: Option<UtcTime>,
    tell: impl FnOnce(Visit<'_>) -> Result<(), ReadError>,
) -> Result<Sums, ReadError> {
    let mut studies: BTreeMap<Digest, Study> = BTreeMap::new();
    let mut defects = Vec::new();
    let mut times = Vec::new();
    tell(&mut |index, leaf, told| {
        let place = times.len();
        times.push(leaf.time());
        let of = leaf.data().get("study").and_then(serde_json::Value::as_str);
        if only.is_some_and(|only| of.is_some_and(|of| of != only.as_str())) {
            return;
        }
        let told = told.unwrap_or_else(|why| {
            defects.push(format!("entry {index}: {why}"));
            Told { time: leaf.time(), study: None, round: None, slot: None, fact: Fact::Unknown }
        });
        let Told { study: Some(study), round, slot, fact, .. } = told else { return };
        let study = studies.entry(study).or_default();
        if let Fact::StudyChanged { to, .. } = &fact {
            study.ended = ["completed", "failed", "stopped"].contains(&to.as_str());
        }
        if let (Some(round), Some(slot)) = (round, slot) {
            study.attempts.entry(slot).or_default().take(place, round, fact);
        }
    })?;
    let times = Times::new(times, cosigned);
    let rounds =
        studies.into_iter().flat_map(|(digest, study)| of_study(&digest, study, &times)).collect();
    Ok(Sums { rounds, defects })
}

impl Attempt {
    fn take(&mut self, place: usize, number: u64, fact: Fact) {
        if self.round == 0 {
            self.round = number;
        } else if self.round != number {
            self.faults.push(format!("its slot is round {number} as well"));
        }
        if let Fact::RoundAnnounced { invited, .. } = fact {
            self.invited = invited.len();
        } else if let Fact::RoundContribution { site, digest, bytes } = fact {
            // Otherwise somebody could say after the sum what was in it.
            if self.released.is_some() {
                self.faults.push(format!("an update of {site} is in the log after its release"));
            }
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
            self.released = Some(Sum { contributed, digest, share: recompute_share });
        } else if let Fact::RoundKept { record, .. } = fact {
            if self.kept.as_ref().is_some_and(|(_, first)| *first != record) {
                self.faults.push("two records of it are in the log".to_owned());
            }
            self.kept.get_or_insert((place, record));
        } else if let Fact::RoundForgotten { reason } = fact {
            self.forgotten.get_or_insert((place, reason));
        } else if let Fact::ModelChanged { .. } = fact {
            self.made = true;
        }
    }
}

fn of_study(study: &Digest, told: Study, times: &Times) -> Vec<Round> {
    let Study { attempts, ended } = told;
    let shares = attempts.values().filter_map(|attempt| attempt.released.as_ref()?.share);
    // The coordinator names the share; it may not name another once it knows what is in a sum.
    let begun_with = shares.clone().next();
    let mut rounds = Vec::new();
    // From the end: what became of a round hangs on the one after it.
    let mut next: Option<BTreeMap<String, Digest>> = None;
    for (slot, attempt) in attempts.into_iter().rev() {
        let Attempt { round, invited, arrived, released, kept, forgotten, made, mut faults } =
            attempt;
        let Some(Sum { contributed, digest, share }) = released else {
            if made {
                faults.push("a model was made of it, and no release is in the log".to_owned());
                rounds.push(unreleased(study, (round, slot), faults));
            }
            continue;
        };
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
            (Some((then, reason)), kept) => {
                // What the log never said to be kept, nobody could have asked for.
                let kept_for = kept.map_or(0, |(since, _)| times.between(since, then));
                let in_time = reason == "retention" && kept_for >= SHORTEST_RETENTION_MILLIS;
                Fate::Forgotten { reason, in_time }
            }
            (None, Some((_, record))) => Fate::Kept { record },
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

/// A round whose place alone is known.
fn unreleased(study: &Digest, (round, slot): (u64, u64), faults: Vec<String>) -> Round {
    let released = Released { study: study.clone(), round, slot, sum: study.clone() };
    let (updates, fate) = (BTreeMap::new(), Fate::Untold);
    Round { released, updates, fate, share: None, most_masks: 0, faults }
}
