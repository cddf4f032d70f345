//! What the log owes this house: the updates and charges that the coordinator said it has. Each must
//! be in the log, unchanged, before the next round of its study, and is proven against a head that
//! this house cosigned.
//!
//! A claim is on disk before a charge is told, so that it is told with the same words every time, and
//! before the first byte of an update leaves. It is owed from when the coordinator has said yes, to the
//! charge and to the update each; whoever asks this house to sign a final set with it in it, or says
//! that a sum has it, has its update whether or not it gave a receipt. A claim is settled once it is
//! proven, and dropped with a later slot of its study. One that is missing, or stands there with other
//! content, is the same alarm as a fork: the coordinator has said one thing to this house and another to
//! the world.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use aggregation::ids::{Digest, HospitalId, RoundId, SlotId, StudyId};
use aggregation::message::Terms;
use aggregation::privacy::ledger::Record;
use proto::federation::{ChargeRequest, FactsReply, FactsRequest, ProvenFact};
use proto::limits::{MAX_FACTS, MAX_LEAF};
use serde::{Deserialize, Deserializer, Serialize};
use transparency::fact::{Charge, Fact, Told};
use transparency::leaf::Leaf;
use transparency::tree::{Hash, Head, leaf_hash, root_from_inclusion};
use transparency::witness::{MAX_PROOF_LINES, Witness};

use super::{Desk, Held, WitnessError, answered};
use crate::identity::IdentityError;
use crate::link::Client;
use crate::state::State;

/// The file of the claims.
const OWED: &str = "witness.owed";

/// What the coordinator is told of one slot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Owed {
    study: String,
    slot: u64,
    round: u32,
    /// BLAKE3 of the update.
    digest: String,
    bytes: u64,
    /// Whether the coordinator said, or showed, that it has the update.
    received: bool,
    /// The record of this house's ledger that paid for it.
    charge: Option<OwedCharge>,
    /// Leaves of the newest log that it was looked for in, though it need not have been there yet.
    seen: Option<u64>,
    /// Whether the log was seen to have it, or an alarm told of it. It stays for its words, until a later
    /// slot of its study: what is said again is said as it was the first time.
    #[serde(default)]
    settled: bool,
    /// How often the log had been looked at when the coordinator said yes.
    #[serde(skip)]
    since: u64,
}

/// A charge as it was told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OwedCharge {
    seq: u64,
    head: [u8; 32],
    mode: String,
    unit: String,
    /// Noise multiplier and sampling rate.
    z: f64,
    q: f64,
    /// As they were told, in the order of [`figures`]. Earlier versions told only the first five.
    #[serde(deserialize_with = "padded")]
    figures: [Option<f64>; 8],
    /// Whether the coordinator said that it has the charge.
    received: bool,
}

/// Where a claim lies in the order of things.
type Place = (String, u64);

/// All claims, as the file has them.
#[derive(Debug, Default)]
pub(super) struct Claims(BTreeMap<Place, Owed>);

impl Claims {
    /// Reads the file.
    pub(super) fn read(state: &State) -> Result<Self, IdentityError> {
        let Some(bytes) = state.read(OWED)? else { return Ok(Self::default()) };
        let claims: Vec<Owed> = serde_json::from_slice(&bytes).map_err(|_| {
            IdentityError::Damaged { path: state.file(OWED), expected: "what the log owes" }
        })?;
        Ok(Self(claims.into_iter().map(|owed| (owed.place(), owed)).collect()))
    }

    fn write(&self, state: &State) -> Result<(), WitnessError> {
        let claims: Vec<&Owed> = self.0.values().collect();
        let text = serde_json::to_vec(&claims).map_err(|_| WitnessError::Damaged(OWED))?;
        Ok(state.replace(OWED, &text)?)
    }
}

impl Owed {
    /// An update that is sent; nobody has said yet that it is there.
    pub(crate) fn new(
        (study, round, slot): (StudyId, RoundId, SlotId),
        (digest, bytes): (Digest, u64),
    ) -> Self {
        let (study, round) = (study.to_string(), round.get());
        let (digest, slot) = (digest.to_string(), slot.get());
        let (received, charge, seen, settled, since) = (false, None, None, false, 0);
        Self { study, slot, round, digest, bytes, received, charge, seen, settled, since }
    }

