//! Epsilon, computed again from what the log says of noise and steps: nobody's word is taken for it.

use aggregation::privacy::accountant::{Accountant, Composition, Mechanism};
use aggregation::units::{Delta, NoiseMultiplier, SamplingRate};
use transparency::fact::Charge;

use super::checks::Check;
use super::history::{Charged, History};

/// How near a figure is to the bound that it was counted by: the grid of privacy loss distributions is
/// another where steps are added one by one.
const NEAR: f64 = 1e-6;

/// How many different lines to type are told.
const MOST_COMMANDS: usize = 8;

/// What two computers may make different of the same sum, relative to it.
const SLACK: f64 = 1e-9;

/// Whether each site's last epsilon covers the noise and the steps of all of its charges, by the
/// accountant that asks for less. Sites that were charged for the same are computed once.
pub(super) fn accounted(history: &History) -> Check {
    let mut check = Check::new("Every site's epsilon is at least what its charges make it");
    let mut known: Vec<(Composition, Delta, f64)> = Vec::new();
    for (site, charges) in &history.charges {
        let Some(last) = charges.last() else { continue };
        let told = last.charge.epsilon_planned;
        let Some((composition, delta)) = composed(charges) else {
            check.ask(false, || format!("{site}: noise, rate or delta out of range"));
            continue;
        };
        let same = known.iter().find(|(one, at, _)| *one == composition && *at == delta);
        let least = match same {
            Some((_, _, least)) => *least,
            None => {
                let least = least(&composition, delta, told);
                known.push((composition, delta, least));
                least
            }
        };
        check.ask(told >= least * (1.0 - SLACK), || {
            format!(
                "{site}: epsilon {} after round {}, where {} charges make it {}",
                super::html::value_text(told),
                last.round,
                charges.len(),
                super::html::value_text(least)
            )
        });
    }
    check
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
        let least = least(&composition, delta, *spent);
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
    for Charged { charge: Charge { z, q, .. }, .. } in charges {
        let mechanism = Mechanism::new(NoiseMultiplier::new(*z).ok()?, SamplingRate::new(*q).ok()?);
        composition.add(mechanism, 1);
    }
    let delta = Delta::new(charges.last()?.charge.delta).ok()?;
    Some((composition, delta))
}

/// The lesser of both accountants' bounds. The slow one is asked only where the fast one leaves a
/// doubt.
fn least(composition: &Composition, delta: Delta, told: f64) -> f64 {
    let fast = Accountant::Rdp.epsilon(composition, delta).get();
    if told >= fast { fast } else { Accountant::Pld.epsilon(composition, delta).get() }
}
