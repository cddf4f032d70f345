//! Epsilon, computed again from what the log says of noise and steps: nobody's word is taken for it.

use aggregation::privacy::accountant::{Accountant, Composition, Mechanism};
use aggregation::units::{Delta, NoiseMultiplier, SamplingRate};
use transparency::fact::{Charge, Held};

use super::checks::Check;
use super::history::{Charged, History};

/// How near a figure is to the bound that it was counted by: the grid of privacy loss distributions is
/// another where steps are added one by one.
const NEAR: f64 = 1e-6;

/// How many different lines to type are told.
const MOST_COMMANDS: usize = 8;

/// What two computers may make different of the same sum, relative to it.
const SLACK: f64 = 1e-9;

/// Bounds that are known already: sites that were charged for the same are computed once.
#[derive(Default)]
struct Bounds(Vec<Bound>);

struct Bound {
    composition: Composition,
    delta: Delta,
    fast: f64,
    /// By the slow accountant, once it was asked.
    slow: Option<f64>,
}

impl Bounds {
    /// The lesser of both accountants' bounds. The slow one is asked only where the fast one leaves a
    /// doubt.
    fn least(&mut self, composition: &Composition, delta: Delta, told: f64) -> f64 {
        let known = |it: &Bound| it.delta == delta && it.composition == *composition;
        let at = self.0.iter().position(known).unwrap_or_else(|| {
            let fast = Accountant::Rdp.epsilon(composition, delta).get();
            self.0.push(Bound { composition: composition.clone(), delta, fast, slow: None });
            self.0.len() - 1
        });
        let bound = &mut self.0[at];
        if told >= bound.fast {
            return bound.fast;
        }
        let slow = || Accountant::Pld.epsilon(composition, delta).get();
        *bound.slow.get_or_insert_with(slow)
    }
}

/// Whether each site's last epsilon covers the noise and the steps of all of its charges, by the
/// accountant that asks for less.
pub(super) fn accounted(history: &History) -> Check {
    let mut check = Check::new("Every site's epsilon is at least what its charges make it");
    let mut bounds = Bounds::default();
    for (site, charges) in &history.charges {
        let Some(last) = charges.last() else { continue };
        let Some((composition, delta)) = composed(charges) else {
            check.ask(false, || format!("{site}: noise, rate or delta out of range"));
            continue;
        };
        // With all others in league there is no more noise than planned, so that bound holds too.
        for (figure, told) in
            [("epsilon", last.charge.epsilon_planned), ("solo epsilon", last.charge.epsilon_solo)]
        {
            let least = bounds.least(&composition, delta, told);
            check.ask(told >= least * (1.0 - SLACK), || {
                too_little(site, figure, told, last, charges.len(), least)
            });
        }
    }
    check
}

/// Whether what each site holds against its caps covers all of its charges, where that is in the
/// caps' own measure: the site need not hold it by the study's accountant.
pub(super) fn held(history: &History) -> Check {
    let mut check =
        Check::new("What each site holds against its caps is at least what its charges make it");
    let mut bounds = Bounds::default();
    for (site, charges) in &history.charges {
        let mut composition = Composition::new();
        for (at, one) in charges.iter().enumerate() {
            // One that is out of range is told above.
            let Some(mechanism) = mechanism(&one.charge) else { break };
            composition.add(mechanism, 1);
            // Until the caps change the last figure is the most, and the others need not be counted.
            if charges.get(at + 1).is_some_and(|next| same_caps(&one.charge, &next.charge)) {
                continue;
            }
            let Held { delta: Some(delta), planned, solo } = one.charge.against_caps() else {
                continue;
            };
            let Ok(delta) = Delta::new(delta) else { continue };
            for (figure, told) in [("planned epsilon", planned), ("solo epsilon", solo)] {
                let least = bounds.least(&composition, delta, told);
                check.ask(told >= least * (1.0 - NEAR), || {
                    too_little(site, figure, told, one, at + 1, least)
                });
            }
        }
    }
    check
}

