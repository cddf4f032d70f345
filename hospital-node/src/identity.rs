//! Who this hospital is: its two keys, which were made here and stay here, and the certificate that
//! the consortium's operator gave it.
//!
//! `tls.key` (ECDSA P-256) proves to the coordinator who calls; `identity.key` (Ed25519) is what the
//! other hospitals know this one by; with `witness.key` (Ed25519) it cosigns the log;
//! `pseudonym.key` turns patient numbers into pseudonyms and is only ever read by the trainer and by
//! the program that fetches images. All of them have mode 0600 and are never replaced once made.

use std::path::PathBuf;

use aggregation::ids::{Digest, HospitalId};
use aggregation::keys::identity::{Identity, IdentityKey};
use aggregation::transcript::Transcript;
use aggregation::units::Timestamp;
use proto::channel::{ClientIdentity, Proxy, Target, Trust};
use proto::cli::Failure;
use proto::identity::{PartyName, Role};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, UnixTime};
use serde::{Deserialize, Serialize};
use transparency::cosignature::Cosigner;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use zeroize::Zeroizing;

use crate::entropy;
use crate::state::{OTHERS, State, StateError};

const TLS_KEY: &str = "tls.key";
const IDENTITY_KEY: &str = "identity.key";
const PSEUDONYM_KEY: &str = "pseudonym.key";
const WITNESS_KEY: &str = "witness.key";
const REQUEST: &str = "request.der";
const CERTIFICATE: &str = "certificate.pem";
const CA: &str = "ca.pem";
const ENROLMENT: &str = "enrolment.json";

/// The files that nobody else may read.
pub(crate) const SECRETS: [&str; 3] = [TLS_KEY, IDENTITY_KEY, PSEUDONYM_KEY];

/// This machine does not know who it is, or must not say so.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Nobody enrolled it.
    #[error("this site is not enrolled: {} holds no certificate", .0.display())]
    NotEnrolled(PathBuf),
    /// A file is not what we wrote.
    #[error("{} is damaged: expected {expected}", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What it should hold.
        expected: &'static str,
    },
    /// Others could have read a key.
    #[error("{} has mode {mode:o}: expected 600", path.display())]
    Exposed {
        /// Which file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The certificate that came is not for us.
    #[error("the certificate that came is not ours: {0}")]
    Foreign(String),
    /// It is enrolled with somebody else.
    #[error("this state folder belongs to {site} of {coordinator}, under another CA")]
    Elsewhere {
        /// As whom.
        site: HospitalId,
        /// With whom.
        coordinator: String,
    },
    /// A key could not be made.
    #[error("cannot make a key: {0}")]
    Make(String),
    /// The state folder.
    #[error(transparent)]
    State(#[from] StateError),
}

impl From<IdentityError> for Failure {
    fn from(error: IdentityError) -> Self {
        let message = error.to_string();
        match error {
            IdentityError::NotEnrolled(_) => Self::usage("not_enrolled", message).hint(
                "`hospital-node enroll` with the token and the fingerprint from the operator",
            ),
            IdentityError::Damaged { .. } => Self::failed("state_damaged", message)
                .hint("restore the state folder from a backup, or enrol again"),
            IdentityError::Exposed { path, .. } => {
                Self::usage("key_exposed", message).hint(format!(
                    "chmod 600 {}; if others could log in here, enrol again with new keys",
                    path.display()
                ))
            }
            IdentityError::Foreign(_) => {
                Self::new(proto::cli::Exit::Connection, "foreign_certificate", message)
                    .hint("ask the operator")
            }
            IdentityError::Elsewhere { .. } => Self::usage("enrolled_elsewhere", message)
                .hint("use a configuration with another state folder for another consortium"),
            IdentityError::Make(_) => Self::failed("key_generation", message),
            IdentityError::State(error) => error.into(),
        }
    }
}

/// The keys of this site.
pub(crate) struct Keys {
    tls: KeyPair,
    identity: Ed25519KeyPair,
    request: Vec<u8>,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").finish_non_exhaustive()
    }
}

impl Keys {
    /// Reads the keys, making those that are missing; the same every time after that.
    ///
    /// # Errors
    /// When a key is damaged, readable by others, or cannot be made.
    pub(crate) fn load_or_make(state: &State) -> Result<Self, IdentityError> {
        let tls = made_once(state, TLS_KEY, || {
            let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(make_failed)?;
            Ok(Zeroizing::new(key.serialize_pem().into_bytes()))
        })?;
        let identity = made_once(state, IDENTITY_KEY, || {
            let key = Ed25519KeyPair::generate_pkcs8(&entropy::source()).map_err(make_failed)?;
            Ok(Zeroizing::new(key.as_ref().to_vec()))
        })?;
        made_once(state, PSEUDONYM_KEY, || {
            Ok(Zeroizing::new(entropy::secret().map_err(make_failed)?.to_vec()))
        })?;
        let tls = tls_key(state, &tls)?;
        let identity = Ed25519KeyPair::from_pkcs8(&identity)
            .map_err(|_| damaged(state, IDENTITY_KEY, "an Ed25519 key, PKCS #8"))?;
        let request = request_for(state, &tls)?;
        Ok(Self { tls, identity, request })
    }

