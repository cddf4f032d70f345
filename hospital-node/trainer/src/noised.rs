//! One step of a private study at one hospital: a coin for each patient, a clipped gradient for
//! those whom it picks, integers, noise. What leaves this file is fit to leave the house.
//!
//! The order of things is PROTOCOL-PRIVACY's: sampling (D-15 to D-17), micro-batches by a keyed hash
//! (D-18), clipping in 32-bit floats and rounding to the grid (D-11), clamp and noise (D-09, D-10).
//! An empty batch gives noise like any other (D-16). Who was picked is neither kept nor told.

use aggregation::privacy::noise::{Noise, NoiseSeed};
use aggregation::privacy::plan::Plan;
use aggregation::privacy::sampling::{MicroBatches, Patients, Sampler, SamplingSeed};
use aggregation::secret::Secret;
use aggregation::study::Study;
use rayon::prelude::*;

use crate::dataset::Examples;
use crate::random::Random;
use crate::step::augmented;
use crate::zoo::{BackendFault, Network};

/// Above this many parameters, micro-batches follow each other rather than run side by side: their
/// sums would take too much memory, and one keeps all cores busy.
const MANY_PARAMETERS: usize = 1 << 20;

/// The machine's randomness for one step, used once.
#[derive(Debug)]
pub struct Seeds {
    /// Who takes part, and with which image.
    pub sampling: SamplingSeed,
    /// The noise.
    pub noise: NoiseSeed,
    /// How images are moved about.
    pub augmentation: Secret<32>,
}

/// A step of a private study.
#[derive(Debug)]
pub struct NoisedStep<'a> {
    /// The approved study.
    pub study: &'a Study,
    /// Its noise.
    pub plan: &'a Plan,
    /// Its network.
    pub network: &'a Network,
    /// The hospital's training images.
    pub examples: &'a Examples,
    /// Whose they are.
    pub patients: &'a Patients,
    /// Which patients are summed together.
    pub micro_batches: &'a MicroBatches,
}

/// A patient whom the coin picked: the image, and what decides its views.
struct Picked {
    record: usize,
    place: usize,
}

impl NoisedStep<'_> {
    /// The noised sum of clipped gradients in wire units, one lane for each parameter; `progress` is
    /// told thousandths.
    ///
    /// # Errors
    /// [`BackendFault`] when the backend fails. That says nothing of any patient: one whose
    /// gradient is not finite is left out.
    pub fn lanes(
        &self,
        seeds: Seeds,
        offered: &[f32],
        progress: &mut dyn FnMut(u32),
    ) -> Result<Vec<u32>, BackendFault> {
        let mut sums = vec![0_i64; offered.len()];
        let micro_batches = self.draw(seeds.sampling);
        let together =
            if offered.len() > MANY_PARAMETERS { 1 } else { 2 * rayon::current_num_threads() };
        let mut done = 0;
        for group in micro_batches.chunks(together) {
            let of_group: Vec<Vec<f32>> = group
                .par_iter()
                .filter(|patients| !patients.is_empty())
                .map(|patients| self.clipped(patients, &seeds.augmentation, offered))
                .collect::<Result<_, _>>()?;
            for sum in &of_group {
                let added = self.plan.grid().add(sum, &mut sums);
                added.map_err(|_| BackendFault("a finite sum"))?;
            }
            done += group.len();
            progress(u32::try_from(done * 1000 / micro_batches.len().max(1)).unwrap_or(1000));
        }
        let mut lanes = vec![0; sums.len()];
        // How many coordinates were clamped stays here: it tells of the data.
        let _clamped = Noise::new(seeds.noise).to_wire(&sums, self.plan.clamp(), &mut lanes);
        Ok(lanes)
    }

    /// Tosses the coins and sorts whom they pick into micro-batches.
    fn draw(&self, seed: SamplingSeed) -> Vec<Vec<Picked>> {
        let mut sampler = Sampler::new(seed);
        let batch = sampler.draw(self.patients, self.plan.wanted().rate);
        let count = usize::try_from(self.micro_batches.count().get()).unwrap_or(1);
        let mut sorted: Vec<Vec<Picked>> = (0..count).map(|_| Vec::new()).collect();
        for place in batch.patients() {
            let records = self.patients.records(place).unwrap_or_default();
            let Some(record) = sampler.record(records) else { continue };
            let key = self.patients.key(place).unwrap_or_default();
            let of = usize::try_from(self.micro_batches.of(key)).unwrap_or(0);
            if let Some(micro_batch) = sorted.get_mut(of) {
                micro_batch.push(Picked { record, place });
            }
        }
        sorted
    }

    fn clipped(
        &self,
        patients: &[Picked],
        augmentation: &Secret<32>,
        offered: &[f32],
    ) -> Result<Vec<f32>, BackendFault> {
        let views = self.study.privacy.rules().map_or(1, |rules| usize::from(rules.views));
        let mut images = Vec::new();
        let mut classes = Vec::with_capacity(patients.len());
        for Picked { record, place } in patients {
            let image = self.examples.image(*record);
            let place = (*place as u64).to_le_bytes();
            let mut random =
                Random::new("consilium/views/1", &[augmentation.expose().as_slice(), &place]);
            for _ in 0..views {
                if self.study.training.local.augment {
                    images.extend(augmented(image, self.study, &mut random));
                } else {
                    images.extend_from_slice(image);
                }
            }
            classes.push(self.examples.classes[*record]);
        }
        let clip = self.plan.wanted().clip;
        Ok(self.network.clipped_sum(offered, images, &classes, views, clip)?.sum)
    }
}
