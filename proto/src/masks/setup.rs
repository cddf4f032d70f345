//! What is said before the first round: announcements, nonces, batches.

use std::collections::{BTreeMap, BTreeSet};

use aggregation::ids::{Digest, HospitalId, StudyId};
use aggregation::keys::announce::{AgreementKey, KeyAnnounce};
use aggregation::keys::graph::GraphNonce;
use aggregation::keys::identity::Signature;
use aggregation::keys::slots::{MAX_BATCH_BYTES, PrekeyBatch};
use aggregation::setup::SignedAnnounce;

use crate::decode::{DecodeError, digest, hospital, hospitals, range, study};
use crate::encode::names;
use crate::federation as wire;
use crate::masks::{array, signature, sorted};

/// How far the keys of a study are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeySetup {
    /// The study.
    pub study: StudyId,
    /// Announcements so far.
    pub announced: BTreeMap<HospitalId, SignedAnnounce>,
    /// Nonces so far.
    pub nonces: BTreeMap<HospitalId, GraphNonce>,
    /// The batch that is due.
    pub batch: u64,
    /// Whose batch of this number can be fetched.
    pub owners: BTreeSet<HospitalId>,
}

/// How far the keys of a study are.
///
/// # Errors
/// Any field that cannot be.
pub fn key_setup(said: &wire::KeySetup) -> Result<KeySetup, DecodeError> {
    let study = study(&said.study)?;
    let sites = sorted("announcements", &said.announcements, |one| &one.site)?;
    let announced = sites.into_iter().zip(&said.announcements);
    let announced = announced
        .map(|(site, one)| Ok((site, announcement(study, one)?)))
        .collect::<Result<_, DecodeError>>()?;
    let sites = sorted("nonces", &said.nonces, |one| &one.site)?;
    let nonces = sites
        .into_iter()
        .zip(&said.nonces)
        .map(|(site, one)| Ok((site, nonce(&one.nonce)?)))
        .collect::<Result<_, DecodeError>>()?;
    let owners = hospitals("owners", &said.owners)?;
    Ok(KeySetup { study, announced, nonces, batch: said.batch, owners })
}

/// How far the keys of a study are, to be sent.
#[must_use]
pub fn encode_key_setup(setup: &KeySetup) -> wire::KeySetup {
    let nonce = |(site, nonce): (&HospitalId, &GraphNonce)| wire::Nonce {
        site: site.to_string(),
        nonce: nonce.as_bytes().to_vec(),
    };
    wire::KeySetup {
        study: setup.study.digest().as_bytes().to_vec(),
        announcements: setup.announced.values().map(encode_announcement).collect(),
        nonces: setup.nonces.iter().map(nonce).collect(),
        batch: setup.batch,
        owners: names(&setup.owners),
    }
}

/// An announcement; whose it is and whether it holds, the setup checks.
///
/// # Errors
/// Any field that cannot be.
pub fn announcement(
    study: StudyId,
    said: &wire::Announcement,
) -> Result<SignedAnnounce, DecodeError> {
    let announce = KeyAnnounce {
        study,
        charter: digest("charter", &said.charter)?,
        hospital: hospital("site", &said.site)?,
        agreement: AgreementKey::new(array("agreement", &said.agreement)?),
        graph_nonce: Digest::new(array("commitment", &said.commitment)?),
    };
    Ok(SignedAnnounce { announce, signature: signature("signature", &said.signature)? })
}

/// An announcement, to be sent.
#[must_use]
pub fn encode_announcement(said: &SignedAnnounce) -> wire::Announcement {
    let KeyAnnounce { study: _, charter, hospital, agreement, graph_nonce } = &said.announce;
    wire::Announcement {
        site: hospital.to_string(),
        agreement: agreement.as_bytes().to_vec(),
        commitment: graph_nonce.as_bytes().to_vec(),
        charter: charter.as_bytes().to_vec(),
        signature: said.signature.as_bytes().to_vec(),
    }
}

/// A nonce for the graph.
///
/// # Errors
/// Any other length than 32.
pub fn nonce(bytes: &[u8]) -> Result<GraphNonce, DecodeError> {
    array("nonce", bytes).map(GraphNonce::new)
}

/// What is said of a batch before its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeader<'a> {
    /// The study.
    pub study: StudyId,
    /// The batch's number, from 0.
    pub number: u64,
    /// Whose it is.
    pub owner: &'a str,
    /// Its size, at most [`MAX_BATCH_BYTES`].
    pub bytes: usize,
    /// By the owner's identity.
    pub signature: Signature<PrekeyBatch>,
}

/// The header of a batch.
///
/// # Errors
/// Any field that cannot be; a size above [`MAX_BATCH_BYTES`].
pub fn batch_header(said: &wire::BatchHeader) -> Result<BatchHeader<'_>, DecodeError> {
    let bytes = usize::try_from(said.bytes).ok().filter(|bytes| *bytes <= MAX_BATCH_BYTES);
    Ok(BatchHeader {
        study: study(&said.study)?,
        number: said.batch,
        owner: hospital("owner", &said.owner).map(|_| said.owner.as_str())?,
        bytes: bytes.ok_or_else(|| range("bytes", "at most 256 MiB", said.bytes))?,
        signature: signature("signature", &said.signature)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setup() -> KeySetup {
        let study = StudyId::new(Digest::sha256(b"study"));
        let site = |name: &str| HospitalId::new(name).expect("a name");
        let announce = |name: &str| SignedAnnounce {
            announce: KeyAnnounce {
                study,
                charter: Digest::sha256(b"roll"),
                hospital: site(name),
                agreement: AgreementKey::new([3; 32]),
                graph_nonce: Digest::sha256(b"commitment"),
            },
            signature: Signature::new([4; 64]),
        };
        KeySetup {
            study,
            announced: ["a", "b"].map(|name| (site(name), announce(name))).into(),
            nonces: [(site("a"), GraphNonce::new([5; 32]))].into(),
            batch: 6,
            owners: [site("b")].into(),
        }
    }

    #[test]
    fn what_is_encoded_decodes_to_the_same() {
        assert_eq!(key_setup(&encode_key_setup(&setup())), Ok(setup()));
    }

    #[test]
    fn each_field_that_cannot_be_is_refused_by_name() {
        type Break = fn(&mut wire::KeySetup);
        let cases: [(&str, Break); 9] = [
            ("study", |s| s.study.clear()),
            ("announcements", |s| s.announcements.reverse()),
            ("charter", |s| s.announcements[0].charter.clear()),
            ("agreement", |s| s.announcements[0].agreement.push(1)),
            ("commitment", |s| s.announcements[0].commitment.push(1)),
            ("signature", |s| s.announcements[0].signature.push(1)),
            ("nonces", |s| s.nonces[0].site = "A".to_owned()),
            ("nonce", |s| s.nonces[0].nonce.clear()),
            ("owners", |s| s.owners.push("b".to_owned())),
        ];
        for (field, spoil) in cases {
            let mut said = encode_key_setup(&setup());
            spoil(&mut said);
            let error = key_setup(&said).expect_err(field);
            assert!(error.to_string().starts_with(field), "{error}");
        }
        let header = wire::BatchHeader {
            study: setup().study.digest().as_bytes().to_vec(),
            batch: 0,
            owner: "a".to_owned(),
            bytes: 257 << 20,
            signature: vec![0; 64],
        };
        assert!(batch_header(&header).is_err());
        assert!(batch_header(&wire::BatchHeader { bytes: 100, ..header }).is_ok());
    }
}
