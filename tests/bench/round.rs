//! `consilium-bench round`: what a round costs when nobody trains.
//!
//! The coordinator and one agent for each site are the programs that hospitals run, over mTLS on
//! loopback. Only the trainers are stand-ins, which encode an update and hand it over. Everything
//! shares this machine's cores, the agents too, so a round takes longer here than it would with
//! the agents on machines of their own.

mod drops;

use std::fmt;
use std::time::Duration;

use aggregation::architecture::model_digest;
use aggregation::ids::RoundId;
use aggregation::study::Study;
use clap::Args;
use harness::consortium::Consortium;
use harness::manifests::Manifest;
use harness::patience::wait_for;
use harness::relay::Relay;
use harness::site::Work;
use harness::study::StudyView;
use harness::{Outcome, Trouble, proc, stand_in};
use serde::Serialize;

use self::drops::Drops;

/// Longest side of an input, and most channels, that the linear model takes.
const LONGEST: u32 = 4096;
const MOST_CHANNELS: u32 = 64;

/// What is measured.
#[derive(Debug, Args)]
pub(crate) struct RoundArgs {
    /// Hospitals
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(2..=100))]
    sites: u16,
    /// Parameters of the model; the nearest number above that a linear model can have is taken
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(4..=200_000_000))]
    params: u32,
    /// Rounds to take the median over
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rounds: u32,
    /// Hospitals that vanish in every round, named in the roster and in the middle of their upload
    #[arg(long, default_value_t = 0, conflicts_with = "plain")]
    dropouts: u16,
    /// Without masks, for comparison
    #[arg(long)]
    plain: bool,
}

/// What came out.
#[derive(Debug, Serialize)]
pub(crate) struct Measured {
    sites: u16,
    parameters: u32,
    masked: bool,
    rounds: usize,
    /// Sites that vanish in every round.
    dropouts: u16,
    /// Sites that were missing in the sums, counted once for each round.
    dropped: usize,
    /// Of them, those on the roster, whose masks the others' shares took out of the sum.
    recovered: usize,
    /// Whether the model is the one that the exact sums give, where sites vanish.
    #[serde(skip_serializing_if = "Option::is_none")]
    exact: Option<bool>,
    /// From the announcement to the close, as the coordinator's own history has it.
    median_round_seconds: f64,
    fastest_round_seconds: f64,
    slowest_round_seconds: f64,
    coordinator_cpu_seconds_per_round: f64,
    /// One site's that does not vanish: its agent and its stand-in.
    node_cpu_seconds_per_round: f64,
    /// Of that, the agent alone.
    agent_cpu_seconds_per_round: f64,
    coordinator_peak_mib: f64,
    /// Before the first round; what the peak grew from.
    coordinator_idle_mib: f64,
    /// On the wire, TLS and all.
    bytes_up_per_site: u64,
    bytes_down_per_site: u64,
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |name: &str, value: String| writeln!(f, "{name:<34} {value:>12}");
        line("sites", self.sites.to_string())?;
        line("parameters", self.parameters.to_string())?;
        line("masked", self.masked.to_string())?;
        line("rounds", self.rounds.to_string())?;
        if let Some(exact) = self.exact {
            line("vanish in every round", self.dropouts.to_string())?;
            line("dropped, and recovered by shares", {
                format!("{} {}", self.dropped, self.recovered)
            })?;
            line("sums exact", exact.to_string())?;
        }
        line("median round, s", format!("{:.3}", self.median_round_seconds))?;
        line("fastest and slowest round, s", {
            format!("{:.3} {:.3}", self.fastest_round_seconds, self.slowest_round_seconds)
        })?;
        line("coordinator CPU a round, s", {
            format!("{:.3}", self.coordinator_cpu_seconds_per_round)
        })?;
        line("one node's CPU a round, s", format!("{:.3}", self.node_cpu_seconds_per_round))?;
        line("  of that its agent's, s", format!("{:.3}", self.agent_cpu_seconds_per_round))?;
        line("coordinator's peak, MiB", format!("{:.1}", self.coordinator_peak_mib))?;
        line("  before the first round, MiB", format!("{:.1}", self.coordinator_idle_mib))?;
        line("bytes up, a site and round", self.bytes_up_per_site.to_string())?;
        line("bytes down, a site and round", self.bytes_down_per_site.to_string())
    }
}

