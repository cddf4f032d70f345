//! One federation: its hospitals, its coordinator, and the loop that lets one thing happen after
//! the other.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use aggregation::ids::{HospitalId, SlotId};

use crate::simulation::cast::Cast;
use crate::simulation::chance::Chance;
use crate::simulation::coordinator::{Books, Coordinator};
use crate::simulation::disk::Disk;
use crate::simulation::evil::{Evil, Forgery};
use crate::simulation::flaw::Flaw;
use crate::simulation::hospital::Hospital;
use crate::simulation::mischief::Mischief;
use crate::simulation::ready::{self, Ready};
use crate::simulation::scenario::{Ill, Scenario, Size};
use crate::simulation::stage::{Counts, Halt, Happening, Stage};
use crate::simulation::trace::{Trace, Who};
use crate::simulation::watch::{Invariant, Violation, Watch};

/// After the calm, this long is enough for all that is left to do.
const ENOUGH: u64 = 1_200_000;
/// More happens in no federation.
const MOST_EVENTS: u64 = 400_000;
/// How long words that are under way still arrive when all is done.
const AFTERWARDS: u64 = 30_000;

/// How a seed is played.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Whether the lines of the trace are kept.
    pub trace: bool,
    /// A bug to plant.
    pub flaw: Option<Flaw>,
    /// Who means ill, whatever the seed says.
    pub ill: Option<Ill>,
    /// Whether the keys are set up in the midst of it all, whatever the seed says.
    pub live_setup: Option<bool>,
}

/// What came of a seed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Played {
    /// The seed.
    pub seed: u64,
    /// Who means ill in it.
    pub ill: Ill,
    /// What happened, in numbers.
    pub counts: Counts,
    /// The digest of the trace: the same for the same seed.
    pub digest: String,
    /// What did not hold, if anything did not.
    pub violation: Option<Violation>,
    /// The trace, if it was asked for.
    pub trace: Vec<String>,
}

/// Plays the federation of a seed. A panic is a violation like any other.
#[must_use]
pub fn play(seed: u64, options: Options) -> Played {
    let played = catch_unwind(AssertUnwindSafe(|| {
        Federation::of_seed(seed, options).map(|federation| federation.run(seed))
    }));
    let failed = |seen: String| Played {
        seed,
        ill: Ill::Nobody,
        counts: Counts::default(),
        digest: String::new(),
        violation: Some(Violation { invariant: Invariant::NoPanic, seen }),
        trace: Vec::new(),
    };
    match played {
        Ok(Ok(played)) => played,
        Ok(Err(why)) => failed(why),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
            failed(text.unwrap_or_else(|| "a panic without words".to_owned()))
        }
    }
}

/// Makes the keys of a size in a federation in which nothing goes wrong.
///
/// # Errors
/// When that does not come to its end.
pub(crate) fn set_up(size: Size) -> Result<Ready, String> {
    let cast = Arc::new(Cast::of(size)?);
    let seed =
        u64::from(size.sites) << 32 | u64::from(size.colluding) << 16 | u64::from(size.quorum);
    let chance = Chance::new(seed);
    let mut federation =
        Federation::new(Scenario::quiet(size), &cast, None, chance, Options::default())?;
    federation.start();
    while !federation.is_ready() {
        let Some(happening) = federation.stage.next().filter(|_| federation.stage.now < ENOUGH)
        else {
            return Err(format!("the keys of {size:?} were not made"));
        };
        federation.happen(happening);
    }
    let disks = federation.sites.iter().map(|site| site.disk().clone()).collect();
    let Chair::Honest(coordinator) = &federation.chair else {
        return Err("nobody means ill in a quiet federation".to_owned());
    };
    let gathering = coordinator.books().gathering();
    Ok(Ready { cast, disks, books: Books::settled(gathering, SlotId::new(1)) })
}

/// One federation.
#[derive(Debug)]
struct Federation {
    cast: Arc<Cast>,
    scenario: Scenario,
    stage: Stage,
    sites: Vec<Hospital>,
    chair: Chair,
    options: Options,
}

/// Who coordinates.
#[derive(Debug)]
enum Chair {
    Honest(Box<Coordinator>),
    Evil(Box<Evil>),
}

impl Federation {
    fn of_seed(seed: u64, options: Options) -> Result<Self, String> {
        assert!(options.flaw != Some(Flaw::Panics), "a planted panic");
        let mut chance = Chance::new(seed);
        let mut scenario = Scenario::from_seed(&mut chance, options.ill, options.live_setup);
        if options.flaw == Some(Flaw::OneColludesMore) {
            scenario.adversary.one_more(scenario.size);
        }
        let mut size = scenario.size;
        if options.flaw == Some(Flaw::LowersTheQuorum) {
            size.quorum = least_quorum(size);
        }
        if scenario.live_setup {
            let cast = Arc::new(Cast::of(size)?);
            return Self::new(scenario, &cast, None, chance, options);
        }
        let ready = ready::keys(size)?;
        let ready = ready.at_slot(scenario.first_slot);
        let cast = Arc::clone(&ready.cast);
        Self::new(scenario, &cast, Some(ready), chance, options)
    }

