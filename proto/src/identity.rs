//! Who a certificate speaks for: `consilium://<consortium>/<role>/<name>` in its SAN.

use std::fmt;
use std::str::FromStr;

use aggregation::ids::HospitalId;
use aggregation::units::Timestamp;
use thiserror::Error;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

const SCHEME: &str = "consilium://";

/// What a party may do; the coordinator has the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// A hospital's node.
    Site,
    /// Runs the consortium: admits sites, runs studies, exports models.
    Operator,
    /// Reads what happened; gets no models.
    Auditor,
    /// An operator who may also admit operators.
    Admin,
}

impl Role {
    /// Every role, for tables that must have no gap.
    pub const ALL: [Self; 4] = [Self::Site, Self::Operator, Self::Auditor, Self::Admin];

    /// As it stands in a certificate.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Site => "site",
            Self::Operator => "operator",
            Self::Auditor => "auditor",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A party of a consortium. All three parts follow the rule of [`HospitalId`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartyName {
    /// The consortium's name.
    pub consortium: HospitalId,
    /// What the party may do.
    pub role: Role,
    /// The party's own name, unique within its role.
    pub name: HospitalId,
}

impl fmt::Display for PartyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { consortium, role, name } = self;
        write!(f, "{SCHEME}{consortium}/{role}/{name}")
    }
}

/// What is wrong with a name or with the certificate that should carry one.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum IdentityError {
    /// Not a certificate.
    #[error("expected an X.509 certificate in DER, found something else")]
    NotACertificate,
    /// No name of ours, or more than one.
    #[error("expected exactly one consilium:// name in the certificate, found {0}")]
    Names(usize),
    /// A name of ours that does not parse.
    #[error("expected consilium://<consortium>/<role>/<name>, found {0:?}")]
    Malformed(String),
}

impl FromStr for PartyName {
    type Err = IdentityError;

    fn from_str(uri: &str) -> Result<Self, IdentityError> {
        let malformed = || IdentityError::Malformed(uri.chars().take(160).collect());
        let rest = uri.strip_prefix(SCHEME).ok_or_else(malformed)?;
        let mut parts = rest.split('/');
        let (Some(consortium), Some(role), Some(name), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(malformed());
        };
        let role =
            Role::ALL.into_iter().find(|known| known.as_str() == role).ok_or_else(malformed)?;
        Ok(Self {
            consortium: HospitalId::new(consortium).map_err(|_| malformed())?,
            role,
            name: HospitalId::new(name).map_err(|_| malformed())?,
        })
    }
}

/// What we read out of a certificate whose chain has been verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certified {
    /// Whom it speaks for.
    pub party: PartyName,
    /// When it begins to hold.
    pub not_before: Timestamp,
    /// When it ends.
    pub not_after: Timestamp,
}

/// Reads name and dates. The chain is not checked here: TLS has done so.
///
/// # Errors
/// When it is no certificate, or carries no name of ours, or several.
pub fn from_certificate(der: &[u8]) -> Result<Certified, IdentityError> {
    let (_, certificate) =
        X509Certificate::from_der(der).map_err(|_| IdentityError::NotACertificate)?;
    let names = certificate
        .subject_alternative_name()
        .ok()
        .flatten()
        .map(|extension| extension.value.general_names.clone())
        .unwrap_or_default();
    let ours: Vec<&str> = names
        .iter()
        .filter_map(|name| {
            if let GeneralName::URI(uri) = name {
                uri.starts_with(SCHEME).then_some(*uri)
            } else {
                None
            }
        })
        .collect();
    let [uri] = ours.as_slice() else {
        return Err(IdentityError::Names(ours.len()));
    };
    let validity = certificate.validity();
    Ok(Certified {
        party: uri.parse()?,
        not_before: moment(validity.not_before.timestamp()),
        not_after: moment(validity.not_after.timestamp()),
    })
}

fn moment(seconds: i64) -> Timestamp {
    Timestamp::from_millis(u64::try_from(seconds).unwrap_or(0).saturating_mul(1000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_reads_back_as_it_was_written() {
        for role in Role::ALL {
            let uri = format!("consilium://chest/{role}/st-anna");
            let name: PartyName = uri.parse().expect("well formed");
            assert_eq!(name.to_string(), uri);
            assert_eq!(name.role, role);
        }
    }

    #[test]
    fn a_name_with_a_part_too_many_too_few_or_unknown_is_refused() {
        for uri in [
            "consilium://chest/site",
            "consilium://chest/site/a/b",
            "consilium://chest/root/a",
            "consilium://chest/site/",
            "consilium:///site/a",
            "https://chest/site/a",
            "consilium://chest/site/A",
            "consilium://chest/site/a%00",
        ] {
            assert!(uri.parse::<PartyName>().is_err(), "{uri}");
        }
    }

    #[test]
    fn bytes_that_are_no_certificate_are_refused() {
        assert_eq!(from_certificate(b"hello"), Err(IdentityError::NotACertificate));
    }
}
