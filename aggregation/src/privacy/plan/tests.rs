//! Plans against the published table, the formula, and every wish that cannot be granted.

use super::*;
use crate::privacy::noise::{Noise, NoiseSeed};
use crate::secret::Secret;

fn multiplier(z: f64) -> NoiseMultiplier {
    NoiseMultiplier::new(z).expect("a multiplier")
}

fn thresholds(sites: u16, smallest_sum: u16, colluding: u16) -> Thresholds {
    Thresholds::new(sites, colluding, smallest_sum).expect("thresholds that hold together")
}

fn wanted() -> Wanted {
    Wanted {
        mode: Mode::Distributed,
        thresholds: thresholds(10, 8, 2),
        calibration: Calibration::Multiplier(multiplier(1.0)),
        rate: SamplingRate::new(0.05).expect("a rate"),
        delta: Delta::new(1e-5).expect("a delta"),
        clip: ClipNorm::new(1.0).expect("a norm"),
        rounds: 300,
        steps_per_round: 1,
        parameters: 15_490,
        patients: 64,
    }
}

fn target(epsilon: f64, accountant: Accountant) -> Calibration {
    Calibration::Target(Epsilon::new(epsilon).expect("an epsilon"), accountant)
}

/// The table of `PROTOCOL-NOTES` section 3, whose wire unit is rounded to a sixteenth of the
/// noise; ours is 0.01 % finer.
#[test]
fn clamps_and_lanes_are_those_of_the_table() {
    for (sites, smallest, colluding, clamp, modulus) in [
        (10, 8, 2, 2_509, Modulus::Bits16),
        (100, 80, 20, 7_933, Modulus::Bits24),
        (300, 240, 60, 13_741, Modulus::Bits24),
        (38_000, 30_400, 7_600, 56_291, Modulus::Bits32),
    ] {
        let wanted = Wanted { thresholds: thresholds(sites, smallest, colluding), ..wanted() };
        let plan = Plan::new(&wanted).expect("a plan");
        assert_eq!((plan.clamp().wire_units(), plan.modulus()), (clamp, modulus), "{sites}");
    }
}

/// D-14, PROTOCOL-NOTES test 7: all sites at the clamp with the greatest noise do not wrap.
#[test]
fn no_sum_can_wrap() {
    for sites in (3..=300).chain([1_000, 16_384, 65_535]) {
        for patients in [1, 64, 1_000, u32::MAX] {
            for z in [1e-3, 1.0, 50.0] {
                let wanted = Wanted {
                    thresholds: thresholds(sites, sites, 1),
                    calibration: Calibration::Multiplier(multiplier(z)),
                    patients,
                    ..wanted()
                };
                let plan = Plan::new(&wanted).expect("a plan");
                let greatest_noise = i64::from(crate::privacy::noise::GREATEST);
                let lane = (plan.clamp().fine_units() + greatest_noise + (1 << 15)) >> 16;
                let sum = lane * i64::from(sites);
                assert!(sum < 1 << (plan.modulus().bits() - 1), "{sites} {patients} {z}: {sum}");
            }
        }
    }
}

/// D-12: z_acc as the formula has it, computed with 200 bits.
#[test]
fn what_the_accountant_is_told_is_the_formula() {
    for (mode, z, honest, parameters, expected) in [
        (Mode::Distributed, 1.1, (10, 8, 2), 1_000_000, 1.088_787_374_199_640_2),
        (Mode::Distributed, 2.5, (3, 3, 1), 15_490, 2.464_920_039_538_184_5),
        (Mode::Silo, 0.8, (10, 8, 2), 100_000_000, 0.787_835_067_749_126_5),
    ] {
        let wanted = Wanted {
            mode,
            thresholds: thresholds(honest.0, honest.1, honest.2),
            calibration: Calibration::Multiplier(multiplier(z)),
            parameters,
            ..wanted()
        };
        let plan = Plan::new(&wanted).expect("a plan");
        let told = plan.accounted().noise().get();
        assert!(told <= expected && told > expected - 1e-9, "{mode:?}: {told}, {expected}");
        assert!(told < z);
        let shares = if mode == Mode::Silo { 1.0 } else { f64::from(honest.1 - honest.2) };
        assert!((plan.sigma_share() - z / shares.sqrt()).abs() < 1e-12);
    }
}

