//! How the journal keeps what is secret so that it can be erased.
//!
//! A database moves rows about: what was overwritten in one place may still lie in another, in the
//! file or in its write-ahead log. So nothing secret is ever written as it is. A study's secrets are
//! one sealed piece, and the key of all such pieces, the [`Vault`], is replaced with every change: it
//! is one row in a table of its own that is overwritten where it stands, and [`super::Journal::settle`]
//! empties the log. The shares and slots, of which there are thousands, are hidden under one key a
//! slot, from a chain in the sealed piece that only goes forwards: the [`Shelf`]. Once it has passed a
//! slot, whatever is left of that slot's rows means nothing.

use aggregation::ids::{HospitalId, SlotId, StudyId};
use aggregation::keys::graph::GraphNonce;
use aggregation::secret::{Secret, SecretBytes};
use aggregation::transcript::Transcript;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use zeroize::Zeroizing;

use super::JournalError;

/// One study's secrets.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Secrets {
    /// This house has announced itself, or is about to.
    Announced {
        /// What the agreement key grows from.
        agreement: Secret<32>,
        /// What it committed to.
        nonce: GraphNonce,
    },
    /// It has agreed with its neighbours; the agreement secret is gone.
    Agreed(Agreed),
}

/// What is left of the agreement.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Agreed {
    /// As `Keyring::secrets` gives it.
    pub keyring: SecretBytes,
    /// Keys of the slots and shares that lie in the tables.
    pub shelf: Shelf,
    /// Of the round at hand.
    pub round: Round,
}

/// What is secret of the round at hand.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Round {
    /// Nothing.
    Nothing,
    /// The update of this slot is masked; this is our share of our own self secret.
    Masked(SlotId, Secret<32>),
    /// The shares of this slot were given, in these words and no others.
    Given(SlotId, SecretBytes),
}

/// Keys for the rows of slots, one a slot, each made from the one before, which is forgotten.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Shelf {
    next: SlotId,
    state: Secret<32>,
}

impl Shelf {
    /// A shelf from this slot on, from fresh random bytes.
    pub(super) const fn new(next: SlotId, state: Secret<32>) -> Self {
        Self { next, state }
    }

    /// Forgets the keys of all slots up to this one.
    pub(super) fn pass(&mut self, slot: SlotId) {
        while self.next <= slot {
            self.state = self.state.derive(&Transcript::new("consilium/shelf-next/1"));
            self.next = self.next.next();
        }
    }

    /// The keys from the next slot on.
    pub(super) fn keys(&self) -> impl Iterator<Item = (SlotId, SlotKey)> {
        let mut ahead = Self { next: self.next, state: Secret::new(*self.state.expose()) };
        std::iter::from_fn(move || {
            let slot = ahead.next;
            let key = ahead.state.derive(&Transcript::new("consilium/shelf-key/1"));
            ahead.pass(slot);
            Some((slot, SlotKey(key)))
        })
    }

    /// The key of one slot, if it is not passed.
    pub(super) fn key(&self, slot: SlotId) -> Option<SlotKey> {
        let mut keys = self.keys().take_while(|(at, _)| *at <= slot);
        keys.by_ref().last().filter(|(at, _)| *at == slot).map(|(_, key)| key)
    }
}

/// Hides the rows of one slot.
pub(super) struct SlotKey(Secret<32>);

impl SlotKey {
    /// Hides a row, or shows it again. Each row has a pad of its own, so no row is written twice.
    pub(super) fn pad(&self, what: &str, owner: &HospitalId, bytes: &[u8; 64]) -> Secret<64> {
        let mut row = Transcript::new("consilium/shelf-row/1");
        let pad: Secret<64> = self.0.derive(row.text(what).text(owner.as_str()));
        let mut out = Zeroizing::new(*bytes);
        for (byte, pad) in out.iter_mut().zip(pad.expose()) {
            *byte ^= pad;
        }
        Secret::new(*out)
    }
}

/// The key of all sealed pieces, until the next change of any of them.
pub(super) struct Vault(Secret<32>);

impl Vault {
    /// The vault of these random bytes.
    pub(super) const fn new(key: Secret<32>) -> Self {
        Self(key)
    }

