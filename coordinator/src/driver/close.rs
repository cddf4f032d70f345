//! The end of a round: a released sum becomes the next model, and everything about it is kept in
//! one transaction, after the model is on disk.

use std::time::Duration;

use aggregation::architecture::{model_bytes, model_from_bytes};
use aggregation::ids::{Digest, StudyId};
use aggregation::life::Change;
use aggregation::message::{Closed, Outcome, Terms};
use aggregation::round::Release;
use aggregation::strategy::{ServerState, apply};
use bytes::Bytes;

use super::{Driver, Halt, Open, fact_of_round};
use crate::board::{Happened, Told};
use crate::store::course::Course;
use crate::store::kept::Keeping;
use crate::store::rounds::{After, Fit, RoundRow, Spent};
use crate::store::{Leaf, StoreError};

/// Abandoned attempts in a row after which a study is paused.
const PATIENCE: u32 = 20;
/// The pause after the first abandoned attempt; it doubles up to [`LONGEST_REST`].
const FIRST_REST: Duration = Duration::from_millis(500);
const LONGEST_REST: Duration = Duration::from_secs(30);

/// What the closing step has given.
#[derive(Debug, Default)]
pub(super) struct Ended {
    /// How it closed.
    pub(super) closed: Option<Closed>,
    /// The sum, if it may leave.
    pub(super) release: Option<Box<Release>>,
    /// The facts of the closing step.
    pub(super) leaves: Vec<Leaf>,
}

impl Ended {
    /// What a release has cost so far stands beside it in the log.
    fn spent(&mut self, spent: Option<Spent>, delta: Option<f64>) {
        let Some((spent, delta)) = spent.zip(delta) else { return };
        for leaf in self.leaves.iter_mut().filter(|leaf| leaf.kind() == "round_released") {
            leaf.add("epsilon", spent.planned);
            leaf.add("epsilon_solo", spent.solo);
            leaf.add("delta", delta);
        }
    }

    /// No model follows from the sum (PROTOCOL R-20): then there was no release either, and the log
    /// says why.
    fn without_model(&mut self, terms: &Terms, reason: &str) {
        self.release = None;
        self.leaves.retain(|leaf| leaf.kind() != "round_released");
        self.leaves.push(fact_of_round(terms, "round_abandoned").with("reason", reason));
    }
}

/// A model that follows from a sum.
struct Next {
    bytes: Bytes,
    server: ServerState,
    state: Option<Bytes>,
}

impl Driver {
    /// Closes the round for good; tries again for as long as the disk refuses.
    pub(super) async fn close(&mut self, open: Open, mut ended: Ended) -> Result<(), Halt> {
        let Some(closed) = ended.closed.clone() else { return Ok(()) };
        let mut notice = closed.notice();
        let stepped = ended.release.as_deref().map(|release| self.step_model(release));
        let next = match stepped.unwrap_or(Ok(None)) {
            Ok(next) => next,
            Err(reason) => {
                let (study, round) = (closed.study.short(), closed.round.get());
                tracing::error!(%study, round, reason, "no model");
                ended.without_model(&open.terms, &reason);
                (notice.released, notice.reason) = (false, reason);
                None
            }
        };
        let mut row = row(&open, &closed, ended.release.as_deref());
        (row.released, row.reason) = (notice.released, notice.reason.clone());
        row.model = self.study.model;
        row.epsilon = self.spent().await?;
        ended.spent(row.epsilon, self.charter.noise().map(|plan| plan.wanted().delta.get()));
        for (site, course) in &mut row.courses {
            course.away = self.house.board.left(site).is_some();
        }
        let (after, keeping) = loop {
            match self.keep(&mut row, next.as_ref(), &ended).await {
                Ok(kept) => break kept,
                Err(fault) => self.unreachable_store(&fault).await?,
            }
        };
        if let Some(next) = next {
            self.study.model_bytes = next.bytes;
            self.study.server = next.server;
        }
        let replaced = std::mem::replace(&mut self.study.optimizer, after.optimizer);
        self.study.model = after.model;
        self.study.next_round = after.next_round;
        self.house.log.ask();
        self.settled().await?;
        {
            let mut standing = self.entry.standing();
            standing.clear_round();
            standing.last = Some(notice.clone());
            standing.model = Some((self.study.model, self.study.model_bytes.clone()));
            standing.released += u32::from(row.released);
        }
        self.sweep(&open, replaced, keeping).await;
        let seconds = row.closed.since(row.announced).as_secs_f64();
        let [(_, loss), (_, auroc), _, (_, dice), ..] = figures(&row);
        tracing::info!(
            study = %closed.study.short(), round = closed.round.get(), slot = closed.slot.get(),
            released = row.released, contributed = row.contributed.len(), dropped = row.dropped.len(),
            loss, auroc, dice, seconds, "round closed"
        );
        self.house.board.tell(&open.terms.invited, Told::Closed(notice));
        let released = row.released;
        let reason = row.reason.clone();
        self.entry.tell(Happened::Closed(Box::new(row)));
        self.parted = Some((self.house.clock.now(), open.terms.invited));
        self.previous = Some((open.digest, open.round));
        self.rest_after(released, &reason).await;
        Ok(())
    }

