//! Certificates that the consortium's CA would not make, made with its own key: what a gate must
//! refuse even though the chain is right.

use std::time::Duration;

use proto::channel::ClientIdentity;
use rcgen::{
    CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose, SanType,
    date_time_ymd,
};

use crate::Outcome;
use crate::consortium::Consortium;

/// What is wrong with a forged certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    /// It ended years ago.
    Ended,
    /// It names two parties.
    TwoNames,
    /// It names another consortium.
    OtherConsortium,
    /// It is for a site that the consortium has never heard of.
    UnknownSite,
}

/// A certificate for `site`, signed by the consortium's CA, with a flaw.
///
/// # Errors
/// When the CA's files cannot be used.
pub fn certificate(consortium: &Consortium, site: &str, flaw: Flaw) -> Outcome<ClientIdentity> {
    let ca_key = std::fs::read_to_string(consortium.home().join("ca.key"))?;
    let issuer = Issuer::from_ca_cert_pem(&consortium.ca_pem()?, KeyPair::from_pem(&ca_key)?)?;
    let name = |consortium: &str, site: &str| -> Outcome<SanType> {
        Ok(SanType::URI(format!("consilium://{consortium}/site/{site}").try_into()?))
    };
    let own = consortium.name();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, site);
    params.subject_alt_names = match flaw {
        Flaw::Ended => vec![name(own, site)?],
        Flaw::TwoNames => vec![name(own, site)?, name(own, "site-2")?],
        Flaw::OtherConsortium => vec![name("elsewhere", site)?],
        Flaw::UnknownSite => vec![name(own, "nobody")?],
    };
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = match flaw {
        Flaw::Ended => params.not_before + Duration::from_secs(24 * 3600),
        Flaw::TwoNames | Flaw::OtherConsortium | Flaw::UnknownSite => date_time_ymd(2099, 1, 1),
    };
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, &issuer)?;
    Ok(ClientIdentity { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
}