    /// For its one row.
    pub(super) fn expose(&self) -> &[u8; 32] {
        self.0.expose()
    }

    fn cipher(&self, study: StudyId) -> LessSafeKey {
        let mut piece = Transcript::new("consilium/vault/1");
        let key: Secret<32> = self.0.derive(piece.bytes(study.digest().as_bytes()));
        let key = UnboundKey::new(&AES_256_GCM, key.expose());
        LessSafeKey::new(key.expect("a key of AES-256 has 32 bytes, and so has this one"))
    }

    /// Seals a study's secrets. A vault seals each study's once: the nonce is always 0.
    pub(super) fn seal(&self, study: StudyId, secrets: &Secrets) -> Vec<u8> {
        let mut piece = encode(secrets);
        let nonce = Nonce::assume_unique_for_key([0; NONCE_LEN]);
        let tag = self.cipher(study).seal_in_place_separate_tag(
            nonce,
            Aad::empty(),
            piece.as_mut_slice(),
        );
        let tag = tag.expect("a piece is far below the length that GCM can seal");
        let mut sealed = piece.to_vec();
        sealed.extend_from_slice(tag.as_ref());
        sealed
    }

    /// Opens what it sealed.
    ///
    /// # Errors
    /// When it is anything else.
    pub(super) fn open(&self, study: StudyId, sealed: Vec<u8>) -> Result<Secrets, JournalError> {
        let mut piece = Zeroizing::new(sealed);
        let nonce = Nonce::assume_unique_for_key([0; NONCE_LEN]);
        let opened = self.cipher(study).open_in_place(nonce, Aad::empty(), piece.as_mut_slice());
        let opened = opened.ok().and_then(|piece| decode(piece));
        opened.ok_or(JournalError::Damaged("keys"))
    }
}

fn encode(secrets: &Secrets) -> Zeroizing<Vec<u8>> {
    // Its final size at once: a buffer that grows leaves copies behind.
    let size = match secrets {
        Secrets::Announced { .. } => 65,
        Secrets::Agreed(Agreed { keyring, round, .. }) => {
            let round = match round {
                Round::Nothing => 1,
                Round::Masked(..) => 41,
                Round::Given(_, request) => 13 + request.expose().len(),
            };
            41 + round + keyring.expose().len()
        }
    };
    let mut out = Zeroizing::new(Vec::with_capacity(size));
    match secrets {
        Secrets::Announced { agreement, nonce } => {
            out.push(1);
            out.extend_from_slice(agreement.expose());
            out.extend_from_slice(nonce.as_bytes());
        }
        Secrets::Agreed(Agreed { keyring, shelf, round }) => {
            out.push(2);
            out.extend_from_slice(&shelf.next.get().to_le_bytes());
            out.extend_from_slice(shelf.state.expose());
            match round {
                Round::Nothing => out.push(0),
                Round::Masked(slot, share) => {
                    out.push(1);
                    out.extend_from_slice(&slot.get().to_le_bytes());
                    out.extend_from_slice(share.expose());
                }
                Round::Given(slot, request) => {
                    out.push(2);
                    out.extend_from_slice(&slot.get().to_le_bytes());
                    // A request has at most a few hundred bytes a site.
                    let length = u32::try_from(request.expose().len()).unwrap_or(u32::MAX);
                    out.extend_from_slice(&length.to_le_bytes());
                    out.extend_from_slice(request.expose());
                }
            }
            out.extend_from_slice(keyring.expose());
        }
    }
    out
}