    /// The signing request, the same bytes for the same key.
    #[must_use]
    pub(crate) fn request(&self) -> &[u8] {
        &self.request
    }

    /// The Ed25519 public key.
    #[must_use]
    pub(crate) fn identity_public(&self) -> &[u8] {
        self.identity.public_key().as_ref()
    }

    /// What the operator compares before approving: SHA-256 of the identity key.
    #[must_use]
    pub(crate) fn identity_fingerprint(&self) -> String {
        fingerprint_text(self.identity_public())
    }

    /// That the holder of the token also holds both keys.
    #[must_use]
    pub(crate) fn enrolment_proof(&self, token: &str) -> Vec<u8> {
        let mut said = Transcript::new("consilium/enrol/1");
        said.bytes(&self.request);
        said.text(token);
        self.identity.sign(said.finish().as_bytes()).as_ref().to_vec()
    }
}

/// Where this site is enrolled; beside the certificate, written by `enroll`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EnrolmentFile {
    coordinator: String,
    consortium: String,
    site: String,
    ca_fingerprint: String,
    obtained_ms: u64,
}

/// A site that the consortium knows.
#[derive(Clone)]
pub(crate) struct Enrolled {
    /// Where the coordinator is.
    pub coordinator: String,
    /// Whose coordinator it is.
    pub consortium: HospitalId,
    /// Our name.
    pub me: HospitalId,
    /// SHA-256 of the CA's certificate.
    pub ca_fingerprint: Digest,
    /// The CA's certificate.
    pub ca_pem: String,
    /// Ours.
    pub certificate_pem: String,
    /// When we got it.
    pub obtained: Timestamp,
    /// When it ends.
    pub ends: Timestamp,
    key_pem: Zeroizing<String>,
}

impl std::fmt::Debug for Enrolled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Enrolled").field("me", &self.me).finish_non_exhaustive()
    }
}

impl Enrolled {
    /// Reads who this site is.
    ///
    /// # Errors
    /// When it is not enrolled, or a file is damaged or readable by others.
    pub(crate) fn load(state: &State) -> Result<Self, IdentityError> {
        let Some(certificate) = state.read(CERTIFICATE)? else {
            return Err(IdentityError::NotEnrolled(state.root().to_owned()));
        };
        let certificate_pem = text(state, CERTIFICATE, certificate)?;
        let ca_pem = text(state, CA, required(state, CA)?)?;
        let enrolment: EnrolmentFile = serde_json::from_slice(&required(state, ENROLMENT)?)
            .map_err(|_| damaged(state, ENROLMENT, "what `enroll` writes"))?;
        let name = |text: &str| {
            HospitalId::new(text)
                .map_err(|_| damaged(state, ENROLMENT, "names of a-z, 0-9 and '-'"))
        };
        let key = Zeroizing::new(required(state, TLS_KEY)?);
        refuse_exposed(state, TLS_KEY)?;
        let key_pem =
            String::from_utf8(key.to_vec()).map_err(|_| damaged(state, TLS_KEY, "PEM"))?;
        let der = der(&certificate_pem)
            .ok_or_else(|| damaged(state, CERTIFICATE, "a certificate, PEM"))?;
        let certified = proto::identity::from_certificate(&der)
            .map_err(|_| damaged(state, CERTIFICATE, "a certificate with a consilium name"))?;
        let ca = der_of_ca(state, &ca_pem)?;
        Ok(Self {
            me: name(&enrolment.site)?,
            consortium: name(&enrolment.consortium)?,
            coordinator: enrolment.coordinator,
            ca_fingerprint: Digest::sha256(&ca),
            ca_pem,
            certificate_pem,
            obtained: Timestamp::from_millis(enrolment.obtained_ms),
            ends: certified.not_after,
            key_pem: Zeroizing::new(key_pem),
        })
    }

    /// How to reach the coordinator as ourselves.
    #[must_use]
    pub(crate) fn target(&self, proxy: Proxy) -> Target {
        Target {
            url: self.coordinator.clone(),
            proxy,
            trust: Trust::Ca(self.ca_pem.clone()),
            client: Some(ClientIdentity {
                certificate_pem: self.certificate_pem.clone(),
                key_pem: self.key_pem.to_string(),
            }),
        }
    }
}

