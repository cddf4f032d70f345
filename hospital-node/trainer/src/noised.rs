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

use crate::ahead::ahead;
use crate::dataset::Examples;
use crate::random::Random;
use crate::step::StepError;
use crate::views::Views;
use crate::zoo::{BackendFault, Loaded, Network};

/// Above this many parameters, micro-batches follow each other rather than run side by side: their
/// sums would take too much memory, and one keeps all cores busy. So they do on a device of its own,
/// which has memory for one.
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
    /// The noised sum of clipped gradients in wire units, one lane for each parameter.
    ///
    /// Nobody is told how far it is: how long each micro-batch takes says how many were drawn into
    /// it (PROTOCOL D-17).
    ///
    /// # Errors
    /// [`StepError`] when the backend fails, or the disk. That says nothing of any patient: one whose
    /// gradient is not finite is left out.
    pub fn lanes(&self, seeds: Seeds, offered: &[f32]) -> Result<Vec<u32>, StepError> {
        let mut sums = vec![0_i64; offered.len()];
        let micro_batches = self.draw(seeds.sampling);
        let model = self.network.load(offered);
        let alone = offered.len() > MANY_PARAMETERS || !self.network.is_on_cpu();
        let mut add = |sum: &[f32]| -> Result<(), StepError> {
            let added = self.plan.grid().add(sum, &mut sums);
            Ok(added.map_err(|_| BackendFault("a finite sum"))?)
        };
        let drawn = |patients: &&Vec<Picked>| !patients.is_empty();
        if alone {
            // One at a time stays on this thread: devices keep memory for each that speaks to them.
            ahead(
                |give| {
                    for patients in micro_batches.iter().filter(drawn) {
                        if !give(self.views(patients, &seeds.augmentation)?) {
                            break;
                        }
                    }
                    Ok::<_, StepError>(())
                },
                |views| add(&self.clipped(views, &model)?),
            )?;
        } else {
            let clipped = |patients: &Vec<Picked>| {
                self.clipped(self.views(patients, &seeds.augmentation)?, &model)
            };
            for group in micro_batches.chunks(2 * rayon::current_num_threads()) {
                let of_group: Vec<Vec<f32>> =
                    group.par_iter().filter(drawn).map(clipped).collect::<Result<_, _>>()?;
                of_group.iter().try_for_each(|sum| add(sum))?;
            }
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

    /// The images of patients, each as often as the study wants to see it.
    fn views(
        &self,
        patients: &[Picked],
        augmentation: &Secret<32>,
    ) -> Result<Views<'_>, StepError> {
        let mut of_patients = Views::of(self.study);
        for Picked { record, place } in patients {
            let place = (*place as u64).to_le_bytes();
            let mut random =
                Random::new("consilium/views/1", &[augmentation.expose().as_slice(), &place]);
            of_patients.add(self.examples, *record, self.times(), &mut random)?;
        }
        Ok(of_patients)
    }

    fn times(&self) -> usize {
        self.study.privacy.rules().map_or(1, |rules| usize::from(rules.views))
    }

    fn clipped(&self, of_patients: Views<'_>, model: &Loaded<'_>) -> Result<Vec<f32>, StepError> {
        let Views { images, answers, .. } = of_patients;
        let clip = self.plan.wanted().clip;
        Ok(model.clipped_sum(images, answers.targets(), self.times(), clip)?.sum)
    }
}

#[cfg(test)]
mod tests {
    use aggregation::vector::{Accumulator, VectorFormat, encode_noised};
    use burn::tensor::Device;

    use super::*;
    use crate::serve::tests::private_manifest;

    struct House {
        study: Study,
        plan: Plan,
        network: Network,
        examples: Examples,
    }

    /// Eight images of eight by eight pixels; the study draws at this rate.
    fn house(rate: f64) -> House {
        // A rate at which nobody comes is one for a great many.
        let many = if rate < 0.01 { "patients = 4000000000" } else { "patients = 24" };
        let manifest = private_manifest(rate, "").replace("patients = 24", many);
        let study = proto::manifest::parse(&manifest).expect("valid");
        let plan = study.noise_plan(3).expect("a plan").expect("private");
        let network = Network::new(study.model, &study.task, Device::flex());
        let mut random = Random::new("images", &[]);
        #[expect(clippy::cast_possible_truncation, reason = "test values")]
        let images: Vec<f32> = (0..8 * 64).map(|_| random.normal() as f32).collect();
        let examples = Examples::classified(&images, &[0, 1].repeat(4)).expect("memory");
        House { study, plan, network, examples }
    }

    fn seeds(byte: u8) -> Seeds {
        let secret = |purpose: u8| Secret::new([byte ^ (purpose << 6); 32]);
        Seeds {
            sampling: SamplingSeed::new(secret(1)),
            noise: NoiseSeed::new(secret(2)),
            augmentation: secret(3),
        }
    }