    /// The same, and the charge that is told before it.
    pub(crate) fn with_charge(self, record: &Record, unit: &str, told: &ChargeRequest) -> Self {
        let charged = &record.entry().charge;
        let mechanism = charged.planned();
        let charge = OwedCharge {
            seq: record.seq(),
            head: *record.hash().as_bytes(),
            mode: charged.parts().mode.name().to_owned(),
            unit: unit.to_owned(),
            z: mechanism.noise().get(),
            q: mechanism.rate().get(),
            figures: figures(told),
            received: false,
        };
        Self { charge: Some(charge), ..self }
    }

    /// The coordinator said yes, when the log had been looked at so often.
    fn is_due_after(&mut self, looks: u64) {
        (self.seen, self.settled, self.since) = (None, false, looks);
    }

    fn place(&self) -> Place {
        (self.study.clone(), self.slot)
    }

    /// Leaves by which it must be there: those of the log that a later round of its study names, or of
    /// one that was signed after it was looked for.
    fn due(&self, terms: Option<&Terms>, head: Head) -> Option<u64> {
        let next = terms
            .filter(|terms| terms.study.to_string() == self.study && self.slot < terms.slot.get());
        let grown = self.seen.filter(|seen| head.size > *seen).map(|_| head.size);
        next.map(|terms| terms.log.size).or(grown)
    }

    /// What the facts of its slot say of it, each proven to be in the log.
    fn judge(&self, me: &HospitalId, facts: &[(u64, Told)], due: Option<u64>) -> Verdict {
        let place = format!("round {} (slot {}) of study {}", self.round, self.slot, self.study);
        let mine = |told: &&(u64, Told)| {
            let (_, told) = told;
            told.study.as_ref().is_some_and(|study| study.as_str() == self.study)
                && told.slot == Some(self.slot)
                && told.fact.site() == Some(me.as_str())
        };
        let (mut update, mut charge) = (None, None);
        for (index, told) in facts.iter().filter(mine) {
            let same = if let Fact::RoundContribution { digest, bytes, .. } = &told.fact {
                update = Some(*index);
                digest.as_str() == self.digest && *bytes == self.bytes
            } else if let Fact::LedgerCharge(said) = &told.fact {
                charge = Some(*index);
                self.charge.as_ref().is_some_and(|owed| owed.is(said))
            } else {
                continue;
            };
            if !same || told.round != Some(self.round.into()) {
                return Verdict::Wrong(format!(
                    "altered: entry {index} of the log tells of this house in {place} what it did not say"
                ));
            }
        }
        let charged = self.charge.as_ref();
        let wanted = [
            ("update", Some(self.received), update),
            ("ledger charge", charged.map(|charge| charge.received), charge),
        ];
        let in_time = |index: u64| due.is_none_or(|due| index < due);
        let mut missing = wanted
            .into_iter()
            .filter(|(_, told, found)| told.is_some() && !found.is_some_and(in_time));
        let owed = missing.clone().find(|(_, received, _)| *received == Some(true));
        match (owed, missing.next(), due) {
            (Some((what, ..)), _, Some(due)) => Verdict::Wrong(format!(
                "omitted: the coordinator said that it has this house's {what} of {place}, and it is \
                 not among the first {due} entries of the log"
            )),
            // What was told and not answered may never have arrived.
            (None, _, Some(_)) | (None, None, None) => Verdict::Proven,
            (Some(_), _, None) | (None, Some(_), None) => Verdict::NotYet,
        }
    }
}

/// The figures of a charge, in the order in which they are kept.
fn figures(told: &ChargeRequest) -> [Option<f64>; 8] {
    [
        told.delta,
        told.epsilon_planned,
        told.epsilon_solo,
        told.cap_planned,
        told.cap_solo,
        told.cap_delta,
        told.spent_planned,
        told.spent_solo,
    ]
    .map(Some)
}

