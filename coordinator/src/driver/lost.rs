//! Whose connection is gone: a round that could end without it does not wait for its deadline.

use std::time::Duration;

use aggregation::ids::HospitalId;
use aggregation::round::Input;
use aggregation::units::Timestamp;

use super::{Driver, Open, Taken, closes, shove};
use crate::store::recorded::Recorded;

/// After a start of the coordinator: sites need a while to find it again.
const RETURN: Duration = Duration::from_secs(60);

impl Driver {
    /// From when on an invited site counts as lost; none while it is here.
    fn lost_from(&self, site: &HospitalId) -> Option<Timestamp> {
        let board = &self.house.board;
        let left = board.left(site)?;
        let grace = self.charter.study().cohort.grace;
        // One that has not come since the start may be on its way.
        let patience = if left <= board.opened() { grace.max(RETURN) } else { grace };
        Some(left.saturating_add(patience))
    }

    /// When the next invited site will count as lost.
    pub(super) fn next_loss(&self, open: &Open) -> Option<Timestamp> {
        let here = open.terms.invited.iter().filter(|site| !open.lost.contains(*site));
        here.filter_map(|site| self.lost_from(site)).min()
    }

    /// Tells the round who is lost. One that is back can be lost again.
    pub(super) fn tell_losses(&self, open: &mut Open, taken: &mut Vec<Taken>) {
        open.lost.retain(|site| self.house.board.left(site).is_some());
        let now = self.house.clock.now();
        let lost = |site: &HospitalId| self.lost_from(site).is_some_and(|from| from <= now);
        let invited = open.terms.invited.iter();
        let lost: Vec<HospitalId> =
            invited.filter(|site| !open.lost.contains(*site) && lost(site)).cloned().collect();
        for hospital in lost {
            open.lost.insert(hospital.clone());
            let recorded = Recorded::Lost { hospital: hospital.clone() };
            taken.extend(shove(open, now, recorded, Input::Lost { hospital }));
            if taken.last().is_some_and(closes) {
                return;
            }
        }
    }
}