fn decode(piece: &[u8]) -> Option<Secrets> {
    let mut rest = piece;
    match take(&mut rest, 1)? {
        [1] => {
            let agreement = Secret::from_slice(take(&mut rest, 32)?)?;
            let nonce = GraphNonce::new(take(&mut rest, 32)?.try_into().ok()?);
            rest.is_empty().then_some(Secrets::Announced { agreement, nonce })
        }
        [2] => {
            let next = slot(&mut rest)?;
            let shelf = Shelf { next, state: Secret::from_slice(take(&mut rest, 32)?)? };
            let round = match take(&mut rest, 1)? {
                [0] => Round::Nothing,
                [1] => Round::Masked(slot(&mut rest)?, Secret::from_slice(take(&mut rest, 32)?)?),
                [2] => {
                    let slot = slot(&mut rest)?;
                    let length = u32::from_le_bytes(take(&mut rest, 4)?.try_into().ok()?);
                    let request = take(&mut rest, usize::try_from(length).ok()?)?;
                    Round::Given(slot, SecretBytes::new(request.to_vec()))
                }
                _ => return None,
            };
            let keyring = SecretBytes::new(rest.to_vec());
            Some(Secrets::Agreed(Agreed { keyring, shelf, round }))
        }
        _ => None,
    }
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (field, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(field)
}

fn slot(rest: &mut &[u8]) -> Option<SlotId> {
    Some(SlotId::new(u64::from_le_bytes(take(rest, 8)?.try_into().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use aggregation::ids::Digest;

    fn secret(byte: u8) -> Secret<32> {
        Secret::new([byte; 32])
    }

    fn study(name: &[u8]) -> StudyId {
        StudyId::new(Digest::sha256(name))
    }

    fn agreed(round: Round) -> Secrets {
        let keyring = SecretBytes::new(vec![3; 144]);
        Secrets::Agreed(Agreed { keyring, shelf: Shelf::new(SlotId::new(1), secret(4)), round })
    }

    #[test]
    fn what_is_sealed_opens_to_the_same_and_to_nothing_else() {
        let vault = Vault::new(secret(1));
        let all = [
            Secrets::Announced { agreement: secret(2), nonce: GraphNonce::new([5; 32]) },
            agreed(Round::Nothing),
            agreed(Round::Masked(SlotId::new(7), secret(6))),
            agreed(Round::Given(SlotId::new(7), SecretBytes::new(vec![8; 300]))),
        ];
        for secrets in &all {
            let sealed = vault.seal(study(b"a"), secrets);
            assert_eq!(vault.open(study(b"a"), sealed.clone()).expect("ours"), *secrets);
            assert!(vault.open(study(b"b"), sealed.clone()).is_err(), "another study's");
            assert!(Vault::new(secret(9)).open(study(b"a"), sealed.clone()).is_err());
            for at in [0, sealed.len() / 2, sealed.len() - 1] {
                let mut other = sealed.clone();
                other[at] ^= 1;
                assert!(vault.open(study(b"a"), other).is_err());
            }
        }
    }

    #[test]
    fn a_piece_that_ends_early_is_none() {
        for secrets in [
            Secrets::Announced { agreement: secret(2), nonce: GraphNonce::new([5; 32]) },
            agreed(Round::Given(SlotId::new(7), SecretBytes::new(vec![8; 300]))),
        ] {
            let piece = encode(&secrets);
            // The keyring is what remains, so it alone can be shorter.
            let fixed = piece.len() - 144;
            assert_eq!(decode(&piece), Some(secrets));
            assert!((0..fixed.min(65)).all(|length| decode(&piece[..length]).is_none()));
        }
    }

    #[test]
    fn the_shelf_goes_forwards_only() {
        let mut shelf = Shelf::new(SlotId::new(1), secret(1));
        let site = HospitalId::new("anna").expect("a name");
        let hidden = |shelf: &Shelf, slot: u64| {
            let key = shelf.key(SlotId::new(slot))?;
            Some(*key.pad("held", &site, &[7; 64]).expose())
        };
        let before: Vec<_> = (1..6).map(|slot| hidden(&shelf, slot).expect("ahead")).collect();
        assert!(before.iter().all(|row| *row != [7; 64]));
        let mut distinct = before.clone();
        distinct.sort();
        distinct.dedup();
        assert_eq!(distinct.len(), 5);
        shelf.pass(SlotId::new(3));
        assert!((0..4).all(|slot| hidden(&shelf, slot).is_none()));
        assert_eq!(hidden(&shelf, 5).as_ref(), Some(&before[4]));
        let key = shelf.key(SlotId::new(5)).expect("ahead");
        assert_eq!(*key.pad("held", &site, &before[4]).expose(), [7; 64]);
        assert_ne!(*key.pad("own", &site, &before[4]).expose(), [7; 64]);
    }
}
