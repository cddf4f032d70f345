//! The steps of a masked round, one call each, and the secrets that go into it.

use std::collections::BTreeMap;

use aggregation::context::{ContextDigest, pair_sign};
use aggregation::ids::{Digest, HospitalId, SlotId};
use aggregation::keys::slots::Kind;
use aggregation::masking::keystream::{Mask, MaskKey};
use aggregation::masking::masks::Masks;
use aggregation::masking::sharing::{Holder, SecretScalar, Share};
use aggregation::message::{Roster, Shares, Terms};
use aggregation::participant::{Action, Event};
use aggregation::secret::Secret;
use aggregation::transcript::Transcript;
use aggregation::vector::encode;
use proto::federation::{SignatureRequest, UpdateReceipt, notice};
use proto::masks::round::{Place, encode_shares, final_set, signed_set};

use super::{Keys, Masked, chosen};
use crate::player::{Upload, in_time, said};
use crate::{Outcome, Trouble, stand_in};

/// The round at hand.
#[derive(Debug)]
pub(super) struct Round {
    terms: Terms,
    packed: Vec<u8>,
    /// The share of its own self secret, which it holds itself.
    own_share: Option<Share>,
}

/// The secrets of one slot that a site has before the slot is used.
#[derive(Debug)]
pub struct SlotSecrets {
    /// As whom it holds the shares.
    pub holder: Holder,
    /// What its self mask grows from.
    pub own: [u8; 32],
    /// Its share of that.
    pub own_share: [u8; 32],
    /// What the mask with each neighbour grows from.
    pub pairs: BTreeMap<HospitalId, [u8; 32]>,
    /// Of each neighbour, its shares of the self secret and of the recovery secret.
    pub held: BTreeMap<HospitalId, ([u8; 32], [u8; 32])>,
}

/// One half of two secrets in a row.
fn halves(both: &[u8; 64]) -> ([u8; 32], [u8; 32]) {
    (std::array::from_fn(|i| both[i]), std::array::from_fn(|i| both[32 + i]))
}

fn again(secret: &SecretScalar) -> Outcome<SecretScalar> {
    SecretScalar::from_canonical(Secret::new(*secret.secret().expose()))
        .ok_or_else(|| Trouble::new("expected a canonical scalar"))
}

impl Masked {
    /// The secrets that it keeps for a whole study, each with what it is: of its identity, of the
    /// agreement, of its slots, and for each neighbour the chain of the seeds and the root of the
    /// keys that shares are sealed under. Nobody else may ever see one of them, but for the
    /// neighbour.
    #[must_use]
    pub fn lasting_secrets(&self) -> Vec<(String, Vec<u8>)> {
        let me = &self.me;
        let mut secrets = vec![
            (format!("the identity of {me}"), self.seed.expose().to_vec()),
            (format!("the agreement secret of {me}"), chosen(me, "agreement").expose().to_vec()),
        ];
        if let Some((number, _)) = &self.batch {
            let seed = chosen(me, &format!("slots of batch {number}"));
            secrets.push((format!("the slots' seed of {me}"), seed.expose().to_vec()));
        }
        for (near, (_, state, root)) in self.pairs() {
            secrets.push((format!("the chain between {me} and {near}"), state.to_vec()));
            secrets.push((format!("the share root between {me} and {near}"), root.to_vec()));
        }
        secrets
    }

    /// For each neighbour the chain's next slot, its state, and the share root: the keyring as it
    /// is kept ([`Keyring::secrets`](aggregation::setup::keyring::Keyring::secrets)).
    fn pairs(&self) -> BTreeMap<HospitalId, (SlotId, [u8; 32], [u8; 32])> {
        let Some(Keys { keyring, .. }) = &self.keys else { return BTreeMap::new() };
        let kept = keyring.secrets();
        let (kept, _) = kept.expose().as_chunks::<72>();
        let near = keyring.neighbourhood().neighbours().iter().zip(kept);
        near.map(|(member, kept)| {
            let next = u64::from_le_bytes(std::array::from_fn(|i| kept[i]));
            let (state, root) = halves(&std::array::from_fn(|i| kept[8 + i]));
            (member.hospital.clone(), (SlotId::new(next), state, root))
        })
        .collect()
    }

    /// The secrets of a slot that was not used yet.
    ///
    /// # Errors
    /// When it was.
    pub fn slot_secrets(&self, slot: SlotId) -> Outcome<SlotSecrets> {
        let none = || Trouble::new(format!("{} has no keys for slot {slot}", self.me));
        let own = self.own.get(&slot).ok_or_else(none)?;
        let holder = own.share().holder();
        let (own, own_share) = halves(own.secrets().expose());
        let seed = |(next, state, _): &(SlotId, [u8; 32], [u8; 32])| {
            let mut state = Secret::new(*state);
            for _ in next.get()..slot.get() {
                state = state.derive(&Transcript::new("consilium/chain-next/1"));
            }
            *state.derive::<32>(&Transcript::new("consilium/chain-seed/1")).expose()
        };
        let pairs = self.pairs().iter().map(|(near, pair)| (near.clone(), seed(pair))).collect();
        let held = self.held.get(&slot).ok_or_else(none)?;
        let shares = |(of, held): (&HospitalId, &aggregation::keys::slots::HeldShares)| {
            (of.clone(), halves(held.secrets().expose()))
        };
        Ok(SlotSecrets { holder, own, own_share, pairs, held: held.iter().map(shares).collect() })
    }

