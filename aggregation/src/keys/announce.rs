//! Each hospital announces one X25519 key per charter, signed by its identity (PROTOCOL M-08);
//! each pair agrees on a root from which everything between the two of them grows (PROTOCOL M-09).
//!
//! Root of a pair, with i the hospital whose name comes first:
//! `HKDF-SHA256(X25519(i, j), "consilium/pair/1", charter, id_i, id_j, pk_i, pk_j)`.
//! The keys are in it since X25519 alone does not bind them. A key that makes the agreement
//! independent of the other's secret is refused (PROTOCOL M-10).
//!
//! The keys are not safe against a quantum computer; whoever keeps today's masked updates until
//! there is one can unmask them. A hybrid with ML-KEM-768 will be the labels' version 2.
//!
//! Sources: [RFC 7748] sections 5 and 6.1 (and section 7 for M-10), [RFC 5869].
//!
//! [RFC 7748]: https://www.rfc-editor.org/rfc/rfc7748
//! [RFC 5869]: https://www.rfc-editor.org/rfc/rfc5869

use std::fmt;

use x25519_dalek::{PublicKey, SharedSecret, StaticSecret};

use crate::ids::{Digest, HospitalId, StudyId};
use crate::keys::chain::PairRoot;
use crate::keys::identity::{BadSignature, IdentityKey, Signature, Statement};
use crate::secret::{Secret, hkdf_sha256};
use crate::transcript::Transcript;

/// A public key for agreement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct AgreementKey([u8; 32]);

impl AgreementKey {
    /// Takes the 32 bytes of RFC 7748.
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// What a hospital says of itself before a study's first round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyAnnounce {
    /// The study.
    pub study: StudyId,
    /// The charter's digest.
    pub charter: Digest,
    /// Who speaks.
    pub hospital: HospitalId,
    /// Its key for agreement under this charter.
    pub agreement: AgreementKey,
    /// What it commits to for the drawing of the graph ([`crate::keys::graph::GraphNonce`]).
    pub graph_nonce: Digest,
}

impl Statement for KeyAnnounce {
    const LABEL: &'static str = "consilium/key-announce/1";

    fn write(&self, transcript: &mut Transcript) {
        let Self { study, charter, hospital, agreement, graph_nonce } = self;
        transcript
            .bytes(study.digest().as_bytes())
            .bytes(charter.as_bytes())
            .text(hospital.as_str())
            .bytes(agreement.as_bytes())
            .bytes(graph_nonce.as_bytes());
    }
}

/// Why an announcement is not believed, or a pair cannot agree.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnnounceRefused {
    /// Of another study.
    #[error("the announcement is of study {}; expected {}", .found.short(), .expected.short())]
    OtherStudy {
        /// The study expected.
        expected: StudyId,
        /// The study found.
        found: StudyId,
    },
    /// Under another charter.
    #[error("the announcement is under charter {}; expected {}", .found.short(), .expected.short())]
    OtherCharter {
        /// The charter expected.
        expected: Digest,
        /// The charter found.
        found: Digest,
    },
    /// Not signed by the identity that was pinned.
    #[error("the announcement of {hospital} is not its own: {source}")]
    Signature {
        /// Whose announcement it pretends to be.
        hospital: HospitalId,
        /// What did not hold.
        #[source]
        source: BadSignature,
    },
    /// A key whose agreement does not depend on both secrets.
    #[error("the agreement key of {hospital} is one that makes every agreement the same")]
    NonContributory {
        /// Whose key it is.
        hospital: HospitalId,
    },
    /// A hospital's agreement with itself.
    #[error("{hospital} agrees with others, not with itself")]
    Itself {
        /// Who.
        hospital: HospitalId,
    },
    /// A secret that does not belong to the announcement.
    #[error("the announced agreement key of {hospital} is not that of its secret")]
    OtherSecret {
        /// Who.
        hospital: HospitalId,
    },
}

impl AnnounceRefused {
    /// The rule that was broken.
    #[must_use]
    pub const fn rule(&self) -> &'static str {
        match self {
            Self::OtherStudy { .. } | Self::OtherCharter { .. } | Self::Signature { .. } => "M-08",
            Self::Itself { .. } | Self::OtherSecret { .. } => "M-09",
            Self::NonContributory { .. } => "M-10",
        }
    }
}

impl KeyAnnounce {
    /// Whether this is what the hospital with this pinned identity says under our charter.
    ///
    /// # Errors
    /// When it is of another study or charter, or signed by someone else (PROTOCOL M-08).
    pub fn check(
        &self,
        study: StudyId,
        charter: Digest,
        pinned: &IdentityKey,
        signature: &Signature<Self>,
    ) -> Result<(), AnnounceRefused> {
        if self.study != study {
            return Err(AnnounceRefused::OtherStudy { expected: study, found: self.study });
        }
        if self.charter != charter {
            return Err(AnnounceRefused::OtherCharter { expected: charter, found: self.charter });
        }
        pinned.verify(self, signature).map_err(|source| AnnounceRefused::Signature {
            hospital: self.hospital.clone(),
            source,
        })
    }
}

