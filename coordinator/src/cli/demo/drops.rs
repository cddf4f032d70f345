//! `--drop SITE@ROUND:PHASE`: a hospital's process is killed at a point of a round, so that anyone
//! can watch a dropout being survived.
//!
//! The coordinator tells who has done what, and the process is killed as soon as it is told. So that
//! the others do not end the phase in that moment, some of them are held (SIGSTOP) until it is done:
//! one that is not ready yet, one whose update is missing, or as many as have to sign besides.
//! What happened is read off the closed round; a kill that came too late is said to have.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::str::FromStr;

use proto::federation::study_event::Event;
use proto::federation::{RoundView, StudyEvent};

use crate::cli::study::shown::dropped_after;

/// The last that a hospital does in a round before it is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// It is ready; no update has left it.
    Ready,
    /// Its masked update is complete.
    Masked,
    /// It has signed the final set.
    Signed,
    /// It has given its shares.
    Unmask,
}

impl Phase {
    const ALL: [Self; 4] = [Self::Ready, Self::Masked, Self::Signed, Self::Unmask];

    const fn name(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Masked => "masked",
            Self::Signed => "signed",
            Self::Unmask => "unmask",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A drop as it is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Drop {
    /// Which hospital, from 1.
    pub(super) site: u16,
    /// In which round, from 1.
    pub(super) round: u32,
    /// After what.
    pub(super) phase: Phase,
}

impl FromStr for Drop {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            let phases = Phase::ALL.map(Phase::name).join(", ");
            format!("expected SITE@ROUND:PHASE such as 2@3:masked (phases: {phases})")
        };
        let (site, rest) = text.split_once('@').ok_or_else(wrong)?;
        let (round, phase) = rest.split_once(':').ok_or_else(wrong)?;
        let phase = Phase::ALL.into_iter().find(|one| one.name() == phase).ok_or_else(wrong)?;
        let site = site.parse().ok().filter(|site| *site > 0).ok_or_else(wrong)?;
        let round = round.parse().ok().filter(|round| *round > 0).ok_or_else(wrong)?;
        Ok(Self { site, round, phase })
    }
}

/// What is to be done with a hospital's process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Order {
    /// Stop it for a moment.
    Hold(String),
    /// Let it go on.
    Release(String),
    /// Kill it and, when the coordinator has noticed, tell [`Drops::killed`].
    Kill(String, Phase),
    /// Start it again.
    Start(String),
    /// This is what came of a drop.
    Tell(Told),
}

/// What came of a drop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Told {
    /// Which hospital.
    pub(super) site: String,
    /// In which round.
    pub(super) round: u32,
    /// After what it was to be killed.
    pub(super) phase: Phase,
    /// The last that it did, as the coordinator saw it.
    pub(super) last: String,
}

impl Told {
    /// Whether it was killed when it was asked for.
    pub(super) fn as_asked(&self) -> bool {
        self.last == self.phase.name()
    }
}

/// The drops that are asked for, and how far those of the open round are.
#[derive(Debug, Default)]
pub(super) struct Drops {
    asked: Vec<(String, u32, Phase)>,
    /// Of how many hospitals it takes signatures, and shares: T.
    shares: usize,
    stage: Option<Stage>,
}

/// A round with drops.
#[derive(Debug, Default)]
struct Stage {
    round: u32,
    victims: BTreeMap<String, Phase>,
    /// Everyone else.
    others: BTreeSet<String>,
    killed: BTreeSet<String>,
    held: BTreeSet<String>,
    /// Is not ready before those are killed that are to be killed when they are ready.
    first: Option<String>,
    /// Sends no update before those are killed that are to be killed after theirs, and before
    /// enough others are kept from signing.
    second: Option<String>,
    /// Do not sign, or do not give shares, so that those are needed who are to be killed after it.
    kept: Vec<String>,
}

impl Drops {
    /// Drops of sites by their names.
    pub(super) fn new(asked: &[Drop], names: &[String], shares: u16) -> Self {
        let name = |drop: &Drop| {
            let name = names.get(usize::from(drop.site).checked_sub(1)?)?;
            Some((name.clone(), drop.round, drop.phase))
        };
        Self { asked: asked.iter().filter_map(name).collect(), shares: shares.into(), stage: None }
    }

    /// What is to be done now that this has happened.
    pub(super) fn see(&mut self, event: &StudyEvent) -> VecDeque<Order> {
        match &event.event {
            Some(Event::Started(started)) => self.started(started.round, &started.invited),
            Some(Event::Ready(one)) => self.reached(Phase::Ready, one.round, &one.site),
            Some(Event::Uploaded(one)) => self.reached(Phase::Masked, one.round, &one.site),
            Some(Event::Signed(one)) => self.reached(Phase::Signed, one.round, &one.site),
            Some(Event::Unmasked(one)) => self.reached(Phase::Unmask, one.round, &one.site),
            Some(Event::Closed(round)) => self.closed(round),
            Some(Event::Snapshot(_) | Event::Progress(_)) | None => VecDeque::new(),
        }
    }

    /// A hospital is gone, and the coordinator knows it.
    pub(super) fn killed(&mut self, site: &str) -> VecDeque<Order> {
        let shares = self.shares;
        self.stage.as_mut().map_or_else(VecDeque::new, |stage| {
            stage.killed.insert(site.to_owned());
            stage.orders(shares)
        })
    }

