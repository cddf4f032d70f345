//! A coordinator that means ill, with the hospitals that collude with it.
//!
//! It knows everything that was ever sent to it, speaks for the colluders, shows everyone what it
//! likes, and is in no hurry. Most of what it does is what an honest coordinator would do, or it
//! would not get far; it does it for two worlds at once, and every now and then it says something
//! that nobody may believe.

mod forgery;
mod nasty;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use aggregation::checkpoint::LogHead;
use aggregation::context::ContextDigest;
use aggregation::ids::{Digest, HospitalId, RoundId, SlotId};
use aggregation::keys::identity::Signature;
use aggregation::message::{FinalSet, Roster, Said, SetStatement, SignedSet, Terms};
use aggregation::setup::gathering::Gathering;
use aggregation::units::Timestamp;

use crate::simulation::cast::Cast;
use crate::simulation::coordinator::Books;
use crate::simulation::stage::{Happening, Stage, Task};
use crate::simulation::trace::Who;
use crate::simulation::words::{Answer, Call, Notice, Word};
pub(crate) use forgery::Forgery;

/// Moves that it makes in one slot, for each hospital.
const MOVES: u64 = 28;

/// A coordinator that means ill.
#[derive(Debug)]
pub(crate) struct Evil {
    cast: Arc<Cast>,
    colluders: BTreeSet<usize>,
    /// What it was told of the keys, as an honest one would keep it.
    gathering: Arc<Gathering>,
    forgery: Option<Forgery>,
    slot: SlotId,
    round: RoundId,
    /// The highest slot that it has ever spoken of as if it were real.
    highest: SlotId,
    worlds: Vec<World>,
    /// Which world each hospital lives in.
    lives_in: Vec<usize>,
    heard: BTreeMap<(usize, Digest), BTreeSet<Word>>,
    past: Vec<Arc<Notice>>,
    /// Moves left in this slot.
    left: u64,
    /// How often, of a thousand moves, it says what nobody may believe.
    nasty: u64,
    /// How often, of a thousand moves, it shows a hospital the other world.
    astray: u64,
}

/// What it shows to some of the hospitals in one slot.
#[derive(Debug, Clone)]
struct World {
    terms: Terms,
    roster: Roster,
    set: FinalSet,
    context: ContextDigest,
    signatures: BTreeMap<HospitalId, Signature<SetStatement>>,
}

/// How the two worlds of a slot differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scheme {
    /// They do not: what is tried is on top of an honest round.
    One,
    /// Another model.
    Models,
    /// Another roster.
    Rosters,
    /// Another final set: one hospital's update in the one, and not in the other.
    Sets,
    /// One final set is below the quorum.
    Small,
}

const SCHEMES: [Scheme; 7] = [
    Scheme::One,
    Scheme::One,
    Scheme::Models,
    Scheme::Rosters,
    Scheme::Sets,
    Scheme::Sets,
    Scheme::Small,
];

impl Evil {
    pub(crate) fn new(
        cast: &Arc<Cast>,
        books: &Books,
        colluders: BTreeSet<usize>,
        forgery: Option<Forgery>,
    ) -> Self {
        Self {
            cast: Arc::clone(cast),
            colluders,
            gathering: books.gathering(),
            forgery,
            slot: SlotId::new(books.next_slot.get().saturating_sub(1)),
            round: RoundId::FIRST,
            highest: books.next_slot,
            worlds: Vec::new(),
            lives_in: Vec::new(),
            heard: BTreeMap::new(),
            past: Vec::new(),
            left: 0,
            nasty: 0,
            astray: 0,
        }
    }

    /// It begins.
    pub(crate) fn start(&self, stage: &mut Stage) {
        stage.say(Who::Coordinator, format_args!("means ill, with {:?}", self.colluders));
        stage.after(5_000, Happening::Desk { life: 0, what: Task::Look });
    }

    /// What an honest coordinator that takes over would find in the books.
    pub(crate) fn books(&self) -> Books {
        Books::settled(Arc::clone(&self.gathering), self.highest.next()).at_round(self.round)
    }