    fn round(&mut self) -> Outcome<&mut Round> {
        self.round.as_mut().ok_or_else(|| Trouble::new("no round was offered"))
    }

    /// What the participant wants done, when it wants one thing; what it wants forgotten is.
    fn happen(&mut self, event: Event) -> Outcome<Action> {
        let mut actions = self.participant.handle(event)?;
        actions.retain(|action| !matches!(action, Action::Forget(_)));
        match (actions.pop(), actions.is_empty()) {
            (Some(action), true) => Ok(action),
            (found, _) => Err(Trouble::new(format!("expected one thing to do, found {found:?}"))),
        }
    }

    /// Waits for terms and says that it has trained under them.
    ///
    /// # Errors
    /// When they do not come, or do not meet the charter, or the coordinator refuses.
    pub async fn ready(&mut self, round: u32) -> Outcome<Terms> {
        let terms = self.seat()?.await_offer(round).await?;
        self.ready_for(terms).await
    }

    /// Says that it has trained under these terms.
    ///
    /// # Errors
    /// As [`Masked::ready`].
    pub async fn ready_for(&mut self, terms: Terms) -> Outcome<Terms> {
        let Action::Train(terms) = self.happen(Event::Offered(terms))? else {
            return Err(Trouble::new("expected terms that meet the charter"));
        };
        let format = self.charter.format(terms.work);
        let format = format.map_err(|fault| Trouble::new(fault.to_string()))?;
        let packed = encode(&format, &stand_in::contribution(self.me.as_str(), &format))?.packed;
        let (digest, bytes) = (Digest::blake3(&packed), packed.len());
        self.happen(Event::Trained { slot: terms.slot, digest, bytes })?;
        self.seat()?.ready(&terms).await.map_err(|status| said(&status))?;
        self.round = Some(Round { terms: terms.clone(), packed, own_share: None });
        Ok(terms)
    }

    /// Waits for the roster and masks the update for it; what is to be sent.
    ///
    /// # Errors
    /// When the roster does not come or is not what it may be, or the keys are gone.
    pub async fn mask(&mut self) -> Outcome<Upload> {
        let terms = self.round()?.terms.clone();
        let roster = self.seat()?.await_roster(&terms).await?;
        self.mask_for(roster)
    }

    /// Masks the update for this roster; what is to be sent.
    ///
    /// # Errors
    /// As [`Masked::mask`].
    pub fn mask_for(&mut self, roster: Roster) -> Outcome<Upload> {
        let terms = self.round()?.terms.clone();
        let slot = terms.slot;
        let secrets = self.slot_secrets(slot)?;
        let Action::Mask { context, members, .. } = self.happen(Event::Frozen(roster))? else {
            return Err(Trouble::new("expected a roster to mask for"));
        };
        let gone = || Trouble::new("the keys of the slot are gone");
        let own = self.own.remove(&slot).ok_or_else(gone)?;
        let keyring = self.keys.as_mut().map(|keys| &mut keys.keyring).ok_or_else(gone)?;
        let seeds = keyring.take(slot)?;
        let masks = keyring.masks(context, &members, &own, &seeds);
        let format = self.charter.format(terms.work);
        let format = format.map_err(|fault| Trouble::new(fault.to_string()))?;
        // The same from the secrets that the story was told: they are what they are said to be.
        let told = secrets.masks(&self.me, context, members.iter().filter(|id| **id != self.me))?;
        let round = self.round()?;
        let mut twin = round.packed.clone();
        for (masks, packed) in [(masks, &mut round.packed), (told, &mut twin)] {
            Masks::new(format.modulus(), masks).pass(format.lanes()).mask(packed)?;
        }
        if round.packed != twin {
            return Err(Trouble::new("expected the same masks from the secrets that were told"));
        }
        round.own_share = Some(Share::new(own.share().holder(), again(own.share().value())?));
        let upload = Upload::new(&terms, &round.packed);
        let (digest, bytes) = (Digest::blake3(&round.packed), round.packed.len());
        self.happen(Event::Masked { slot, digest, bytes })?;
        Ok(upload)
    }

    /// Sends what was masked.
    ///
    /// # Errors
    /// The coordinator's refusal.
    pub async fn send(&mut self, upload: Upload) -> Outcome<UpdateReceipt> {
        self.seat()?.send(upload).await.map_err(|status| said(&status))
    }

