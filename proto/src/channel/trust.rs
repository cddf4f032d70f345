//! Which server is the right one: the consortium's CA and nothing else, and what to say when it is not.

use std::sync::{Arc, Mutex, PoisonError};

use aggregation::ids::Digest;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore,
    SignatureScheme,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{ChannelError, Target, Trouble, Trust};

/// TLS as this target wants it; `seen` learns who issued the certificate that the server shows.
pub(super) fn tls_config(
    target: &Target,
    seen: Arc<Mutex<Option<String>>>,
) -> Result<ClientConfig, ChannelError> {
    let settings = |what: &str, error: &dyn std::fmt::Display| {
        ChannelError::new(
            Trouble::Settings,
            format!("{what}: {error}"),
            "enrol again, or restore the file",
        )
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let anchor = match &target.trust {
        Trust::Pinned(fingerprint) => Anchor::Pinned(*fingerprint),
        Trust::Ca(pem) => {
            let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|error| {
                settings("the consortium's CA certificate cannot be read", &error)
            })?;
            Anchor::Known(verifier(&certificate, &provider).map_err(|error| {
                settings("the consortium's CA certificate cannot be used", &error)
            })?)
        }
    };
    let verifier = Arc::new(ConsortiumOnly { anchor, provider: Arc::clone(&provider), seen });
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| settings("TLS cannot be set up", &error))?
        .dangerous() // rustls's word for any verifier of one's own; ours only narrows webpki's
        .with_custom_certificate_verifier(verifier);
    let mut config = match &target.client {
        None => builder.with_no_client_auth(),
        Some(client) => {
            let certificate = CertificateDer::from_pem_slice(client.certificate_pem.as_bytes())
                .map_err(|error| settings("our certificate cannot be read", &error))?;
            let key = PrivateKeyDer::from_pem_slice(client.key_pem.as_bytes())
                .map_err(|error| settings("our private key cannot be read", &error))?;
            builder
                .with_client_auth_cert(vec![certificate], key)
                .map_err(|error| settings("our certificate and key cannot be used", &error))?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

fn verifier(
    ca: &CertificateDer<'_>,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<WebPkiServerVerifier>, rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add(ca.clone().into_owned())?;
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
        .build()
        .map_err(|error| rustls::Error::General(error.to_string()))
}

/// Accepts a server whose chain ends in the consortium's CA, and no other; the machine's own list
/// of CAs, and so a proxy that opens TLS, has no say.
#[derive(Debug)]
struct ConsortiumOnly {
    anchor: Anchor,
    provider: Arc<CryptoProvider>,
    seen: Arc<Mutex<Option<String>>>,
}

#[derive(Debug)]
enum Anchor {
    Known(Arc<WebPkiServerVerifier>),
    Pinned(Digest),
}

impl ServerCertVerifier for ConsortiumOnly {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = issuer(end_entity);
        let verifier = match &self.anchor {
            Anchor::Known(verifier) => Arc::clone(verifier),
            Anchor::Pinned(fingerprint) => {
                let ca = intermediates
                    .iter()
                    .find(|certificate| Digest::sha256(certificate) == *fingerprint)
                    .ok_or(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
                verifier(ca, &self.provider)?
            }
        };
        verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn issuer(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let name: String = parsed.issuer().to_string().chars().take(200).collect();
    Some(name.replace(char::is_control, " "))
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "rustls may add errors; what has no words of its own here is shown in rustls's"
)]
pub(super) fn tls_trouble(error: &rustls::Error, issuer: Option<&str>) -> ChannelError {
    use rustls::Error::{AlertReceived, InvalidCertificate};
    let presented = issuer.map_or_else(String::new, |name| format!(" (its issuer is {name})"));
    match error {
        InvalidCertificate(
            CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. }
            | CertificateError::Expired
            | CertificateError::ExpiredContext { .. },
        ) => ChannelError::new(
            Trouble::Clock,
            format!("the coordinator's certificate is not valid now: {error}"),
            "check this machine's clock first, then the coordinator's certificate",
        ),
        InvalidCertificate(_) => ChannelError::new(
            Trouble::WrongServer,
            format!(
                "expected a certificate from the consortium's CA, found another{presented}: {error}"
            ),
            "compare the CA fingerprint with the operator's; a proxy that opens TLS must let this host pass",
        ),
        AlertReceived(AlertDescription::CertificateExpired) => ChannelError::new(
            Trouble::Clock,
            "the coordinator says that our certificate has ended",
            "check this machine's clock; else enrol again with a new token",
        ),
        AlertReceived(alert) => ChannelError::new(
            Trouble::Rejected,
            format!("the coordinator does not accept our certificate: {alert:?}"),
            "enrol again with a new token, or ask the operator",
        ),
        other => ChannelError::new(Trouble::Tls, format!("TLS failed: {other}"), ""),
    }
}
