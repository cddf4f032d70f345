//! Whom we believe to be the archive, and what we show it.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

/// The longest file of certificates or of a key.
const MOST: u64 = 4 << 20;

/// Certificates to believe, and the one to show.
#[derive(Clone)]
pub struct Trust {
    pub(crate) roots: Vec<CertificateDer<'static>>,
    pub(crate) client: Option<Shown>,
}

/// The certificate that an archive is shown.
#[derive(Clone)]
pub(crate) struct Shown {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    /// In PEM.
    pub(crate) key: Arc<Zeroizing<Vec<u8>>>,
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust").field("roots", &self.roots.len()).finish_non_exhaustive()
    }
}

impl Trust {
    /// The certificates of a file, or without one those that this system believes.
    ///
    /// # Errors
    /// One line on what is wrong with the files.
    pub fn load(ca: Option<&Path>, client: Option<(&Path, &Path)>) -> Result<Self, String> {
        let roots = match ca {
            Some(file) => certificates(file)?,
            None => {
                let found = rustls_native_certs::load_native_certs();
                if found.certs.is_empty() {
                    return Err("this system has no certificates to believe; set ca".to_owned());
                }
                found.certs
            }
        };
        let client = match client {
            None => None,
            Some((chain, key)) => {
                let pem = crate::job::secret_file(key)?;
                PrivateKeyDer::from_pem_slice(&pem)
                    .map_err(|_| format!("expected a private key in PEM in {}", key.display()))?;
                Some(Shown { chain: certificates(chain)?, key: Arc::new(pem) })
            }
        };
        Ok(Self { roots, client })
    }

    /// The same for rustls.
    ///
    /// # Errors
    /// One line when the certificate and its key do not fit together.
    pub fn config(&self) -> Result<Arc<ClientConfig>, String> {
        let mut roots = RootCertStore::empty();
        // A system's collection may hold one that cannot be used.
        let (usable, _) = roots.add_parsable_certificates(self.roots.iter().cloned());
        if usable == 0 {
            return Err("expected a usable certificate to believe, found none".to_owned());
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| format!("TLS: {error}"))?
            .with_root_certificates(roots);
        let config = match &self.client {
            None => Ok(builder.with_no_client_auth()),
            Some(Shown { chain, key }) => PrivateKeyDer::from_pem_slice(key)
                .map_err(|_| "expected a private key in PEM".to_owned())
                .and_then(|key| {
                    builder
                        .with_client_auth_cert(chain.clone(), key)
                        .map_err(|error| format!("the client certificate: {error}"))
                }),
        };
        config.map(Arc::new)
    }
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = crate::job::small_file(file, MOST)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) | Err(_) => {
            Err(format!("expected certificates in PEM in {}, found none", file.display()))
        }
    }
}