/// D-13, PROTOCOL-NOTES test 8: the smallest sum, with all tolerated sites adding no noise, still
/// carries z C.
#[test]
fn the_smallest_sum_carries_all_of_the_noise() {
    const COORDINATES: usize = 1_000_000;
    let wanted = Wanted { calibration: Calibration::Multiplier(multiplier(0.7)), ..wanted() };
    let plan = Plan::new(&wanted).expect("a plan");
    let mut sums = vec![0_i32; COORDINATES];
    for site in 0..8_u8 {
        // Two of the eight collude.
        if site >= 2 {
            let mut lanes = vec![0; COORDINATES];
            let mut noise = Noise::new(NoiseSeed::new(Secret::new([site; 32])));
            noise.to_wire(&vec![0; COORDINATES], plan.clamp(), &mut lanes);
            for (sum, lane) in sums.iter_mut().zip(&lanes) {
                *sum += lane.cast_signed();
            }
        }
    }
    let square: f64 = sums.iter().map(|wire| plan.grid().real(*wire).powi(2)).sum();
    let sd = (square / 1e6).sqrt();
    assert!(sd >= 0.7 * 0.99, "the noise's standard deviation is {sd}");
    assert!(sd <= 0.7 * 1.01, "the noise's standard deviation is {sd}");
}

/// D-04: the target is met by the figure that the ledger will count, with hardly any noise to
/// spare.
#[test]
fn a_target_is_met_and_not_by_much() {
    for (mode, epsilon, accountant) in [
        (Mode::Distributed, 1.0, Accountant::Pld),
        (Mode::Distributed, 3.0, Accountant::Rdp),
        (Mode::Silo, 8.0, Accountant::Pld),
        (Mode::Silo, 0.5, Accountant::Rdp),
    ] {
        let wanted = Wanted { mode, calibration: target(epsilon, accountant), ..wanted() };
        let plan = Plan::new(&wanted).expect("a plan");
        let figures = plan.epsilon(accountant);
        assert!(figures.planned.get() <= epsilon, "{mode:?} {epsilon}: {figures:?}");
        assert!(figures.planned.get() > epsilon * 0.999, "{mode:?} {epsilon}: {figures:?}");
        match mode {
            Mode::Distributed => assert!(figures.solo > figures.planned),
            Mode::Silo => assert_eq!(figures.solo, figures.planned),
        }
        assert_eq!(Plan::new(&wanted), Ok(plan), "the same wish, the same plan");
        // Spending grows with each round, and all rounds together are the whole.
        let spent = |rounds| plan.spending(rounds).planned(accountant, wanted.delta);
        assert!(spent(1) < spent(300));
        assert_eq!(spent(300), figures.planned);
    }
}

/// Every wish that cannot be granted says why.
#[test]
fn impossible_wishes_are_refused() {
    let refused = |wanted: Wanted| Plan::new(&wanted).expect_err("no plan");
    let base = wanted();
    assert_eq!(refused(Wanted { parameters: 0, ..base }), BadPlan::NoParameters);
    assert_eq!(refused(Wanted { patients: 0, ..base }), BadPlan::NoPatients);
    assert_eq!(refused(Wanted { rounds: 0, ..base }), BadPlan::NoSteps { rounds: 0, steps: 1 });
    assert_eq!(
        refused(Wanted { steps_per_round: 0, ..base }),
        BadPlan::NoSteps { rounds: 300, steps: 0 }
    );
    assert_eq!(refused(Wanted { steps_per_round: 5, ..base }), BadPlan::UnnoisedSteps { found: 5 });
    assert!(Plan::new(&Wanted { mode: Mode::Silo, steps_per_round: 5, ..base }).is_ok());
    let unreachable = refused(Wanted { calibration: target(1e-4, Accountant::Rdp), ..base });
    assert!(matches!(unreachable, BadPlan::Unsolvable(_)), "{unreachable:?}");
    // Rounding 10^15 parameters moves a sum by more than this much noise would hide.
    let huge = Wanted {
        parameters: 1_000_000_000_000_000,
        calibration: target(0.03, Accountant::Rdp),
        rate: SamplingRate::new(1.0).expect("a rate"),
        ..base
    };
    assert!(matches!(refused(huge), BadPlan::TooManyParameters { .. }));
    let tiny = ClipNorm::new(f64::MIN_POSITIVE).expect("a norm");
    assert!(matches!(refused(Wanted { clip: tiny, ..base }), BadPlan::NoGrid { .. }));
    let noise = multiplier(1e-30);
    let hardly = Wanted { calibration: Calibration::Multiplier(noise), ..base };
    assert_eq!(refused(hardly), BadPlan::Charge(BadCharge::Noise));
    // Clipping norms of nothing never get this far.
    assert!(ClipNorm::new(0.0).is_err());
}
