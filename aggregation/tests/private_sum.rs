//! A private sum as its callers make it: coordinator, agents and trainers, with nothing but what is
//! public. And all that people get wrong, each with its one answer.

use aggregation::ids::{Digest, RoundId, SlotId, StudyId};
use aggregation::keys::thresholds::Thresholds;
use aggregation::privacy::accountant::Accountant;
use aggregation::privacy::charge::Mode;
use aggregation::privacy::ledger::{Cap, Caps, Declined, Entry, Ledger, Scope};
use aggregation::privacy::noise::{Noise, NoiseSeed};
use aggregation::privacy::plan::{BadPlan, Calibration, Plan, Wanted};
use aggregation::privacy::sampling::{BadRecords, MicroBatches, Patients, Sampler, SamplingSeed};
use aggregation::secret::Secret;
use aggregation::units::{ClipNorm, Delta, Epsilon, NoiseMultiplier, SamplingRate};

const SITES: u16 = 5;
const PARAMETERS: u32 = 2_000;

fn wanted() -> Wanted {
    Wanted {
        mode: Mode::Distributed,
        thresholds: Thresholds::new(SITES, 1, 4).expect("they hold together"),
        calibration: Calibration::Target(Epsilon::new(3.0).expect("3 is one"), Accountant::Pld),
        rate: SamplingRate::new(0.5).expect("a half is one"),
        delta: Delta::new(1e-5).expect("it is one"),
        clip: ClipNorm::new(2.0).expect("2 is one"),
        rounds: 20,
        steps_per_round: 1,
        parameters: PARAMETERS.into(),
        patients: 20,
    }
}

/// A site's forty patients, one to three images each.
fn patients(site: u8) -> Patients {
    let of = |patient: u8| [site, patient];
    let keys = (0..40).flat_map(|p| vec![Some(of(p)); usize::from(1 + p % 3)]);
    Patients::group(keys).expect("everybody has a key")
}

/// A gradient at the clipping norm, the patient's own.
fn gradient(key: &[u8], clip: f64) -> Vec<f32> {
    let direction: Vec<f64> = (0..PARAMETERS)
        .map(|i| f64::from((i * 7 + u32::from(key[1]) * 13 + u32::from(key[0])) % 11) - 5.0)
        .collect();
    let norm = direction.iter().map(|x| x * x).sum::<f64>().sqrt();
    #[expect(clippy::cast_possible_truncation, reason = "trainers have floats of 32 bits")]
    direction.iter().map(|x| (x / norm * clip) as f32).collect()
}

/// What a trainer does in one step: its lanes, and the sum that it hides.
fn step(plan: &Plan, site: u8, round: u8) -> (Vec<u32>, Vec<f64>) {
    let patients = patients(site);
    let seed = |purpose: u8| {
        Secret::new([site + 1, round, purpose].repeat(11)[..32].try_into().expect("32"))
    };
    let mut sampler = Sampler::new(SamplingSeed::new(seed(1)));
    let batch = sampler.draw(&patients, plan.wanted().rate);
    let places = MicroBatches::new(Secret::new([site; 32]), plan.wanted().patients);
    let length = usize::try_from(PARAMETERS).expect("small");
    let micro_batches = usize::try_from(places.count().get()).expect("small");
    let mut floats = vec![vec![0.0_f32; length]; micro_batches];
    let mut exact = vec![0.0; length];
    for place in batch.patients() {
        let (key, records) = (patients.key(place), patients.records(place));
        let (key, records) = (key.expect("drawn"), records.expect("drawn"));
        assert!(records.contains(&sampler.record(records).expect("one at least")));
        let gradient = gradient(key, plan.wanted().clip.get());
        let sum = &mut floats[usize::try_from(places.of(key)).expect("small")];
        for ((sum, exact), x) in sum.iter_mut().zip(&mut exact).zip(&gradient) {
            *sum += x;
            *exact += f64::from(*x);
        }
    }
    let mut sums = vec![0; length];
    for micro_batch in &floats {
        plan.grid().add(micro_batch, &mut sums).expect("gradients are finite");
    }
    let mut lanes = vec![0; length];
    let clamped = Noise::new(NoiseSeed::new(seed(2))).to_wire(&sums, plan.clamp(), &mut lanes);
    assert_eq!(clamped, 0, "the plan left room for every patient");
    (lanes, exact)
}