/// Whether two charges are held against the same caps, in the same measure.
fn same_caps(one: &Charge, next: &Charge) -> bool {
    let caps = |charge: &Charge| (charge.cap_planned, charge.cap_solo, charge.against_caps().delta);
    caps(one) == caps(next)
}

fn too_little(
    site: &str,
    figure: &str,
    told: f64,
    last: &Charged,
    charges: usize,
    least: f64,
) -> String {
    format!(
        "{site}: {figure} {} after round {}, where {charges} charges make it {}",
        super::html::value_text(told),
        last.round,
        super::html::value_text(least)
    )
}

/// Whether what releases say was spent never falls, and in the end covers the charges that the
/// sites had told before.
pub(super) fn released(history: &History) -> Check {
    let mut check = Check::new("What releases say was spent covers the charges before them");
    let told = history.attempts.values().filter(|attempt| attempt.released());
    let told: Vec<_> = told.filter_map(|it| it.spent.map(|spent| (it, spent))).collect();
    for pair in told.windows(2) {
        let [(_, before), (attempt, spent)] = pair else { continue };
        check.ask(spent >= before, || format!("round {}: less than before", attempt.round));
    }
    let Some((last, spent)) = told.last() else { return check };
    let before = |charges: &[Charged]| charges.partition_point(|one| one.slot <= last.slot);
    let charges = history.charges.values().filter_map(|all| all.get(..before(all)));
    let most = charges.max_by_key(|charges| charges.len()).unwrap_or_default();
    if let Some((composition, delta)) = composed(most) {
        let least = Bounds::default().least(&composition, delta, *spent);
        check.ask(*spent >= least * (1.0 - SLACK), || {
            format!(
                "round {}: epsilon {}, where {} charges make it {}",
                last.round,
                super::html::value_text(*spent),
                most.len(),
                super::html::value_text(least)
            )
        });
    }
    check
}

/// The accountant whose bound the planned figures are, if it is one that we know.
pub(super) fn counted_by(history: &History) -> Option<&'static str> {
    let charges = history.charges.values().max_by_key(|charges| charges.len())?;
    let (composition, delta) = composed(charges)?;
    let told = charges.last()?.charge.epsilon_planned;
    [Accountant::Rdp, Accountant::Pld].into_iter().find_map(|one| {
        let bound = one.epsilon(&composition, delta).get();
        ((told / bound - 1.0).abs() <= NEAR).then_some(one.name())
    })
}

/// What to type to count the planned figures of sites again whose charges are all alike.
pub(super) fn commands(history: &History, accountant: Option<&str>) -> Vec<String> {
    let mut commands = Vec::new();
    // Nothing from the log stands in a line that people paste but numbers and these two words.
    let known = accountant.filter(|name| ["rdp", "pld"].contains(name));
    let accountant = known.map(|name| format!(" --accountant {name}")).unwrap_or_default();
    for charges in history.charges.values() {
        let Some(Charged { charge: last, .. }) = charges.last() else { continue };
        let alike = |one: &Charged| {
            one.charge.z.total_cmp(&last.z).is_eq() && one.charge.q.total_cmp(&last.q).is_eq()
        };
        if !charges.iter().all(alike) {
            continue;
        }
        let command = format!(
            "consilium-audit epsilon --noise-multiplier {} --sampling-rate {} --steps {} --delta {}{accountant}",
            last.z,
            last.q,
            charges.len(),
            last.delta
        );
        if !commands.contains(&command) {
            commands.push(command);
        }
    }
    commands.truncate(MOST_COMMANDS);
    commands
}

/// The charges of one site one after another, at the delta of the last.
fn composed(charges: &[Charged]) -> Option<(Composition, Delta)> {
    let mut composition = Composition::new();
    for one in charges {
        composition.add(mechanism(&one.charge)?, 1);
    }
    let delta = Delta::new(charges.last()?.charge.delta).ok()?;
    Some((composition, delta))
}

/// What one charge was for, if that can be.
fn mechanism(Charge { z, q, .. }: &Charge) -> Option<Mechanism> {
    Some(Mechanism::new(NoiseMultiplier::new(*z).ok()?, SamplingRate::new(*q).ok()?))
}
