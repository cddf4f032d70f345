//! Enrolment: a token in place of a certificate.
//!
//! The token is looked at first, so that whoever has none learns nothing and costs nothing.

use std::sync::Arc;

use aggregation::transcript::Transcript;
use proto::federation as wire;
use proto::federation::enrol_reply::State;
use proto::federation::enrolment_server::Enrolment;
use proto::limits::{MAX_CSR, MAX_TOKEN};
use rcgen::CertificateSigningRequestParams;
use ring::signature::{ED25519, UnparsedPublicKey};
use rustls_pki_types::CertificateSigningRequestDer;
use tonic::{Request, Response, Status};

use super::store_status;
use crate::clock;
use crate::coordinator::Coordinator;
use crate::store::sites::SiteError;
use crate::store::tokens;

/// What a site signs with its identity key to enrol.
const LABEL: &str = "consilium/enrol/1";

/// The service.
#[derive(Debug)]
pub(crate) struct Service {
    house: Arc<Coordinator>,
}

impl Service {
    pub(crate) fn new(house: Arc<Coordinator>) -> Self {
        Self { house }
    }
}

#[tonic::async_trait]
impl Enrolment for Service {
    async fn enrol(
        &self,
        request: Request<wire::EnrolRequest>,
    ) -> Result<Response<wire::EnrolReply>, Status> {
        let asked = request.into_inner();
        let too_long = |what, most, found| {
            Status::invalid_argument(format!(
                "{what}: expected at most {most} bytes, found {found}"
            ))
        };
        if asked.token.len() > MAX_TOKEN {
            return Err(too_long("token", MAX_TOKEN, asked.token.len()));
        }
        if asked.csr_der.len() > MAX_CSR {
            return Err(too_long("certificate request", MAX_CSR, asked.csr_der.len()));
        }
        let store = &self.house.store;
        store.token_site(&asked.token).await.map_err(|fault| site_status(&fault))?;
        let identity_key = <[u8; 32]>::try_from(asked.identity_public_key.as_slice())
            .map_err(|_| Status::invalid_argument("identity key: expected 32 bytes"))?;
        check_proof(&asked, &identity_key)?;
        CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(
            asked.csr_der.as_slice(),
        ))
        .map_err(|_| {
            Status::invalid_argument(
                "certificate request: expected PKCS #10, signed by its own key",
            )
        })?;
        let asks = tokens::Request { csr: &asked.csr_der, identity_key: &identity_key };
        let found = store
            .enrol(&asked.token, &asks, clock::now())
            .await
            .map_err(|fault| site_status(&fault))?;
        let (state, site, certificate_pem) = match found {
            tokens::Enrolment::Pending(site) => (State::Pending, site, String::new()),
            tokens::Enrolment::Approved(site, pem) => (State::Approved, site, pem),
            tokens::Enrolment::Revoked(site) => (State::Revoked, site, String::new()),
        };
        tracing::info!(%site, state = state.as_str_name(), "enrolment");
        Ok(Response::new(wire::EnrolReply {
            state: state.into(),
            consortium: self.house.consortium.to_string(),
            site: site.to_string(),
            certificate_pem,
            ca_pem: self.house.authority.pem().to_owned(),
            server_time_ms: clock::now().as_millis(),
        }))
    }
}

fn check_proof(asked: &wire::EnrolRequest, identity_key: &[u8; 32]) -> Result<(), Status> {
    let mut said = Transcript::new(LABEL);
    said.bytes(&asked.csr_der).text(&asked.token);
    UnparsedPublicKey::new(&ED25519, identity_key)
        .verify(said.finish().as_bytes(), &asked.identity_proof)
        .map_err(|_| {
            Status::invalid_argument("identity proof: expected a signature by the identity key")
        })
}

/// What a caller is told of a token's or a site's trouble.
pub(super) fn site_status(fault: &SiteError) -> Status {
    match fault {
        SiteError::UnknownToken => Status::permission_denied(fault.to_string()),
        SiteError::TokenEnded { .. } | SiteError::TokenUsed { .. } => {
            Status::permission_denied(format!("{fault}; ask the operator for a new one"))
        }
        SiteError::UnknownSite(_) => Status::not_found(fault.to_string()),
        SiteError::WrongState { .. } | SiteError::OtherIdentity { .. } => {
            Status::failed_precondition(fault.to_string())
        }
        SiteError::Authority(cause) => match cause {
            crate::identity::authority::AuthorityError::BadRequest => {
                Status::invalid_argument(cause.to_string())
            }
            crate::identity::authority::AuthorityError::Unreadable { .. }
            | crate::identity::authority::AuthorityError::NotPem { .. }
            | crate::identity::authority::AuthorityError::ForeignKey
            | crate::identity::authority::AuthorityError::Failed(_)
            | crate::identity::authority::AuthorityError::Entropy(_) => {
                tracing::error!(fault = %cause, "no certificate was made");
                Status::internal("the certificate cannot be made")
            }
        },
        SiteError::Store(cause) => store_status(cause),
        SiteError::Entropy(cause) => Status::internal(cause.to_string()),
    }
}
