//! The consortium's CA: makes certificates for sites, operators and this server.
//!
//! Names and roles always come from the caller, never from a certificate request: of a request
//! only the public key is used, after its own signature has been checked.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aggregation::ids::Digest;
use aggregation::units::Timestamp;
use proto::identity::PartyName;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer};

use crate::entropy;

/// Certificates begin an hour before they are made, for machines whose clocks are behind.
const BACK_DATED: Duration = Duration::from_secs(3600);
/// The CA outlives every leaf by years.
const CA_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Why a certificate cannot be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuthorityError {
    /// A file of the CA cannot be read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A file of the CA is not what it should be.
    #[error("{}: expected a {expected} in PEM", path.display())]
    NotPem {
        /// The file.
        path: PathBuf,
        /// What should be there.
        expected: &'static str,
    },
    /// The CA's key is not the one its certificate names.
    #[error("the CA's key does not belong to its certificate")]
    ForeignKey,
    /// A certificate request that is not well formed, or whose signature is wrong.
    #[error("expected a PKCS #10 request signed by its own key, found something else")]
    BadRequest,
    /// The cryptography refused.
    #[error("the certificate cannot be made")]
    Failed(#[from] rcgen::Error),
    /// No randomness for the serial number.
    #[error(transparent)]
    Entropy(#[from] entropy::NoEntropy),
}

/// A certificate just made.
#[derive(Debug, Clone)]
pub(crate) struct Issued {
    /// The leaf in PEM.
    pub(crate) pem: String,
    /// SHA-256 over its DER.
    pub(crate) fingerprint: Digest,
    /// When it ends.
    pub(crate) ends: Timestamp,
}

/// The consortium's CA, ready to sign.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    der: CertificateDer<'static>,
    pem: String,
    /// When its own certificate ends: nothing that it makes is good for longer.
    ends: Timestamp,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority")
            .field("fingerprint", &self.fingerprint())
            .finish_non_exhaustive()
    }
}

impl Authority {
    /// Makes a new CA; gives it with its key in PEM.
    ///
    /// # Errors
    /// When there is no randomness.
    pub(crate) fn create(
        consortium: &str,
        now: Timestamp,
    ) -> Result<(Self, String), AuthorityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let key_pem = key.serialize_pem();
        let mut params = parameters(&format!("Consilium CA of {consortium}"), now, CA_LIFETIME)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?;
        let ca = Self {
            der: certificate.der().clone(),
            pem: certificate.pem(),
            issuer: Issuer::new(params, key),
            ends: now.saturating_add(CA_LIFETIME),
        };
        Ok((ca, key_pem))
    }

    /// Reads a CA from its two files.
    ///
    /// # Errors
    /// When a file cannot be read, or the two do not belong together.
    pub(crate) fn load(certificate: &Path, key: &Path) -> Result<Self, AuthorityError> {
        let pem = read(certificate)?;
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| {
            AuthorityError::NotPem { path: certificate.to_owned(), expected: "certificate" }
        })?;
        let key_pem = zeroize::Zeroizing::new(read(key)?);
        let key = KeyPair::from_pem(&key_pem).map_err(|_| AuthorityError::NotPem {
            path: key.to_owned(),
            expected: "private key (PKCS #8)",
        })?;
        let not_ours =
            || AuthorityError::NotPem { path: certificate.to_owned(), expected: "CA certificate" };
        let (_, parsed) = x509_parser::parse_x509_certificate(&der).map_err(|_| not_ours())?;
        if parsed.public_key().subject_public_key.data.as_ref() != key.der_bytes() {
            return Err(AuthorityError::ForeignKey);
        }
        let seconds =
            u64::try_from(parsed.validity().not_after.timestamp()).map_err(|_| not_ours())?;
        let ends = Timestamp::from_millis(seconds.saturating_mul(1000));
        let issuer = Issuer::from_ca_cert_der(&der, key).map_err(|_| not_ours())?;
        Ok(Self { issuer, der, pem, ends })
    }

    /// The CA's certificate in PEM.
    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    /// The CA's certificate.
    pub(crate) fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// What sites pin: `sha256:` and 64 hex digits over the certificate's DER.
    pub(crate) fn fingerprint(&self) -> String {
        fingerprint_text(Digest::sha256(&self.der))
    }

    /// A certificate for a party whose key asked for it in `request` (PKCS #10, DER).
    ///
    /// # Errors
    /// [`AuthorityError::BadRequest`] when the request is not signed by its own key.
    pub(crate) fn certify_request(
        &self,
        party: &PartyName,
        request: &[u8],
        lifetime: Duration,
        now: Timestamp,
    ) -> Result<Issued, AuthorityError> {
        let request =
            CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(request))
                .map_err(|_| AuthorityError::BadRequest)?;
        self.certify_key(party, &request.public_key, lifetime, now)
    }

    /// A certificate for a party and its public key.
    ///
    /// # Errors
    /// When there is no randomness.
    pub(crate) fn certify_key(
        &self,
        party: &PartyName,
        key: &impl PublicKeyData,
        lifetime: Duration,
        now: Timestamp,
    ) -> Result<Issued, AuthorityError> {
        let lifetime = lifetime.min(self.ends.since(now));
        let mut params = parameters(party.name.as_str(), now, lifetime)?;
        params.subject_alt_names = vec![SanType::URI(party.to_string().try_into()?)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(&params, key, lifetime, now)
    }

    /// A certificate for this server: the address's host, and this machine by its loopback names.
    ///
    /// # Errors
    /// When the host can stand in no certificate.
    pub(crate) fn certify_server(
        &self,
        host: &str,
        key: &impl PublicKeyData,
        lifetime: Duration,
        now: Timestamp,
    ) -> Result<Issued, AuthorityError> {
        let lifetime = lifetime.min(self.ends.since(now));
        let mut params = parameters(host, now, lifetime)?;
        let mut names = vec![host];
        names.extend(["localhost", "127.0.0.1", "::1"].into_iter().filter(|known| *known != host));
        params.subject_alt_names = names
            .into_iter()
            .map(|name| match name.parse::<IpAddr>() {
                Ok(address) => Ok(SanType::IpAddress(address)),
                Err(_) => name.to_owned().try_into().map(SanType::DnsName),
            })
            .collect::<Result<_, _>>()?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(&params, key, lifetime, now)
    }

    fn sign(
        &self,
        params: &CertificateParams,
        key: &impl PublicKeyData,
        lifetime: Duration,
        now: Timestamp,
    ) -> Result<Issued, AuthorityError> {
        let certificate = params.signed_by(key, &self.issuer)?;
        Ok(Issued {
            fingerprint: Digest::sha256(certificate.der()),
            pem: certificate.pem(),
            ends: now.saturating_add(lifetime),
        })
    }
}