/// The figures, of which earlier versions kept five.
fn padded<'de, D: Deserializer<'de>>(from: D) -> Result<[Option<f64>; 8], D::Error> {
    let mut figures = Vec::<Option<f64>>::deserialize(from)?;
    if figures.len() == 5 {
        figures.resize(8, None);
    }
    figures.try_into().map_err(|_| serde::de::Error::custom("expected 5 or 8 figures"))
}

impl OwedCharge {
    fn is(&self, said: &Charge) -> bool {
        let Charge { site: _, mode, z, q, delta, epsilon_planned, epsilon_solo, .. } = said;
        let same =
            |owed: f64, said: Option<f64>| said.is_some_and(|said| said.total_cmp(&owed).is_eq());
        let figures = [
            Some(*delta),
            Some(*epsilon_planned),
            Some(*epsilon_solo),
            said.cap_planned,
            said.cap_solo,
            said.cap_delta,
            said.spent_planned,
            said.spent_solo,
        ];
        let head = Digest::new(self.head).to_string();
        said.seq == Some(self.seq)
            && said.head.as_ref().is_some_and(|said| said.as_str() == head)
            && *mode == self.mode
            && said.unit.as_deref().unwrap_or("patient") == self.unit
            && same(self.z, Some(*z))
            && same(self.q, Some(*q))
            && self
                .figures
                .into_iter()
                .zip(figures)
                .all(|(owed, said)| owed.is_none_or(|owed| same(owed, said)))
    }
}

/// What became of a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    /// It is there.
    Proven,
    /// It is not, and need not be.
    NotYet,
    /// It is not, or is something else.
    Wrong(String),
}

/// The facts of an answer, if each is proven to be in this log.
fn proven(reply: &FactsReply, head: Head) -> Option<Vec<(u64, Told)>> {
    let one = |fact: &ProvenFact| {
        if fact.leaf.len() > MAX_LEAF || fact.proof.len() > MAX_PROOF_LINES {
            return None;
        }
        let proof: Vec<Hash> =
            fact.proof.iter().map(|hash| hash.as_slice().try_into().ok()).collect::<Option<_>>()?;
        let root = root_from_inclusion(leaf_hash(&fact.leaf), fact.index, head.size, &proof)?;
        let told = Told::read(&Leaf::decode(&fact.leaf).ok()?).ok()?;
        (root == head.root).then_some((fact.index, told))
    };
    if reply.facts.len() > MAX_FACTS {
        return None;
    }
    reply.facts.iter().map(one).collect()
}

impl Desk {
    /// This house is about to tell of a charge: gives the request in the words of the first time. The
    /// log has those, whatever this house's caps have become since.
    pub(crate) fn tells(&self, owed: Owed, told: ChargeRequest) -> ChargeRequest {
        let mut first = None;
        self.claim(owed, |known| first = known.charge.as_ref().map(|charge| charge.figures));
        let mut again = told;
        let places = [
            &mut again.delta,
            &mut again.epsilon_planned,
            &mut again.epsilon_solo,
            &mut again.cap_planned,
            &mut again.cap_solo,
            &mut again.cap_delta,
            &mut again.spent_planned,
            &mut again.spent_solo,
        ];
        for (place, first) in places.into_iter().zip(first.into_iter().flatten()) {
            *place = first.unwrap_or(*place);
        }
        again
    }

    /// This house is about to send an update. Nobody has it yet.
    pub(crate) fn sends(&self, owed: Owed) {
        self.claim(owed, |_| {});
    }

    /// The coordinator says that it has the charge of a claim: from now on the log owes it.
    pub(crate) fn is_charged(&self, owed: Owed) {
        self.claim(owed, |known| {
            let received = known.charge.as_mut().map(|charge| &mut charge.received);
            if received.is_some_and(|received| !std::mem::replace(received, true)) {
                known.is_due_after(self.looks.load(Ordering::SeqCst));
            }
        });
    }

    /// The coordinator says, or shows, that it has the update of a claim: from now on the log owes it.
    pub(crate) fn is_received(&self, owed: Owed) {
        self.claim(owed, |known| {
            if !std::mem::replace(&mut known.received, true) {
                known.is_due_after(self.looks.load(Ordering::SeqCst));
            }
        });
    }