    fn new(
        scenario: Scenario,
        cast: &Arc<Cast>,
        ready: Option<Ready>,
        mut chance: Chance,
        options: Options,
    ) -> Result<Self, String> {
        let evil = scenario.adversary.sites();
        let adversaries: BTreeSet<HospitalId> =
            evil.iter().filter_map(|place| cast.names.get(*place).cloned()).collect();
        let honest = scenario.adversary.spares_the_coordinator();
        let quorum = usize::from(scenario.size.quorum);
        let watch = Watch::new(&cast.charter, quorum, adversaries, honest);
        let trace = Trace::new(options.trace);
        let mut mischief = BTreeMap::new();
        for place in &evil {
            let plan = if honest { Mischief::plan(&mut chance) } else { Mischief::none() };
            mischief.insert(*place, plan);
        }
        let skew = chance.between(0, 1 << 40);
        let forgery =
            if honest || !scenario.live_setup { None } else { Forgery::plan(&mut chance, cast) };
        let stage = Stage::new(chance, watch, trace, scenario.network, scenario.faults);
        let (disks, books) = match ready {
            Some(ready) => (ready.disks, ready.books),
            None => {
                let blank = Disk::blank(Arc::new(cast.roll.clone()));
                (vec![blank; cast.names.len()], Books::blank(&cast.roll))
            }
        };
        let spoiler = evil.first().copied();
        let sites = disks.into_iter().enumerate().map(|(place, disk)| {
            let spoil = scenario.spoil.filter(|_| spoiler == Some(place));
            Hospital::new(cast, place, disk, mischief.remove(&place), spoil, options.flaw)
        });
        let sites: Option<Vec<_>> = sites.collect();
        let sites = sites.ok_or("every hospital of the cast has a name")?;
        let chair = if honest {
            let revoked = scenario.revoked.and_then(|place| cast.names.get(place).cloned());
            let honest = Coordinator::new(cast, books, scenario.rounds, skew, options.flaw);
            Chair::Honest(Box::new(honest.that_may_revoke(revoked)))
        } else {
            Chair::Evil(Box::new(Evil::new(cast, &books, evil, forgery)))
        };
        Ok(Self { cast: Arc::clone(cast), scenario, stage, sites, chair, options })
    }

    /// Everybody starts, within a few seconds.
    fn start(&mut self) {
        let Scenario { size, rounds, calm_at, adversary, .. } = &self.scenario;
        self.stage.say(
            Who::World,
            format_args!("{size:?}, {rounds} rounds, {adversary:?}, calm at {calm_at} ms"),
        );
        self.stage.after(self.scenario.calm_at, Happening::Calm);
        self.stage.after(0, Happening::CoordinatorUp);
        for place in 0..self.sites.len() {
            let delay = self.stage.chance.between(0, 3_000);
            self.stage.after(delay, Happening::Up(place));
        }
    }

    /// Whether all hospitals can mask with each other.
    fn is_ready(&self) -> bool {
        let all = self.cast.names.iter().cloned().collect();
        match &self.chair {
            Chair::Honest(coordinator) => coordinator.has_keys_of(&all),
            Chair::Evil(_) => false,
        }
    }

    fn run(mut self, seed: u64) -> Played {
        self.start();
        let mut until = None;
        while let Some(happening) = self.stage.next() {
            self.happen(happening);
            if self.stage.watch.violation().is_some() {
                break;
            }
            let (now, events) = (self.stage.now, self.stage.counts.events);
            if until.is_none() && self.is_done() {
                until = Some(now + AFTERWARDS);
            }
            if until.is_some_and(|until| now > until) {
                break;
            }
            if now > self.scenario.calm_at + ENOUGH || events > MOST_EVENTS {
                self.stands_still();
                break;
            }
        }
        let violation = self.stage.watch.violation().cloned();
        if let Some(violation) = &violation {
            self.stage.say(Who::World, format_args!("BROKEN: {violation}"));
        }
        let counts = self.stage.counts;
        let trace = self.stage.into_trace();
        let ill = self.scenario.adversary.ill();
        Played { seed, ill, counts, digest: trace.digest(), violation, trace: trace.into_lines() }
    }

    fn is_done(&self) -> bool {
        match &self.chair {
            Chair::Honest(coordinator) => coordinator.is_done(),
            Chair::Evil(_) => false,
        }
    }