/// A fingerprint as people compare it.
pub(crate) fn fingerprint_text(digest: Digest) -> String {
    format!("sha256:{digest}")
}

fn parameters(
    common_name: &str,
    now: Timestamp,
    lifetime: Duration,
) -> Result<CertificateParams, AuthorityError> {
    let mut params = CertificateParams::default();
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    params.distinguished_name = name;
    let since_1970 = Duration::from_millis(now.as_millis());
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + since_1970.saturating_sub(BACK_DATED);
    params.not_after = epoch + since_1970.saturating_add(lifetime);
    // The same key may be certified again at renewal, so the number cannot come from the key.
    let mut serial = entropy::bytes::<16>()?;
    serial[0] = (serial[0] & 0x7f) | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn read(path: &Path) -> Result<String, AuthorityError> {
    std::fs::read_to_string(path)
        .map_err(|source| AuthorityError::Unreadable { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use aggregation::ids::HospitalId;
    use proto::identity::{Role, from_certificate};

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);
    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn party(role: Role, name: &str) -> PartyName {
        PartyName {
            consortium: HospitalId::new("north").expect("a valid name"),
            role,
            name: HospitalId::new(name).expect("a valid name"),
        }
    }

    #[test]
    fn the_name_comes_from_the_caller_and_never_from_the_request() {
        let (ca, _) = Authority::create("north", NOW).expect("a CA");
        let key = KeyPair::generate().expect("a key");
        let mut wish = CertificateParams::new(vec!["evil.example".to_owned()]).expect("a wish");
        wish.distinguished_name.push(DnType::CommonName, "operator");
        let request = wish.serialize_request(&key).expect("a request");
        let issued = ca
            .certify_request(&party(Role::Site, "alpha"), request.der(), DAY, NOW)
            .expect("a certificate");
        let der = CertificateDer::from_pem_slice(issued.pem.as_bytes()).expect("PEM");
        let read = from_certificate(&der).expect("one of our names");
        assert_eq!(read.party, party(Role::Site, "alpha"));
        assert_eq!(read.not_after, issued.ends);
        assert_eq!(NOW.since(read.not_before), BACK_DATED);
        assert!(!String::from_utf8_lossy(&der).contains("evil"));
    }

    #[test]
    fn nothing_is_good_for_longer_than_the_authority() {
        let (ca, _) = Authority::create("north", NOW).expect("a CA");
        let key = KeyPair::generate().expect("a key");
        let later = NOW.saturating_add(DAY * 3_000);
        let issued = ca.certify_key(&party(Role::Auditor, "auditor"), &key, DAY * 3_000, later);
        assert_eq!(issued.expect("a certificate").ends, NOW.saturating_add(CA_LIFETIME));
    }

    #[test]
    fn a_request_with_a_broken_signature_is_refused() {
        let (ca, _) = Authority::create("north", NOW).expect("a CA");
        let key = KeyPair::generate().expect("a key");
        let request = CertificateParams::default().serialize_request(&key).expect("a request");
        let mut bytes = request.der().to_vec();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        let refused = ca.certify_request(&party(Role::Site, "alpha"), &bytes, DAY, NOW);
        assert!(matches!(refused, Err(AuthorityError::BadRequest)));
        let refused = ca.certify_request(&party(Role::Site, "alpha"), b"hello", DAY, NOW);
        assert!(matches!(refused, Err(AuthorityError::BadRequest)));
    }

    #[test]
    fn a_stored_authority_reads_back_and_a_foreign_key_is_noticed() {
        let folder = tempfile::tempdir().expect("a folder");
        let (ca, key) = Authority::create("north", NOW).expect("a CA");
        let (_, other) = Authority::create("south", NOW).expect("a CA");
        let (pem, good, bad) =
            (folder.path().join("ca.pem"), folder.path().join("key"), folder.path().join("bad"));
        std::fs::write(&pem, ca.pem()).expect("written");
        std::fs::write(&good, key).expect("written");
        std::fs::write(&bad, other).expect("written");
        let read = Authority::load(&pem, &good).expect("the same CA");
        assert_eq!(read.fingerprint(), ca.fingerprint());
        assert!(matches!(Authority::load(&pem, &bad), Err(AuthorityError::ForeignKey)));
    }
}
