//! What a hospital that means ill does: it runs the honest program, and turns round what that
//! says. It holds its own keys and shares and nobody else's, and it speaks under its own name.

use std::collections::BTreeSet;
use std::sync::Arc;

use aggregation::ids::{Digest, HospitalId};
use aggregation::keys::identity::Signature;
use aggregation::keys::slots::{HeldShares, Kind};
use aggregation::masking::group::Modulus;
use aggregation::masking::sharing::{Holder, SecretScalar, Share};
use aggregation::message::{DeclineReason, Said, SetStatement, Shares};
use aggregation::secret::Secret;

use crate::simulation::chance::Chance;

/// One way of doing harm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Trick {
    /// Makes an update that no trainer would, and masks it properly.
    Poison,
    /// Sends noise in place of the masked update.
    Noise,
    /// Sends bytes that are not what their digest says, or too few, or too many.
    Broken,
    /// Sends an update, and then another one.
    Twice,
    /// Says that it will take no part after all.
    Fickle,
    /// Signs another set.
    OtherSet,
    /// Sends a signature that is none.
    Forged,
    /// Gives shares with wrong values.
    WrongShares,
    /// Gives shares of the other kind, or of fewer hospitals, or under another number.
    OtherShares,
    /// Gives the right shares, and then those that nobody may have.
    BothKinds,
    /// Says things of earlier slots again.
    Repeats,
    /// Says nothing.
    Silent,
}

const TRICKS: [Trick; 12] = [
    Trick::Poison,
    Trick::Noise,
    Trick::Broken,
    Trick::Twice,
    Trick::Fickle,
    Trick::OtherSet,
    Trick::Forged,
    Trick::WrongShares,
    Trick::OtherShares,
    Trick::BothKinds,
    Trick::Repeats,
    Trick::Silent,
];

/// What one hospital is up to.
#[derive(Debug, Clone)]
pub(crate) struct Mischief {
    tricks: BTreeSet<Trick>,
    /// How often, of a thousand occasions.
    often: u64,
    /// Updates that it has sent, as it would have sent them honestly.
    past: Vec<Said>,
}

/// What the hospital knows when it speaks.
pub(crate) struct Means<'a> {
    pub(crate) me: &'a HospitalId,
    pub(crate) holder: Option<Holder>,
    pub(crate) held: Vec<(HospitalId, [u8; 64])>,
}

impl Mischief {
    /// A hospital that means ill, in one or in several ways.
    pub(crate) fn plan(chance: &mut Chance) -> Self {
        let count = chance.between(1, 4);
        let tricks = (0..count).filter_map(|_| chance.pick(&TRICKS).copied()).collect();
        Self { tricks, often: chance.between(300, 1_000), past: Vec::new() }
    }

    /// One that does as it is told, and has told the coordinator everything.
    pub(crate) const fn none() -> Self {
        Self { tricks: BTreeSet::new(), often: 0, past: Vec::new() }
    }

    fn plays(&self, trick: Trick, chance: &mut Chance) -> bool {
        self.tricks.contains(&trick) && chance.permille(self.often)
    }

    /// What it has its trainer make.
    pub(crate) fn poison(&self, chance: &mut Chance, packed: &mut [u8], model: usize) {
        if !self.plays(Trick::Poison, chance) {
            return;
        }
        // All of it, or only what the model is made of, which no bound on counters sees.
        let from = if chance.one_in(2) { packed.len() } else { model.min(packed.len()) };
        for byte in packed.iter_mut().take(from) {
            let [any] = chance.bytes();
            *byte = any;
        }
    }

    /// What it signs in place of this.
    pub(crate) fn set(&self, chance: &mut Chance, statement: &SetStatement) -> SetStatement {
        let mut other = statement.clone();
        if self.plays(Trick::OtherSet, chance) {
            let members: Vec<_> = other.members.iter().cloned().collect();
            if let Some(out) = chance.pick(&members) {
                other.members.remove(out);
            }
        }
        other
    }

    /// What it says in place of this.
    pub(crate) fn turn(&mut self, chance: &mut Chance, said: Said, means: &Means<'_>) -> Vec<Said> {
        let mut turned = Vec::new();
        if self.plays(Trick::Repeats, chance) {
            turned.extend(chance.pick(&self.past).cloned());
        }
        if self.plays(Trick::Silent, chance) {
            return turned;
        }
        self.past.push(said.clone());
        match said {
            Said::Ready { terms } => {
                turned.push(Said::Ready { terms });
                if self.plays(Trick::Fickle, chance) {
                    turned.push(Said::Declined { terms, reason: DeclineReason::Policy });
                }
            }
            Said::Declined { terms, reason } => {
                turned.push(Said::Declined { terms, reason });
                if self.plays(Trick::Fickle, chance) {
                    turned.push(Said::Ready { terms });
                }
            }
            Said::Update { terms, digest, packed } => {
                turned.extend(self.turn_update(chance, terms, digest, packed));
            }
            Said::Signed { terms, signature } => {
                let forged = self.plays(Trick::Forged, chance);
                let signature = if forged { Signature::new(chance.bytes()) } else { signature };
                turned.push(Said::Signed { terms, signature });
            }
            Said::Unmask { terms, shares } => {
                turned.extend(self.turn_shares(chance, terms, shares, means));
            }
        }
        turned
    }

