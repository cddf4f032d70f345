//! What is said in a round after the updates: the final set, its signatures, the shares.

use aggregation::ids::{Digest, HospitalId, RoundId, SlotId, StudyId};
use aggregation::keys::identity::Signature;
use aggregation::masking::sharing::{Holder, SecretScalar, Share};
use aggregation::message::{FinalSet, SetStatement, Shares, SignedSet};
use aggregation::secret::Secret;

use crate::decode::{DecodeError, digest, hospitals, place, range};
use crate::encode::names;
use crate::federation as wire;
use crate::masks::{array, signature, sorted};

/// A final set.
///
/// # Errors
/// Any field that cannot be.
pub fn final_set(said: &wire::FinalSet) -> Result<FinalSet, DecodeError> {
    let (study, round, slot) = place(&said.study, said.round, said.slot)?;
    Ok(FinalSet {
        study,
        round,
        slot,
        terms: digest("terms", &said.terms)?,
        members: hospitals("members", &said.members)?,
    })
}

/// A final set, to be sent.
#[must_use]
pub fn encode_final_set(set: &FinalSet) -> wire::FinalSet {
    wire::FinalSet {
        study: set.study.digest().as_bytes().to_vec(),
        round: set.round.get(),
        slot: set.slot.get(),
        terms: set.terms.as_bytes().to_vec(),
        members: names(&set.members),
    }
}

/// A final set with its signatures.
///
/// # Errors
/// Any field that cannot be.
pub fn signed_set(said: &wire::SignedSet) -> Result<SignedSet, DecodeError> {
    let set = said.set.as_ref().ok_or(DecodeError::Missing { field: "set" })?;
    let sites = sorted("signatures", &said.signatures, |one| &one.site)?;
    let signed = sites.into_iter().zip(&said.signatures);
    let signatures = signed
        .map(|(site, one)| Ok((site, signature("signature", &one.signature)?)))
        .collect::<Result<_, DecodeError>>()?;
    Ok(SignedSet { set: final_set(set)?, signatures })
}

/// A final set with its signatures, to be sent.
#[must_use]
pub fn encode_signed_set(signed: &SignedSet) -> wire::SignedSet {
    let one = |(site, signature): (&HospitalId, &Signature<SetStatement>)| wire::SetSignature {
        site: site.to_string(),
        signature: signature.as_bytes().to_vec(),
    };
    wire::SignedSet {
        set: Some(encode_final_set(&signed.set)),
        signatures: signed.signatures.iter().map(one).collect(),
    }
}

/// Where in a study something is said, and under which terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The study.
    pub study: StudyId,
    /// The round.
    pub round: RoundId,
    /// The attempt.
    pub slot: SlotId,
    /// The terms.
    pub terms: Digest,
}

/// A site's signature of the final set.
///
/// # Errors
/// Any field that cannot be.
pub fn set_signature(
    said: &wire::SignatureRequest,
) -> Result<(Place, Signature<SetStatement>), DecodeError> {
    let (study, round, slot) = place(&said.study, said.round, said.slot)?;
    let terms = digest("terms", &said.terms)?;
    Ok((Place { study, round, slot, terms }, signature("signature", &said.signature)?))
}

/// A site's shares.
///
/// # Errors
/// Any field that cannot be: a value that is no canonical scalar, a holder of number 0, a kind that
/// this version does not know, sites out of order.
pub fn shares(said: &wire::SharesRequest) -> Result<(Place, Shares), DecodeError> {
    let (study, round, slot) = place(&said.study, said.round, said.slot)?;
    let terms = digest("terms", &said.terms)?;
    let holder = u16::try_from(said.holder).ok().and_then(Holder::new);
    let holder = holder.ok_or_else(|| range("holder", "a number from 1 to 65535", said.holder))?;
    let mut shares = Shares::default();
    for (site, one) in
        sorted("shares", &said.shares, |one| &one.site)?.into_iter().zip(&said.shares)
    {
        let value = Secret::new(array::<32>("share", &one.value)?);
        let value = SecretScalar::from_canonical(value)
            .ok_or_else(|| range("share", "a canonical scalar", "another number"))?;
        let share = Share::new(holder, value);
        match wire::ShareKind::try_from(one.kind) {
            Ok(wire::ShareKind::Own) => shares.own.insert(site, share),
            Ok(wire::ShareKind::Recovery) => shares.recovery.insert(site, share),
            Ok(wire::ShareKind::Unspecified) => {
                return Err(DecodeError::Missing { field: "kind" });
            }
            Err(_) => return Err(range("kind", "a kind that this version knows", one.kind)),
        };
    }
    Ok((Place { study, round, slot, terms }, shares))
}

