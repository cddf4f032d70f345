//! The ledger under a node that is killed at every durable step, on a disk that keeps no promise
//! but that of a sync (PROTOCOL D-21 to D-23; PROTOCOL-NOTES section 8, test 11).
//!
//! Every call of the node that reaches disk or network can be the one that it does not come back
//! from, not done or done. What was written and not synced is there afterwards, or not, or in
//! part, or as zeros, and another process may read what is not on the disk yet; a file that its
//! folder was not synced for may not be there at all.

use std::collections::BTreeSet;

use super::*;

/// The process is gone.
#[derive(Debug, PartialEq, Eq)]
struct Killed;

/// What a disk makes of bytes that were written and not synced.
#[derive(Debug, Clone, Copy)]
enum Fate {
    /// Nothing: the machine went on, only the process was killed.
    Cached,
    Lost,
    /// So many of them, if there are.
    Part(usize),
    /// The file's length is there, its contents are not.
    Zeros,
    Kept,
}

/// One file.
#[derive(Debug, Default, Clone)]
struct Disk {
    synced: Vec<u8>,
    written: Vec<u8>,
    /// Whether the folder was synced since the file is there.
    listed: bool,
}

impl Disk {
    /// What a new process finds.
    fn crash(&mut self, fate: Fate) {
        let mut found = self.synced.clone();
        match fate {
            Fate::Cached => return,
            Fate::Lost if !self.listed => found.clear(),
            Fate::Lost => {}
            // A file that was cut is as long as before, or as it was cut.
            Fate::Part(_) | Fate::Zeros | Fate::Kept if self.written.len() <= found.len() => {
                found.clone_from(&self.written);
            }
            Fate::Part(bytes) => {
                let new = &self.written[found.len()..];
                found.extend(&new[..bytes.min(new.len())]);
            }
            Fate::Zeros => found.resize(self.written.len(), 0),
            Fate::Kept => found.clone_from(&self.written),
        }
        (self.written, self.synced) = (found.clone(), found);
    }

    /// The file as it is after a power cut, at worst.
    fn surely(&self) -> &[u8] {
        if self.listed { &self.synced } else { &[] }
    }
}

/// A node, its disk, and what everybody else has seen of it.
struct World {
    disk: Disk,
    /// Calls that are left to the process, and whether the last one is done.
    calls: u32,
    last_is_done: bool,
    uploads: BTreeSet<SlotId>,
    seen: Head,
    next_slot: u64,
    dice: Numbers,
    /// Uploads before it syncs: what a node must not do.
    hasty: bool,
}

/// A price without sampling, which is quick to add up; the caps pay for twelve.
fn price() -> Charge {
    charge(20.0, 1.0)
}

fn budget() -> Caps {
    let epsilon_of = |times| {
        let mut spending = Spending::new();
        spending.add(&price(), times);
        spending.epsilon(Accountant::Rdp, caps(1.0, 1.0).delta).planned.get()
    };
    caps(1e3, f64::midpoint(epsilon_of(12), epsilon_of(13)))
}

impl World {
    fn new(seed: u32) -> Self {
        Self {
            disk: Disk::default(),
            calls: u32::MAX,
            last_is_done: false,
            uploads: BTreeSet::new(),
            seen: Ledger::new(purse()).head(),
            next_slot: 1,
            dice: Numbers::new(seed),
            hasty: false,
        }
    }

    fn call(&mut self, call: impl FnOnce(&mut Self)) -> Result<(), Killed> {
        self.calls -= 1;
        let alive = self.calls > 0;
        if alive || self.last_is_done {
            call(self);
        }
        if alive { Ok(()) } else { Err(Killed) }
    }

    /// Makes a record durable, in the order that D-21 asks for.
    fn record(&mut self, record: &Record) -> Result<(), Killed> {
        self.call(|world| world.disk.written.extend(record.encode()))?;
        self.sync()
    }

    fn sync(&mut self) -> Result<(), Killed> {
        self.call(|world| world.disk.synced.clone_from(&world.disk.written))?;
        self.call(|world| world.disk.listed = true)
    }

    fn upload(&mut self, slot: SlotId, head: Head) -> Result<(), Killed> {
        self.call(|world| {
            world.uploads.insert(slot);
            if head.seq > world.seen.seq {
                world.seen = head;
            }
        })
    }

    /// One process: what the shell of a node does with a ledger, from start to a few rounds.
    fn live(&mut self, rounds: u32) -> Result<Ledger, Killed> {
        let reading = read(&self.disk.written).expect("a crash breaks no record");
        let mut ledger = reading.ledger;
        if reading.torn > 0 {
            let whole = self.disk.written.len() - reading.torn;
            self.call(|world| world.disk.written.truncate(whole))?;
        }
        // What is read may be no more than what an earlier process left in memory.
        if !self.hasty {
            self.sync()?;
        }
        ledger.check(&self.seen).expect("a crash takes no record that was seen");
        // A slot that was charged is closed, or its upload is sent again byte for byte.
        let waiting: Vec<SlotId> = ledger.waiting().map(|entry| entry.slot).collect();
        for slot in waiting {
            if self.dice.below(2) == 0 {
                self.upload(slot, ledger.head())?;
            }
        }
        for _ in 0..rounds {
            let slot = SlotId::new(self.next_slot);
            self.next_slot += 1;
            let entry = entry(1, slot.get(), price());
            let record = match ledger.charge(&entry, &budget()) {
                Ok(record) => record,
                Err(Declined::Cap { .. }) => continue,
                Err(why) => unreachable!("slots ascend: {why}"),
            };
            if self.hasty {
                self.upload(slot, ledger.head())?;
            }
            self.record(&record)?;
            ledger.append(record).expect("made by this ledger");
            self.upload(slot, ledger.head())?;
            if self.dice.below(2) == 0 {
                let released = ledger.release(entry.study, slot).expect("just charged");
                self.record(&released)?;
                ledger.append(released).expect("made by this ledger");
            }
        }
        Ok(ledger)
    }

