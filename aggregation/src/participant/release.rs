//! The round has ended, one way or the other. What it has left at this site can go.

use crate::message::ClosedNotice;
use crate::participant::{Action, Participant, Phase};
use crate::refusal::Refusal;

impl Participant {
    /// The coordinator has closed a round.
    pub(super) fn closed(&mut self, notice: &ClosedNotice) -> Result<Vec<Action>, Refusal> {
        // PROTOCOL R-03
        if notice.study != self.charter.id() {
            return Err(Refusal::OtherStudy { expected: self.charter.id(), found: notice.study });
        }
        if self.slot() != Some(notice.slot) {
            return Ok(Vec::new());
        }
        self.phase = Phase::Idle;
        Ok(vec![Action::Forget(notice.slot)])
    }
}

#[cfg(test)]
mod tests {
    use crate::ids::{Digest, StudyId};
    use crate::participant::Event;
    use crate::participant::tests::{Slot, feed, rule, start};

    #[test]
    fn the_end_of_a_slot_clears_it_whatever_its_phase() {
        for events in 0..4 {
            let (mut me, slot) = start();
            let course = [slot.offered(), slot.trained(), Event::Frozen(slot.roster())];
            for event in course.into_iter().take(events) {
                feed(&mut me, event).expect("an ordinary course");
            }
            let wanted = if events == 0 { vec![] } else { vec![slot.forget()] };
            assert_eq!(feed(&mut me, slot.closed()), Ok(wanted));
            assert_eq!(feed(&mut me, slot.closed()), Ok(vec![]));
            assert_eq!(me.phase(), "idle");
        }
    }

    #[test]
    fn the_end_of_another_slot_or_study_changes_nothing() {
        let (mut me, slot) = start();
        feed(&mut me, slot.offered()).expect("meets the charter");
        let other = Slot::new(me.charter(), 1, 9);
        assert_eq!(feed(&mut me, other.closed()), Ok(vec![]));
        let mut foreign = slot.closed();
        if let Event::Closed(notice) = &mut foreign {
            notice.study = StudyId::new(Digest::new([1; 32]));
        }
        assert_eq!(rule(feed(&mut me, foreign)), Some("R-03"));
        assert_eq!(me.slot(), Some(slot.terms.slot));
    }
}