/// What leaves when these sites take part, less what was hidden in it: the noise, a coordinate each.
fn noise_of(plan: &Plan, sites: std::ops::Range<u8>, attempt: u8) -> Vec<f64> {
    let (modulus, length) = (plan.modulus(), usize::try_from(PARAMETERS).expect("small"));
    let mut sums = vec![0_u32; length];
    let mut exact = vec![0.0; length];
    for site in sites {
        let (lanes, hidden) = step(plan, site, attempt);
        let mut packed = Vec::new();
        modulus.pack(&lanes, &mut packed);
        modulus.add_packed(&mut sums, &packed).expect("one lane a parameter");
        exact.iter_mut().zip(&hidden).for_each(|(exact, x)| *exact += x);
    }
    let released = sums.iter().map(|sum| plan.grid().real(modulus.signed(*sum)));
    released.zip(&exact).map(|(released, exact)| released - exact).collect()
}

fn deviation(noise: &[f64]) -> f64 {
    let square = noise.iter().map(|x| x * x).sum::<f64>();
    (square / noise.iter().map(|_| 1.0).sum::<f64>()).sqrt()
}

/// The sum that leaves is the sum of the clipped gradients and as much noise as the plan says.
#[test]
fn the_released_sum_is_the_clipped_gradients_and_the_planned_noise() {
    let plan = Plan::new(&wanted()).expect("a plan");
    let residuals: Vec<f64> = (1..=20).flat_map(|round| noise_of(&plan, 0..5, round)).collect();
    let sigma = plan.sigma_share() * f64::from(SITES).sqrt();
    let sd = deviation(&residuals);
    assert!((sd / sigma - 1.0).abs() < 0.02, "{sd}, {sigma}");
    // All sites are there, so there is more noise than those that are promised would bring.
    assert!(sd > plan.noise().get() * plan.wanted().clip.get());
    assert!(plan.epsilon(Accountant::Pld).planned.get() <= 3.0);
}

/// D-08, D-22, PROTOCOL-NOTES section 8, test 3: an attempt that failed late and its repetition
/// without one site differ by all the noise of both, and are two charges.
#[test]
fn a_retry_has_noise_of_its_own_and_is_charged_again() {
    let plan = Plan::new(&wanted()).expect("a plan");
    let (first, second) = (noise_of(&plan, 0..5, 1), noise_of(&plan, 0..4, 2));
    let difference: Vec<f64> = first.iter().zip(&second).map(|(a, b)| a - b).collect();
    let sd = deviation(&difference);
    assert!((sd / (plan.sigma_share() * 3.0) - 1.0).abs() < 0.06, "{sd}: nine shares");
    assert!(sd > plan.noise().get() * plan.wanted().clip.get());

    let big = Epsilon::new(1e6).expect("finite");
    let cap = Cap { planned: big, solo: big };
    let (delta, accountant) = (plan.wanted().delta, Accountant::Rdp);
    let caps = Caps { study: cap, lifetime: cap, delta, accountant };
    let study = StudyId::new(Digest::new([1; 32]));
    let mut ledger = Ledger::new(Digest::new([2; 32]));
    for slot in [1, 2] {
        let (round, slot) = (RoundId::FIRST, SlotId::new(slot));
        let entry = Entry { study, round, slot, charge: *plan.charge() };
        ledger.append(ledger.charge(&entry, &caps).expect("allowed")).expect("its own");
    }
    assert_eq!(ledger.spending(Scope::Study, study), plan.spending(2));
}

/// What a site pays with its caps: as many rounds as the plan has, and not one more.
#[test]
fn more_steps_than_the_caps_allow_are_declined() {
    let plan = Plan::new(&wanted()).expect("a plan");
    let generous = Epsilon::new(1e6).expect("finite");
    let planned = Epsilon::new(3.0).expect("3 is one");
    let cap = Cap { planned, solo: generous };
    let caps =
        Caps { study: cap, lifetime: cap, delta: plan.wanted().delta, accountant: Accountant::Pld };
    let study = StudyId::new(Digest::new([1; 32]));
    let mut ledger = Ledger::new(Digest::new([2; 32]));
    assert_eq!(ledger.rounds_left(study, plan.charge(), &caps), 20);
    for slot in 1..=20 {
        let entry = Entry {
            study,
            round: RoundId::after(slot - 1),
            slot: SlotId::new(slot.into()),
            charge: *plan.charge(),
        };
        ledger.append(ledger.charge(&entry, &caps).expect("planned")).expect("its own");
    }
    assert_eq!(ledger.rounds_left(study, plan.charge(), &caps), 0);
    let one_more =
        Entry { study, round: RoundId::after(20), slot: SlotId::new(21), charge: *plan.charge() };
    let declined = ledger.charge(&one_more, &caps).expect_err("over the cap");
    assert!(matches!(declined, Declined::Cap { figure: "planned", scope: Scope::Study, .. }));
    assert_eq!(ledger.epsilon(Scope::Study, study, &caps), plan.epsilon(Accountant::Pld));
}