    /// Nothing was heard for a while: nobody is held any longer.
    pub(super) fn lost(&mut self) -> VecDeque<Order> {
        self.stage.as_mut().map_or_else(VecDeque::new, |stage| {
            std::mem::take(&mut stage.held).into_iter().map(Order::Release).collect()
        })
    }

    /// The drops of a round are done in its first attempt, once.
    fn started(&mut self, round: u32, invited: &[String]) -> VecDeque<Order> {
        if self.stage.is_some() {
            return VecDeque::new();
        }
        let mut victims = BTreeMap::new();
        self.asked.retain(|(site, at, phase)| {
            let now = *at == round;
            if now {
                victims.insert(site.clone(), *phase);
            }
            !now
        });
        if victims.is_empty() {
            return VecDeque::new();
        }
        let others: BTreeSet<String> =
            invited.iter().filter(|site| !victims.contains_key(*site)).cloned().collect();
        let first = others.first().filter(|_| victims.values().any(|one| *one == Phase::Ready));
        let stage = Stage { round, first: first.cloned(), victims, others, ..Stage::default() };
        let shares = self.shares;
        self.stage.insert(stage).orders(shares)
    }

    fn reached(&mut self, phase: Phase, round: u32, site: &String) -> VecDeque<Order> {
        let shares = self.shares;
        let Some(stage) = self.stage.as_mut().filter(|stage| stage.round == round) else {
            return VecDeque::new();
        };
        if stage.victims.get(site) == Some(&phase) && !stage.killed.contains(site) {
            return [Order::Kill(site.clone(), phase)].into();
        }
        if stage.others.contains(site) {
            let (first, second) = (stage.first.as_ref(), stage.second.as_ref());
            let later = stage.victims.values().any(|one| *one > Phase::Ready);
            let spare = second != Some(site) && !stage.kept.contains(site);
            match phase {
                Phase::Ready if later && second.is_none() && first != Some(site) => {
                    stage.second = Some(site.clone());
                }
                Phase::Masked if spare && stage.kept.len() < stage.to_keep(shares) => {
                    stage.kept.push(site.clone());
                }
                Phase::Ready | Phase::Masked | Phase::Signed | Phase::Unmask => {}
            }
        }
        stage.orders(shares)
    }

    /// The round is over: whoever is held goes on, whoever was killed is started again.
    fn closed(&mut self, round: &RoundView) -> VecDeque<Order> {
        let Some(stage) = self.stage.take_if(|stage| stage.round == round.round) else {
            return VecDeque::new();
        };
        let after = dropped_after(&round.courses);
        let told = stage.victims.iter().map(|(site, phase)| {
            let killed = stage.killed.contains(site);
            let last = after.get(site).filter(|_| killed).copied().unwrap_or("everything");
            let (site, last) = (site.clone(), last.to_owned());
            Order::Tell(Told { site, round: stage.round, phase: *phase, last })
        });
        let held = stage.held.iter().cloned().map(Order::Release);
        let killed = stage.killed.iter().cloned().map(Order::Start);
        held.chain(told).chain(killed).collect()
    }
}

impl Stage {
    fn alive(&self, phase: Phase) -> bool {
        self.victims.iter().any(|(site, one)| *one == phase && !self.killed.contains(site))
    }

    /// How many are to be kept from signing: when some are to be killed after their signature, one
    /// signature must be missing until they are; when some are to be killed after their shares,
    /// nobody may be there to give more shares than it takes.
    fn to_keep(&self, shares: usize) -> usize {
        let of = |phase| self.victims.values().filter(|one| **one == phase).count();
        let sign = self.others.len() + of(Phase::Signed) + of(Phase::Unmask);
        let running = match (of(Phase::Signed), of(Phase::Unmask)) {
            (0, 0) => return 0,
            (0, _) => shares,
            _ => shares.saturating_sub(1),
        };
        sign.saturating_sub(running)
    }

    /// How many are still to be kept now.
    fn keeping(&self, shares: usize) -> usize {
        let of = |phase| self.victims.values().filter(|one| **one == phase).count();
        if self.alive(Phase::Signed) {
            self.kept.len()
        } else if self.alive(Phase::Unmask) {
            (self.others.len() + of(Phase::Unmask)).saturating_sub(shares).min(self.kept.len())
        } else {
            0
        }
    }

    /// Whom to hold, as things stand, and whom to let go on.
    fn orders(&mut self, shares: usize) -> VecDeque<Order> {
        let mut hold: BTreeSet<&String> = BTreeSet::new();
        if self.alive(Phase::Ready) {
            hold.extend(&self.first);
        }
        // As many can be kept as there are besides the two that are held for something else.
        let room = self.others.len().saturating_sub(1);
        if self.alive(Phase::Masked) || self.kept.len() < self.to_keep(shares).min(room) {
            hold.extend(&self.second);
        }
        hold.extend(self.kept.iter().take(self.keeping(shares)));
        let hold: BTreeSet<String> = hold.into_iter().cloned().collect();
        let orders = hold.difference(&self.held).cloned().map(Order::Hold);
        let orders = orders.chain(self.held.difference(&hold).cloned().map(Order::Release));
        let orders = orders.collect();
        self.held = hold;
        orders
    }
}

#[cfg(test)]
mod tests;
