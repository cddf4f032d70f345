//! The coordinator's round: honest hospitals around it, and anything else between their words.

use std::sync::Arc;
use std::time::Duration;

use aggregation::ids::{Digest, HospitalId};
use aggregation::keys::identity::Signature;
use aggregation::masking::sharing::{Holder, SecretScalar, Share};
use aggregation::message::{DeclineReason, Said, Shares, StopReason};
use aggregation::participant::Event;
use aggregation::round::{Fact, Input, Output, Round};
use aggregation::secret::Secret;
use aggregation::units::Timestamp;

use super::super::input::Reader;
use super::house::House;
use super::party::{Party, WEIGHT};

/// A round, and what has been said to it.
struct Play {
    house: &'static House,
    now: Timestamp,
    round: Round,
    parties: Vec<Party>,
    /// What each hospital has not heard yet.
    unheard: Vec<Output>,
    told: Vec<Output>,
    journal: Vec<(Timestamp, Input)>,
    /// An update that no hospital of ours has made may be in the sum.
    tainted: bool,
}

/// Plays the course that the bytes describe. Whether a sum was released.
#[must_use]
pub(crate) fn run(data: &[u8]) -> bool {
    let house = House::shared();
    let terms = house.terms(1);
    let now = Timestamp::from_millis(0);
    let plan = house.charter().plan(terms.work, Some(house.masks())).expect("a masked study");
    let (round, outputs) = Round::open(now, terms.clone(), plan.clone());
    let parties = (0..house.sites()).map(|site| Party::new(house, site)).collect();
    let mut play = Play {
        house,
        now,
        round,
        parties,
        unheard: outputs.clone(),
        told: outputs,
        journal: Vec::new(),
        tainted: false,
    };
    let mut reader = Reader::new(data);
    let mut steps = 0;
    while !reader.is_done() && steps < 400 {
        play.step(&mut reader);
        steps += 1;
    }
    play.input(Input::Stop { reason: StopReason::Stopped });
    // Played again from its journal it comes to the same, byte for byte (PROTOCOL R-17).
    let (mut again, mut told) = Round::open(Timestamp::from_millis(0), terms, plan);
    for (at, input) in std::mem::take(&mut play.journal) {
        told.extend(again.handle(at, input).expect("it was accepted the first time"));
        told.extend(again.combine_here());
    }
    assert_eq!(format!("{told:?}"), format!("{:?}", play.told), "a replay differs");
    play.check_end()
}

/// Courses of rounds, as bytes that say what happens next: from a quiet one to a wild one.
#[must_use]
pub(crate) fn examples() -> Vec<Vec<u8>> {
    // Everybody hears, then everybody speaks, time and again: what an honest round needs.
    let quiet: Vec<u8> = [0_u8, 1].repeat(24);
    let mut late = quiet.clone();
    late.extend([3, 255, 3, 255, 4, 0, 1, 0, 1]);
    let wild: Vec<u8> = (0..=255).map(|number: u8| number.wrapping_mul(37)).collect();
    vec![quiet, late, wild]
}

impl Play {
    fn step(&mut self, reader: &mut Reader<'_>) {
        match reader.byte() % 10 {
            0 => self.everybody_hears(),
            1 => self.everybody_speaks(None),
            2 => {
                let site = reader.place(self.parties.len());
                self.everybody_speaks(Some(site));
            }
            3 => {
                let later = Duration::from_millis(u64::from(reader.byte()) * 500);
                self.now = self.now.saturating_add(later);
                self.input(Input::Deadline);
            }
            4 => self.input(Input::Resumed),
            5 => {
                let hospital = self.someone(reader);
                self.input(Input::Lost { hospital });
            }
            6 if reader.byte().is_multiple_of(8) => {
                let hospital = self.someone(reader);
                self.input(Input::Removed { hospital });
            }
            _ => {
                let from = self.someone(reader);
                let said = self.anything(reader);
                self.input(Input::Said { from, said });
            }
        }
    }

    /// A hospital, or one that is not of the house.
    fn someone(&self, reader: &mut Reader<'_>) -> HospitalId {
        let site = reader.place(self.parties.len() + 1);
        if site < self.parties.len() {
            return self.house.name(site).clone();
        }
        HospitalId::new("stranger").expect("a name of eight letters")
    }

