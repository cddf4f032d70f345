//! Where a log is: a folder of this machine, or static files behind HTTPS.
//!
//! Nothing that a server says is believed; TLS only keeps bystanders from reading along. A server
//! can be slow, endless or wrong, and so every answer has a deadline and a limit, redirects are not
//! followed, and what is kept of its answers is bounded. The proxy is that of the environment.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use rustls::client::ClientConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{InconsistentKeys, RootCertStore};
use transparency::folder::{Folder, Source};
use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Error};

/// The longest file of certificates.
pub(crate) const MAX_CA_BYTES: usize = 1 << 20;

/// How long a server may take to be reached, and to answer one question.
const CONNECT: Duration = Duration::from_secs(10);
const ANSWER: Duration = Duration::from_secs(60);
/// How many bytes of a long answer a slow line brings in a second.
const SLOW: u64 = 1 << 20;

/// The most tiles above the lowest that are kept: each spares a question for 256 bundles.
const MOST_KEPT: usize = 512;

/// Where a log is.
#[derive(Debug)]
pub(crate) enum Place {
    /// On this machine.
    Folder(Folder),
    /// On another one.
    Url(Url),
}

impl Source for Place {
    fn read(&self, path: &str, limit: usize) -> io::Result<Option<Vec<u8>>> {
        match self {
            Self::Folder(folder) => folder.read(path, limit),
            Self::Url(url) => url.read(path, limit),
        }
    }

    fn list(&self, visit: &mut dyn FnMut(&str)) -> io::Result<bool> {
        match self {
            Self::Folder(folder) => folder.list(visit),
            Self::Url(_) => Ok(false),
        }
    }
}

/// A log behind HTTPS.
#[derive(Debug)]
pub(crate) struct Url {
    base: String,
    agent: Agent,
    /// Whether the server is shown a certificate.
    known: bool,
    kept: RefCell<BTreeMap<String, Vec<u8>>>,
}

impl Url {
    /// The log at this address; `ca` are the certificates to believe instead of the public ones,
    /// `client` the certificates and the key that are shown, all in PEM.
    pub(crate) fn new(
        base: &str,
        ca: Option<&[u8]>,
        client: Option<(&[u8], &[u8])>,
    ) -> Result<Self, String> {
        let rest = base.strip_prefix("https://").unwrap_or_default();
        if rest.is_empty() || rest.contains(['?', '#', '@']) {
            return Err(format!(
                "expected the address of a log like https://log.example/consilium, found {base}"
            ));
        }
        let mut tls = TlsConfig::builder();
        if let Some(ca) = ca {
            tls = tls.root_certs(RootCerts::new_with_certs(&certificates(ca, "--ca")?));
        }
        if let Some((shown, key)) = client {
            let shown = certificates(shown, "--client-cert")?;
            fit(&shown, key)?;
            let key = PrivateKey::from_pem(key).map_err(|_| NO_KEY)?;
            tls = tls.client_cert(Some(ClientCert::new_with_certs(&shown, key)));
        }
        let config = Agent::config_builder()
            .tls_config(tls.build())
            .https_only(true)
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(CONNECT))
            .timeout_global(Some(ANSWER))
            .user_agent(concat!("consilium-audit/", env!("CARGO_PKG_VERSION")))
            .build();
        let (base, agent) = (base.trim_end_matches('/').to_owned(), config.new_agent());
        Ok(Self { base, agent, known: client.is_some(), kept: RefCell::default() })
    }

    fn ask(&self, path: &str, limit: usize) -> io::Result<Option<Vec<u8>>> {
        let most = u64::try_from(limit).map_or(u64::MAX, |limit| limit.saturating_add(1));
        let time = ANSWER + Duration::from_secs(most / SLOW);
        let question = self.agent.get(format!("{}/{path}", self.base));
        let question = question.config().timeout_global(Some(time)).build();
        let mut answer = question.call().map_err(|error| self.unreached(error))?;
        match answer.status().as_u16() {
            200 => {}
            404 => return Ok(None),
            other => {
                let hint = match other {
                    401 | 403 => WANTS_ANOTHER,
                    300..=399 => {
                        "redirects are not followed; is the address the log's own, .../log?"
                    }
                    _ => IS_IT_THE_LOG,
                };
                let what = format!("expected the server to answer 200 or 404, found {other}");
                return Err(io::Error::other(Unreached { what, hint }));
            }
        }
        let too_long = || {
            let message = format!("expected at most {limit} bytes");
            io::Error::new(ErrorKind::FileTooLarge, message)
        };
        match answer.body_mut().with_config().limit(most).read_to_vec() {
            Ok(bytes) if bytes.len() <= limit => Ok(Some(bytes)),
            Ok(_) | Err(Error::BodyExceedsLimit(_)) => Err(too_long()),
            Err(error) => Err(self.unreached(error)),
        }
    }

    /// Why the server gave no answer, for people, and what may help.
    fn unreached(&self, error: Error) -> io::Error {
        let new = |kind, what: String, hint| io::Error::new(kind, Unreached { what, hint });
        let wants = if self.known { WANTS_ANOTHER } else { WANTS_ONE };
        if let Error::Timeout(which) = error {
            let what = format!("expected an answer in time, found none ({which})");
            return new(ErrorKind::TimedOut, what, "");
        }
        let error = if let Error::Io(error) = error {
            error
        } else if let Error::Rustls(error) = error {
            io::Error::other(error)
        } else {
            return new(ErrorKind::NotConnected, error.to_string(), IS_IT_THE_LOG);
        };
        let kind = error.kind();
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        if let Some(rustls::Error::InvalidCertificate(_)) = inner {
            return new(kind, error.to_string(), "--ca names the certificates to believe");
        }
        if let Some(rustls::Error::AlertReceived(_)) = inner {
            return new(kind, error.to_string(), wants);
        }
        if [ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset, ErrorKind::BrokenPipe]
            .contains(&kind)
        {
            return new(kind, "the server hung up".to_owned(), wants);
        }
        new(kind, error.to_string(), IS_IT_THE_LOG)
    }
}

