//! DICOMweb (PS3.18): QIDO-RS finds, WADO-RS fetches, over HTTPS that this machine opens.
//!
//! An archive can be slow, endless or wrong: every answer has a deadline and a limit, redirects are
//! not followed, and what it says goes into no message. UIDs are checked before they become part of
//! an address.

pub mod multipart;

use std::collections::{BTreeMap, BTreeSet};

use data_encoding::BASE64;
use serde::Deserialize;
use ureq::http::Response;
use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig};
use ureq::{Agent, Body, Error};
use zeroize::Zeroizing;

use crate::archive::{Archive, Instance, MOST_ANSWERS, Patience, Query, Series, Study, Taker};
use crate::fault::Fault;
use crate::job::{Login, Proxy};
use crate::sieve::{Asked, Form, MOST, is_uid};
use crate::trust::{Shown, Trust};
use multipart::{Part, boundary};

/// Answers that are asked for at a time.
const PAGE: usize = 1000;
/// Bytes of one page of answers.
const MOST_PAGE: u64 = 64 << 20;

const JSON: &str = "application/dicom+json, application/json";
/// Whatever it is stored in: nothing is to be compressed anew for us.
const DICOM: &str = "multipart/related; type=\"application/dicom\"; transfer-syntax=*";

/// An archive behind DICOMweb.
#[derive(Debug)]
pub struct Web {
    base: String,
    agent: Agent,
    login: Option<Credentials>,
}

/// The value of the header that lets us in.
struct Credentials(Zeroizing<String>);

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials(..)")
    }
}

/// One answer of QIDO-RS: attributes by tag (PS3.18 F.2).
type Attributes = BTreeMap<String, Attribute>;

#[derive(Debug, Deserialize)]
struct Attribute {
    #[serde(rename = "Value", default)]
    value: Vec<serde_json::Value>,
}

impl Web {
    /// Opens nothing yet; `base` is checked already.
    #[must_use]
    pub fn new(
        base: &str,
        trust: Option<&Trust>,
        login: Option<&Login>,
        proxy: &Proxy,
        patience: Patience,
    ) -> Self {
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(patience.connect))
            .timeout_recv_response(Some(patience.silence))
            .timeout_per_read(Some(patience.silence))
            .timeout_global(Some(patience.answer))
            .max_response_header_size(64 << 10)
            .user_agent(concat!("hospital-pull/", env!("CARGO_PKG_VERSION")));
        if let Some(trust) = trust {
            let roots: Vec<_> =
                trust.roots.iter().map(|der| Certificate::from_der(der).to_owned()).collect();
            let mut tls = TlsConfig::builder().root_certs(RootCerts::new_with_certs(&roots));
            if let Some(Shown { chain, key }) = &trust.client {
                let chain: Vec<_> =
                    chain.iter().map(|der| Certificate::from_der(der).to_owned()).collect();
                let key = PrivateKey::from_pem(key).ok();
                tls = tls.client_cert(key.map(|key| ClientCert::new_with_certs(&chain, key)));
            }
            config = config.tls_config(tls.build());
        }
        config = match proxy {
            Proxy::Environment => config,
            Proxy::Direct => config.proxy(None),
            Proxy::Url(url) => config.proxy(ureq::Proxy::new(url).ok()),
        };
        let login = login.map(|login| {
            Credentials(Zeroizing::new(match login {
                Login::Basic { user, password } => {
                    let both = Zeroizing::new(format!("{user}:{}", password.as_str()));
                    format!("Basic {}", BASE64.encode(both.as_bytes()))
                }
                Login::Bearer(token) => format!("Bearer {}", token.as_str()),
            }))
        });
        Self {
            base: base.trim_end_matches('/').to_owned(),
            agent: config.build().new_agent(),
            login,
        }
    }

    fn get(&self, path: &str, accept: &str) -> Result<Response<Body>, Fault> {
        let mut request = self.agent.get(format!("{}/{path}", self.base)).header("Accept", accept);
        if let Some(Credentials(value)) = &self.login {
            request = request.header("Authorization", value.as_str());
        }
        let answer = request.call()?;
        match answer.status().as_u16() {
            200 | 204 | 206 => Ok(answer),
            status @ (401 | 403 | 407) => Err(Fault::Refused(format!("HTTP status {status}"))),
            404 | 410 => Err(Fault::Missing),
            status => Err(Fault::Status(format!("HTTP status {status}"))),
        }
    }

    /// Every answer to a question, page after page, until a page has nothing new.
    fn ask(
        &self,
        path: &str,
        key: &str,
        parameters: &str,
    ) -> Result<Vec<(String, Attributes)>, Fault> {
        let (mut found, mut known) = (Vec::new(), BTreeSet::new());
        loop {
            let offset = found.len();
            let page = self.page(&format!("{path}?{parameters}limit={PAGE}&offset={offset}"))?;
            let (whole, before) = (page.len() >= PAGE, known.len());
            for answer in page {
                let uid = text(&answer, key).filter(|uid| is_uid(uid)).map(str::to_owned);
                let uid = uid.ok_or(Fault::Answer("a UID in each answer"))?;
                if known.insert(uid.clone()) {
                    found.push((uid, answer));
                }
            }
            if found.len() > MOST_ANSWERS {
                return Err(Fault::TooLarge("the archive's list"));
            }
            if !whole || known.len() == before {
                return Ok(found);
            }
        }
    }

    fn page(&self, path: &str) -> Result<Vec<Attributes>, Fault> {
        let mut answer = match self.get(path, JSON) {
            // Some archives say so when nothing fits.
            Err(Fault::Missing) => return Ok(Vec::new()),
            other => other?,
        };
        if answer.status().as_u16() == 204 {
            return Ok(Vec::new());
        }
        let bytes = answer.body_mut().with_config().limit(MOST_PAGE).read_to_vec()?;
        serde_json::from_slice(&bytes).map_err(|_| Fault::Answer("DICOM JSON"))
    }
}

