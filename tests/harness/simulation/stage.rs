//! What everybody stands on: the clock, the network between them, the accidents, and the watch.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::simulation::chance::Chance;
use crate::simulation::scenario::{Faults, Network};
use crate::simulation::trace::{Trace, Who};
use crate::simulation::watch::Watch;
use crate::simulation::words::{Answer, Call, Notice};

/// Something that will happen.
#[derive(Debug, Clone)]
pub(crate) enum Happening {
    /// A notice reaches a hospital.
    Notice { to: usize, notice: Arc<Notice> },
    /// A call reaches the coordinator.
    Call { from: usize, call: Call },
    /// A call's answer reaches the hospital.
    Answer { to: usize, answer: Answer },
    /// A hospital's own alarm clock rings, if it has not been restarted since.
    Clock { site: usize, life: u64, what: Errand },
    /// The coordinator's own alarm clock rings, if it has not been restarted since.
    Desk { life: u64, what: Task },
    /// A hospital starts again.
    Up(usize),
    /// The coordinator starts again.
    CoordinatorUp,
    /// From now on nothing breaks any more.
    Calm,
}

/// What a hospital wants to be reminded of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Errand {
    /// To show that it is there, and to say again what is due.
    Hello,
    /// Its trainer is done.
    Trained(aggregation::ids::SlotId),
}

/// What a coordinator wants to be reminded of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Task {
    /// To see whether a round can be announced.
    Look,
    /// A deadline of the open round.
    Deadline,
}

/// How a write to a disk ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is there.
    Kept,
    /// The disk refuses it, and the program goes on.
    Refused,
    /// The program dies before it.
    Lost,
    /// The program dies after it.
    KeptThenLost,
}

/// Why somebody stops in the middle of what they do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Halt {
    /// The program died.
    Crash,
    /// The hospital went out of reach for long.
    Drop,
    /// The disk refused a write.
    Refused,
}

/// What is counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Things that happened: messages that arrived, clocks that rang, programs that started.
    pub events: u64,
    /// Programs that died in the middle of something.
    pub crashes: u64,
    /// Hospitals that vanished in the middle of a round.
    pub drops: u64,
    /// Attempts at rounds.
    pub attempts: u64,
    /// Sums that were released.
    pub released: u64,
    /// Words that the coordinator refused.
    pub refusals: u64,
    /// Alarms that hospitals or the coordinator raised.
    pub alarms: u64,
    /// Final sets that honest hospitals signed.
    pub signatures: u64,
    /// Times that an honest hospital gave shares.
    pub shares: u64,
}

impl Counts {
    /// Adds those of another federation.
    pub const fn add(&mut self, other: &Self) {
        let Self {
            events,
            crashes,
            drops,
            attempts,
            released,
            refusals,
            alarms,
            signatures,
            shares,
        } = other;
        self.events += *events;
        self.crashes += *crashes;
        self.drops += *drops;
        self.attempts += *attempts;
        self.released += *released;
        self.refusals += *refusals;
        self.alarms += *alarms;
        self.signatures += *signatures;
        self.shares += *shares;
    }
}

/// The stage of one federation.
#[derive(Debug)]
pub(crate) struct Stage {
    /// Milliseconds since the beginning.
    pub(crate) now: u64,
    pub(crate) chance: Chance,
    pub(crate) watch: Watch,
    pub(crate) counts: Counts,
    pub(crate) calm: bool,
    trace: Trace,
    network: Network,
    faults: Faults,
    queue: BTreeMap<(u64, u64), Happening>,
    sequence: u64,
}

impl Stage {
    /// A stage on which nothing has happened.
    pub(crate) fn new(
        chance: Chance,
        watch: Watch,
        trace: Trace,
        network: Network,
        faults: Faults,
    ) -> Self {
        Self {
            now: 0,
            chance,
            watch,
            counts: Counts::default(),
            calm: false,
            trace,
            network,
            faults,
            queue: BTreeMap::new(),
            sequence: 0,
        }
    }