    /// Everything had its time. Who spoils keys, or offers slots that nobody has made keys for yet,
    /// may have stopped the study for good; that is seen by everyone, and ended by people.
    fn stands_still(&mut self) {
        let honest = self.scenario.adversary.spares_the_coordinator();
        let fresh = self.scenario.live_setup || self.scenario.first_slot > SlotId::new(1);
        if self.scenario.spoil.is_some() || fresh && !honest {
            return;
        }
        let released = match &self.chair {
            Chair::Honest(coordinator) => coordinator.books().released(),
            Chair::Evil(_) => 0,
        };
        let late = self.stage.now.saturating_sub(self.scenario.calm_at);
        let seen = format!("{released} rounds were released, {late} ms after the calm");
        self.stage.watch.broken(Invariant::Progress, seen);
    }

    /// One thing happens.
    fn happen(&mut self, happening: Happening) {
        let stage = &mut self.stage;
        match happening {
            Happening::Notice { to, notice } => {
                self.at(to, |site, stage| site.hear(stage, &notice));
            }
            Happening::Answer { to, answer } => {
                self.at(to, |site, stage| site.answered(stage, answer));
            }
            Happening::Clock { site, life, what } => {
                self.at(site, |site, stage| site.ring(stage, life, what));
            }
            Happening::Up(place) => {
                if self.sites.get(place).is_some_and(|site| !site.is_up()) {
                    self.at(place, Hospital::start);
                }
            }
            Happening::Call { from, call } => match &mut self.chair {
                Chair::Honest(coordinator) => {
                    let heard = coordinator.hear(stage, from, call);
                    self.at_coordinator(heard);
                }
                Chair::Evil(evil) => evil.hear(stage, from, call),
            },
            Happening::Desk { life, what } => match &mut self.chair {
                Chair::Honest(coordinator) => {
                    let rung = coordinator.ring(stage, life, what);
                    self.at_coordinator(rung);
                }
                Chair::Evil(evil) => evil.ring(stage, what),
            },
            Happening::CoordinatorUp => match &mut self.chair {
                Chair::Honest(coordinator) if !coordinator.is_up() => {
                    let started = coordinator.start(stage);
                    self.at_coordinator(started);
                }
                Chair::Honest(_) => {}
                Chair::Evil(evil) => evil.start(stage),
            },
            Happening::Calm => self.calm(),
        }
    }

    /// Something happens at a hospital, which may not live to the end of it.
    fn at(
        &mut self,
        place: usize,
        what: impl FnOnce(&mut Hospital, &mut Stage) -> Result<(), Halt>,
    ) {
        let Some(site) = self.sites.get_mut(place) else { return };
        let stage = &mut self.stage;
        let Err(halt) = what(site, stage) else { return };
        let away = match halt {
            // Memory may be ahead of the disk.
            Halt::Refused => {
                stage.say(site.who(), format_args!("cannot write"));
                return site.remember(stage);
            }
            Halt::Crash => {
                stage.counts.crashes += 1;
                stage.say(site.who(), format_args!("crashes"));
                stage.chance.between(500, 20_000)
            }
            Halt::Drop => {
                stage.counts.drops += 1;
                stage.say(site.who(), format_args!("drops out"));
                stage.chance.between(20_000, 200_000)
            }
        };
        site.stop();
        stage.after(away, Happening::Up(place));
    }

    /// Something has happened at the coordinator, which may not have lived to the end of it.
    fn at_coordinator(&mut self, came: Result<(), Halt>) {
        let stage = &mut self.stage;
        let (Err(halt), Chair::Honest(coordinator)) = (came, &mut self.chair) else { return };
        coordinator.stop();
        let away = match halt {
            Halt::Refused => {
                stage.say(Who::Coordinator, format_args!("cannot write"));
                2_000
            }
            Halt::Crash | Halt::Drop => {
                stage.counts.crashes += 1;
                stage.say(Who::Coordinator, format_args!("crashes"));
                stage.chance.between(500, 30_000)
            }
        };
        stage.after(away, Happening::CoordinatorUp);
    }

    /// From now on nothing breaks, and whoever is away comes back.
    fn calm(&mut self) {
        self.stage.calm = true;
        self.stage.say(Who::World, format_args!("all is calm"));
        for place in 0..self.sites.len() {
            let delay = self.stage.chance.between(0, 5_000);
            self.stage.after(delay, Happening::Up(place));
        }
        if let Chair::Evil(evil) = &self.chair {
            // Another coordinator takes over, and finds the hospitals as they were left.
            let books = evil.books();
            let wanted = books.released() + 1;
            let flaw = self.options.flaw;
            let honest = Coordinator::new(&self.cast, books, wanted, self.stage.now, flaw);
            self.chair = Chair::Honest(Box::new(honest));
        }
        self.stage.after(0, Happening::CoordinatorUp);
    }
}

/// The lowest quorum that goes with n and t.
fn least_quorum(size: Size) -> u16 {
    let shares = (size.sites + size.colluding) / 2 + 1;
    shares.max(3).max(size.colluding + 2)
}
