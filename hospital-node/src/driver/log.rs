//! The log: this house follows it beside everything else, and looks at it before it takes part in a
//! round (PROTOCOL R-25).

use std::sync::Arc;

use aggregation::message::{DeclineReason, Terms};
use aggregation::participant::Event;
use proto::federation::LogGrown;

use super::{Done, Driver};
use crate::link::may_pass;
use crate::witness::WitnessError;

impl Driver {
    /// Follows the log in a task of its own; one is at work at a time, and what comes of it lasts.
    pub(super) fn follow_log(&mut self, grown: LogGrown) {
        self.log = Some(grown.clone());
        let Some(client) = self.clients.borrow().clone() else { return };
        let (witness, session) = (Arc::clone(&self.house.witness), self.session);
        tokio::spawn(async move {
            match witness.follow(client, session, &grown).await {
                Ok(size) => tracing::debug!(size, "log cosigned"),
                Err(error) => tracing::warn!(%error, "the log was not cosigned"),
            }
        });
    }

    /// Looks whether the log that an offer names is the one that this house has witnessed; the offer
    /// waits for that. It is told again at the next session, so one that is lost here is not lost.
    pub(super) fn look_at_log(&mut self, terms: Terms) {
        let (Some(client), Some(grown)) = (self.clients.borrow().clone(), self.log.clone()) else {
            return;
        };
        self.vouching.insert(terms.study, terms.digest());
        let (witness, session) = (Arc::clone(&self.house.witness), self.session);
        let done = self.done.clone();
        tokio::spawn(async move {
            let result = witness.vouch(client, session, &grown, &terms).await;
            // Nobody hears it when we are stopping.
            let _ = done.send(Done::Vouched { terms: Box::new(terms), session, result }).await;
        });
    }

    /// Goes on with an offer that has waited, unless the round is over.
    pub(super) async fn vouched(
        &mut self,
        terms: Terms,
        session: u64,
        result: Result<(), WitnessError>,
    ) {
        if self.vouching.get(&terms.study) != Some(&terms.digest()) {
            return;
        }
        self.vouching.remove(&terms.study);
        let error = match result {
            // With an alarm, the house's own no is found on the way.
            Ok(()) | Err(WitnessError::Alarm(_) | WitnessError::Alarmed) => {
                return Box::pin(self.offered(terms)).await;
            }
            Err(error) => error,
        };
        tracing::warn!(%error, slot = terms.slot.get(), "the log of a round could not be looked at");
        let passing = match &error {
            WitnessError::Status(status) => may_pass(status),
            WitnessError::Late => true,
            WitnessError::Shape(_)
            | WitnessError::Old { .. }
            | WitnessError::Alarm(_)
            | WitnessError::Alarmed
            | WitnessError::State(_)
            | WitnessError::Damaged(_) => false,
        };
        if passing {
            // The offer is told again at the next session.
            if session == self.session {
                self.again.notify_one();
            }
        } else if let Some(seat) = self.seats.get_mut(&terms.study) {
            let reason = DeclineReason::Log;
            seat.happen(self.session, Event::Barred { terms, reason }).await;
        }
    }
}