    /// Adds a line to the trace.
    pub(crate) fn say(&mut self, who: Who, what: fmt::Arguments<'_>) {
        self.trace.say(self.now, who, what);
    }

    /// Ends it.
    pub(crate) fn into_trace(self) -> Trace {
        self.trace
    }

    /// Lets something happen after so many milliseconds.
    pub(crate) fn after(&mut self, delay: u64, happening: Happening) {
        self.sequence += 1;
        self.queue.insert((self.now.saturating_add(delay), self.sequence), happening);
    }

    /// The next thing that happens; the clock moves there.
    pub(crate) fn next(&mut self) -> Option<Happening> {
        let ((at, _), happening) = self.queue.pop_first()?;
        self.now = at;
        self.counts.events += 1;
        Some(happening)
    }

    /// The coordinator tells a hospital something.
    pub(crate) fn tell(&mut self, to: usize, notice: &Arc<Notice>) {
        self.send(Happening::Notice { to, notice: Arc::clone(notice) });
    }

    /// A hospital calls the coordinator.
    pub(crate) fn call(&mut self, from: usize, call: Call) {
        self.say(Who::Site(from), format_args!("says {call}"));
        self.send(Happening::Call { from, call });
    }

    /// The coordinator answers a call.
    pub(crate) fn answer(&mut self, to: usize, answer: Answer) {
        self.send(Happening::Answer { to, answer });
    }

    /// The network: it loses, doubles, delays, and so reorders. When all is calm it loses nothing.
    fn send(&mut self, happening: Happening) {
        if !self.calm && self.chance.permille(self.network.loss) {
            self.say(Who::World, format_args!("loses {happening}"));
            return;
        }
        if self.chance.permille(self.network.doubling) {
            let delay = self.delay();
            self.after(delay, happening.clone());
        }
        let delay = self.delay();
        self.after(delay, happening);
    }

    fn delay(&mut self) -> u64 {
        let usual = self.chance.between(1, self.network.delay);
        // Now and then something is stuck somewhere, and arrives when nobody thinks of it any more.
        if !self.calm && self.chance.permille(self.network.stuck) { usual * 200 } else { usual }
    }

    /// How a write to somebody's disk ends.
    pub(crate) fn fate(&mut self, who: Who) -> Fate {
        if self.calm {
            return Fate::Kept;
        }
        let crash = match who {
            Who::Coordinator => self.faults.coordinator_crash,
            Who::Site(_) | Who::World => self.faults.site_crash,
        };
        if self.chance.permille(crash) {
            if self.chance.one_in(2) { Fate::Lost } else { Fate::KeptThenLost }
        } else if self.chance.permille(self.faults.disk) {
            Fate::Refused
        } else {
            Fate::Kept
        }
    }

    /// Whether a hospital vanishes here.
    pub(crate) fn vanishes(&mut self) -> bool {
        !self.calm && self.chance.permille(self.faults.drop)
    }

    /// Whether a trainer fails.
    pub(crate) fn trainer_fails(&mut self) -> bool {
        !self.calm && self.chance.permille(self.faults.trainer)
    }

    /// An alarm, which only an adversary may cause.
    pub(crate) fn alarm(&mut self, who: Who, why: fmt::Arguments<'_>) {
        self.counts.alarms += 1;
        self.say(who, format_args!("ALARM: {why}"));
        self.watch.alarmed(who, why);
    }
}

/// What the network can lose, for the trace.
impl fmt::Display for Happening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Notice { to, notice } => write!(f, "what site-{to:02} was told: {notice}"),
            Self::Call { from, call } => write!(f, "what site-{from:02} said: {call}"),
            Self::Answer { to, .. } => write!(f, "an answer to site-{to:02}"),
            Self::Clock { .. } | Self::Desk { .. } => f.write_str("a clock"),
            Self::Up(_) | Self::CoordinatorUp => f.write_str("a start"),
            Self::Calm => f.write_str("the calm"),
        }
    }
}