    /// The uploads that no charge on the disk pays for.
    fn unpaid(&self) -> usize {
        let ledger = read(self.disk.surely()).expect("a crash breaks no record").ledger;
        let charged: BTreeSet<SlotId> = ledger
            .records()
            .iter()
            .filter(|record| record.state() == State::Charged)
            .map(|record| record.entry().slot)
            .collect();
        let spent = ledger.epsilon(Scope::Lifetime, study(1), &budget());
        assert!(spent.planned.within(budget().lifetime.planned), "{}", spent.planned);
        assert!(charged.len() <= 12);
        self.uploads.difference(&charged).count()
    }

    /// Lives and dies so often; the disks that were found in between.
    fn lives(&mut self, times: u32) -> Vec<Vec<u8>> {
        let mut images = vec![Vec::new()];
        for _ in 0..times {
            self.calls = 1 + self.dice.below(16);
            self.last_is_done = self.dice.below(2) == 0;
            let _ = self.live(4);
            let fate = match self.dice.below(5) {
                0 => Fate::Cached,
                1 => Fate::Lost,
                2 => Fate::Part(usize::try_from(self.dice.below(257)).expect("small")),
                3 => Fate::Zeros,
                _ => Fate::Kept,
            };
            self.disk.crash(fate);
            images.push(self.disk.surely().to_vec());
        }
        images
    }
}

/// D-21, D-22: killed anywhere, any number of times, a node never uploads what the disk does not
/// know to be paid for, never crosses a cap, and always comes back.
#[test]
fn uploads_seen_never_exceed_charges_on_disk() {
    let (mut uploads, mut full) = (0, 0);
    for seed in 0..1_000 {
        let mut world = World::new(seed);
        world.lives(6);
        assert_eq!(world.unpaid(), 0, "seed {seed}");
        world.calls = u32::MAX;
        let ledger = world.live(20).expect("nobody kills it");
        assert_eq!(world.unpaid(), 0, "seed {seed}");
        assert_eq!(ledger.rounds_left(study(1), &price(), &budget()), 0, "seed {seed}");
        uploads += world.uploads.len();
        full += u32::from(world.uploads.len() == 12);
    }
    // Some charges are lost to crashes, and are not given back.
    assert!(uploads > 9_000 && full < 900, "{uploads} uploads, {full} budgets used in full");
}

/// The same, one crash at a time and none left out: each call, done or not, with each fate of what
/// was not synced.
#[test]
fn every_step_may_be_the_last_one() {
    let parts = [1, 8, 100, 255].map(Fate::Part);
    for calls in 1..40 {
        for last_is_done in [false, true] {
            for fate in parts.into_iter().chain([Fate::Cached, Fate::Lost, Fate::Zeros, Fate::Kept])
            {
                let mut world = World::new(7);
                (world.calls, world.last_is_done) = (calls, last_is_done);
                assert_eq!(world.live(100), Err(Killed), "{calls} calls are not enough");
                world.disk.crash(fate);
                assert_eq!(world.unpaid(), 0, "{calls} {last_is_done} {fate:?}");
                world.calls = u32::MAX;
                assert!(world.live(100).is_ok());
                assert_eq!(world.unpaid(), 0, "{calls} {last_is_done} {fate:?}");
            }
        }
    }
}

/// The two tests above can fail: a node that uploads before it syncs is caught.
#[test]
fn a_hasty_node_is_caught() {
    let caught = (0..100).filter(|seed| {
        let mut world = World::new(*seed);
        world.hasty = true;
        world.lives(1);
        world.unpaid() > 0
    });
    assert!(caught.count() > 5);
}

/// Nor may a node count on what it reads before it has synced it: a process that died between
/// writing and syncing leaves a charge that is in memory only.
#[test]
fn what_is_read_is_synced_before_it_counts() {
    let mut world = World::new(0);
    let ledger = Ledger::new(purse());
    let record = ledger.charge(&entry(1, 1, price()), &budget()).expect("allowed");
    world.disk.written.extend(record.encode());
    world.disk.crash(Fate::Cached);
    assert_eq!(world.disk.surely(), []);
    world.live(0).expect("nobody kills it");
    assert_eq!(world.disk.surely(), record.encode());
}

/// D-23: an old disk image that lacks what others have seen pays for nothing, whether it is used
/// as it is or goes on by itself until it is as long as the one that was lost.
#[test]
fn a_restored_image_is_refused() {
    let mut refused = 0;
    for seed in 0..1_000 {
        let mut world = World::new(seed);
        for image in world.lives(4) {
            let mut old = read(&image).expect("it was good once").ledger;
            if old.head().seq >= world.seen.seq {
                assert_eq!(old.check(&world.seen), Ok(()), "seed {seed}");
                continue;
            }
            refused += 1;
            let (seen, found) = (world.seen.seq, old.head().seq);
            assert_eq!(old.check(&world.seen), Err(RolledBack::Missing { seen, found }));
            while old.head().seq < seen {
                let slot = 1_000 + old.head().seq;
                let record = old.charge(&entry(2, slot, price()), &caps(1e3, 1e3));
                old.append(record.expect("generous caps")).expect("made by this ledger");
            }
            assert_eq!(old.check(&world.seen), Err(RolledBack::Forked { seq: seen }));
        }
    }
    assert!(refused > 500, "{refused}");
}