    /// Whether the log owes the update of this slot; nothing where there is no claim.
    #[cfg(test)]
    pub(crate) fn owes(&self, slot: SlotId) -> Option<bool> {
        let claims = self.claims();
        let owed = claims.0.values().find(|owed| owed.slot == slot.get() && !owed.settled);
        owed.map(|owed| owed.received)
    }

    /// Notes something of a claim, which is made if it is new.
    fn claim(&self, owed: Owed, note: impl FnOnce(&mut Owed)) {
        let mut claims = self.claims();
        let (study, slot) = owed.place();
        note(claims.0.entry((study.clone(), slot)).or_insert(owed));
        claims
            .0
            .retain(|(known, before), owed| !owed.settled || *known != study || *before >= slot);
        if let Err(error) = claims.write(&self.state) {
            // It is looked for all the same, until a restart.
            tracing::warn!(%error, "cannot note what the log owes this house");
        }
    }

    fn claims(&self) -> std::sync::MutexGuard<'_, Claims> {
        self.claims.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Looks for every claim in the log that was cosigned last; before a round of these terms,
    /// earlier ones of its study must be there.
    pub(super) async fn collect(
        &self,
        held: &Held,
        client: &mut Client,
        terms: Option<&Terms>,
    ) -> Result<(), WitnessError> {
        let witness = held.witness.as_ref().ok_or(WitnessError::Shape("log to look at"))?;
        let Some(head) = witness.latest().map(|signed| signed.checkpoint().head()) else {
            return Ok(());
        };
        let claims: Vec<Owed> =
            self.claims().0.values().filter(|owed| !owed.settled).cloned().collect();
        for owed in claims {
            let due = owed.due(terms, head);
            // Before a round only what is due counts; the rest is looked for beside the rounds.
            if due.is_none() && (terms.is_some() || owed.seen == Some(head.size)) {
                continue;
            }
            let study: Digest = owed.study.parse().map_err(|_| WitnessError::Damaged(OWED))?;
            let asked =
                FactsRequest { study: study.as_bytes().to_vec(), slot: owed.slot, size: head.size };
            let reply = answered(client.prove_facts(asked)).await?;
            let facts =
                proven(&reply, head).ok_or(WitnessError::Shape("facts with their proofs"))?;
            let verdict = owed.judge(&self.me, &facts, due);
            let shown = || {
                let leaves = reply.facts.iter().map(|fact| String::from_utf8_lossy(&fact.leaf));
                leaves.collect::<Vec<_>>().join("\n")
            };
            self.conclude(&owed, verdict, (held.look, head.size), witness, shown)?;
        }
        Ok(())
    }

    /// What follows from what the log of so many leaves, fetched at this look, says of a claim.
    fn conclude(
        &self,
        owed: &Owed,
        verdict: Verdict,
        (look, size): (u64, u64),
        witness: &Witness,
        shown: impl Fn() -> String,
    ) -> Result<(), WitnessError> {
        match verdict {
            Verdict::Proven => self.settle(owed, None),
            // What was fetched before the coordinator said yes may have been signed before, and so may
            // the next.
            Verdict::NotYet if look <= owed.since => Ok(()),
            Verdict::NotYet => self.settle(owed, Some(size)),
            Verdict::Wrong(reason) => {
                // The evidence first: whatever is lost after it, the omission is not.
                let alarm = self.alarm(reason, witness, &shown());
                // An administrator who has looked is not told the same again.
                if self.is_kept()
                    && let Err(error) = self.settle(owed, None)
                {
                    tracing::warn!(%error, "a claim could not be settled, and is told again");
                }
                Err(alarm)
            }
        }
    }

    /// Settles a claim, or notes in which log it was not yet; one of which more was said meanwhile stays
    /// as it is.
    fn settle(&self, owed: &Owed, seen: Option<u64>) -> Result<(), WitnessError> {
        let mut claims = self.claims();
        let Some(known) = claims.0.get_mut(&owed.place()).filter(|known| *known == owed) else {
            return Ok(());
        };
        match seen {
            None => known.settled = true,
            Some(_) => known.seen = seen,
        }
        claims.write(&self.state)
    }
}

#[cfg(test)]
mod tests;
