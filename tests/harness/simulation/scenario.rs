//! What one seed decides: how many hospitals, how much goes wrong, and who means ill.

use std::collections::BTreeSet;

use aggregation::ids::SlotId;

use crate::simulation::chance::Chance;
use crate::simulation::spoil::{SPOILS, Spoil};

/// n, t and m of a study.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Size {
    /// n: hospitals.
    pub(crate) sites: u16,
    /// t: those that may collude with the coordinator.
    pub(crate) colluding: u16,
    /// m: the fewest in a released sum.
    pub(crate) quorum: u16,
}

/// The network. Times are milliseconds, shares of a thousand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Network {
    /// The longest usual delay.
    pub(crate) delay: u64,
    /// Messages that are lost.
    pub(crate) loss: u64,
    /// Messages that arrive twice.
    pub(crate) doubling: u64,
    /// Messages that arrive very late.
    pub(crate) stuck: u64,
}

/// Accidents, in thousandths of the occasions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Faults {
    /// A hospital's program dies at a write.
    pub(crate) site_crash: u64,
    /// The coordinator's program dies at a write.
    pub(crate) coordinator_crash: u64,
    /// A disk refuses a write.
    pub(crate) disk: u64,
    /// A hospital vanishes before or after it says something in a round.
    pub(crate) drop: u64,
    /// A trainer fails.
    pub(crate) trainer: u64,
}

/// Who means ill.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ill {
    /// Nobody does: whatever breaks, breaks by accident.
    Nobody,
    /// Some hospitals do.
    Hospitals,
    /// The coordinator does, and perhaps some hospitals with it.
    Coordinator,
}

/// Who means ill, by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Adversary {
    /// Nobody.
    None,
    /// These hospitals, at most t.
    Sites(BTreeSet<usize>),
    /// The coordinator, with these hospitals, at most t.
    Coordinator(BTreeSet<usize>),
}

impl Adversary {
    /// Who it is.
    pub(crate) const fn ill(&self) -> Ill {
        match self {
            Self::None => Ill::Nobody,
            Self::Sites(_) => Ill::Hospitals,
            Self::Coordinator(_) => Ill::Coordinator,
        }
    }

    /// Whether the coordinator is honest.
    pub(crate) const fn spares_the_coordinator(&self) -> bool {
        match self {
            Self::None | Self::Sites(_) => true,
            Self::Coordinator(_) => false,
        }
    }

    /// Lets t hospitals and one more collude with a coordinator that means ill.
    pub(crate) fn one_more(&mut self, size: Size) {
        if let Self::Coordinator(colluders) = self {
            colluders.extend(0..=usize::from(size.colluding));
        }
    }

    /// The hospitals among them.
    pub(crate) fn sites(&self) -> BTreeSet<usize> {
        match self {
            Self::None => BTreeSet::new(),
            Self::Sites(sites) | Self::Coordinator(sites) => sites.clone(),
        }
    }
}

/// Everything that is decided before anything happens.
#[derive(Debug, Clone)]
pub(crate) struct Scenario {
    pub(crate) size: Size,
    /// Rounds to release.
    pub(crate) rounds: u32,
    /// The first slot of which the keys are still there.
    pub(crate) first_slot: SlotId,
    /// Whether the keys are set up in the midst of it all, or lie ready.
    pub(crate) live_setup: bool,
    pub(crate) network: Network,
    pub(crate) faults: Faults,
    /// When nothing breaks any more.
    pub(crate) calm_at: u64,
    pub(crate) adversary: Adversary,
    /// How the first of the hospitals that mean ill spoils the slots that it leaves.
    pub(crate) spoil: Option<Spoil>,
    /// A hospital that may be revoked, where the study can do without one.
    pub(crate) revoked: Option<usize>,
}

/// Sizes that are played. Keys are made once for each and used by all federations of that size.
const SIZES: [(u16, u16, u16); 24] = [
    (3, 0, 3),
    (3, 1, 3),
    (4, 0, 3),
    (4, 1, 3),
    (4, 1, 4),
    (4, 2, 4),
    (5, 1, 4),
    (5, 2, 4),
    (5, 3, 5),
    (6, 1, 4),
    (6, 2, 5),
    (6, 3, 6),
    (7, 1, 5),
    (7, 2, 5),
    (7, 3, 7),
    (8, 2, 6),
    (8, 3, 7),
    (9, 2, 6),
    (9, 4, 8),
    (10, 1, 6),
    (10, 2, 8),
    (10, 4, 9),
    (13, 3, 9),
    (20, 5, 15),
];

