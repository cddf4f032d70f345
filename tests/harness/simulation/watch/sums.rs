//! What a released sum has to be, in plain integers: what each contribution adds was written down
//! before its masks were put on, and is added up here by other means than the coordinator's.

use std::collections::BTreeMap;
use std::sync::Arc;

use aggregation::charter::Charter;
use aggregation::evaluation::MetricTally;
use aggregation::ids::{Digest, HospitalId, SlotId};
use aggregation::round::Release;
use aggregation::vector::VectorFormat;

/// What is known of all contributions.
#[derive(Debug)]
pub(super) struct Sums {
    charter: Charter,
    adds: BTreeMap<(SlotId, HospitalId, Digest), Arc<Vec<u8>>>,
    contributed: BTreeMap<(SlotId, HospitalId), Digest>,
}

impl Sums {
    pub(super) fn new(charter: &Charter) -> Self {
        Self { charter: charter.clone(), adds: BTreeMap::new(), contributed: BTreeMap::new() }
    }

    /// An update with this digest, as it is sent, adds these packed lanes to a sum.
    pub(super) fn adds(
        &mut self,
        of: &HospitalId,
        slot: SlotId,
        sent: Digest,
        plain: Arc<Vec<u8>>,
    ) {
        self.adds.insert((slot, of.clone(), sent), plain);
    }

    /// What was written down of an update.
    pub(super) fn added_by(
        &self,
        of: &HospitalId,
        slot: SlotId,
        sent: Digest,
    ) -> Option<Arc<Vec<u8>>> {
        self.adds.get(&(slot, of.clone(), sent)).cloned()
    }

    /// The coordinator has counted the update with this digest.
    pub(super) fn contributed(&mut self, slot: SlotId, of: &HospitalId, sent: Digest) {
        self.contributed.insert((slot, of.clone()), sent);
    }

    /// Whether a release is the sum that it has to be.
    pub(super) fn check(&self, release: &Release) -> Result<(), String> {
        let slot = release.terms.slot;
        let format = self.charter.format(release.terms.work).map_err(|fault| fault.to_string())?;
        let mut sums = vec![0_u64; format.lanes()];
        for hospital in &release.contributed {
            let sent = self.contributed.get(&(slot, hospital.clone()));
            let plain = sent.and_then(|sent| self.adds.get(&(slot, hospital.clone(), *sent)));
            let plain = plain.ok_or_else(|| format!("{hospital} never sent what is in the sum"))?;
            for (sum, lane) in sums.iter_mut().zip(plain.chunks(format.modulus().bytes())) {
                *sum += lane.iter().rev().fold(0, |lane, byte| lane << 8 | u64::from(*byte));
            }
        }
        let modulus = 1_u64 << format.modulus().bits();
        for sum in &mut sums {
            *sum %= modulus;
        }
        let (model, counters) = sums.split_at(format.model());
        let mut counters = counters.chunks(format.limbs()).map(|limbs| {
            limbs.iter().rev().fold(0, |value: u64, limb| (value << format.limb_bits()) + limb)
        });
        let weight = counters.next().unwrap_or(0);
        if weight != release.total.weight {
            return Err(format!("the weight is {}, not {weight}", release.total.weight));
        }
        check_model(&format, model, weight, &release.total.update)?;
        match (&release.total.metrics, format.metrics()) {
            (None, None) => Ok(()),
            (Some(found), Some(_)) => check_metrics(counters, found),
            (Some(_), None) => Err("metrics that nobody asked for".to_owned()),
            (None, Some(_)) => Err("no metrics".to_owned()),
        }
    }
}

/// The mean times the weight, in steps of the grid, is the sum of the lanes.
fn check_model(
    format: &VectorFormat,
    sums: &[u64],
    weight: u64,
    mean: &[f64],
) -> Result<(), String> {
    if mean.len() != sums.len() {
        return Err(format!("{} coordinates, not {}", mean.len(), sums.len()));
    }
    let half = 1_i64 << (format.modulus().bits() - 1);
    let cap = format.weight_cap().map_or(f64::NAN, f64::from);
    let scale = if weight == 0 { 0.0 } else { real(weight) / cap };
    for (index, (sum, mean)) in sums.iter().zip(mean).enumerate() {
        let sum = i64::try_from(*sum).unwrap_or(i64::MAX);
        let sum = if sum >= half { sum - 2 * half } else { sum };
        let sum = i32::try_from(sum).map_or(f64::NAN, f64::from);
        let found = mean * scale / format.step();
        let expected = if weight == 0 { 0.0 } else { sum };
        // The mean was divided once and multiplied once; sums are integers below 2^31.
        let near = (found - expected).abs() < 1e-3;
        if !near {
            return Err(format!("coordinate {index} is {found} steps, not {expected}"));
        }
    }
    Ok(())
}

fn check_metrics(
    mut counters: impl Iterator<Item = u64>,
    found: &MetricTally,
) -> Result<(), String> {
    let listed = [found.examples, found.loss_micro, found.correct];
    let binned = found.histograms.iter().flatten().flatten().copied();
    for (index, found) in listed.into_iter().chain(binned).enumerate() {
        let expected = counters.next();
        if expected != Some(found) {
            return Err(format!("counter {index} is {found}, not {expected:?}"));
        }
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "a weight is below 2^48, and f64 is exact to 2^53")]
const fn real(count: u64) -> f64 {
    count as f64
}
