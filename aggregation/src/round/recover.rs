//! The final set is fixed and no mask is in the sum, or none any more: the sum is read off the
//! accumulator. What is checked is that it is one of exactly this set, and one that honest sites can
//! have sent.

use crate::message::Abandoned;
use crate::round::{Attempt, Fact};
use crate::vector::{Accumulator, Implausible, Total};

/// A sum that must not leave.
#[derive(Debug)]
pub(super) struct Failed {
    /// Why.
    pub(super) why: Abandoned,
    /// What was believed impossible, if that is what happened.
    pub(super) alarm: Option<Fact>,
}

impl From<Abandoned> for Failed {
    fn from(why: Abandoned) -> Self {
        Self { why, alarm: None }
    }
}

/// Reads the sum of so many contributions.
pub(super) fn recover(
    attempt: &Attempt,
    sum: &Accumulator,
    contributed: usize,
) -> Result<Total, Failed> {
    // PROTOCOL R-11: over exactly the sites that it is released for.
    if usize::try_from(sum.added()) != Ok(contributed) {
        let miscounted = Implausible::Miscounted { added: sum.added(), contributed };
        return Err(Failed {
            alarm: Some(Fact::Alarm {
                reason: format!("{miscounted}, though both are counted in one step"),
            }),
            why: Abandoned::Implausible(miscounted),
        });
    }
    // PROTOCOL R-12
    let total = sum.finish().map_err(Abandoned::Implausible)?;
    // PROTOCOL R-20: a mean over no examples is no mean.
    if attempt.terms.work.trains() && total.weight == 0 {
        return Err(Abandoned::NoExamples.into());
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rehearsal::{charter, terms};

    /// Breaks R-11 where nothing but a fault of this program can: the alarm is told.
    #[test]
    fn a_sum_of_another_number_of_updates_raises_an_alarm() {
        let charter = charter(3, 3);
        let terms = terms(&charter, 1, 1);
        let plan = charter.plan(terms.work, None).expect("valid");
        let sum = Accumulator::new(&plan.format);
        let attempt = Attempt { digest: terms.digest(), terms, plan };
        let failed =
            recover(&attempt, &sum, 3).map(|_| ()).expect_err("none of three is in the sum");
        assert_eq!(failed.alarm.map(|fact| fact.kind()), Some("alarm"));
        assert!(matches!(failed.why, Abandoned::Implausible(_)));
    }
}
