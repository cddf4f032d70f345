//! One hospital of the house, honest: does what its participant wants, as a shell would.

use std::sync::Arc;

use aggregation::context::ContextDigest;
use aggregation::ids::{Digest, HospitalId, SlotId};
use aggregation::keys::slots::{HeldShares, Kind, OwnSlot};
use aggregation::masking::masks::Masks;
use aggregation::masking::sharing::{Holder, SecretScalar, Share};
use aggregation::message::{Said, Shares, Work};
use aggregation::participant::{Action, Event, Participant};
use aggregation::refusal::Refusal;
use aggregation::secret::{Secret, SecretBytes};
use aggregation::setup::keyring::Keyring;
use aggregation::vector::{Contribution, encode};

use super::house::House;

/// The weight that a hospital has in every sum.
pub(super) const WEIGHT: u64 = 4_096;

/// A hospital.
#[derive(Debug)]
pub(super) struct Party {
    house: &'static House,
    site: usize,
    pub(super) participant: Participant,
    packed: Vec<u8>,
    masked: Vec<u8>,
    /// What it wants to say.
    pub(super) wants: Vec<Said>,
    /// Every set that it has signed, and every time that it has given shares.
    pub(super) signed: Vec<(SlotId, std::collections::BTreeSet<HospitalId>)>,
    pub(super) gave: Vec<(SlotId, Arc<Shares>)>,
}

impl Party {
    pub(super) fn new(house: &'static House, site: usize) -> Self {
        let participant = Participant::new(house.name(site).clone(), house.charter().clone());
        Self {
            house,
            site,
            participant: participant.with_keys(Arc::clone(house.provision())),
            packed: Vec::new(),
            masked: Vec::new(),
            wants: Vec::new(),
            signed: Vec::new(),
            gave: Vec::new(),
        }
    }

    /// Takes an event, and does what follows until only words are left. A refusal must change
    /// nothing.
    pub(super) fn hear(&mut self, event: Event) -> Result<(), Refusal> {
        let mut events = vec![event];
        let mut first = true;
        while let Some(event) = events.pop() {
            let before = format!("{:?}", self.participant);
            let actions = match self.participant.handle(event) {
                Ok(actions) => actions,
                Err(refusal) => {
                    assert_eq!(before, format!("{:?}", self.participant), "a refusal changed it");
                    assert!(first, "its own shell is refused: {refusal}");
                    return Err(refusal);
                }
            };
            first = false;
            for action in actions {
                events.extend(self.act(action));
            }
        }
        Ok(())
    }

    fn act(&mut self, action: Action) -> Option<Event> {
        match action {
            Action::Train(terms) => {
                let slot = terms.slot;
                self.packed = self.train(terms.work)?;
                let (digest, bytes) = (Digest::blake3(&self.packed), self.packed.len());
                return Some(Event::Trained { slot, digest, bytes });
            }
            Action::Mask { slot, context, members } => {
                return match self.mask(slot, context, &members) {
                    Some(masked) => {
                        self.masked = masked;
                        let (digest, bytes) = (Digest::blake3(&self.masked), self.masked.len());
                        Some(Event::Masked { slot, digest, bytes })
                    }
                    None => None,
                };
            }
            Action::Ready { terms, .. } => self.wants.push(Said::Ready { terms }),
            Action::Decline { terms, reason, .. } => {
                self.wants.push(Said::Declined { terms, reason });
            }
            Action::Upload { terms, digest, .. } => {
                self.wants.push(Said::Update { terms, digest, packed: self.masked.clone() });
            }
            Action::Sign { slot, terms, statement, .. } => {
                let signature = self.house.identity(self.site).sign(&statement);
                self.signed.push((slot, statement.members));
                self.wants.push(Said::Signed { terms, signature });
            }
            Action::Unmask { slot, terms, own, recovery, .. } => {
                let mut shares = Shares::default();
                for id in own {
                    let share = self.share(slot, &id, Kind::Own)?;
                    shares.own.insert(id, share);
                }
                for id in recovery {
                    let share = self.share(slot, &id, Kind::Recovery)?;
                    shares.recovery.insert(id, share);
                }
                let shares = Arc::new(shares);
                self.gave.push((slot, Arc::clone(&shares)));
                self.wants.push(Said::Unmask { terms, shares });
            }
            Action::Forget(_) => {}
        }
        None
    }

    fn train(&self, work: Work) -> Option<Vec<u8>> {
        let format = self.house.charter().format(work).ok()?;
        let mut update = vec![0.0; format.model()];
        if let Some(value) = update.get_mut(self.site) {
            *value = 0.5;
        }
        let metrics = format.metrics().map(aggregation::evaluation::MetricTally::new);
        let said = Contribution { weight: WEIGHT, update, metrics };
        encode(&format, &said).ok().map(|said| said.packed)
    }

    fn mask(
        &self,
        slot: SlotId,
        context: ContextDigest,
        members: &std::collections::BTreeSet<HospitalId>,
    ) -> Option<Vec<u8>> {
        let secrets = SecretBytes::new(self.house.keyring_bytes(self.site).to_vec());
        let name = self.house.name(self.site);
        let mut keyring = Keyring::resume(self.house.provision(), name, &secrets)?;
        let own = self.house.own(self.site, slot)?;
        let own = OwnSlot::resume(self.holder()?, &Secret::new(*own))?;
        let seeds = keyring.take(slot).ok()?;
        let format = self.house.charter().format(Work::Train).ok()?;
        let masks = Masks::new(format.modulus(), keyring.masks(context, members, &own, &seeds));
        let mut masked = self.packed.clone();
        masks.pass(format.lanes()).mask(&mut masked).ok()?;
        Some(masked)
    }

    fn share(&self, slot: SlotId, of: &HospitalId, kind: Kind) -> Option<Share> {
        if of == self.house.name(self.site) {
            let own =
                OwnSlot::resume(self.holder()?, &Secret::new(*self.house.own(self.site, slot)?))?;
            let value = Secret::new(*own.share().value().secret().expose());
            return Some(Share::new(self.holder()?, SecretScalar::from_canonical(value)?));
        }
        let bytes = self.house.held(self.site, slot, of)?;
        Some(HeldShares::resume(self.holder()?, &Secret::new(*bytes))?.release(kind))
    }

    fn holder(&self) -> Option<Holder> {
        let near = self.house.provision().neighbourhood(self.house.name(self.site))?;
        Some(near.owner().holder)
    }
}
