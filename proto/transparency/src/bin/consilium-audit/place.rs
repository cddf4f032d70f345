//! Where a log is: a folder of this machine, or static files behind HTTPS.
//!
//! Nothing that a server says is believed; TLS only keeps bystanders from reading along. A server
//! can be slow, endless or wrong, and so every answer has a deadline and a limit, redirects are not
//! followed, and what is kept of its answers is bounded. The proxy is that of the environment.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

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
            // What the key is, and why it is none, stays out of messages.
            let key = PrivateKey::from_pem(key)
                .map_err(|_| "expected a private key in PEM in the file of --client-key")?;
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
        Ok(Self { base, agent, kept: RefCell::default() })
    }

    fn ask(&self, path: &str, limit: usize) -> io::Result<Option<Vec<u8>>> {
        let most = u64::try_from(limit).map_or(u64::MAX, |limit| limit.saturating_add(1));
        let time = ANSWER + Duration::from_secs(most / SLOW);
        let question = self.agent.get(format!("{}/{path}", self.base));
        let question = question.config().timeout_global(Some(time)).build();
        let mut answer = question.call().map_err(io_error)?;
        match answer.status().as_u16() {
            200 => {}
            404 => return Ok(None),
            other => {
                let hint = match other {
                    401 | 403 => "; it may want another --client-cert",
                    _ => "",
                };
                let message =
                    format!("expected the server to answer 200 or 404, found {other}{hint}");
                return Err(io::Error::other(message));
            }
        }
        let too_long = || {
            let message = format!("expected at most {limit} bytes");
            io::Error::new(io::ErrorKind::FileTooLarge, message)
        };
        match answer.body_mut().with_config().limit(most).read_to_vec() {
            Ok(bytes) if bytes.len() <= limit => Ok(Some(bytes)),
            Ok(_) | Err(Error::BodyExceedsLimit(_)) => Err(too_long()),
            Err(error) => Err(io_error(error)),
        }
    }
}

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

fn io_error(error: Error) -> io::Error {
    if let Error::Io(error) = error { error } else { io::Error::other(error) }
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
}