/// A site's shares, to be sent. All of them are of one holder.
#[must_use]
pub fn encode_shares(place: &Place, holder: Holder, shares: &Shares) -> wire::SharesRequest {
    let Place { study, round, slot, terms } = place;
    let one = |kind: wire::ShareKind| {
        move |(site, share): (&HospitalId, &Share)| wire::ShareOf {
            site: site.to_string(),
            kind: kind.into(),
            value: share.value().secret().expose().to_vec(),
        }
    };
    let own = shares.own.iter().map(one(wire::ShareKind::Own));
    let recovery = shares.recovery.iter().map(one(wire::ShareKind::Recovery));
    let mut shares: Vec<_> = own.chain(recovery).collect();
    shares.sort_by(|a, b| a.site.cmp(&b.site));
    wire::SharesRequest {
        study: study.digest().as_bytes().to_vec(),
        round: round.get(),
        slot: slot.get(),
        terms: terms.as_bytes().to_vec(),
        holder: holder.get().into(),
        shares,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(name: &str) -> HospitalId {
        HospitalId::new(name).expect("a name")
    }

    fn place_of() -> Place {
        Place {
            study: StudyId::new(Digest::sha256(b"study")),
            round: RoundId::FIRST,
            slot: SlotId::new(3),
            terms: Digest::sha256(b"terms"),
        }
    }

    fn set() -> FinalSet {
        let Place { study, round, slot, terms } = place_of();
        FinalSet { study, round, slot, terms, members: [site("a"), site("b")].into() }
    }

    fn share(number: u16, byte: u8) -> Share {
        let value = SecretScalar::from_wide(&Secret::new([byte; 64]));
        Share::new(Holder::new(number).expect("not 0"), value)
    }

    #[test]
    fn what_is_encoded_decodes_to_the_same() {
        assert_eq!(final_set(&encode_final_set(&set())), Ok(set()));
        let signatures =
            [(site("a"), Signature::new([1; 64])), (site("b"), Signature::new([2; 64]))];
        let signed = SignedSet { set: set(), signatures: signatures.into() };
        assert_eq!(signed_set(&encode_signed_set(&signed)), Ok(signed));
        let said = Shares {
            own: [(site("b"), share(7, 1)), (site("c"), share(7, 2))].into(),
            recovery: [(site("a"), share(7, 3))].into(),
        };
        let holder = Holder::new(7).expect("not 0");
        assert_eq!(shares(&encode_shares(&place_of(), holder, &said)), Ok((place_of(), said)));
    }

    #[test]
    fn each_field_that_cannot_be_is_refused_by_name() {
        let said = Shares {
            own: [(site("b"), share(7, 1))].into(),
            recovery: [(site("a"), share(7, 3))].into(),
        };
        let good = encode_shares(&place_of(), Holder::new(7).expect("not 0"), &said);
        type Break = fn(&mut wire::SharesRequest);
        let cases: [(&str, Break); 8] = [
            ("study", |s| s.study.truncate(3)),
            ("round", |s| s.round = 0),
            ("terms", |s| s.terms.push(1)),
            ("holder", |s| s.holder = 0),
            ("holder", |s| s.holder = 65_536),
            ("shares", |s| s.shares.reverse()),
            ("share", |s| s.shares[0].value = vec![255; 32]),
            ("kind", |s| s.shares[0].kind = 9),
        ];
        for (field, spoil) in cases {
            let mut said = good.clone();
            spoil(&mut said);
            let error = shares(&said).expect_err(field);
            assert!(error.to_string().starts_with(field), "{error}");
        }
        let signatures = [(site("a"), Signature::new([1; 64]))].into();
        let signed = encode_signed_set(&SignedSet { set: set(), signatures });
        let mut short = signed.clone();
        short.signatures[0].signature.pop();
        assert!(signed_set(&short).is_err());
        let mut twice = signed.clone();
        twice.signatures.push(twice.signatures[0].clone());
        assert!(signed_set(&twice).is_err());
        assert!(signed_set(&wire::SignedSet { set: None, ..signed }).is_err());
    }
}