/// The secret behind an agreement key. To be forgotten as soon as all roots are made: while it
/// exists, so do all of them, and with them the seeds of all slots.
pub struct AgreementSecret(StaticSecret);

impl fmt::Debug for AgreementSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AgreementSecret(..)")
    }
}

impl AgreementSecret {
    /// The secret that these random bytes are.
    #[must_use]
    pub fn new(seed: &Secret<32>) -> Self {
        Self(StaticSecret::from(*seed.expose()))
    }

    /// Its public key.
    #[must_use]
    pub fn key(&self) -> AgreementKey {
        AgreementKey(PublicKey::from(&self.0).to_bytes())
    }

    fn agree(&self, theirs: &AgreementKey) -> SharedSecret {
        self.0.diffie_hellman(&PublicKey::from(theirs.0))
    }

    /// The root that the two hospitals have in common. Both announcements must have been checked.
    ///
    /// # Errors
    /// When the announcements are of one hospital or of two charters, ours is not of this secret
    /// (PROTOCOL M-09), or their key lets anyone know the outcome (PROTOCOL M-10).
    pub fn root(
        &self,
        ours: &KeyAnnounce,
        theirs: &KeyAnnounce,
    ) -> Result<PairRoot, AnnounceRefused> {
        if ours.hospital == theirs.hospital {
            return Err(AnnounceRefused::Itself { hospital: ours.hospital.clone() });
        }
        if ours.study != theirs.study {
            return Err(AnnounceRefused::OtherStudy { expected: ours.study, found: theirs.study });
        }
        if ours.charter != theirs.charter {
            let (expected, found) = (ours.charter, theirs.charter);
            return Err(AnnounceRefused::OtherCharter { expected, found });
        }
        if ours.agreement != self.key() {
            return Err(AnnounceRefused::OtherSecret { hospital: ours.hospital.clone() });
        }
        let agreed = self.agree(&theirs.agreement);
        if !agreed.was_contributory() {
            return Err(AnnounceRefused::NonContributory { hospital: theirs.hospital.clone() });
        }
        let (first, second) =
            if ours.hospital < theirs.hospital { (ours, theirs) } else { (theirs, ours) };
        let mut info = Transcript::new("consilium/pair/1");
        info.bytes(ours.charter.as_bytes())
            .text(first.hospital.as_str())
            .text(second.hospital.as_str())
            .bytes(first.agreement.as_bytes())
            .bytes(second.agreement.as_bytes());
        Ok(PairRoot::new(hkdf_sha256(&[], agreed.as_bytes(), &info.encoded())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::identity::Identity;
    use crate::secret::unhex_array;

    fn study() -> StudyId {
        StudyId::new(Digest::sha256(b"study"))
    }

    fn announce(name: &str, secret: &AgreementSecret) -> KeyAnnounce {
        KeyAnnounce {
            study: study(),
            charter: Digest::sha256(b"charter"),
            hospital: HospitalId::new(name).expect("a name"),
            agreement: secret.key(),
            graph_nonce: Digest::sha256(name.as_bytes()),
        }
    }

    fn secret(byte: u8) -> AgreementSecret {
        AgreementSecret::new(&Secret::new([byte; 32]))
    }

    /// RFC 7748 section 6.1.
    #[test]
    fn x25519_is_the_published_function() {
        let new = |hex| AgreementSecret::new(&Secret::new(unhex_array(hex)));
        let alice = new("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a");
        let bob = new("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb");
        let key = |hex| AgreementKey::new(unhex_array(hex));
        let alices = key("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a");
        let bobs = key("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f");
        assert_eq!((alice.key(), bob.key()), (alices, bobs));
        let agreed = "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742";
        assert_eq!(alice.agree(&bobs).as_bytes(), &unhex_array(agreed));
        assert_eq!(bob.agree(&alices).as_bytes(), &unhex_array(agreed));
    }

    /// M-08: altering any field, or swapping the key on the way, is seen.
    #[test]
    fn an_announcement_is_believed_only_whole_and_from_the_pinned_identity() {
        let identity = Identity::from_seed(&Secret::new([1; 32])).expect("a seed");
        let stranger = Identity::from_seed(&Secret::new([2; 32])).expect("a seed");
        let honest = announce("a", &secret(1));
        let signature = identity.sign(&honest);
        let check = |announce: &KeyAnnounce, signature: &Signature<KeyAnnounce>| {
            announce.check(study(), honest.charter, &identity.key(), signature)
        };
        assert_eq!(check(&honest, &signature), Ok(()));
        // A new field does not build here before it has its case below.
        let KeyAnnounce { study: _, charter: _, hospital: _, agreement: _, graph_nonce: _ } =
            honest;
        let other = Digest::sha256(b"other");
        let altered = [
            KeyAnnounce { study: StudyId::new(other), ..honest.clone() },
            KeyAnnounce { charter: other, ..honest.clone() },
            KeyAnnounce { hospital: HospitalId::new("b").expect("a name"), ..honest.clone() },
            KeyAnnounce { agreement: secret(9).key(), ..honest.clone() },
            KeyAnnounce { graph_nonce: other, ..honest.clone() },
        ];
        for announce in &altered {
            let refused = check(announce, &signature).expect_err("the announcement was altered");
            assert_eq!(refused.rule(), "M-08");
            let resigned = check(announce, &identity.sign(announce));
            let ours = announce.study == honest.study && announce.charter == honest.charter;
            assert_eq!(resigned.is_ok(), ours);
        }
        assert!(altered.iter().all(|announce| announce.digest() != honest.digest()));
        let swapped = KeyAnnounce { agreement: secret(9).key(), ..honest.clone() };
        let refused = check(&swapped, &stranger.sign(&swapped));
        assert!(matches!(refused, Err(AnnounceRefused::Signature { .. })));
    }

    /// M-09
    #[test]
    fn both_ends_of_a_pair_have_one_root_and_other_pairs_have_others() {
        let (a, b, c) = (secret(1), secret(2), secret(3));
        let [of_a, of_b, of_c] = [("a", &a), ("b", &b), ("c", &c)].map(|(n, s)| announce(n, s));
        let root = |secret: &AgreementSecret, ours: &KeyAnnounce, theirs: &KeyAnnounce| {
            secret.root(ours, theirs).expect("honest hospitals agree")
        };
        assert_eq!(root(&a, &of_a, &of_b), root(&b, &of_b, &of_a));
        assert_ne!(root(&a, &of_a, &of_b), root(&a, &of_a, &of_c));
        // The same keys under another charter or another name are another root.
        let other = Digest::sha256(b"other");
        let charter = |announce: &KeyAnnounce| KeyAnnounce { charter: other, ..announce.clone() };
        assert_ne!(root(&a, &of_a, &of_b), root(&a, &charter(&of_a), &charter(&of_b)));
        let renamed = announce("d", &b);
        assert_ne!(root(&a, &of_a, &of_b), root(&a, &of_a, &renamed));
        // A key swapped on the way leaves the two with different roots.
        let swapped = KeyAnnounce { agreement: secret(9).key(), ..of_b.clone() };
        assert_ne!(root(&a, &of_a, &swapped), root(&b, &of_b, &of_a));
    }

    #[test]
    fn a_pair_is_two_hospitals_of_one_charter_with_their_own_keys() {
        let (a, b) = (secret(1), secret(2));
        let (of_a, of_b) = (announce("a", &a), announce("b", &b));
        let rule = |result: Result<PairRoot, AnnounceRefused>| result.map_err(|e| e.rule()).err();
        assert_eq!(rule(a.root(&of_a, &of_a)), Some("M-09"));
        assert_eq!(rule(b.root(&of_a, &of_b)), Some("M-09"));
        let other = Digest::sha256(b"other");
        let charter = KeyAnnounce { charter: other, ..of_b.clone() };
        assert_eq!(rule(a.root(&of_a, &charter)), Some("M-08"));
        let study = KeyAnnounce { study: StudyId::new(other), ..of_b };
        assert_eq!(rule(a.root(&of_a, &study)), Some("M-08"));
    }

    /// M-10: the points of small order, from RFC 7748 section 7 and [Curve25519's home page]
    /// (0, 1, p - 1, p, p + 1 and the two of order 8).
    ///
    /// [Curve25519's home page]: https://cr.yp.to/ecdh.html
    #[test]
    fn keys_that_contribute_nothing_are_refused() {
        let a = secret(1);
        let of_a = announce("a", &a);
        let small = [
            "0000000000000000000000000000000000000000000000000000000000000000",
            "0100000000000000000000000000000000000000000000000000000000000000",
            "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
            "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        ];
        for hex in small {
            let agreement = AgreementKey::new(unhex_array(hex));
            let theirs = KeyAnnounce { agreement, ..announce("b", &secret(2)) };
            let refused = a.root(&of_a, &theirs).map_err(|refused| refused.rule());
            assert_eq!(refused.err(), Some("M-10"), "{hex}");
        }
    }
}