/// What the coordinator sent when it approved or renewed.
#[derive(Clone, Debug)]
pub(crate) struct Grant {
    /// Where it was asked.
    pub coordinator: String,
    /// Our name, if the coordinator said it.
    pub site: Option<String>,
    /// The leaf.
    pub certificate_pem: String,
    /// Its issuer.
    pub ca_pem: String,
}

/// Checks a certificate that came and keeps it: the CA must be the one that was pinned, the leaf
/// must descend from it, be valid now, carry our key and the role of a site.
///
/// # Errors
/// When any of that is not so; then nothing was changed.
pub(crate) fn keep(
    state: &State,
    keys: &Keys,
    pinned: Digest,
    grant: &Grant,
    now: Timestamp,
) -> Result<Enrolled, IdentityError> {
    let foreign = |why: &str| IdentityError::Foreign(why.to_owned());
    let ca = der(&grant.ca_pem).ok_or_else(|| foreign("its CA is no certificate"))?;
    if Digest::sha256(&ca) != pinned {
        return Err(foreign("its CA is not the one that was pinned"));
    }
    let leaf = der(&grant.certificate_pem).ok_or_else(|| foreign("it is no certificate"))?;
    verify(&leaf, &ca, now).map_err(|error| IdentityError::Foreign(error.to_string()))?;
    let (_, parsed) =
        X509Certificate::from_der(&leaf).map_err(|_| foreign("it is no certificate"))?;
    if parsed.public_key().subject_public_key.data.as_ref() != keys.tls.public_key_raw() {
        return Err(foreign("it carries another key"));
    }
    let certified = proto::identity::from_certificate(&leaf)
        .map_err(|error| IdentityError::Foreign(error.to_string()))?;
    let PartyName { consortium, role, name } = certified.party;
    if role != Role::Site || grant.site.as_ref().is_some_and(|site| site != name.as_str()) {
        return Err(foreign("it carries another name or role"));
    }
    let enrolment = EnrolmentFile {
        coordinator: grant.coordinator.clone(),
        consortium: consortium.to_string(),
        site: name.to_string(),
        ca_fingerprint: format!("sha256:{pinned}"),
        obtained_ms: now.as_millis(),
    };
    let enrolment = serde_json::to_vec_pretty(&enrolment)
        .map_err(|_| damaged(state, ENROLMENT, "text that can be written as JSON"))?;
    // The certificate last: with it, the folder counts as enrolled.
    state.replace(CA, grant.ca_pem.as_bytes())?;
    state.replace(ENROLMENT, &enrolment)?;
    state.replace(CERTIFICATE, grant.certificate_pem.as_bytes())?;
    Enrolled::load(state)
}