/// Everything that issue trackers are full of: one answer each, in words.
#[test]
fn every_bad_input_has_one_answer() {
    let plan = |change: fn(&mut Wanted)| {
        let mut wanted = wanted();
        change(&mut wanted);
        Plan::new(&wanted).map_err(|error| error.to_string()).expect_err("no plan")
    };
    let text = |error: &dyn std::error::Error| error.to_string();
    for bad in [0.0, -1.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        for (error, says) in [
            (Epsilon::new(bad).map(|_| ()), "epsilon must be above 0 and finite; found"),
            (Delta::new(bad).map(|_| ()), "delta must be above 0 and below 1; found"),
            (SamplingRate::new(bad).map(|_| ()), "the sampling rate must be above 0 and at most 1"),
            (ClipNorm::new(bad).map(|_| ()), "the clipping norm must be above 0 and finite"),
            (NoiseMultiplier::new(bad).map(|_| ()), "the noise multiplier must be above 0"),
        ] {
            assert!(text(&error.expect_err("none of these")).starts_with(says), "{bad}: {says}");
        }
    }
    assert!(Delta::new(1.0).is_err() && SamplingRate::new(1.000_001).is_err());
    assert!(SamplingRate::new(1.0).is_ok());

    let unreachable = plan(|wanted| {
        let target = Epsilon::new(1e-9).expect("above 0");
        wanted.calibration = Calibration::Target(target, Accountant::Rdp);
    });
    assert!(unreachable.starts_with("no noise multiplier up to 1048576 keeps epsilon"));
    assert_eq!(
        plan(|wanted| wanted.patients = 0),
        "room for at least one patient's gradient was expected; found none"
    );
    assert_eq!(
        plan(|wanted| wanted.rounds = 0),
        "at least one round of at least one step was expected; found 0 of 1"
    );
    assert_eq!(
        plan(|wanted| wanted.steps_per_round = 3),
        "in distributed mode a round is one step; found 3"
    );
    assert_eq!(
        Patients::group([Some("a"), None]).map_err(|error| text(&error)),
        Err("privacy is per patient: every record must name its patient; found one that does not"
            .to_owned())
    );
    assert_eq!(Patients::group([None::<&str>; 0]), Err(BadRecords::NoRecords));

    // Good, though it looks bad: one patient only, with ten thousand images; and nobody drawn.
    let alone = Patients::group(vec![Some("alone"); 10_000]).expect("one patient");
    let mut sampler = Sampler::new(SamplingSeed::new(Secret::new([1; 32])));
    assert_eq!(alone.len(), 1);
    let half = wanted().rate;
    let batches: Vec<_> = (0..64).map(|_| sampler.draw(&alone, half)).collect();
    assert!(batches.iter().any(|batch| batch.is_empty()));
    assert!(batches.iter().any(|batch| batch.patients().len() == 1));

    // A sampler that is too far from ideal noise for what it would have to hide.
    let worn = plan(|wanted| {
        (wanted.parameters, wanted.rounds) = (100_000_000, 10_000);
        wanted.rate = SamplingRate::new(1.0).expect("it is one");
        wanted.delta = Delta::new(1e-15).expect("it is one");
        let target = Epsilon::new(25.0).expect("above 0");
        wanted.calibration = Calibration::Target(target, Accountant::Rdp);
    });
    assert!(worn.contains("too far from ideal noise for epsilon 25 at delta"), "{worn}");
    let few = BadPlan::NoParameters.to_string();
    assert_eq!(plan(|wanted| wanted.parameters = 0), few);
}