/// Plays the rounds and measures them.
pub(crate) fn measure(arguments: &RoundArgs) -> Outcome<Measured> {
    let (input, parameters) = input_for(arguments.params)?;
    let manifest = Manifest {
        name: "bench".to_owned(),
        input,
        rounds: arguments.rounds,
        // Every round trains and does nothing else; the closing evaluation is not counted.
        every: arguments.rounds.saturating_add(1),
        quorum: quorum(arguments)?,
        masked: !arguments.plain,
        round_deadline: "5m".to_owned(),
        upload_deadline: "5m".to_owned(),
        // Who is gone is not waited for.
        grace: if arguments.dropouts > 0 { "0s" } else { "10s" }.to_owned(),
        ..Manifest::linear(1, 1)
    };
    let mut consortium = Consortium::found("bench")?;
    consortium.serve()?;
    // All but the first dial the coordinator; that one goes through a relay that counts its bytes.
    let relay = Relay::start(consortium.port())?;
    consortium.settle_through(&Work::StandIn, &format!("https://127.0.0.1:{}", relay.port()))?;
    consortium.settle(&vec![Work::StandIn; usize::from(arguments.sites) - 1])?;
    let digest = consortium.propose(&manifest)?;
    let study = proto::manifest::parse(&manifest.text())?;
    let dropouts = usize::from(arguments.dropouts);
    let agents = usize::from(arguments.sites).saturating_sub(dropouts);
    consortium.start_first(agents)?;
    for site in consortium.sites.iter().take(agents) {
        site.approve(&digest)?;
    }
    let mut drops = match dropouts {
        0 => None,
        count => Some(Drops::seat(&consortium, count, &study)?),
    };

    let before = Reading::take(&mut consortium, agents, &relay)?;
    let idle = proc::resident_mib(consortium.server()?.pid())?;
    consortium.operator(["study", "start", &digest]).data()?;
    if let Some(drops) = &mut drops {
        drops.begin(&consortium, &digest)?;
    }
    let limit = Duration::from_secs(120) + Duration::from_secs(5) * arguments.rounds;
    let mut after = before;
    let view = wait_for("the study to end", limit, || {
        // Read before the question, whose answer also costs the coordinator something, and so this
        // machine: it is asked seldom.
        after = Reading::take(&mut consortium, agents, &relay)?;
        let view = consortium.study(&digest)?;
        drops.as_mut().map_or(Ok(()), Drops::check)?;
        harness::patience::pass(Duration::from_secs(2));
        Ok(["completed", "failed", "stopped"].contains(&&*view.state).then_some(view))
    })?;
    let mut seconds: Vec<f64> = view
        .released()
        .filter(|round| round.round <= arguments.rounds)
        .map(|round| round.seconds)
        .collect();
    if view.state != "completed" || seconds.is_empty() {
        return Err(Trouble::new(format!("expected a completed study, found {}", view.state)));
    }
    seconds.sort_by(f64::total_cmp);
    let trained = || view.released().filter(|round| round.round <= arguments.rounds);
    let dropped = trained().map(|round| round.dropped.len()).sum();
    let recovered = trained().map(|round| round.recovered().count()).sum();
    let exact = match drops.is_some() {
        true => Some(is_exact(&study, usize::from(arguments.sites), &view)?),
        false => None,
    };
    let rounds = f64::from(arguments.rounds);
    let sites = f64::from(arguments.sites.saturating_sub(arguments.dropouts));
    let a_round = |bytes: u64| bytes / u64::from(arguments.rounds);
    Ok(Measured {
        sites: arguments.sites,
        parameters,
        masked: !arguments.plain,
        rounds: seconds.len(),
        dropouts: arguments.dropouts,
        dropped,
        recovered,
        exact,
        median_round_seconds: median(&seconds),
        fastest_round_seconds: seconds.first().copied().unwrap_or_default(),
        slowest_round_seconds: seconds.last().copied().unwrap_or_default(),
        coordinator_cpu_seconds_per_round: (after.coordinator - before.coordinator) / rounds,
        node_cpu_seconds_per_round: (after.nodes - before.nodes) / rounds / sites,
        agent_cpu_seconds_per_round: (after.agents - before.agents) / rounds / sites,
        coordinator_peak_mib: proc::peak_mib(consortium.server()?.pid())?,
        coordinator_idle_mib: idle,
        bytes_up_per_site: a_round(after.up - before.up),
        bytes_down_per_site: a_round(after.down - before.down),
    })
}

