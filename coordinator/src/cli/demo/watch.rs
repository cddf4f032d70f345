//! Following the study to its end, and doing to its hospitals what is asked for on the way.

use std::collections::VecDeque;
use std::time::Duration;

use proto::cli::Failure;
use proto::federation::operator_client::OperatorClient;
use proto::federation::{
    RoundView, Stage, StudyEvent, StudyRequest, StudyState, StudyView, study_event,
};
use tonic::transport::Channel;

use super::drops::{Drops, Order};
use super::federation::Federation;
use super::screen::{DropLine, RoundLine, Screen};
use crate::cli::study::shown::{Done, dropped_after};

/// How often the processes are looked after when nothing happens.
const CHECK: Duration = Duration::from_millis(500);

/// Follows the study to its end, through restarts of anything.
pub(super) async fn watch(
    study: &str,
    federation: &mut Federation,
    drops: &mut Drops,
    screen: &Screen,
) -> Result<StudyView, Failure> {
    screen.begin(&federation.names());
    let mut shown = Shown::default();
    loop {
        let mut operator = federation.operator().await?;
        let request = StudyRequest { study: study.to_owned() };
        if let Ok(stream) = operator.watch_study(request).await {
            let mut events = stream.into_inner();
            loop {
                let next = tokio::time::timeout(CHECK, events.message()).await;
                for name in federation.revive_nodes()? {
                    screen.event(&format!("{name} had ended and is started again"));
                }
                match next {
                    // Quiet: time to look after the processes, as above.
                    Err(_) => shown.quiet(screen),
                    Ok(Ok(Some(event))) => {
                        let orders = drops.see(&event);
                        obey(orders, federation, drops, &mut operator, screen).await?;
                        if let Some(last) = shown.event(event, screen) {
                            return Ok(last);
                        }
                    }
                    Ok(Ok(None) | Err(_)) => break,
                }
            }
        }
        // What happened meanwhile is not known: nobody may stay held for it.
        obey(drops.lost(), federation, drops, &mut operator, screen).await?;
        if federation.revive_coordinator()? {
            screen.event("the coordinator had ended and is started again");
        } else {
            screen.event("the coordinator does not answer; waiting for it");
        }
        tokio::time::sleep(CHECK).await;
    }
}

/// Does to the hospitals' processes what the drops ask for.
async fn obey(
    mut orders: VecDeque<Order>,
    federation: &mut Federation,
    drops: &mut Drops,
    operator: &mut OperatorClient<Channel>,
    screen: &Screen,
) -> Result<(), Failure> {
    while let Some(order) = orders.pop_front() {
        match order {
            Order::Hold(name) => federation.hold(&name)?,
            Order::Release(name) => federation.release(&name)?,
            Order::Kill(name, phase) => {
                federation.kill(&name, operator).await?;
                screen.event(&format!("{name} is killed (after {phase})"));
                orders.extend(drops.killed(&name));
            }
            Order::Start(name) => {
                federation.start_again(&name)?;
                screen.event(&format!("{name} is started again"));
            }
            Order::Tell(told) => screen.dropped(&DropLine {
                event: "drop",
                round: told.round,
                as_asked: told.as_asked(),
                asked: told.phase.to_string(),
                site: told.site,
                last: told.last,
            }),
        }
    }
    Ok(())
}

/// What has been put on the screen so far; a reconnected stream repeats things.
///
/// A round's metrics are those of the model that it offered, which is the model that the round
/// before it made. The table shows each model beside the round that made it, so a row waits for
/// the next round.
#[derive(Default)]
struct Shown {
    planned: u32,
    seen: u32,
    slot: u64,
    waiting_for: String,
    waited_for: String,
    row: Option<RoundLine>,
}

impl Shown {
    /// Nothing happens: says what is waited for, once.
    fn quiet(&mut self, screen: &Screen) {
        if self.waited_for != self.waiting_for {
            self.waited_for.clone_from(&self.waiting_for);
            screen.waiting(&self.waiting_for);
        }
    }

    /// Shows an event; the study's last view when it has ended.
    fn event(&mut self, event: StudyEvent, screen: &Screen) -> Option<StudyView> {
        match event.event? {
            study_event::Event::Snapshot(view) => {
                self.planned = view.rounds;
                for round in &view.history {
                    self.round(round, screen);
                }
                self.waiting_for.clone_from(&view.waiting_for);
                let over = matches!(
                    view.state(),
                    StudyState::Completed
                        | StudyState::Failed
                        | StudyState::Stopped
                        | StudyState::Paused
                );
                return over.then_some(view);
            }
            study_event::Event::Started(started) => {
                for site in &started.invited {
                    screen.progress(site, Stage::Unspecified, 0);
                }
            }
            study_event::Event::Progress(progress) => {
                screen.progress(&progress.site, progress.stage(), progress.permille);
            }
            study_event::Event::Ready(ready) => {
                screen.progress(&ready.site, Stage::Waiting, 1000);
            }
            study_event::Event::Uploaded(uploaded) => {
                screen.progress(&uploaded.site, Stage::Done, 1000);
            }
            study_event::Event::Signed(signed) => {
                screen.progress(&signed.site, Stage::Unmasking, 1000);
            }
            study_event::Event::Unmasked(unmasked) => {
                screen.progress(&unmasked.site, Stage::Done, 1000);
            }
            study_event::Event::Closed(round) => self.round(&round, screen),
        }
        None
    }

    fn round(&mut self, round: &RoundView, screen: &Screen) {
        if !round.released {
            if round.slot > self.slot {
                let RoundView { round: number, reason, dropped, .. } = round;
                let missing = match dropped.join(", ").as_str() {
                    "" => String::new(),
                    names => format!("; without {names}"),
                };
                screen.event(&format!("round {number} is tried again: {reason}{missing}"));
            }
            self.slot = self.slot.max(round.slot);
            return;
        }
        if round.round <= self.seen {
            return;
        }
        self.seen = round.round;
        if let Some(mut row) = self.row.take() {
            (row.loss, row.auroc, row.accuracy) = (round.loss, round.auroc, round.accuracy);
            screen.round(&row);
        }
        // The last round only scores; there is no model of its own to wait for.
        if round.round > self.planned {
            return;
        }
        let seconds = Duration::from_millis(round.closed_ms.saturating_sub(round.announced_ms));
        self.row = Some(RoundLine {
            event: "round",
            round: round.round,
            sites: round.contributed.clone(),
            dropped: round.dropped.clone(),
            done: Done::new(&round.courses),
            dropped_after: dropped_after(&round.courses),
            loss: None,
            auroc: None,
            accuracy: None,
            epsilon: round.epsilon,
            epsilon_solo: round.epsilon_solo,
            seconds: seconds.as_secs_f64(),
        });
    }
}