/// A study has this many rounds that train; one more only evaluates.
pub(crate) const TRAINING_ROUNDS: u32 = 3;

/// A few slots before the second batch of keys begins.
const BEFORE_THE_SECOND_BATCH: u64 = 255;

impl Scenario {
    /// What a seed decides.
    pub(crate) fn from_seed(
        chance: &mut Chance,
        ill: Option<Ill>,
        live_setup: Option<bool>,
    ) -> Self {
        let drawn = chance.permille(40);
        let live_setup = live_setup.unwrap_or(drawn);
        let second_batch = !live_setup && chance.permille(15);
        // Keys that are made on the spot cost as much as hundreds of rounds.
        let most = if live_setup || second_batch { 5 } else { largest(chance) };
        let sizes: Vec<_> = SIZES.iter().filter(|(sites, ..)| *sites <= most).collect();
        let (sites, colluding, quorum) = chance.pick(&sizes).map_or((3, 1, 3), |size| **size);
        let size = Size { sites, colluding, quorum };
        let adversary = adversary(chance, &size, ill);
        let spoils = live_setup && matches!(adversary, Adversary::Sites(_)) && !chance.one_in(4);
        let spoil = if spoils { chance.pick(&SPOILS).copied() } else { None };
        let spare = size.quorum < size.sites && !live_setup && chance.one_in(10);
        let revoked = if spare { Some(chance.index(sites.into())) } else { None };
        // Some federations are hardly disturbed, some hardly ever get anywhere.
        let rough = chance.below(4);
        let level = |chance: &mut Chance, most: u64| chance.between(0, most) * rough / 3;
        Self {
            size,
            rounds: u32::try_from(chance.between(1, 4)).unwrap_or(1).min(TRAINING_ROUNDS + 1),
            first_slot: SlotId::new(if second_batch { BEFORE_THE_SECOND_BATCH } else { 1 }),
            live_setup,
            network: Network {
                delay: *chance.pick(&[20, 500, 3_000]).unwrap_or(&500),
                loss: level(chance, 80),
                doubling: level(chance, 150),
                stuck: level(chance, 20),
            },
            faults: Faults {
                site_crash: level(chance, 60),
                coordinator_crash: level(chance, 60),
                disk: level(chance, 20),
                drop: level(chance, 100),
                trainer: level(chance, 40),
            },
            // Who means ill needs time for it.
            calm_at: chance.between(if adversary.spares_the_coordinator() { 0 } else { 100 }, 400)
                * 1_000,
            adversary,
            spoil,
            revoked,
        }
    }

    /// Nothing goes wrong, for as long as it takes to set the keys up.
    pub(crate) const fn quiet(size: Size) -> Self {
        Self {
            size,
            rounds: 0,
            first_slot: SlotId::new(1),
            live_setup: true,
            network: Network { delay: 10, loss: 0, doubling: 0, stuck: 0 },
            faults: Faults { site_crash: 0, coordinator_crash: 0, disk: 0, drop: 0, trainer: 0 },
            calm_at: 0,
            adversary: Adversary::None,
            spoil: None,
            revoked: None,
        }
    }
}

/// Small federations are played more often: they are as instructive, and cost less.
const fn largest(chance: &mut Chance) -> u16 {
    match chance.below(100) {
        0..=64 => 5,
        65..=89 => 7,
        90..=97 => 10,
        _ => 20,
    }
}

fn adversary(chance: &mut Chance, size: &Size, ill: Option<Ill>) -> Adversary {
    let drawn = match chance.below(10) {
        0..=4 => Ill::Nobody,
        5..=7 => Ill::Hospitals,
        _ => Ill::Coordinator,
    };
    match ill.unwrap_or(drawn) {
        Ill::Nobody => Adversary::None,
        Ill::Hospitals => Adversary::Sites(some(chance, size, 1)),
        Ill::Coordinator => Adversary::Coordinator(some(chance, size, 0)),
    }
}

/// At most t hospitals, and at least so many if t allows it.
fn some(chance: &mut Chance, size: &Size, least: u64) -> BTreeSet<usize> {
    let most = u64::from(size.colluding);
    let wanted = chance.between(least.min(most), most);
    let mut chosen = BTreeSet::new();
    while u64::try_from(chosen.len()).is_ok_and(|count| count < wanted) {
        chosen.insert(chance.index(size.sites.into()));
    }
    chosen
}