    fn turn_update(
        &self,
        chance: &mut Chance,
        terms: Digest,
        digest: Digest,
        packed: Vec<u8>,
    ) -> Vec<Said> {
        let noise = |chance: &mut Chance| {
            let mut noise = packed.clone();
            let from = chance.index(noise.len());
            for byte in noise.iter_mut().skip(from) {
                let [any] = chance.bytes();
                *byte = any;
            }
            Said::Update { terms, digest: Digest::blake3(&noise), packed: noise }
        };
        if self.plays(Trick::Noise, chance) {
            return vec![noise(chance)];
        }
        if self.plays(Trick::Broken, chance) {
            let mut broken = packed.clone();
            let digest = match chance.below(3) {
                0 => Digest::new(chance.bytes()),
                1 => {
                    broken.pop();
                    Digest::blake3(&broken)
                }
                _ => {
                    broken.push(0);
                    Digest::blake3(&broken)
                }
            };
            return vec![Said::Update { terms, digest, packed: broken }];
        }
        let second = self.plays(Trick::Twice, chance).then(|| noise(chance));
        let mut both = vec![Said::Update { terms, digest, packed }];
        both.extend(second);
        if chance.one_in(2) {
            both.reverse();
        }
        both
    }

    fn turn_shares(
        &self,
        chance: &mut Chance,
        terms: Digest,
        shares: Arc<Shares>,
        means: &Means<'_>,
    ) -> Vec<Said> {
        let say = |shares: Shares| Said::Unmask { terms, shares: Arc::new(shares) };
        if self.plays(Trick::WrongShares, chance) {
            let mut wrong = copy(&shares);
            for share in wrong.own.values_mut().chain(wrong.recovery.values_mut()) {
                if chance.one_in(2) {
                    let wide = Secret::new(chance.bytes::<64>());
                    *share = Share::new(share.holder(), SecretScalar::from_wide(&wide));
                }
            }
            return vec![say(wrong)];
        }
        if self.plays(Trick::OtherShares, chance) {
            let mut other = copy(&shares);
            match chance.below(3) {
                0 => std::mem::swap(&mut other.own, &mut other.recovery),
                1 => drop(other.own.pop_first()),
                _ => {
                    let number = u16::try_from(chance.between(1, 30)).unwrap_or(1);
                    if let (Some(holder), Some(mut share)) =
                        (Holder::new(number), other.own.first_entry())
                    {
                        let copied = SecretScalar::from_canonical(Secret::new(
                            *share.get().value().secret().expose(),
                        ));
                        if let Some(value) = copied {
                            share.insert(Share::new(holder, value));
                        }
                    }
                }
            }
            return vec![say(other)];
        }
        if self.plays(Trick::BothKinds, chance) {
            return vec![Said::Unmask { terms, shares }, say(both_kinds(means))];
        }
        vec![Said::Unmask { terms, shares }]
    }
}

/// Everything that it holds for the slot, of both kinds.
fn both_kinds(means: &Means<'_>) -> Shares {
    let mut shares = Shares::default();
    for (owner, secrets) in means.held.iter().filter(|(owner, _)| owner != means.me) {
        let held = |kind| {
            let held = HeldShares::resume(means.holder?, &Secret::new(*secrets))?;
            Some(held.release(kind))
        };
        if let (Some(own), Some(recovery)) = (held(Kind::Own), held(Kind::Recovery)) {
            shares.own.insert(owner.clone(), own);
            shares.recovery.insert(owner.clone(), recovery);
        }
    }
    shares
}

/// The same shares once more; they are not copied by accident.
pub(crate) fn copy(shares: &Shares) -> Shares {
    let one = |share: &Share| {
        let value = SecretScalar::from_canonical(Secret::new(*share.value().secret().expose()));
        value.map(|value| Share::new(share.holder(), value))
    };
    let of = |(id, share): (&HospitalId, &Share)| Some((id.clone(), one(share)?));
    Shares {
        own: shares.own.iter().filter_map(of).collect(),
        recovery: shares.recovery.iter().filter_map(of).collect(),
    }
}

/// What an upload adds to a sum, when it is not what the masks were put on: the difference to what
/// would have been sent, on top of what was masked.
pub(crate) fn effect(
    modulus: Modulus,
    plain: &[u8],
    masked: &[u8],
    sent: &[u8],
) -> Option<Vec<u8>> {
    if plain.len() != sent.len() || masked.len() != sent.len() {
        return None;
    }
    let width = modulus.bytes();
    let number = |lane: &[u8]| lane.iter().rev().fold(0, |all, byte| all << 8 | u64::from(*byte));
    let mut effect = Vec::with_capacity(sent.len());
    let lanes = plain.chunks(width).zip(masked.chunks(width)).zip(sent.chunks(width));
    for ((plain, masked), sent) in lanes {
        let lane = number(plain).wrapping_add(number(sent)).wrapping_sub(number(masked));
        effect.extend(lane.to_le_bytes().iter().take(width));
    }
    Some(effect)
}
