//! Rounds played within tests: numbers from a seed, sites, and one round from open to close.

use std::collections::BTreeSet;

use crate::charter::Charter;
use crate::checkpoint::LogHead;
use crate::evaluation::MetricTally;
use crate::ids::{Digest, HospitalId, RoundId, SlotId};
use crate::message::{DeclineReason, Said, Terms};
use crate::refusal::Refusal;
use crate::round::{Fact, Input, Output, Release, Round};
use crate::study::tests::example;
use crate::units::Timestamp;
use crate::vector::{Contribution, encode};

/// Numbers from a seed: BLAKE3's output stream.
pub(crate) struct Seeded(blake3::OutputReader);

impl Seeded {
    pub(crate) fn new(seed: u8) -> Self {
        Self(blake3::Hasher::new_keyed(&[seed; 32]).finalize_xof())
    }

    pub(crate) fn word(&mut self) -> u32 {
        let mut word = [0; 4];
        self.0.fill(&mut word);
        u32::from_le_bytes(word)
    }

    /// From -1 to 1.
    pub(crate) fn signed(&mut self) -> f64 {
        f64::from(self.word().cast_signed()) / f64::from(i32::MAX)
    }

    /// One of `0..limit`.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.word()).expect("32 bits fit") % limit
    }
}

/// The site with this index.
pub(crate) fn site(index: usize) -> HospitalId {
    HospitalId::new(&format!("site-{index}")).expect("a valid name")
}

/// The moment so many milliseconds into a test.
pub(crate) const fn at(millis: u64) -> Timestamp {
    Timestamp::from_millis(millis)
}

/// The example study with so many sites, without masks.
pub(crate) fn charter(sites: usize, quorum: u16) -> Charter {
    of_example(sites, quorum, true)
}

/// The example study with so many sites, with masks.
pub(crate) fn masked_charter(sites: usize, quorum: u16) -> Charter {
    of_example(sites, quorum, false)
}

fn of_example(sites: usize, quorum: u16, danger_unmasked: bool) -> Charter {
    let mut study = example();
    study.cohort.quorum = quorum;
    study.cohort.danger_unmasked = danger_unmasked;
    Charter::new(study, (0..sites).map(site).collect()).expect("the example is valid")
}

/// The terms of a round, all sites invited.
pub(crate) fn terms(charter: &Charter, round: u32, slot: u64) -> Terms {
    let round = RoundId::new(round).expect("rounds are counted from 1");
    Terms {
        study: charter.id(),
        round,
        slot: SlotId::new(slot),
        work: charter.study().work_in(round),
        model: Digest::sha256(b"a model"),
        invited: charter.sites().clone(),
        ready_by: at(120_000),
        log: LogHead::empty(),
    }
}

/// A round that is being played. Every site moves a coordinate of its own by one half, so a
/// missing or doubled one shows in the sum.
pub(crate) struct Rehearsal {
    pub(crate) charter: Charter,
    pub(crate) terms: Terms,
    pub(crate) round: Round,
    pub(crate) now: Timestamp,
    pub(crate) told: Vec<Output>,
}

impl Rehearsal {
    /// Round 1, which trains.
    pub(crate) fn open(sites: usize, quorum: u16) -> Self {
        let charter = charter(sites, quorum);
        let terms = terms(&charter, 1, 1);
        Self::with(charter, terms)
    }

    pub(crate) fn with(charter: Charter, terms: Terms) -> Self {
        let plan = charter.plan(terms.work, None).expect("the example has a format");
        let (round, told) = Round::open(at(0), terms.clone(), plan);
        Self { charter, terms, round, now: at(0), told }
    }

    /// A round with the first `ready` sites in a frozen roster.
    pub(crate) fn frozen(sites: usize, quorum: u16, ready: usize) -> Self {
        let mut play = Self::open(sites, quorum);
        for index in 0..ready {
            play.say(index, play.ready()).expect("each is invited");
        }
        if ready < sites {
            play.deadline(120_000);
        }
        assert_eq!(play.round.phase(), "mask");
        play
    }

    pub(crate) fn feed(&mut self, input: Input) -> Result<Vec<Output>, Refusal> {
        let before = format!("{:?}", self.round);
        let outputs = self.round.handle(self.now, input);
        match &outputs {
            Ok(outputs) => self.told.extend(outputs.clone()),
            // PROTOCOL R-17
            Err(_) => {
                assert_eq!(before, format!("{:?}", self.round), "a refusal changed something")
            }
        }
        outputs
    }

    pub(crate) fn say(&mut self, index: usize, said: Said) -> Result<Vec<Output>, Refusal> {
        self.feed(Input::Said { from: site(index), said })
    }

    pub(crate) fn deadline(&mut self, millis: u64) -> Vec<Output> {
        self.now = at(millis);
        self.feed(Input::Deadline).expect("a deadline is never refused")
    }

    pub(crate) fn ready(&self) -> Said {
        Said::Ready { terms: self.terms.digest() }
    }

    pub(crate) fn declined(&self, reason: DeclineReason) -> Said {
        Said::Declined { terms: self.terms.digest(), reason }
    }

    pub(crate) fn packed(&self, index: usize) -> Vec<u8> {
        let format = self.charter.format(self.terms.work).expect("the example has a format");
        let mut update = vec![0.0; format.model()];
        if let Some(own) = update.get_mut(index) {
            *own = 0.5;
        }
        let metrics = format.metrics().map(MetricTally::new);
        let said = Contribution { weight: 4_096, update, metrics };
        encode(&format, &said).expect("it fits").packed
    }

    pub(crate) fn update(&self, index: usize) -> Said {
        let packed = self.packed(index);
        Said::Update { terms: self.terms.digest(), digest: Digest::blake3(&packed), packed }
    }

    pub(crate) fn facts(&self) -> Vec<&'static str> {
        self.told.iter().filter_map(Output::fact).map(Fact::kind).collect()
    }

    pub(crate) fn release(&self) -> Option<&Release> {
        self.told.iter().find_map(Output::release)
    }

    /// What must hold of every round that has ended, however it went.
    pub(crate) fn check_end(&self) {
        let closed = self.round.closed().expect("the round has ended");
        let closes = self.told.iter().filter(|output| matches!(output, Output::Close(_))).count();
        assert_eq!(closes, 1);
        assert!(!self.told.iter().any(|o| matches!(o, Output::Fact(Fact::Alarm { .. }))));
        // PROTOCOL R-14: everyone who was invited is named, once.
        let dropped: BTreeSet<_> = closed.dropped.keys().cloned().collect();
        assert!(closed.contributed.is_disjoint(&dropped));
        assert_eq!(&closed.contributed | &dropped, self.terms.invited);
        let quorum = usize::from(self.charter.study().cohort.quorum);
        match self.release() {
            // PROTOCOL: over exactly those who contributed, once each, and enough of them.
            Some(release) => {
                assert_eq!(closed.notice().reason, "");
                assert!(closed.notice().released);
                assert!(release.contributed.len() >= quorum);
                assert_eq!(release.contributed, closed.contributed);
                let added = f64::from(u32::try_from(release.contributed.len()).expect("few sites"));
                for (index, mean) in release.total.update.iter().enumerate() {
                    let times = if release.contributed.contains(&site(index)) { 1.0 } else { 0.0 };
                    assert!(
                        (mean * added - 0.5 * times).abs() < 1e-5,
                        "site {index} is not in it as it should be"
                    );
                }
            }
            None => assert!(!closed.notice().released && !closed.notice().reason.is_empty()),
        }
    }
}