    /// What the patients of the site that was charged most have spent, whatever became of its
    /// attempts; tries again for as long as the disk refuses.
    async fn spent(&mut self) -> Result<Option<Spent>, Halt> {
        let Some(rules) = self.charter.study().privacy.rules().copied() else { return Ok(None) };
        let charged = loop {
            match self.house.store.most_charges(self.entry.id).await {
                Ok(charged) => break charged,
                Err(fault) => self.unreachable_store(&fault).await?,
            }
        };
        let Some(plan) = self.charter.noise() else { return Ok(None) };
        let spending = plan.spending(charged);
        let delta = plan.wanted().delta;
        let spent = tokio::task::block_in_place(|| spending.epsilon(rules.accountant, delta));
        Ok(Some(Spent { planned: spent.planned.get(), solo: spent.solo.get() }))
    }

    /// Keeps the closing. The blobs go first: a row never names what is not on disk.
    async fn keep(
        &self,
        row: &mut RoundRow,
        next: Option<&Next>,
        ended: &Ended,
    ) -> Result<(After, Keeping), StoreError> {
        let blobs = &self.house.store.blobs;
        let mut after = After {
            next_round: if row.released { row.round.next() } else { row.round },
            model: self.study.model,
            optimizer: self.study.optimizer,
            life: None,
        };
        if let Some(next) = next {
            after.model = blobs.put_model(next.bytes.clone()).await?;
            after.optimizer = match &next.state {
                Some(bytes) => Some(blobs.put_optimizer(bytes.clone()).await?),
                None => None,
            };
        }
        row.model = after.model;
        row.closed = self.house.clock.now();
        let mut leaves = ended.leaves.clone();
        if row.released {
            leaves.push(
                Leaf::of(self.entry.id, "model_changed")
                    .with("round", row.round.get())
                    .with("slot", row.slot.get())
                    .with("before", self.study.model.to_string())
                    .with("after", after.model.to_string()),
            );
            leaves.extend(evaluated(self.entry.id, self.study.model, row));
        }
        let keeping = self.keeping(ended.release.as_deref()).await?;
        if ended.release.is_some() && keeping.fresh.is_none() && self.share() > 0.0 {
            let leaf = Leaf::of(self.entry.id, "round_forgotten");
            let leaf = leaf.with("round", row.round.get()).with("slot", row.slot.get());
            leaves.push(leaf.with("reason", "size cap"));
        }
        self.house.store.close_round(self.entry.id, row, &after, &leaves, &keeping).await?;
        Ok((after, keeping))
    }

    /// The model that a sum makes, and the optimiser's state after it. `None` when nothing was
    /// trained.
    fn step_model(&self, release: &Release) -> Result<Option<Next>, String> {
        if !release.terms.work.trains() {
            return Ok(None);
        }
        let training = &self.charter.study().training;
        tokio::task::block_in_place(|| {
            let mut model =
                model_from_bytes(&self.study.model_bytes).map_err(|fault| fault.to_string())?;
            let mut server = self.study.server.clone();
            apply(training, &mut server, &mut model, &release.total)
                .map_err(|fault| fault.to_string())?;
            let fresh = ServerState::new(training, model.len());
            let state = (server != fresh).then(|| Bytes::from(server.to_bytes()));
            Ok(Some(Next { bytes: Bytes::from(model_bytes(&model)), server, state }))
        })
    }

    /// Forgets what the closed round leaves on disk, and puts away what is kept of it; the next round
    /// does not wait for that.
    async fn sweep(&mut self, open: &Open, optimizer: Option<Digest>, keeping: Keeping) {
        let house = std::sync::Arc::clone(&self.house);
        let (study, slot) = (open.terms.study, open.terms.slot);
        let unused = optimizer.filter(|old| Some(*old) != self.study.optimizer);
        self.swept().await;
        self.sweeping = Some(tokio::spawn(async move {
            // What is kept goes to its place before the rest goes away.
            if house.tidy(&keeping).await {
                house.store.blobs.drop_staged(study, Some(slot)).await;
            }
            if let Err(fault) = house.expire_kept().await {
                tracing::warn!(fault = %fault.chain(), "kept rounds were not looked through");
            }
            if let Some(old) = unused {
                house.store.blobs.drop_optimizer(old).await;
            }
        }));
    }

    /// Waits until the round before is swept up.
    pub(super) async fn swept(&mut self) {
        if let Some(sweeping) = self.sweeping.take() {
            // What a broken-off task leaves is seen at the next start.
            let _ = sweeping.await;
        }
    }

