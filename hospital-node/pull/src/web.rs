//! DICOMweb (PS3.18): QIDO-RS finds, WADO-RS fetches, over HTTPS that this machine opens.
//!
//! An archive can be slow, endless or wrong: every answer has a deadline and a limit, redirects are
//! not followed, and what it says goes into no message. UIDs are checked before they become part of
//! an address.

mod list;
pub mod multipart;
mod proxy;

use std::collections::BTreeSet;

use data_encoding::BASE64;
use ureq::http::Response;
use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig};
use ureq::{Agent, Body, Error};
use zeroize::Zeroizing;

use crate::archive::{
    Archive, Found, Instance, Patience, Query, Series, Study, Taker, Tally, Weighed,
};
use crate::fault::Fault;
use crate::job::{Login, Proxy};
use crate::sieve::{Asked, Form, MOST, is_uid};
use crate::trust::{Shown, Trust};
use list::Row;
use multipart::{Part, boundary};

/// Answers that are asked for at a time; an archive may give fewer, whatever there are.
const PAGE: usize = 1000;
/// Pages of one list.
const MOST_PAGES: usize = 10_000;
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
    /// QIDO-RS is known to be at the address.
    is_there: bool,
}

/// The value of the header that lets us in.
struct Credentials(Zeroizing<String>);

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials(..)")
    }
}

impl Web {
    /// Opens nothing yet; `base` is checked already.
    ///
    /// # Errors
    /// One line where certificates or the proxy cannot be used.
    pub fn new(
        base: &str,
        trust: Option<&Trust>,
        login: Option<&Login>,
        proxy: &Proxy,
        patience: Patience,
    ) -> Result<Self, String> {
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
            // The library takes it for granted that a certificate and its key fit together.
            trust.config()?;
            let roots: Vec<_> =
                trust.roots.iter().map(|der| Certificate::from_der(der).to_owned()).collect();
            let mut tls = TlsConfig::builder().root_certs(RootCerts::new_with_certs(&roots));
            if let Some(Shown { chain, key }) = &trust.client {
                let chain: Vec<_> =
                    chain.iter().map(|der| Certificate::from_der(der).to_owned()).collect();
                let key = PrivateKey::from_pem(key)
                    .map_err(|_| "expected a private key in PEM".to_owned())?;
                tls = tls.client_cert(Some(ClientCert::new_with_certs(&chain, key)));
            }
            config = config.tls_config(tls.build());
        }
        let through = proxy::to(base, proxy)?;
        let login = login.map(|login| {
            Credentials(Zeroizing::new(match login {
                Login::Basic { user, password } => {
                    let both = Zeroizing::new(format!("{user}:{}", password.as_str()));
                    format!("Basic {}", BASE64.encode(both.as_bytes()))
                }
                Login::Bearer(token) => format!("Bearer {}", token.as_str()),
            }))
        });
        Ok(Self {
            base: base.trim_end_matches('/').to_owned(),
            agent: config.proxy(through).build().new_agent(),
            login,
            is_there: false,
        })
    }

    /// Whether QIDO-RS is at the address, by a question that has no narrower one's reason to fail.
    fn is_there(&mut self) -> Result<bool, Fault> {
        if !self.is_there {
            self.is_there = match self.get("studies?limit=1", JSON) {
                Ok(_) => true,
                Err(fault) if fault.is_of_the_way() || fault.is_final() => return Err(fault),
                Err(_) => false,
            };
        }
        Ok(self.is_there)
    }

    fn get(&self, path: &str, accept: &str) -> Result<Response<Body>, Fault> {
        let mut request = self.agent.get(format!("{}/{path}", self.base)).header("Accept", accept);
        if let Some(Credentials(value)) = &self.login {
            request = request.header("Authorization", value.as_str());
        }
        let answer = request.call()?;
        match answer.status().as_u16() {
            200 | 204 | 206 => Ok(answer),
            status @ (401 | 407) => Err(Fault::Refused(format!("HTTP status {status}"))),
            // Archives may keep single studies from us.
            403 => Err(Fault::Forbidden("HTTP status 403".to_owned())),
            404 | 410 => Err(Fault::Missing),
            status => Err(Fault::Status(format!("HTTP status {status}"))),
        }
    }

    /// Every answer to a question, page after page, until one has nothing new: an archive may cap its
    /// pages below what is asked for, or heed neither limit nor offset. One that heeds the limit alone
    /// gives the beginning again and again; what it has cannot be known.
    fn ask<T: Weighed>(
        &self,
        path: &str,
        parameters: &str,
        pick: impl Fn(Row) -> Option<(String, T)>,
    ) -> Result<Found<T>, Fault> {
        let mut found = Found { rows: Vec::new(), nameless: 0 };
        let (mut known, mut tally, mut offset) = (BTreeSet::new(), Tally::default(), 0);
        // Of the page before: its length, and whether there was to be more.
        let (mut length, mut promised) = (0, false);
        for _ in 0..MOST_PAGES {
            let (mut answers, mut fresh, mut nameless) = (0, 0, 0);
            let promises = self.page(
                &format!("{path}?{parameters}limit={PAGE}&offset={offset}"),
                offset,
                &mut |row| {
                    answers += 1;
                    match pick(row) {
                        Some((uid, row)) => {
                            if known.insert(uid) {
                                tally.add(row.weight())?;
                                fresh += 1;
                                found.rows.push(row);
                            }
                        }
                        None => {
                            tally.add(0)?;
                            nameless += 1;
                        }
                    }
                    Ok(())
                },
            )?;
            // The same page once more is not counted again.
            if fresh + nameless == answers || fresh > 0 {
                found.nameless += nameless;
            }
            if fresh == 0 {
                let again = length == PAGE && answers > nameless;
                if again || promised || promises {
                    return Err(Fault::Answer("the rest of a long list"));
                }
                return Ok(found);
            }
            (length, promised) = (answers, promises);
            offset += answers;
        }
        Err(Fault::TooLarge("the archive's list"))
    }

    /// One page; whether it says that there is more.
    fn page(
        &self,
        path: &str,
        offset: usize,
        take: &mut dyn FnMut(Row) -> Result<(), Fault>,
    ) -> Result<bool, Fault> {
        let answer = match self.get(path, JSON) {
            // Behind the last answer, where the service is known to be: some archives say it so.
            Err(Fault::Missing) if offset > 0 => return Ok(false),
            other => other?,
        };
        // PS3.18 8.3.4.4. Others of this number are about how it has searched.
        let promises = answer.headers().get_all("Warning").iter().any(|warning| {
            let text = warning.to_str().unwrap_or_default().to_ascii_lowercase();
            text.contains("299") && text.contains("result")
        });
        if answer.status().as_u16() != 204 {
            list::read(answer.into_body().into_with_config().limit(MOST_PAGE).reader(), take)?;
        }
        Ok(promises)
    }
}

