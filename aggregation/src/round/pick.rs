//! Which of the given shares fit together: recovers a secret that was committed to although some
//! shares may be wrong, and says whose (PROTOCOL R-23).

use std::collections::BTreeMap;

use crate::ids::{HospitalId, SlotId};
use crate::keys::slots::{self, Kind, PrekeyBatch};
use crate::masking::sharing::{Holder, Recovery, SecretScalar, Share};

/// Choices of shares that are tried for one secret before it is given up. One wrong share is found
/// within as many choices as there are shares; beyond a few, somebody wants the round to fail, and
/// may have it.
const MOST_CHOICES: usize = 4_096;

/// A recovered secret.
#[derive(Debug)]
pub(super) struct Pick {
    /// It fits its commitment.
    pub(super) secret: SecretScalar,
    /// Who gave a share that does not go with it.
    pub(super) wrong: Vec<HospitalId>,
}

/// Recovers secrets. The weights of a choice of holders are computed once: in the usual case one
/// choice serves every secret of a round.
#[derive(Debug)]
pub(super) struct Picker {
    threshold: usize,
    weights: BTreeMap<Vec<Holder>, Recovery>,
}

impl Picker {
    /// For secrets of which it takes so many shares, at least 1.
    pub(super) const fn new(threshold: usize) -> Self {
        Self { threshold, weights: BTreeMap::new() }
    }

    /// Recovers one secret from at least as many shares as it takes, each with its giver. None when
    /// no choice of them gives what was committed to.
    pub(super) fn pick(
        &mut self,
        batch: &PrekeyBatch,
        slot: SlotId,
        kind: Kind,
        shares: &[(&HospitalId, &Share)],
    ) -> Option<Pick> {
        let found = choices(shares.len(), self.threshold).take(MOST_CHOICES).find_map(|choice| {
            let chosen: Vec<&Share> =
                choice.iter().filter_map(|at| shares.get(*at)).map(|(_, share)| *share).collect();
            let secret = self.recover(batch, slot, kind, &chosen)?;
            Some((choice, secret))
        });
        let (choice, secret) = found?;
        let mut wrong = Vec::new();
        for (at, (giver, share)) in shares.iter().enumerate() {
            if choice.contains(&at) {
                continue;
            }
            // With all but one of the choice it gives the secret if and only if it is on the
            // polynomial that they are on.
            let others = choice.iter().skip(1).filter_map(|at| shares.get(*at));
            let with: Vec<&Share> =
                others.map(|(_, share)| *share).chain(std::iter::once(*share)).collect();
            if self.recover(batch, slot, kind, &with).is_none() {
                wrong.push((*giver).clone());
            }
        }
        Some(Pick { secret, wrong })
    }

    fn recover(
        &mut self,
        batch: &PrekeyBatch,
        slot: SlotId,
        kind: Kind,
        shares: &[&Share],
    ) -> Option<SecretScalar> {
        let holders: Vec<Holder> = shares.iter().map(|share| share.holder()).collect();
        if !self.weights.contains_key(&holders) {
            let recovery = Recovery::from_holders(&holders).ok()?;
            self.weights.insert(holders.clone(), recovery);
        }
        slots::recover(batch, slot, kind, self.weights.get(&holders)?, shares).ok()
    }
}

/// Choices of `pick` of `count` places: those next to each other first, since they leave out any
/// single place, then all in order. Nothing when there are too few.
fn choices(count: usize, pick: usize) -> impl Iterator<Item = Vec<usize>> {
    let possible = (1..=count).contains(&pick);
    let windows = (0..count).map(move |from| {
        let mut window: Vec<usize> = (0..pick).map(|step| (from + step) % count).collect();
        window.sort_unstable();
        window
    });
    let first = possible.then(|| (0..pick).collect::<Vec<_>>());
    let all = std::iter::successors(first, move |choice| following(choice, count));
    windows.filter(move |_| possible).chain(all)
}

/// The choice that follows in lexicographic order.
fn following(choice: &[usize], count: usize) -> Option<Vec<usize>> {
    let mut next = choice.to_vec();
    let from_end = (0..next.len()).rev().find(|at| {
        let room = count - (next.len() - at);
        next.get(*at).is_some_and(|place| *place < room)
    })?;
    let mut place = *next.get(from_end)?;
    for slot in next.iter_mut().skip(from_end) {
        place += 1;
        *slot = place;
    }
    Some(next)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_choice_is_made_and_one_that_leaves_out_any_place_early() {
        let all: BTreeSet<_> = choices(5, 3).collect();
        assert_eq!(all.len(), 10);
        for out in 0..5 {
            let early = choices(5, 3).take(5).any(|choice| !choice.contains(&out));
            assert!(early, "place {out} is in each of the first choices");
        }
        assert_eq!(choices(3, 3).collect::<BTreeSet<_>>(), [vec![0, 1, 2]].into());
        assert_eq!(choices(2, 3).count(), 0);
        assert_eq!(choices(2, 0).count(), 0);
    }
}
