//! Which key a hospital cosigns the transparency log with, said under its identity (PROTOCOL M-07).
//!
//! The cosigning key is a key of its own, because what it signs (C2SP tlog-cosignature) does not
//! name the signer. Whoever knows the hospital's identity can check that the key is the hospital's,
//! and need not believe the coordinator that passes it on.

use crate::ids::HospitalId;
use crate::keys::identity::Statement;
use crate::transcript::Transcript;

/// "I cosign this log with this key."
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WitnessKey {
    /// The log's origin, as its checkpoints have it.
    pub log: String,
    /// Who says so.
    pub hospital: HospitalId,
    /// The Ed25519 public key.
    pub key: [u8; 32],
}

impl Statement for WitnessKey {
    const LABEL: &'static str = "consilium/witness-key/1";

    fn write(&self, transcript: &mut Transcript) {
        let Self { log, hospital, key } = self;
        transcript.text(log).text(hospital.as_str()).bytes(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::identity::Identity;
    use crate::secret::Secret;

    #[test]
    fn a_statement_holds_for_its_log_hospital_and_key_alone() {
        let identity = Identity::from_seed(&Secret::new([1; 32])).expect("a seed");
        let hospital = HospitalId::new("alpha").expect("a name");
        let said = WitnessKey { log: "log".to_owned(), hospital, key: [2; 32] };
        let signature = identity.sign(&said);
        assert!(identity.key().verify(&said, &signature).is_ok());
        let beta = HospitalId::new("beta").expect("a name");
        for other in [
            WitnessKey { log: "gol".to_owned(), ..said.clone() },
            WitnessKey { hospital: beta, ..said.clone() },
            WitnessKey { key: [3; 32], ..said.clone() },
        ] {
            assert!(identity.key().verify(&other, &signature).is_err(), "{other:?}");
        }
    }
}