impl Archive for Web {
    fn studies(&mut self, query: Query<'_>) -> Result<Vec<Study>, Fault> {
        let mut parameters = String::new();
        for (key, value) in [
            ("PatientID", query.patient),
            ("StudyDate", query.dates),
            ("ModalitiesInStudy", query.modality),
        ] {
            if let Some(value) = value {
                parameters.push_str(&format!("{key}={}&", escaped(value)));
            }
        }
        let found = self.ask("studies", "0020000D", &parameters)?;
        let study = |(uid, answer): (String, Attributes)| Study {
            uid,
            patient: text(&answer, "00100020").map(str::to_owned),
            date: text(&answer, "00080020").map(str::to_owned),
        };
        Ok(found.into_iter().map(study).collect())
    }

    fn series(&mut self, study: &str) -> Result<Vec<Series>, Fault> {
        let path = format!("studies/{study}/series");
        let found = self.ask(&path, "0020000E", "includefield=0008103E&")?;
        let series = |(uid, answer): (String, Attributes)| Series {
            uid,
            modality: text(&answer, "00080060").map(str::to_owned),
            description: text(&answer, "0008103E").map(str::to_owned),
        };
        Ok(found.into_iter().map(series).collect())
    }

    fn instances(&mut self, study: &str, series: &str) -> Result<Vec<Instance>, Fault> {
        let path = format!("studies/{study}/series/{series}/instances");
        let found = self.ask(&path, "00080018", "")?;
        let instance = |(uid, answer): (String, Attributes)| Instance {
            uid,
            class: text(&answer, "00080016").filter(|uid| is_uid(uid)).map(str::to_owned),
        };
        Ok(found.into_iter().map(instance).collect())
    }

    fn fetch(
        &mut self,
        asked: Asked<'_>,
        _class: Option<&str>,
        take: &mut Taker<'_>,
    ) -> Result<(), Fault> {
        let Asked { study, series, instance } = asked;
        let path = format!("studies/{study}/series/{series}/instances/{instance}");
        let answer = self.get(&path, DICOM)?;
        let header = answer.headers().get("Content-Type");
        let kind = header.and_then(|kind| kind.to_str().ok()).unwrap_or_default().to_owned();
        // More than an instance, for what is around it.
        let mut body = answer.into_body().into_with_config().limit(MOST + (1 << 20)).reader();
        // Some archives send the one file bare.
        let media = kind.split(';').next().unwrap_or_default().trim();
        if media.eq_ignore_ascii_case("application/dicom") {
            return take(&mut body, Form::File);
        }
        let boundary = boundary(&kind).ok_or(Fault::Answer("a multipart answer"))?;
        let mut part = Part::open(body, &boundary)?;
        take(&mut part, Form::File)?;
        part.close()
    }
}

/// The first value of an attribute, if it is text or a number.
fn text<'a>(answer: &'a Attributes, tag: &str) -> Option<&'a str> {
    answer.get(tag)?.value.first()?.as_str().map(str::trim).filter(|text| !text.is_empty())
}

/// A value as it stands in an address (RFC 3986).
fn escaped(value: &str) -> String {
    let mut text = String::new();
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

impl From<Error> for Fault {
    /// What a failed call means, without the words of the library: they could repeat an address.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the library may add kinds; all have one answer"
    )]
    fn from(error: Error) -> Self {
        match error {
            Error::Io(error) => Self::reading(error),
            Error::Timeout(_) => Self::Slow,
            Error::HostNotFound => Self::Unreachable("there is no host of that name".to_owned()),
            Error::ConnectionFailed => Self::Unreachable("the connection failed".to_owned()),
            Error::ConnectProxyFailed(_) | Error::InvalidProxyUrl => {
                Self::Unreachable("the proxy does not let us through".to_owned())
            }
            Error::Rustls(error) => Self::Unreachable(format!("TLS: {error}")),
            Error::Tls(text) => Self::Unreachable(format!("TLS: {text}")),
            Error::BodyExceedsLimit(_) => Self::TooLarge("the answer"),
            Error::LargeResponseHeader(..) => Self::TooLarge("the answer's header"),
            Error::Protocol(_) | Error::Http(_) => Self::Answer("HTTP"),
            _ => Self::Unreachable("the call failed".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_in_an_address_cannot_become_anything_else() {
        assert_eq!(escaped("4711 a&b=c/../?#%ü"), "4711%20a%26b%3Dc%2F..%2F%3F%23%25%C3%BC");
        assert_eq!(escaped("20200101-20201231"), "20200101-20201231");
    }
}
