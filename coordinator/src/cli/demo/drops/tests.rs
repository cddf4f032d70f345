//! The drops against a coordinator and hospitals of a few lines, in any order of events.

use proto::federation::{
    RoundStarted, SiteCourse, SiteReady, SiteSigned, SiteUnmasked, SiteUploaded,
};

use super::*;

fn name(site: u16) -> String {
    format!("hospital-{site}")
}

fn event(event: Event) -> StudyEvent {
    StudyEvent { event: Some(event) }
}

/// One round: each hospital does the next thing that it may, unless it is held or dead.
struct Round {
    shares: usize,
    courses: BTreeMap<String, SiteCourse>,
    held: BTreeSet<String>,
}

impl Round {
    fn new(sites: u16, shares: usize) -> Self {
        let course = |site| SiteCourse { site: name(site), ..SiteCourse::default() };
        let courses = (1..=sites).map(|site| (name(site), course(site))).collect();
        Self { shares, courses, held: BTreeSet::new() }
    }

    fn count(&self, done: fn(&SiteCourse) -> bool) -> usize {
        self.courses.values().filter(|one| done(one)).count()
    }

    /// Whether everyone who lives has done it, and nobody else is waited for.
    fn all(&self, done: fn(&SiteCourse) -> bool) -> bool {
        self.courses.values().all(|one| one.away || done(one))
    }

    fn closed(&self) -> bool {
        self.count(|one| one.unmasked) >= self.shares
    }

    /// What a hospital may do now.
    fn next(&self, site: &str) -> Option<Event> {
        let one = self.courses.get(site).filter(|one| !one.away && !self.held.contains(site))?;
        let site = site.to_owned();
        let frozen = self.all(|one| one.ready);
        let fixed = frozen && self.all(|one| one.uploaded);
        let signed = self.count(|one| one.signed) >= self.shares;
        if !one.ready {
            return Some(Event::Ready(SiteReady { round: 1, site }));
        }
        if frozen && !one.uploaded {
            return Some(Event::Uploaded(SiteUploaded { round: 1, site }));
        }
        if fixed && !one.signed && !signed {
            return Some(Event::Signed(SiteSigned { round: 1, site }));
        }
        if signed && !one.unmasked && !self.closed() {
            return Some(Event::Unmasked(SiteUnmasked { round: 1, site }));
        }
        None
    }

    fn happens(&mut self, event: &Event) {
        let mut on = |site: &String, set: fn(&mut SiteCourse)| {
            set(self.courses.get_mut(site).expect("a hospital"));
        };
        match event {
            Event::Ready(one) => on(&one.site, |course| course.ready = true),
            Event::Uploaded(one) => on(&one.site, |course| course.uploaded = true),
            Event::Signed(one) => on(&one.site, |course| course.signed = true),
            Event::Unmasked(one) => on(&one.site, |course| course.unmasked = true),
            Event::Snapshot(_) | Event::Started(_) | Event::Progress(_) | Event::Closed(_) => {}
        }
    }

    fn obey(&mut self, drops: &mut Drops, mut orders: VecDeque<Order>) {
        while let Some(order) = orders.pop_front() {
            match order {
                Order::Hold(site) => assert!(self.held.insert(site), "it is held already"),
                Order::Release(site) => assert!(self.held.remove(&site), "it is not held"),
                Order::Kill(site, _) => {
                    self.courses.get_mut(&site).expect("a hospital").away = true;
                    orders.extend(drops.killed(&site));
                }
                Order::Start(_) | Order::Tell(_) => unreachable!("the round is open"),
            }
        }
    }
}

/// Plays a round with these drops, the hospitals in an order that follows from the seed.
fn play(sites: u16, shares: u16, asked: &[Drop], seed: u32) -> Vec<Told> {
    let names: Vec<String> = (1..=sites).map(name).collect();
    let mut drops = Drops::new(asked, &names, shares);
    let mut round = Round::new(sites, shares.into());
    let started = RoundStarted { round: 1, slot: 1, invited: names.clone() };
    let orders = drops.see(&event(Event::Started(started)));
    round.obey(&mut drops, orders);
    let mut random = seed;
    while !round.closed() {
        let may: Vec<Event> = names.iter().filter_map(|site| round.next(site)).collect();
        if may.is_empty() {
            break;
        }
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let pick = usize::try_from(random >> 16).expect("small") % may.len();
        round.happens(&may[pick]);
        let orders = drops.see(&event(may[pick].clone()));
        round.obey(&mut drops, orders);
    }
    let courses = round.courses.values().cloned().collect();
    let closed = RoundView { round: 1, courses, ..RoundView::default() };
    let mut told = Vec::new();
    for order in drops.see(&event(Event::Closed(closed))) {
        match order {
            Order::Tell(one) => told.push(one),
            Order::Start(_) => {}
            Order::Release(site) => assert!(round.held.remove(&site), "it is not held"),
            Order::Hold(_) | Order::Kill(..) => unreachable!("the round is over"),
        }
    }
    assert!(round.held.is_empty(), "nobody stays held");
    assert!(drops.see(&event(Event::Started(RoundStarted::default()))).is_empty(), "only once");
    told
}

#[test]
fn each_drop_happens_at_its_point_in_whatever_order_the_hospitals_act() {
    use Phase::{Masked, Ready, Signed, Unmask};
    let cases: [(u16, u16, &[Phase]); 12] = [
        (5, 4, &[Ready]),
        (5, 4, &[Masked]),
        (5, 4, &[Signed]),
        (5, 4, &[Unmask]),
        (3, 3, &[Signed]),
        (3, 3, &[Unmask]),
        (4, 3, &[Masked]),
        (4, 3, &[Signed]),
        (10, 6, &[Ready, Masked]),
        (10, 6, &[Ready, Masked, Signed]),
        (10, 6, &[Ready, Masked, Signed, Unmask]),
        (10, 6, &[Signed, Signed, Unmask]),
    ];
    for (sites, shares, phases) in cases {
        for seed in 0..300 {
            let drop = |(site, phase): (u16, &Phase)| Drop { site, round: 1, phase: *phase };
            // Neither the first nor the last of the names is always the one.
            let first = 1 + u16::try_from(seed % 3).expect("small");
            let asked: Vec<Drop> =
                (0..).map(|at| (first + at - 1) % sites + 1).zip(phases).map(drop).collect();
            let told = play(sites, shares, &asked, seed);
            assert_eq!(told.len(), phases.len());
            for one in told {
                assert!(one.as_asked(), "{sites} sites, {phases:?}, seed {seed}: {one:?}");
            }
        }
    }
}

#[test]
fn a_round_without_drops_is_left_alone() {
    let names: Vec<String> = (1..=3).map(name).collect();
    let drop = Drop { site: 1, round: 2, phase: Phase::Ready };
    let mut drops = Drops::new(&[drop], &names, 3);
    let started = RoundStarted { round: 1, slot: 1, invited: names };
    assert!(drops.see(&event(Event::Started(started))).is_empty());
    let ready = SiteReady { round: 1, site: name(1) };
    assert!(drops.see(&event(Event::Ready(ready))).is_empty());
}

#[test]
fn what_is_no_drop_says_what_one_looks_like() {
    let drop = Drop { site: 2, round: 13, phase: Phase::Unmask };
    assert_eq!("2@13:unmask".parse(), Ok(drop));
    for text in ["", "2", "2@3", "0@1:ready", "1@0:ready", "a@1:ready", "1@1:later", "1@1:Ready"] {
        let fault = text.parse::<Drop>().expect_err(text);
        assert!(fault.contains("2@3:masked") && fault.contains("unmask"), "{fault}");
    }
}