const WANTS_ONE: &str = "the server may want --client-cert and --client-key";
const WANTS_ANOTHER: &str = "the server may want another --client-cert";
const IS_IT_THE_LOG: &str = "is the address that of the log, https://.../log?";

/// A server that was not reached or did not let us in: nothing was learnt about the log.
#[derive(Debug)]
pub(crate) struct Unreached {
    what: String,
    pub(crate) hint: &'static str,
}

impl fmt::Display for Unreached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Unreached {}

impl Source for Url {
    fn read(&self, path: &str, limit: usize) -> io::Result<Option<Vec<u8>>> {
        // The lowest tiles and the bundles are read once each; those above again and again.
        let again = path.strip_prefix("tile/").is_some_and(|rest| {
            rest.starts_with(|first: char| first.is_ascii_digit()) && !rest.starts_with("0/")
        });
        if !again {
            return self.ask(path, limit);
        }
        if let Some(bytes) = self.kept.borrow().get(path).filter(|bytes| bytes.len() <= limit) {
            return Ok(Some(bytes.clone()));
        }
        let answer = self.ask(path, limit)?;
        let mut kept = self.kept.borrow_mut();
        if let Some(bytes) = &answer {
            if kept.len() >= MOST_KEPT {
                kept.pop_first();
            }
            kept.insert(path.to_owned(), bytes.clone());
        }
        Ok(answer)
    }

    fn list(&self, _visit: &mut dyn FnMut(&str)) -> io::Result<bool> {
        Ok(false)
    }
}

fn certificates(pem: &[u8], option: &str) -> Result<Vec<Certificate<'static>>, String> {
    let mut certificates = Vec::new();
    for item in parse_pem(pem) {
        match item {
            Ok(PemItem::Certificate(certificate)) => certificates.push(certificate),
            Ok(_) => {}
            Err(error) => return Err(format!("expected certificates in PEM: {error}")),
        }
    }
    if certificates.is_empty() {
        return Err(format!("expected a certificate in PEM in the file of {option}"));
    }
    Ok(certificates)
}

/// What the key is, and why it is none, stays out of messages.
const NO_KEY: &str = "expected a private key in PEM in the file of --client-key";

/// Whether a key is that of the certificate that is shown.
fn fit(shown: &[Certificate<'_>], key: &[u8]) -> Result<(), String> {
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| NO_KEY)?;
    let chain = shown.iter().map(|one| CertificateDer::from(one.der().to_vec())).collect();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS: {error}"))?
        .with_root_certificates(RootCertStore::empty())
        .with_client_auth_cert(chain, key);
    match config {
        Ok(_) => Ok(()),
        Err(rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
            Err("expected the key of --client-cert in --client-key, found another one".to_owned())
        }
        Err(error) => Err(format!(
            "expected a certificate in --client-cert and a key in --client-key that TLS can use: {error}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_https_and_has_no_secret() {
        for good in ["https://log.example", "https://log.example:8443/a/b/"] {
            assert!(Url::new(good, None, None).is_ok(), "{good}");
        }
        for wrong in [
            "http://log.example",
            "https://",
            "ftp://log.example",
            "https://name:word@log.example",
            "https://log.example/?a",
            "https://log.example/#a",
        ] {
            assert!(Url::new(wrong, None, None).is_err(), "{wrong}");
        }
        let none: &[u8] = b"no certificate";
        assert!(Url::new("https://log.example", Some(none), None).is_err());
        let error = Url::new("https://log.example", None, Some((none, none))).expect_err("none");
        assert!(error.contains("--client-cert"), "{error}");
    }

    #[test]
    fn a_certificate_is_shown_with_its_own_key_alone() {
        let [one, other] =
            [(); 2].map(|()| rcgen::generate_simple_self_signed(vec![]).expect("a key"));
        let [own, another] = [&one, &other].map(|it| it.signing_key.serialize_pem());
        let shown = one.cert.pem();
        let open = |key: &str| {
            Url::new("https://log.example", None, Some((shown.as_bytes(), key.as_bytes())))
        };
        assert!(open(&own).is_ok());
        let error = open(&another).expect_err("the key of another");
        assert!(error.contains("--client-key, found another one"), "{error}");
        let rubbish = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let client = Some((rubbish.as_bytes(), own.as_bytes()));
        let error = Url::new("https://log.example", None, client).expect_err("no certificate");
        assert!(error.contains("that TLS can use"), "{error}");
    }
}
