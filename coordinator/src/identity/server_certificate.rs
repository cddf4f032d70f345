//! The server's own certificate: renewed at two thirds of its life, without a restart.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use aggregation::units::Timestamp;
use rcgen::KeyPair;
use rustls::client::verify_server_name;
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use super::authority::{Authority, AuthorityError};
use crate::clock;

/// How often the end of the certificate is looked at.
const LOOK: Duration = Duration::from_secs(600);

/// Why the server has no certificate to show.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServerCertificateError {
    /// A file cannot be read or written.
    #[error("{}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{}: expected a {expected} in PEM", path.display())]
    NotPem {
        /// The file.
        path: PathBuf,
        /// What should be there.
        expected: &'static str,
    },
    /// The key cannot be used for TLS.
    #[error("the server's key cannot be used")]
    Key(#[from] rustls::Error),
    /// The CA refused.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
}

/// Shows the server's certificate to whoever connects, followed by the CA's, which nodes pin.
pub(crate) struct ServerCertificate {
    shown: RwLock<Arc<CertifiedKey>>,
    authority: Arc<Authority>,
    key: KeyPair,
    host: String,
    file: PathBuf,
    lifetime: Duration,
}

impl fmt::Debug for ServerCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerCertificate").field("host", &self.host).finish_non_exhaustive()
    }
}

impl ServerCertificate {
    /// Reads key and certificate; a certificate that is due, or not from this CA, is renewed now.
    ///
    /// # Errors
    /// When a file cannot be read, or a due certificate cannot be renewed.
    pub(crate) fn load(
        authority: Arc<Authority>,
        host: &str,
        file: &Path,
        key_file: &Path,
        lifetime: Duration,
        now: Timestamp,
    ) -> Result<Self, ServerCertificateError> {
        let read = |path: &Path| {
            std::fs::read_to_string(path)
                .map_err(|source| ServerCertificateError::File { path: path.to_owned(), source })
        };
        let not_pem = |path: &Path, expected| ServerCertificateError::NotPem {
            path: path.to_owned(),
            expected,
        };
        let pem = read(file)?;
        let key_pem = zeroize::Zeroizing::new(read(key_file)?);
        let key =
            KeyPair::from_pem(&key_pem).map_err(|_| not_pem(key_file, "private key (PKCS #8)"))?;
        let shown = certified(&authority, &key, &pem).map_err(|fault| match fault {
            Unusable::NotPem => not_pem(file, "certificate"),
            Unusable::Key(fault) => ServerCertificateError::Key(fault),
        })?;
        let server = Self {
            shown: RwLock::new(Arc::new(shown)),
            authority,
            key,
            host: host.to_owned(),
            file: file.to_owned(),
            lifetime,
        };
        server.renew_if_due(now)?;
        Ok(server)
    }

    /// Renews when two thirds of the life have passed, or the certificate is not one of this CA
    /// for this host; says whether it did.
    ///
    /// # Errors
    /// When the CA refuses or the file cannot be written; the old certificate stays.
    pub(crate) fn renew_if_due(&self, now: Timestamp) -> Result<bool, ServerCertificateError> {
        if !self.due(now) {
            return Ok(false);
        }
        let issued = self.authority.certify_server(&self.host, &self.key, self.lifetime, now)?;
        let shown =
            certified(&self.authority, &self.key, &issued.pem).map_err(|fault| match fault {
                Unusable::NotPem => ServerCertificateError::NotPem {
                    path: self.file.clone(),
                    expected: "certificate",
                },
                Unusable::Key(fault) => ServerCertificateError::Key(fault),
            })?;
        let beside = self.file.with_extension("new");
        std::fs::write(&beside, &issued.pem)
            .and_then(|()| std::fs::rename(&beside, &self.file))
            .map_err(|source| ServerCertificateError::File { path: self.file.clone(), source })?;
        *self.shown.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(shown);
        Ok(true)
    }

    fn due(&self, now: Timestamp) -> bool {
        let shown = Arc::clone(&self.shown.read().unwrap_or_else(PoisonError::into_inner));
        let Some(leaf) = shown.cert.first() else { return true };
        let named = ServerName::try_from(self.host.as_str()).is_ok_and(|name| {
            ParsedCertificate::try_from(leaf)
                .is_ok_and(|leaf| verify_server_name(&leaf, &name).is_ok())
        });
        if !named {
            return true;
        }
        let Ok((_, parsed)) = x509_parser::parse_x509_certificate(leaf) else { return true };
        let Ok((_, ca)) = x509_parser::parse_x509_certificate(self.authority.der()) else {
            return true;
        };
        if parsed.verify_signature(Some(ca.public_key())).is_err() {
            return true;
        }
        let seconds =
            |time: x509_parser::time::ASN1Time| u64::try_from(time.timestamp()).unwrap_or(0);
        let (from, to) =
            (seconds(parsed.validity().not_before), seconds(parsed.validity().not_after));
        let renew_at = from.saturating_add(to.saturating_sub(from).saturating_mul(2) / 3);
        now.as_millis() / 1000 >= renew_at
    }

    /// Looks again and again until the program ends.
    pub(crate) async fn keep_fresh(self: Arc<Self>) {
        loop {
            clock::wait_for(LOOK).await;
            match self.renew_if_due(clock::now()) {
                Ok(true) => tracing::info!("the server's certificate has been renewed"),
                Ok(false) => {}
                Err(fault) => tracing::error!(%fault, "the server's certificate cannot be renewed"),
            }
        }
    }
}

impl ResolvesServerCert for ServerCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.shown.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

enum Unusable {
    NotPem,
    Key(rustls::Error),
}

fn certified(authority: &Authority, key: &KeyPair, pem: &str) -> Result<CertifiedKey, Unusable> {
    let leaf = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| Unusable::NotPem)?;
    let der = PrivateKeyDer::try_from(key.serialize_der())
        .map_err(|fault| Unusable::Key(rustls::Error::General(fault.to_owned())))?;
    let signer = rustls::crypto::ring::sign::any_supported_type(&der).map_err(Unusable::Key)?;
    Ok(CertifiedKey::new(vec![leaf, authority.der().clone()], signer))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);
    const DAY: Duration = Duration::from_secs(24 * 3600);

    #[test]
    fn a_certificate_is_renewed_at_two_thirds_of_its_life_and_not_before() {
        let folder = tempfile::tempdir().expect("a folder");
        let (authority, _) = Authority::create("north", NOW).expect("a CA");
        let key = KeyPair::generate().expect("a key");
        let issued =
            authority.certify_server("localhost", &key, 30 * DAY, NOW).expect("a certificate");
        let (file, key_file) = (folder.path().join("server.pem"), folder.path().join("key.pem"));
        std::fs::write(&file, &issued.pem).expect("written");
        std::fs::write(&key_file, key.serialize_pem()).expect("written");
        let server = ServerCertificate::load(
            Arc::new(authority),
            "localhost",
            &file,
            &key_file,
            30 * DAY,
            NOW,
        )
        .expect("a certificate");
        assert!(!server.renew_if_due(NOW.saturating_add(19 * DAY)).expect("not due"));
        assert_eq!(std::fs::read_to_string(&file).expect("there"), issued.pem);
        assert!(server.renew_if_due(NOW.saturating_add(21 * DAY)).expect("due"));
        assert_ne!(std::fs::read_to_string(&file).expect("there"), issued.pem);
        assert!(!server.renew_if_due(NOW.saturating_add(22 * DAY)).expect("fresh"));
    }
}
