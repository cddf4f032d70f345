//! What the log owes this house: the updates and charges that the coordinator said it has. Each must
//! be in the log, unchanged, before the next round of its study, and is proven against a head that
//! this house cosigned.
//!
//! A claim is on disk once the coordinator has said yes, and is dropped once it is proven. One that
//! is missing, or stands there with other content, is the same alarm as a fork: the coordinator has
//! said one thing to this house and another to the world.

use std::collections::BTreeMap;

use aggregation::ids::{Digest, HospitalId, RoundId, SlotId, StudyId};
use aggregation::message::Terms;
use aggregation::privacy::ledger::Record;
use proto::federation::{ChargeRequest, FactsReply, FactsRequest, ProvenFact};
use proto::limits::{MAX_FACTS, MAX_LEAF};
use serde::{Deserialize, Serialize};
use transparency::fact::{Charge, Fact, Told};
use transparency::leaf::Leaf;
use transparency::tree::{Hash, Head, leaf_hash, root_from_inclusion};
use transparency::witness::MAX_PROOF_LINES;

use super::{Desk, Held, WitnessError, answered};
use crate::identity::IdentityError;
use crate::link::Client;
use crate::state::State;

/// The file of the claims.
const OWED: &str = "witness.owed";

/// What the coordinator said it has of one slot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Owed {
    study: String,
    slot: u64,
    round: u32,
    /// BLAKE3 of the update.
    digest: String,
    bytes: u64,
    /// The record of this house's ledger that paid for it.
    charge: Option<OwedCharge>,
    /// Leaves of the newest log that it was looked for in, though it need not have been there yet.
    seen: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OwedCharge {
    seq: u64,
    head: [u8; 32],
    /// Delta, and epsilon planned and solo. The caps are left out: a house may change them between
    /// saying a charge and saying it again, and the log has what was said first.
    figures: [f64; 3],
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
    /// That the coordinator has this update, and the charge that was told with it.
    pub(crate) fn new(
        (study, round, slot): (StudyId, RoundId, SlotId),
        (digest, bytes): (Digest, u64),
        charged: Option<(&Record, &ChargeRequest)>,
    ) -> Self {
        let charge = charged.map(|(record, told)| OwedCharge {
            seq: record.seq(),
            head: *record.hash().as_bytes(),
            figures: [told.delta, told.epsilon_planned, told.epsilon_solo],
        });
        let (study, round) = (study.to_string(), round.get());
        let digest = digest.to_string();
        Self { study, slot: slot.get(), round, digest, bytes, charge, seen: None }
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
                self.charge.is_some_and(|owed| owed.is(said))
            } else {
                continue;
            };
            if !same || told.round != Some(self.round.into()) {
                return Verdict::Wrong(format!(
                    "altered: entry {index} of the log tells of this house in {place} what it did not say"
                ));
            }
        }
        let wanted = [("update", true, update), ("ledger charge", self.charge.is_some(), charge)];
        let missing = wanted.into_iter().find(|(_, wanted, found)| {
            *wanted && found.is_none_or(|index| due.is_some_and(|due| index >= due))
        });
        match (missing, due) {
            (None, _) => Verdict::Proven,
            (Some(_), None) => Verdict::NotYet,
            (Some((what, ..)), Some(due)) => Verdict::Wrong(format!(
                "omitted: the coordinator said that it has this house's {what} of {place}, and it is \
                 not among the first {due} entries of the log"
            )),
        }
    }
}

impl OwedCharge {
    fn is(&self, said: &Charge) -> bool {
        let figures = [said.delta, said.epsilon_planned, said.epsilon_solo];
        let same = |(owed, said): (&f64, f64)| said.total_cmp(owed).is_eq();
        said.seq == Some(self.seq)
            && said.head.as_ref().map(ToString::to_string)
                == Some(Digest::new(self.head).to_string())
            && self.figures.iter().zip(figures).all(same)
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
    /// The coordinator says that it has this: from now on the log owes it.
    pub(crate) fn owe(&self, owed: Owed) {
        let mut claims = self.claims();
        claims.0.entry(owed.place()).or_insert(owed);
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
        let claims: Vec<Owed> = self.claims().0.values().cloned().collect();
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
            match owed.judge(&self.me, &facts, due) {
                Verdict::Proven => self.settle(&owed, None)?,
                Verdict::NotYet => self.settle(&owed, Some(head.size))?,
                Verdict::Wrong(reason) => {
                    let shown: Vec<_> = reply
                        .facts
                        .iter()
                        .map(|fact| String::from_utf8_lossy(&fact.leaf))
                        .collect();
                    // An administrator who has looked is not told the same again.
                    self.settle(&owed, None)?;
                    return Err(self.alarm(reason, witness, &shown.join("\n")));
                }
            }
        }
        Ok(())
    }

    /// Drops a claim, or notes in which log it was not yet.
    fn settle(&self, owed: &Owed, seen: Option<u64>) -> Result<(), WitnessError> {
        let mut claims = self.claims();
        match seen {
            None => drop(claims.0.remove(&owed.place())),
            Some(size) => {
                if let Some(owed) = claims.0.get_mut(&owed.place()) {
                    owed.seen = Some(size);
                }
            }
        }
        claims.write(&self.state)
    }
}

#[cfg(test)]
mod tests;