    /// Begins to send it, and hangs up in the middle.
    ///
    /// # Errors
    /// When the coordinator ends it first.
    pub async fn send_cut_off(&mut self, upload: Upload) -> Outcome<()> {
        self.seat()?.send_cut_off(upload).await
    }

    /// Waits for the final set and signs it.
    ///
    /// # Errors
    /// When it does not come or is not what it may be, or the coordinator refuses.
    pub async fn sign(&mut self) -> Outcome<()> {
        let fixed = self.seat()?.await_notice("the final set", |notice| {
            let notice::Notice::FinalSet(set) = notice else { return None };
            Some(set)
        });
        let set = final_set(&fixed.await?)?;
        let Action::Sign { statement, .. } = self.happen(Event::Fixed(set))? else {
            return Err(Trouble::new("expected a final set to sign"));
        };
        let Terms { study, round, slot, .. } = self.round()?.terms;
        let request = SignatureRequest {
            study: study.digest().as_bytes().to_vec(),
            round: round.get(),
            slot: slot.get(),
            terms: self.round()?.terms.digest().as_bytes().to_vec(),
            signature: self.identity.sign(&statement).as_bytes().to_vec(),
        };
        let sent = in_time(self.seat()?.client.send_signature(request)).await;
        sent.map(|_| ()).map_err(|status| said(&status))
    }

    /// Waits for the signatures and gives its shares.
    ///
    /// # Errors
    /// When they do not come or do not suffice, or the coordinator refuses.
    pub async fn unmask(&mut self) -> Outcome<()> {
        let signed = self.seat()?.await_notice("the signatures", |notice| {
            let notice::Notice::SignedSet(signed) = notice else { return None };
            Some(signed)
        });
        let signed = signed_set(&signed.await?)?;
        let Action::Unmask { own, recovery, slot, .. } = self.happen(Event::Unmask(signed))? else {
            return Err(Trouble::new("expected a signed set to give shares for"));
        };
        let gone = || Trouble::new("the shares of the slot are gone");
        let mut held = self.held.remove(&slot).ok_or_else(gone)?;
        let me = self.me.clone();
        let round = self.round()?;
        let mut own_share = round.own_share.take();
        let holder = own_share.as_ref().map(Share::holder).ok_or_else(gone)?;
        let mut shares = Shares::default();
        for id in own {
            let share = if id == me {
                own_share.take()
            } else {
                held.remove(&id).map(|held| held.release(Kind::Own))
            };
            shares.own.insert(id, share.ok_or_else(gone)?);
        }
        for id in recovery {
            let share = held.remove(&id).map(|held| held.release(Kind::Recovery));
            shares.recovery.insert(id, share.ok_or_else(gone)?);
        }
        let Terms { study, round: number, .. } = round.terms;
        let place = Place { study, round: number, slot, terms: round.terms.digest() };
        let request = encode_shares(&place, holder, &shares);
        let sent = in_time(self.seat()?.client.send_shares(request)).await;
        sent.map(|_| ()).map_err(|status| said(&status))
    }

    /// Waits for the end of the round; whether its sum was released.
    ///
    /// # Errors
    /// When it does not come.
    pub async fn end(&mut self) -> Outcome<bool> {
        let terms = self.round()?.terms.clone();
        self.seat()?.await_end(&terms).await
    }
}

impl SlotSecrets {
    /// The key of the self mask in this context, and those of the masks with these neighbours.
    fn keys<'a>(
        &'a self,
        context: ContextDigest,
        near: impl Iterator<Item = &'a HospitalId>,
    ) -> Outcome<(MaskKey, Vec<(&'a HospitalId, MaskKey)>)> {
        let own = SecretScalar::from_canonical(Secret::new(self.own));
        let own = own.ok_or_else(|| Trouble::new("expected a canonical scalar"))?;
        let mut purpose = Transcript::new("consilium/pair-mask/1");
        purpose.bytes(context.digest().as_bytes());
        let pair = |id| {
            let seed = self.pairs.get(id).ok_or_else(|| Trouble::new("expected a neighbour"))?;
            Ok((id, MaskKey::new(Secret::new(*seed).derive(&purpose))))
        };
        Ok((context.self_key(&own), near.map(pair).collect::<Outcome<_>>()?))
    }

    /// The masks of an update, from these secrets.
    fn masks<'a>(
        &'a self,
        me: &HospitalId,
        context: ContextDigest,
        near: impl Iterator<Item = &'a HospitalId>,
    ) -> Outcome<Vec<Mask>> {
        let (own, pairs) = self.keys(context, near)?;
        let own = Mask::new(&own, aggregation::masking::keystream::Sign::Add);
        let pairs = pairs.into_iter().map(|(id, key)| Mask::new(&key, pair_sign(me, id)));
        Ok(std::iter::once(own).chain(pairs).collect())
    }
}