    fn anything(&self, reader: &mut Reader<'_>) -> Said {
        let right = self.round.terms().digest();
        let terms =
            if reader.byte().is_multiple_of(8) { Digest::new(reader.array()) } else { right };
        let packed = |reader: &mut Reader<'_>| {
            let length = match reader.byte() % 4 {
                0 => usize::from(reader.byte()),
                _ => self.round.expects_update(self.house.name(0)).unwrap_or(0),
            };
            let mut packed = reader.some(length);
            packed.resize(length, 0);
            packed
        };
        match reader.byte() % 6 {
            0 => Said::Ready { terms },
            1 => {
                let all = DeclineReason::ALL;
                let reason = all.get(reader.place(all.len())).copied();
                Said::Declined { terms, reason: reason.unwrap_or(DeclineReason::Policy) }
            }
            2 => {
                let packed = packed(reader);
                let wrong = reader.byte().is_multiple_of(8);
                let digest =
                    if wrong { Digest::new(reader.array()) } else { Digest::blake3(&packed) };
                Said::Update { terms, digest, packed }
            }
            3 => Said::Signed { terms, signature: Signature::new(reader.array()) },
            _ => Said::Unmask { terms, shares: Arc::new(self.some_shares(reader)) },
        }
    }

    fn some_shares(&self, reader: &mut Reader<'_>) -> Shares {
        let mut shares = Shares::default();
        for _ in 0..reader.place(6) {
            let of = self.someone(reader);
            let Some(holder) = Holder::new(u16::from(reader.byte() % 6)) else { continue };
            let wide = Secret::new(reader.array::<64>());
            let share = Share::new(holder, SecretScalar::from_wide(&wide));
            if reader.byte().is_multiple_of(2) {
                shares.own.insert(of, share);
            } else {
                shares.recovery.insert(of, share);
            }
        }
        shares
    }

    fn everybody_hears(&mut self) {
        for output in std::mem::take(&mut self.unheard) {
            let event = match output {
                Output::Offer(terms) => Event::Offered(terms),
                Output::Freeze(roster) => Event::Frozen(roster),
                Output::Fix(set) => Event::Fixed(set),
                Output::Unmask(signed) => Event::Unmask(signed),
                Output::Close(closed) => Event::Closed(closed.notice()),
                Output::WakeAt(_) | Output::Fact(_) | Output::Release(_) => continue,
            };
            for party in &mut self.parties {
                // A hospital for which others have spoken finds that things are not as it left
                // them, and says so.
                let heard = party.hear(event.clone());
                assert!(heard.is_ok() || !self.journal.is_empty(), "{heard:?}");
            }
        }
    }

    fn everybody_speaks(&mut self, only: Option<usize>) {
        for site in 0..self.parties.len() {
            if only.is_some_and(|only| only != site) {
                continue;
            }
            let wants = self.parties.get_mut(site).map(|party| std::mem::take(&mut party.wants));
            for said in wants.unwrap_or_default() {
                let from = self.house.name(site).clone();
                self.input_of(Input::Said { from, said }, true);
            }
        }
    }

    fn input(&mut self, input: Input) {
        self.input_of(input, false);
    }

    fn input_of(&mut self, input: Input, honest: bool) {
        let before = format!("{:?}", self.round);
        match self.round.handle(self.now, input.clone()) {
            Err(_refused) => {
                assert_eq!(before, format!("{:?}", self.round), "a refusal changed the round");
            }
            Ok(outputs) => {
                let counted =
                    |output: &Output| matches!(output, Output::Fact(Fact::Contributed { .. }));
                self.tainted |= !honest && outputs.iter().any(counted);
                self.journal.push((self.now, input));
                self.take(outputs);
                let combined = self.round.combine_here();
                self.take(combined);
            }
        }
    }

    fn take(&mut self, outputs: Vec<Output>) {
        self.unheard.extend(outputs.iter().cloned());
        self.told.extend(outputs);
    }

    /// Everyone is named; nothing is released below the quorum; and a sum of honest updates is
    /// right.
    fn check_end(&self) -> bool {
        let closed = self.round.closed().expect("it was stopped, if it had not ended");
        let named = closed.contributed.len() + closed.dropped.len();
        assert_eq!(named, self.round.terms().invited.len());
        let alarm = |output: &&Output| matches!(output, Output::Fact(Fact::Alarm { .. }));
        assert_eq!(self.told.iter().find(alarm), None);
        let Some(release) = self.told.iter().find_map(Output::release) else { return false };
        let found = release.contributed.len();
        assert!(found >= usize::from(self.house.charter().study().cohort.quorum));
        if !self.tainted {
            let weight = WEIGHT * u64::try_from(found).expect("few");
            assert_eq!(release.total.weight, weight);
        }
        true
    }
}