    /// After an abandoned attempt the next one waits a little; after too many the study pauses.
    async fn rest_after(&mut self, released: bool, reason: &str) {
        if released {
            self.failures = 0;
            return;
        }
        self.failures += 1;
        let doublings = self.failures.saturating_sub(1).min(16);
        let rest = FIRST_REST.saturating_mul(1 << doublings).min(LONGEST_REST);
        self.not_before = self.house.clock.now().saturating_add(rest);
        if self.failures >= PATIENCE {
            self.failures = 0;
            let why =
                format!("{PATIENCE} attempts in a row were abandoned, the last because {reason}");
            let paused =
                self.house.change_life(&self.entry, Change::Pause, &why, "coordinator").await;
            if let Err(fault) = paused {
                tracing::warn!(study = %self.entry.id.short(), %fault, "study was not paused");
            }
        } else {
            let seconds = rest.as_secs_f64();
            self.entry.standing().waiting_for =
                format!("the last attempt was abandoned ({reason}); the next in {seconds} s");
        }
    }
}

/// How good the model was that the round offered, as far as it may be told: over all contributing
/// sites together. Of one alone it would be a figure of a single site.
fn figures(row: &RoundRow) -> [(&'static str, Option<f64>); 6] {
    let together = row.contributed.len() > 1;
    [
        ("loss", row.loss),
        ("auroc", row.auroc),
        ("accuracy", row.accuracy),
        ("dice", row.fit.dice),
        ("hausdorff", row.fit.hausdorff),
        ("hausdorff_95", row.fit.hausdorff_95),
    ]
    .map(|(name, figure)| (name, figure.filter(|_| together)))
}

/// The same as a leaf; none if there is nothing to tell.
fn evaluated(study: StudyId, model: Digest, row: &RoundRow) -> Option<Leaf> {
    let figures = figures(row);
    let known = figures.into_iter().filter_map(|(name, figure)| Some((name, figure?)));
    figures.iter().any(|(_, one)| one.is_some()).then(|| {
        let leaf = Leaf::of(study, "round_evaluated")
            .with("round", row.round.get())
            .with("slot", row.slot.get())
            .with("model", model.to_string())
            .with("sites", row.contributed.len());
        known.fold(leaf, |leaf, (name, figure)| leaf.with(name, figure))
    })
}

/// The round as history has it. Its metrics are of the model that it offered.
fn row(open: &Open, closed: &Closed, release: Option<&Release>) -> RoundRow {
    let metrics = release.and_then(|release| release.total.metrics.as_ref());
    let mut dropped: std::collections::BTreeMap<_, _> =
        closed.dropped.iter().map(|(site, why)| (site.clone(), why.to_string())).collect();
    let mut courses = open.courses.clone();
    for (site, why) in &open.absent {
        dropped.insert(site.clone(), why.reason().to_owned());
        courses.insert(site.clone(), Course::default());
    }
    RoundRow {
        round: closed.round,
        slot: closed.slot,
        released: closed.outcome == Outcome::Released,
        reason: match &closed.outcome {
            Outcome::Released => String::new(),
            Outcome::Abandoned(why) => why.to_string(),
        },
        contributed: closed.contributed.clone(),
        dropped,
        courses,
        loss: metrics.and_then(aggregation::evaluation::MetricTally::loss),
        auroc: metrics.and_then(aggregation::evaluation::MetricTally::auroc),
        accuracy: metrics.and_then(aggregation::evaluation::MetricTally::accuracy),
        fit: Fit {
            dice: metrics.and_then(aggregation::evaluation::MetricTally::dice),
            hausdorff: metrics.and_then(aggregation::evaluation::MetricTally::hausdorff),
            hausdorff_95: metrics.and_then(aggregation::evaluation::MetricTally::hausdorff_95),
        },
        epsilon: None,
        announced: open.opened,
        closed: open.opened,
        model: open.terms.model,
    }
}

#[cfg(test)]
mod tests {
    use aggregation::ids::{HospitalId, RoundId, SlotId};
    use aggregation::units::Timestamp;

    use super::*;

    #[test]
    fn a_single_sites_scores_are_told_nowhere() {
        let site = |name: &str| HospitalId::new(name).expect("a valid name");
        let study = StudyId::new(Digest::sha256(b"study"));
        let mut row = RoundRow {
            round: RoundId::FIRST,
            slot: SlotId::new(1),
            released: true,
            reason: String::new(),
            contributed: [site("alpha")].into(),
            dropped: std::collections::BTreeMap::new(),
            courses: std::collections::BTreeMap::new(),
            loss: Some(0.5),
            auroc: Some(0.75),
            accuracy: None,
            fit: Fit { dice: Some(0.25), ..Fit::default() },
            epsilon: None,
            announced: Timestamp::from_millis(1),
            closed: Timestamp::from_millis(2),
            model: study.digest(),
        };
        assert!(figures(&row).iter().all(|(_, figure)| figure.is_none()));
        assert_eq!(evaluated(study, row.model, &row), None);
        row.contributed.insert(site("beta"));
        let [loss, auroc, accuracy, dice, ..] = figures(&row);
        assert_eq!((loss, auroc), (("loss", Some(0.5)), ("auroc", Some(0.75))));
        assert_eq!((accuracy, dice), (("accuracy", None), ("dice", Some(0.25))));
        assert!(evaluated(study, row.model, &row).is_some());
    }
}