/// All sites; or as few as masks can have (PROTOCOL M-23, when one may collude), so that a
/// round in which more are gone than were asked to vanish is not waited for either.
fn quorum(arguments: &RoundArgs) -> Outcome<usize> {
    let RoundArgs { sites, dropouts, .. } = *arguments;
    if dropouts == 0 {
        return Ok(sites.into());
    }
    let fewest = usize::from(sites).div_ceil(2) + 1;
    let left = usize::from(sites.saturating_sub(dropouts));
    if left < fewest.max(3) {
        let expected = format!("of {sites} sites at least {} that stay", fewest.max(3));
        return Err(Trouble::new(format!("expected {expected}, found {left}")));
    }
    Ok(fewest.max(3))
}

/// Whether the newest model is the one that the sums over those who are named give.
fn is_exact(study: &Study, sites: usize, view: &StudyView) -> Outcome<bool> {
    let mut rounds = Vec::new();
    for round in view.released() {
        let number = RoundId::new(round.round)?;
        rounds.push((study.work_in(number), round.contributed.as_slice()));
    }
    let expected = model_digest(&stand_in::model_after(study, sites, rounds)?).to_string();
    Ok(view.model() == Some(expected.as_str()))
}

/// CPU seconds and bytes so far.
#[derive(Debug, Clone, Copy)]
struct Reading {
    coordinator: f64,
    agents: f64,
    nodes: f64,
    up: u64,
    down: u64,
}

impl Reading {
    fn take(consortium: &mut Consortium, running: usize, relay: &Relay) -> Outcome<Self> {
        let (mut agents, mut nodes) = (0.0, 0.0);
        let coordinator = proc::cpu_seconds(consortium.server()?.pid())?;
        for site in consortium.sites.iter_mut().take(running) {
            let pid = site.agent()?.pid();
            agents += proc::cpu_seconds(pid)?;
            nodes += proc::cpu_seconds_with_children(pid)?;
        }
        Ok(Self { coordinator, agents, nodes, up: relay.up(), down: relay.down() })
    }
}

/// The middle of sorted numbers, or between the two in the middle.
pub(crate) fn median(sorted: &[f64]) -> f64 {
    let upper = sorted.len() / 2;
    let lower = sorted.len().saturating_sub(1) / 2;
    match (sorted.get(lower), sorted.get(upper)) {
        (Some(lower), Some(upper)) => f64::midpoint(*lower, *upper),
        _ => 0.0,
    }
}

/// Channels, height and width for which a linear model of two classes has at least so many
/// parameters and as few more as can be; and how many it has: two for each pixel, and two biases.
pub(crate) fn input_for(wanted: u32) -> Outcome<((u32, u32, u32), u32)> {
    let pixels = wanted.saturating_sub(2).div_ceil(2).max(1);
    let found = (1..=MOST_CHANNELS)
        .flat_map(|channels| (1..=LONGEST).map(move |height| (channels, height)))
        .map(|(channels, height)| (channels, height, pixels.div_ceil(channels * height)))
        .filter(|(_, _, width)| *width <= LONGEST)
        .min_by_key(|(channels, height, width)| {
            (channels * height * width, height.abs_diff(*width))
        });
    let input = found.ok_or_else(|| {
        Trouble::new(format!("no input gives a linear model {wanted} parameters"))
    })?;
    let (channels, height, width) = input;
    Ok((input, channels * height * width * 2 + 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_input_gives_the_parameters_asked_for_or_the_nearest_above() {
        for (wanted, expected) in
            [(4, 4), (5, 6), (1_000_000, 1_000_000), (100_000_000, 100_000_002)]
        {
            let (input, parameters) = input_for(wanted).expect("there is one");
            assert_eq!(parameters, expected, "{input:?}");
            let manifest = Manifest { input, ..Manifest::linear(1, 1) };
            let study = proto::manifest::parse(&manifest.text()).expect("a good manifest");
            assert_eq!(study.layout().parameters(), usize::try_from(parameters).expect("small"));
        }
    }

    #[test]
    fn the_median_is_the_middle_or_between_the_two_middles() {
        assert!((median(&[1.0, 2.0, 9.0]) - 2.0).abs() < 1e-9);
        assert!((median(&[1.0, 2.0, 4.0, 9.0]) - 3.0).abs() < 1e-9);
        assert!(median(&[]).abs() < 1e-9);
    }
}