    fn lanes(house: &House, owners: &[u8], seed: u8) -> Vec<u32> {
        let keys = owners.iter().map(|owner| Some([*owner]));
        let patients = Patients::group(keys).expect("everybody has one");
        let micro_batches = MicroBatches::new(Secret::new([5; 32]), 8);
        let step = NoisedStep {
            study: &house.study,
            plan: &house.plan,
            network: &house.network,
            examples: &house.examples,
            patients: &patients,
            micro_batches: &micro_batches,
        };
        let model = house.study.layout().initial(1);
        step.lanes(seeds(seed), &model).expect("the CPU computes")
    }

    /// The sum that a consortium of three would read, this site's part of it alone, in reals.
    fn read(house: &House, lanes: &[u32]) -> Vec<f64> {
        let work = aggregation::message::Work::Train;
        let format = VectorFormat::planned(&house.study, 3, work, Some(&house.plan));
        let format = format.expect("three sites");
        let mut sum = Accumulator::new(&format);
        sum.add(&encode_noised(&format, lanes, None).expect("it fits")).expect("its length");
        let batch = house.study.privacy.rules().expect("private").batch();
        sum.finish().expect("plausible").update.iter().map(|mean| mean * batch).collect()
    }

    fn norm(values: &[f64]) -> f64 {
        values.iter().map(|value| value * value).sum::<f64>().sqrt()
    }

    #[test]
    fn what_is_read_is_the_clipped_sum_and_noise_of_the_planned_size() {
        let house = house(1.0);
        let owners = [1, 2, 3, 4, 5, 6, 7, 8];
        let model = house.study.layout().initial(1);
        let clip = house.plan.wanted().clip;
        let images = house.examples.several(0..8).expect("there").0;
        let exact = house.network.clipped_sum(&model, images, &[0, 1].repeat(4), 1, clip);
        let exact = exact.expect("the CPU computes").sum;
        // Averaged over many steps the noise goes away and the clipped sum is left.
        let (runs, mut mean) = (64_u8, vec![0.0; exact.len()]);
        let mut sizes = 0.0;
        for seed in 0..runs {
            let found = read(&house, &lanes(&house, &owners, seed));
            for ((mean, found), exact) in mean.iter_mut().zip(&found).zip(&exact) {
                *mean += (found - f64::from(*exact)) / f64::from(runs);
            }
            let noise: Vec<f64> =
                found.iter().zip(&exact).map(|(f, e)| f - f64::from(*e)).collect();
            sizes += norm(&noise) / f64::from(runs);
        }
        let d = f64::from(u32::try_from(exact.len()).expect("a small model"));
        let expected = house.plan.sigma_share() * d.sqrt();
        assert!((sizes / expected - 1.0).abs() < 0.1, "noise of {sizes}, not {expected}");
        let left = norm(&mean);
        assert!(left < 1.5 * expected / f64::from(runs).sqrt(), "{left} of {expected} is left");
    }

    /// D-16: nobody is drawn, and noise leaves like any other time.
    #[test]
    fn an_empty_batch_gives_noise() {
        let house = house(1e-9);
        let (first, second) = (lanes(&house, &[1; 8], 1), lanes(&house, &[1; 8], 2));
        assert!(first.iter().filter(|lane| **lane != 0).count() > first.len() / 2);
        assert_ne!(first, second, "every step has noise of its own");
        let size = norm(&read(&house, &first));
        let d = f64::from(u32::try_from(first.len()).expect("a small model"));
        assert!(size < 1.5 * house.plan.sigma_share() * d.sqrt(), "{size} is more than noise");
    }

    /// One patient, all images: what they add has at most the clipping norm, however many there are.
    #[test]
    fn a_patient_with_many_images_counts_once() {
        let house = house(1.0);
        let mut crowd = Vec::new();
        let mut classes = Vec::new();
        for _ in 0..1_250 {
            crowd.extend(house.examples.several(0..8).expect("there").0);
            classes.extend([0, 1].repeat(4));
        }
        let house =
            House { examples: Examples::classified(&crowd, &classes).expect("memory"), ..house };
        let owners = vec![7; 10_000];
        let mut mean = vec![0.0; house.study.layout().parameters()];
        for seed in 0..64 {
            for (mean, found) in mean.iter_mut().zip(read(&house, &lanes(&house, &owners, seed))) {
                *mean += found / 64.0;
            }
        }
        let d = f64::from(u32::try_from(mean.len()).expect("a small model"));
        let noise = house.plan.sigma_share() * d.sqrt() / 8.0;
        let clip = house.plan.wanted().clip.get();
        assert!(norm(&mean) < clip + 2.0 * noise, "{} is more than {clip}", norm(&mean));
    }

    #[test]
    fn threads_do_not_change_a_lane() {
        let house = house(0.7);
        let with = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            pool.expect("threads start").install(|| lanes(&house, &[1, 2, 3, 4, 5, 6, 7, 8], 9))
        };
        let alone = with(1);
        assert_eq!(alone, with(2));
        assert_eq!(alone, with(3));
    }
}
