//! Keys that are made once, and certificates that are ours.

use super::*;
use std::os::unix::fs::PermissionsExt as _;

use rcgen::{
    BasicConstraints, CertificateSigningRequestParams, ExtendedKeyUsagePurpose, IsCa, Issuer,
    SanType,
};

fn scratch() -> (tempfile::TempDir, State) {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let state = State::open(folder.path()).expect("ours");
    (folder, state)
}

struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    fingerprint: Digest,
}

fn ca() -> Ca {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = params.self_signed(&key).expect("signed");
    Ca {
        pem: certificate.pem(),
        fingerprint: Digest::sha256(certificate.der()),
        issuer: Issuer::new(params, key),
    }
}

fn grant(ca: &Ca, request: &[u8], uri: &str) -> Grant {
    let mut csr = CertificateSigningRequestParams::from_der(&request.into()).expect("a request");
    csr.params.subject_alt_names = vec![SanType::URI(uri.try_into().expect("ascii"))];
    csr.params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let leaf = csr.signed_by(&ca.issuer).expect("signed");
    Grant {
        coordinator: "https://localhost:1".to_owned(),
        site: Some("anna".to_owned()),
        certificate_pem: leaf.pem(),
        ca_pem: ca.pem.clone(),
    }
}

const OURS: &str = "consilium://chest/site/anna";

#[test]
fn keys_and_request_are_the_same_every_time() {
    let (_folder, state) = scratch();
    let first = Keys::load_or_make(&state).expect("made");
    let second = Keys::load_or_make(&state).expect("read");
    assert_eq!(first.request(), second.request());
    assert_eq!(first.identity_public(), second.identity_public());
    assert_eq!(first.enrolment_proof("t"), second.enrolment_proof("t"));
    assert_ne!(first.enrolment_proof("t"), first.enrolment_proof("u"));
    for name in SECRETS {
        assert_eq!(mode_of(&state, name), Some(0o600), "{name}");
    }
}

#[test]
fn what_we_sign_with_is_what_we_enrolled_with() {
    let (_folder, state) = scratch();
    assert!(signing(&state).is_err(), "there is no key yet");
    let keys = Keys::load_or_make(&state).expect("made");
    let identity = signing(&state).expect("read");
    assert_eq!(identity.key().as_bytes().as_slice(), keys.identity_public());
    assert_eq!(fingerprint(&identity.key()), keys.identity_fingerprint());
    state.replace(IDENTITY_KEY, b"damaged").expect("written");
    assert!(matches!(signing(&state), Err(IdentityError::Damaged { .. })));
}

#[test]
fn a_key_that_others_can_read_is_refused() {
    let (_folder, state) = scratch();
    Keys::load_or_make(&state).expect("made");
    let path = state.file(TLS_KEY);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("opened");
    assert!(matches!(Keys::load_or_make(&state), Err(IdentityError::Exposed { mode: 0o644, .. })));
}

#[test]
fn a_certificate_is_kept_only_if_it_is_ours() {
    let (_folder, state) = scratch();
    let keys = Keys::load_or_make(&state).expect("made");
    let now = crate::clock::now();
    let (ca, other) = (ca(), ca());
    assert!(matches!(Enrolled::load(&state), Err(IdentityError::NotEnrolled(_))));

    let good = grant(&ca, keys.request(), OURS);
    let (_other_folder, other_state) = scratch();
    let stranger = Keys::load_or_make(&other_state).expect("made");
    let mixed = Grant { ca_pem: ca.pem.clone(), ..grant(&other, keys.request(), OURS) };
    let bad = [
        grant(&other, keys.request(), OURS),
        mixed,
        grant(&ca, stranger.request(), OURS),
        grant(&ca, keys.request(), "consilium://chest/operator/anna"),
        grant(&ca, keys.request(), "consilium://chest/site/bert"),
        grant(&ca, keys.request(), "https://elsewhere"),
        Grant { certificate_pem: String::new(), ..good.clone() },
    ];
    for (index, grant) in bad.iter().enumerate() {
        let found = keep(&state, &keys, ca.fingerprint, grant, now);
        assert!(matches!(found, Err(IdentityError::Foreign(_))), "{index}: {found:?}");
    }
    assert!(matches!(Enrolled::load(&state), Err(IdentityError::NotEnrolled(_))));

    let kept = keep(&state, &keys, ca.fingerprint, &good, now).expect("ours");
    assert_eq!(kept.me.as_str(), "anna");
    assert_eq!(kept.consortium.as_str(), "chest");
    refuse_elsewhere(&state, ca.fingerprint).expect("the same consortium");
    assert!(matches!(
        refuse_elsewhere(&state, other.fingerprint),
        Err(IdentityError::Elsewhere { .. })
    ));
}
