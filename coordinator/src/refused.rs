//! What sites were refused, as the log is told of it.

use aggregation::ids::HospitalId;

use crate::board::Entry;
use crate::coordinator::Coordinator;
use crate::store::Leaf;

impl Coordinator {
    /// Tells the log that this site was refused something in the open round by this rule: once for
    /// both in an attempt, so that nobody can fill the log. What is refused when no round is open is
    /// only traced. A refusal holds whether or not it can be told.
    pub(crate) async fn refused(&self, entry: &Entry, site: &HospitalId, rule: &'static str) {
        let terms = {
            let mut standing = entry.standing();
            let Some(terms) = standing.offer.clone() else { return };
            if !standing.refused.insert((site.clone(), rule)) {
                return;
            }
            terms
        };
        let slot = terms.slot;
        let leaf = Leaf::of(terms.study, "round_refused")
            .with("round", terms.round.get())
            .with("slot", slot.get())
            .with("site", site.as_str())
            .with("rule", rule);
        let study = terms.study.short();
        match self.store.record(self.clock.now(), &[leaf]).await {
            Ok(()) => self.log.ask(),
            Err(fault) => {
                // The next one is told, if it is of the same attempt.
                let mut standing = entry.standing();
                if standing.offer.as_ref().is_some_and(|terms| terms.slot == slot) {
                    standing.refused.remove(&(site.clone(), rule));
                }
                drop(standing);
                tracing::error!(%study, %site, rule, fault = %fault.chain(), "a refusal is not in the log");
            }
        }
    }
}