    /// It makes a few moves.
    pub(crate) fn ring(&mut self, stage: &mut Stage, what: Task) {
        if what != Task::Look {
            return;
        }
        let pause = stage.chance.between(100, 1_500);
        stage.after(pause, Happening::Desk { life: 0, what });
        if self.gathering.provision().is_none() {
            return;
        }
        for _ in 0..stage.chance.between(1, 4) {
            if self.left == 0 {
                self.begin_slot(stage);
            }
            self.left = self.left.saturating_sub(1);
            self.move_once(stage);
        }
    }

    /// Thinks of two worlds for the next slot.
    fn begin_slot(&mut self, stage: &mut Stage) {
        self.slot = SlotId::new(self.slot.get() + stage.chance.between(1, 2));
        self.highest = self.highest.max(self.slot);
        let last = self.cast.charter.study().last_round();
        if stage.chance.one_in(6) && self.round.next() < last {
            self.round = self.round.next();
        }
        let sites = self.cast.names.len();
        let scheme = *stage.chance.pick(&SCHEMES).unwrap_or(&Scheme::One);
        let victim = stage.chance.index(sites);
        let first = self.world(stage, Scheme::One, victim);
        let second = self.world(stage, scheme, victim);
        stage.say(
            Who::Coordinator,
            format_args!("plots {scheme:?} in slot {} against site-{victim:02}", self.slot),
        );
        self.worlds = first.into_iter().chain(second).collect();
        let apart = *stage.chance.pick(&[100, 300, 500]).unwrap_or(&500);
        self.lives_in = (0..sites).map(|_| usize::from(stage.chance.permille(apart))).collect();
        self.nasty = *stage.chance.pick(&[0, 30, 300]).unwrap_or(&0);
        self.astray = *stage.chance.pick(&[0, 50, 200]).unwrap_or(&0);
        self.heard.clear();
        self.left = MOVES * u64::try_from(sites).unwrap_or(1);
    }

    fn world(&self, stage: &mut Stage, scheme: Scheme, victim: usize) -> Option<World> {
        let study = self.cast.charter.study();
        let everybody: BTreeSet<HospitalId> = self.cast.names.iter().cloned().collect();
        let model = if scheme == Scheme::Models { stage.chance.bytes() } else { [1; 32] };
        let terms = Terms {
            study: self.cast.charter.id(),
            round: self.round,
            slot: self.slot,
            work: study.work_in(self.round),
            model: Digest::new(model),
            invited: everybody.clone(),
            ready_by: Timestamp::from_millis(1),
            log: LogHead::empty(),
        };
        let mut members = everybody;
        if let Some(victim) = self.cast.names.get(victim).filter(|_| scheme == Scheme::Rosters) {
            members.remove(victim);
        }
        let Terms { study, round, slot, .. } = terms;
        let digest = terms.digest();
        let upload_by = Timestamp::from_millis(2);
        let roster =
            Roster { study, round, slot, terms: digest, members: members.clone(), upload_by };
        if let Some(victim) = self.cast.names.get(victim).filter(|_| scheme == Scheme::Sets) {
            members.remove(victim);
        }
        let quorum = usize::from(self.cast.charter.study().cohort.quorum);
        while scheme == Scheme::Small && members.len() >= quorum {
            members.pop_last();
        }
        let set = FinalSet { study, round, slot, terms: digest, members };
        let format = self.cast.charter.format(terms.work).ok()?;
        let provision = self.gathering.provision()?;
        let context = provision.context(&terms, &roster.members, &format)?;
        let mut world = World { terms, roster, set, context, signatures: BTreeMap::new() };
        for colluder in &self.colluders {
            self.sign_for(*colluder, &mut world);
        }
        Some(world)
    }

    /// A colluder signs whatever it is asked to.
    fn sign_for(&self, colluder: usize, world: &mut World) {
        let names = (self.cast.names.get(colluder), self.cast.identities.get(colluder));
        if let (Some(id), Some(identity)) = names {
            world.signatures.insert(id.clone(), identity.sign(&world.statement()));
        }
    }

