//! The roll: who runs a study, by the identity keys that everyone pinned, and how many of them it
//! takes (PROTOCOL M-26).
//!
//! A hospital makes its roll from the study that it approved and the keys that it pinned, and from
//! nothing that is said in a round. The digest of the roll is in every announcement, every root of
//! a pair, every batch and every mask: hospitals with another roll have no key in common.

use std::collections::BTreeMap;

use crate::charter::Charter;
use crate::ids::{Digest, HospitalId, StudyId};
use crate::keys::identity::IdentityKey;
use crate::keys::thresholds::Thresholds;
use crate::transcript::Transcript;

/// A charter with the keys that its sites are known by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roll {
    study: StudyId,
    identities: BTreeMap<HospitalId, IdentityKey>,
    thresholds: Thresholds,
    digest: Digest,
}

/// Why there is no roll.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoRoll {
    /// The study's updates travel unmasked, so there are no keys.
    #[error("the study sends its updates unmasked")]
    Unmasked,
    /// A site without a pinned key.
    #[error("no identity key of {hospital} is pinned")]
    NotPinned {
        /// Which.
        hospital: HospitalId,
    },
    /// Two names under one key would be one hospital that counts twice.
    #[error("{first} and {second} have one identity key")]
    OneKey {
        /// One of the names.
        first: HospitalId,
        /// The other.
        second: HospitalId,
    },
}

impl NoRoll {
    /// The rule that was broken.
    #[must_use]
    pub const fn rule(&self) -> &'static str {
        "M-26"
    }
}

impl Roll {
    /// The roll of a charter's sites, with the key that is pinned for each. Further keys are let be.
    ///
    /// # Errors
    /// When the study is unmasked, a site has no key, or two have the same.
    pub fn new(
        charter: &Charter,
        pinned: &BTreeMap<HospitalId, IdentityKey>,
    ) -> Result<Self, NoRoll> {
        let thresholds = charter.thresholds().ok_or(NoRoll::Unmasked)?;
        let mut identities = BTreeMap::new();
        let mut owners = BTreeMap::new();
        for hospital in charter.sites() {
            let key = *pinned
                .get(hospital)
                .ok_or_else(|| NoRoll::NotPinned { hospital: hospital.clone() })?;
            if let Some(first) = owners.insert(key, hospital.clone()) {
                return Err(NoRoll::OneKey { first, second: hospital.clone() });
            }
            identities.insert(hospital.clone(), key);
        }
        let mut transcript = Transcript::new("consilium/roll/1");
        transcript.bytes(charter.id().digest().as_bytes()).list(identities.len());
        for (hospital, key) in &identities {
            transcript.text(hospital.as_str()).bytes(key.as_bytes());
        }
        let digest = transcript
            .u32(thresholds.provisioned().into())
            .u32(thresholds.colluding().into())
            .u32(thresholds.least().into())
            .u32(thresholds.shares().into())
            .finish();
        Ok(Self { study: charter.id(), identities, thresholds, digest })
    }

    /// The study.
    #[must_use]
    pub const fn study(&self) -> StudyId {
        self.study
    }

    /// Its hospitals and their keys.
    #[must_use]
    pub const fn identities(&self) -> &BTreeMap<HospitalId, IdentityKey> {
        &self.identities
    }

    /// n, t, m and T.
    #[must_use]
    pub const fn thresholds(&self) -> &Thresholds {
        &self.thresholds
    }

    /// Stands for all of it; what the rules of the masks call the charter's digest.
    #[must_use]
    pub const fn digest(&self) -> Digest {
        self.digest
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::rehearsal::{masked_charter as charter, site};

    fn pinned(sites: usize) -> BTreeMap<HospitalId, IdentityKey> {
        let key = |index: usize| IdentityKey::new([u8::try_from(index).expect("few sites"); 32]);
        (0..sites).map(|index| (site(index), key(index))).collect()
    }

    #[test]
    fn a_roll_names_every_site_with_its_key_and_the_numbers_that_follow() {
        let roll = Roll::new(&charter(5, 4), &pinned(9)).expect("every site has a key");
        assert_eq!(roll.identities(), &pinned(5));
        let thresholds = roll.thresholds();
        assert_eq!((thresholds.provisioned(), thresholds.colluding()), (5, 1));
        assert_eq!((thresholds.least(), thresholds.shares()), (4, 4));
    }

    /// Breaks M-26, one change at a time.
    #[test]
    fn another_study_site_key_or_number_is_another_roll() {
        let mut other_key = pinned(5);
        other_key.insert(site(2), IdentityKey::new([99; 32]));
        let mut study = charter(5, 4).study().clone();
        study.training.seed += 1;
        let other = Charter::new(study, charter(5, 4).sites().clone()).expect("valid");
        let rolls = [
            Roll::new(&charter(5, 4), &pinned(5)),
            Roll::new(&charter(5, 5), &pinned(5)),
            Roll::new(&charter(6, 4), &pinned(6)),
            Roll::new(&charter(5, 4), &other_key),
            Roll::new(&other, &pinned(5)),
        ];
        let digests: BTreeSet<_> =
            rolls.iter().map(|roll| roll.as_ref().expect("valid").digest()).collect();
        assert_eq!(digests.len(), rolls.len());
    }

    /// Breaks M-26: a site that nobody pinned, and one hospital under two names.
    #[test]
    fn a_site_without_a_key_of_its_own_is_refused() {
        let missing = Roll::new(&charter(5, 4), &pinned(4));
        assert_eq!(missing, Err(NoRoll::NotPinned { hospital: site(4) }));
        let mut twins = pinned(5);
        twins.insert(site(3), IdentityKey::new([1; 32]));
        let one_key = NoRoll::OneKey { first: site(1), second: site(3) };
        assert_eq!(Roll::new(&charter(5, 4), &twins), Err(one_key));
        let mut study = charter(5, 4).study().clone();
        study.cohort.danger_unmasked = true;
        let plain = Charter::new(study, charter(5, 4).sites().clone()).expect("valid");
        assert_eq!(Roll::new(&plain, &pinned(5)), Err(NoRoll::Unmasked));
    }
}