/// A UID, which becomes part of the next address.
fn uid(text: Option<String>) -> Option<String> {
    text.filter(|uid| is_uid(uid))
}

impl Archive for Web {
    fn studies(&mut self, query: Query<'_>) -> Result<Found<Study>, Fault> {
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
        let found = self.ask("studies", &parameters, |row| {
            let uid = uid(row.study.text())?;
            let (patient, date) = (row.patient.text(), row.date.text());
            Some((uid.clone(), Study { uid, patient, date }))
        });
        if !matches!(found, Err(Fault::Missing)) {
            self.is_there |= found.is_ok();
            return found;
        }
        // Some archives say so that nothing fits, and all of them that there is no such address.
        if self.is_there()? {
            return Ok(Found { rows: Vec::new(), nameless: 0 });
        }
        let text = "HTTP status 404: there is no QIDO-RS at the address in from";
        Err(Fault::Status(text.to_owned()))
    }

    fn series(&mut self, study: &str) -> Result<Found<Series>, Fault> {
        let path = format!("studies/{study}/series");
        self.ask(&path, "includefield=0008103E&", |row| {
            let uid = uid(row.series.text())?;
            let (modality, description) = (row.modality.text(), row.description.text());
            Some((uid.clone(), Series { uid, modality, description }))
        })
    }

    fn instances(&mut self, study: &str, series: &str) -> Result<Found<Instance>, Fault> {
        let path = format!("studies/{study}/series/{series}/instances");
        self.ask(&path, "", |row| {
            let found = uid(row.instance.text())?;
            let class = uid(row.class.text());
            Some((found.clone(), Instance { uid: found, class }))
        })
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
            Error::Rustls(error) => Self::tls(&error),
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