/// Refuses to enrol a folder that belongs to another consortium: its journal speaks of that one.
///
/// # Errors
/// When it does; or when it is enrolled and damaged.
pub(crate) fn refuse_elsewhere(state: &State, pinned: Digest) -> Result<(), IdentityError> {
    match Enrolled::load(state) {
        Ok(found) if found.ca_fingerprint != pinned => {
            Err(IdentityError::Elsewhere { site: found.me, coordinator: found.coordinator })
        }
        Ok(_) | Err(IdentityError::NotEnrolled(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

/// An identity key as people compare it, and as `enroll` prints this site's own.
#[must_use]
pub(crate) fn fingerprint(key: &IdentityKey) -> String {
    fingerprint_text(key.as_bytes())
}

fn fingerprint_text(key: &[u8]) -> String {
    format!("sha256:{}", Digest::sha256(key))
}

/// The identity that the other hospitals know this site by, to sign with.
///
/// # Errors
/// When its key is missing, damaged or readable by others.
pub(crate) fn signing(state: &State) -> Result<Identity, IdentityError> {
    refuse_exposed(state, IDENTITY_KEY)?;
    let document = Zeroizing::new(required(state, IDENTITY_KEY)?);
    Identity::from_pkcs8(&document)
        .map_err(|_| damaged(state, IDENTITY_KEY, "an Ed25519 key, PKCS #8"))
}

/// What this house cosigns the log with, under this name; made the first time.
///
/// # Errors
/// When it is damaged, readable by others, or cannot be made.
pub(crate) fn cosigner(state: &State, name: &str) -> Result<Cosigner, IdentityError> {
    let document = made_once(state, WITNESS_KEY, || {
        let key = Ed25519KeyPair::generate_pkcs8(&entropy::source()).map_err(make_failed)?;
        Ok(Zeroizing::new(key.as_ref().to_vec()))
    })?;
    cosigner_of(state, name, &document)
}

/// The same if it was made.
///
/// # Errors
/// When it is damaged or readable by others.
pub(crate) fn known_cosigner(state: &State, name: &str) -> Result<Option<Cosigner>, IdentityError> {
    let Some(document) = state.read(WITNESS_KEY)?.map(Zeroizing::new) else { return Ok(None) };
    refuse_exposed(state, WITNESS_KEY)?;
    cosigner_of(state, name, &document).map(Some)
}

fn cosigner_of(state: &State, name: &str, document: &[u8]) -> Result<Cosigner, IdentityError> {
    Cosigner::from_pkcs8(name, document)
        .map_err(|_| damaged(state, WITNESS_KEY, "an Ed25519 key, PKCS #8"))
}

/// Where the trainer reads the key of its pseudonyms.
#[must_use]
pub(crate) fn pseudonym_key(state: &State) -> PathBuf {
    state.file(PSEUDONYM_KEY)
}

/// The mode of a file if it is there.
#[must_use]
pub(crate) fn mode_of(state: &State, name: &str) -> Option<u32> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::metadata(state.file(name)).ok().map(|found| found.permissions().mode() & 0o777)
}

fn made_once(
    state: &State,
    name: &str,
    make: impl FnOnce() -> Result<Zeroizing<Vec<u8>>, IdentityError>,
) -> Result<Zeroizing<Vec<u8>>, IdentityError> {
    if state.read(name)?.is_none() {
        // Two commands at once: the first one's key stays, both go on with it.
        state.create(name, &make()?)?;
    }
    refuse_exposed(state, name)?;
    Ok(Zeroizing::new(required(state, name)?))
}

fn refuse_exposed(state: &State, name: &str) -> Result<(), IdentityError> {
    match mode_of(state, name) {
        Some(mode) if mode & OTHERS != 0 => {
            Err(IdentityError::Exposed { path: state.file(name), mode })
        }
        Some(_) | None => Ok(()),
    }
}

fn tls_key(state: &State, pem: &[u8]) -> Result<KeyPair, IdentityError> {
    std::str::from_utf8(pem)
        .ok()
        .and_then(|pem| KeyPair::from_pem(pem).ok())
        .ok_or_else(|| damaged(state, TLS_KEY, "an ECDSA P-256 key, PKCS #8, PEM"))
}

/// ECDSA signatures differ each time, and the coordinator refuses another request under the same
/// token: so the request is made once for a key, and kept.
fn request_for(state: &State, key: &KeyPair) -> Result<Vec<u8>, IdentityError> {
    if let Some(kept) = state.read(REQUEST)?
        && let Ok((_, parsed)) = X509CertificationRequest::from_der(&kept)
        && parsed.certification_request_info.subject_pki.subject_public_key.data.as_ref()
            == key.public_key_raw()
    {
        return Ok(kept);
    }
    // The name is the operator's to give: the request carries the key and nothing else.
    let request = CertificateParams::default().serialize_request(key).map_err(make_failed)?;
    let der = request.der().to_vec();
    state.replace(REQUEST, &der)?;
    Ok(der)
}

fn verify(
    leaf: &CertificateDer<'_>,
    ca: &CertificateDer<'_>,
    now: Timestamp,
) -> Result<(), rustls::Error> {
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca.clone().into_owned())?;
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
        std::sync::Arc::new(roots),
        provider,
    )
    .build()
    .map_err(|error| rustls::Error::General(error.to_string()))?;
    let at = UnixTime::since_unix_epoch(std::time::Duration::from_millis(now.as_millis()));
    verifier.verify_client_cert(leaf, &[], at).map(|_| ())
}

fn der(pem: &str) -> Option<CertificateDer<'static>> {
    CertificateDer::from_pem_slice(pem.as_bytes()).ok()
}

fn der_of_ca(state: &State, pem: &str) -> Result<CertificateDer<'static>, IdentityError> {
    der(pem).ok_or_else(|| damaged(state, CA, "a certificate, PEM"))
}

fn required(state: &State, name: &str) -> Result<Vec<u8>, IdentityError> {
    state.read(name)?.ok_or_else(|| damaged(state, name, "a file"))
}

fn text(state: &State, name: &str, bytes: Vec<u8>) -> Result<String, IdentityError> {
    String::from_utf8(bytes).map_err(|_| damaged(state, name, "text"))
}

fn damaged(state: &State, name: &str, expected: &'static str) -> IdentityError {
    IdentityError::Damaged { path: state.file(name), expected }
}

fn make_failed(error: impl std::fmt::Display) -> IdentityError {
    IdentityError::Make(error.to_string())
}

#[cfg(test)]
mod tests;