    /// Tells one hospital the next thing, of its own world or of the other; or something else.
    fn move_once(&mut self, stage: &mut Stage) {
        let site = stage.chance.index(self.cast.names.len());
        let lives_in = self.lives_in.get(site).copied().unwrap_or(0);
        let astray = stage.chance.permille(self.astray);
        let world = if astray { stage.chance.index(self.worlds.len()) } else { lives_in };
        let Some(world) = self.worlds.get(world) else { return };
        let said = self.heard.get(&(site, world.terms.digest()));
        let has = |word: Word| said.is_some_and(|said| said.contains(&word));
        // Signatures are waited for, though not always.
        let needed = usize::from(self.cast.roll.thresholds().shares());
        let enough = world.signatures.len() >= needed || stage.chance.one_in(10);
        let due = if has(Word::Signature) && enough {
            Notice::Unmask(world.signed())
        } else if has(Word::Update) {
            Notice::Fix(world.set.clone())
        } else if has(Word::Ready) {
            Notice::Freeze(world.roster.clone())
        } else {
            Notice::Offer(world.terms.clone())
        };
        let told =
            if stage.chance.permille(self.nasty) { self.nasty(stage, site, due) } else { due };
        let told = Arc::new(told);
        stage.say(Who::Coordinator, format_args!("shows site-{site:02} {told}"));
        if stage.chance.one_in(4) {
            self.past.push(Arc::clone(&told));
        }
        stage.tell(site, &told);
    }

    /// A hospital calls.
    pub(crate) fn hear(&mut self, stage: &mut Stage, from: usize, call: Call) {
        let Some(id) = self.cast.names.get(from).cloned() else { return };
        match call {
            Call::Hello => {
                if let Some(keys) = self.keys_for(stage, from) {
                    stage.tell(from, &Arc::new(Notice::Keys(keys)));
                }
                self.try_one_that_may_have_forgotten(stage, from);
            }
            Call::Said { slot, said } => self.hear_said(stage, from, &id, slot, &said),
            Call::Announce(_)
            | Call::Nonce(_)
            | Call::Batch { .. }
            | Call::Opened { .. }
            | Call::Fetch { .. } => self.hear_of_keys(stage, from, &id, call),
        }
    }

    /// Who says hello may have been restarted, and have forgotten what it did not write down.
    fn try_one_that_may_have_forgotten(&self, stage: &mut Stage, site: usize) {
        let world = stage.chance.index(self.worlds.len());
        let Some(world) = self.worlds.get(world) else { return };
        let notices = [
            Notice::Freeze(world.roster.clone()),
            Notice::Fix(world.set.clone()),
            Notice::Unmask(world.signed()),
        ];
        for notice in notices {
            stage.tell(site, &Arc::new(notice));
        }
    }

    fn hear_said(
        &mut self,
        stage: &mut Stage,
        from: usize,
        id: &HospitalId,
        slot: SlotId,
        said: &Said,
    ) {
        let word = Word::of(said);
        self.heard.entry((from, said.terms())).or_default().insert(word);
        if let Said::Signed { signature, .. } = said
            && let Some(key) = self.cast.identities.get(from).map(|identity| identity.key())
        {
            for world in &mut self.worlds {
                if key.verify(&world.statement(), signature).is_ok() {
                    world.signatures.insert(id.clone(), *signature);
                }
            }
        }
        match stage.chance.below(10) {
            // It may keep silent, or confirm what it never got.
            0 => {}
            1 => {
                let words = [Word::Update, Word::Signature, Word::Shares];
                let word = *stage.chance.pick(&words).unwrap_or(&Word::Update);
                stage.answer(from, Answer::Kept { slot, word });
            }
            _ => stage.answer(from, Answer::Kept { slot, word }),
        }
    }
}

impl World {
    fn statement(&self) -> SetStatement {
        SetStatement { context: self.context, members: self.set.members.clone() }
    }

    fn signed(&self) -> SignedSet {
        // Who signed is in the set, or the list would show what it is.
        let signed = self.signatures.iter().filter(|(id, _)| self.set.members.contains(*id));
        let signatures = signed.map(|(id, signature)| (id.clone(), *signature)).collect();
        SignedSet { set: self.set.clone(), signatures }
    }
}
