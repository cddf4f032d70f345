//! Which certificate is which party, and which role may call what.
//!
//! There is one [`TABLE`] of methods and roles and one [`Gate`] in front of every path, known or
//! not: what the table does not allow is refused. TLS has verified the chain; the gate checks, at
//! each call, the end of the certificate by our clock, whether it was revoked since, and whether
//! the site still stands.

pub(crate) mod authority;
pub(crate) mod server_certificate;

use std::collections::{BTreeSet, HashSet};
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll};

use aggregation::ids::{Digest, HospitalId};
use aggregation::units::Timestamp;
use futures_util::future::{Either, Ready, ready};
use proto::identity::{PartyName, Role};
use tonic::{Code, Status};

use crate::clock;
use crate::service::log::bare;

/// Who may call a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    /// Nobody has to show a certificate; a token stands in its place.
    Anyone,
    /// A site's certificate.
    Sites,
    /// An operator or an administrator.
    Operators,
    /// Those, and auditors.
    Readers,
    /// Everybody of the consortium.
    Parties,
}

impl Who {
    fn admits(self, role: Option<Role>) -> bool {
        match (self, role) {
            (Self::Anyone, _)
            | (Self::Sites, Some(Role::Site))
            | (Self::Operators, Some(Role::Operator | Role::Admin))
            | (Self::Readers, Some(Role::Operator | Role::Admin | Role::Auditor))
            | (Self::Parties, Some(_)) => true,
            (Self::Sites, None | Some(Role::Operator | Role::Auditor | Role::Admin))
            | (Self::Operators, None | Some(Role::Site | Role::Auditor))
            | (Self::Readers, None | Some(Role::Site))
            | (Self::Parties, None) => false,
        }
    }
}

/// Every method that this program serves. A path that is not here is nobody's.
const TABLE: [(&str, Who); 34] = [
    ("/consilium.federation.v1.Enrolment/Enrol", Who::Anyone),
    ("/consilium.federation.v1.Federation/Watch", Who::Sites),
    ("/consilium.federation.v1.Federation/ListStudies", Who::Sites),
    ("/consilium.federation.v1.Federation/DecideStudy", Who::Sites),
    ("/consilium.federation.v1.Federation/FetchModel", Who::Sites),
    ("/consilium.federation.v1.Federation/SendReady", Who::Sites),
    ("/consilium.federation.v1.Federation/SendDecline", Who::Sites),
    ("/consilium.federation.v1.Federation/SendCharge", Who::Sites),
    ("/consilium.federation.v1.Federation/SendUpdate", Who::Sites),
    ("/consilium.federation.v1.Federation/SendSignature", Who::Sites),
    ("/consilium.federation.v1.Federation/SendShares", Who::Sites),
    ("/consilium.federation.v1.Federation/SendAnnouncement", Who::Sites),
    ("/consilium.federation.v1.Federation/SendNonce", Who::Sites),
    ("/consilium.federation.v1.Federation/SendBatch", Who::Sites),
    ("/consilium.federation.v1.Federation/FetchBatch", Who::Sites),
    ("/consilium.federation.v1.Federation/SendOpened", Who::Sites),
    ("/consilium.federation.v1.Federation/ReportProgress", Who::Sites),
    ("/consilium.federation.v1.Federation/FetchCheckpoint", Who::Sites),
    ("/consilium.federation.v1.Federation/ProveFacts", Who::Sites),
    ("/consilium.federation.v1.Federation/SendWitnessKey", Who::Sites),
    ("/consilium.federation.v1.Federation/SendCosignature", Who::Sites),
    ("/consilium.federation.v1.Federation/Renew", Who::Sites),
    ("/consilium.federation.v1.Operator/CreateToken", Who::Operators),
    ("/consilium.federation.v1.Operator/ListSites", Who::Readers),
    ("/consilium.federation.v1.Operator/ApproveSite", Who::Operators),
    ("/consilium.federation.v1.Operator/RevokeSite", Who::Operators),
    ("/consilium.federation.v1.Operator/ProposeStudy", Who::Operators),
    ("/consilium.federation.v1.Operator/ListOperatorStudies", Who::Readers),
    ("/consilium.federation.v1.Operator/ShowStudy", Who::Readers),
    ("/consilium.federation.v1.Operator/ControlStudy", Who::Operators),
    ("/consilium.federation.v1.Operator/WatchStudy", Who::Readers),
    ("/consilium.federation.v1.Operator/ListModels", Who::Operators),
    ("/consilium.federation.v1.Operator/ExportModel", Who::Operators),
    ("/consilium.federation.v1.Operator/ShowLog", Who::Readers),
];

/// Where the log's files are read, by plain GET.
pub(crate) const LOG: &str = "/log/";

/// Where rounds are read that were kept to be added up again: by those who audit, and by no site.
pub(crate) const KEPT: &str = "/log/kept/";

/// Whom a path is for; `None` for one that is nobody's.
fn whose(path: &str) -> Option<Who> {
    if path.starts_with(KEPT) {
        return Some(Who::Readers);
    }
    if path.starts_with(LOG) {
        return Some(Who::Parties);
    }
    TABLE.iter().find(|(known, _)| *known == path).map(|(_, who)| *who)
}

/// What a connection showed in its handshake.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    /// The certificate's content, or why it is none of ours; `None` when none was shown.
    pub(crate) certificate: Option<Result<Shown, String>>,
}

/// A certificate whose chain TLS has verified.
#[derive(Debug, Clone)]
pub(crate) struct Shown {
    /// Whom it speaks for.
    pub(crate) party: PartyName,
    /// When it ends.
    pub(crate) ends: Timestamp,
    /// SHA-256 over its DER.
    pub(crate) fingerprint: Digest,
}

impl Peer {
    /// Reads the leaf that a client has shown.
    pub(crate) fn new(leaf: Option<&[u8]>) -> Self {
        let certificate = leaf.map(|der| match proto::identity::from_certificate(der) {
            Ok(read) => Ok(Shown {
                party: read.party,
                ends: read.not_after,
                fingerprint: Digest::sha256(der),
            }),
            Err(fault) => Err(fault.to_string()),
        });
        Self { certificate }
    }
}

/// The party behind a call that the gate has let through.
#[derive(Debug, Clone)]
pub(crate) struct Caller(pub(crate) PartyName);

impl Caller {
    /// The site that calls; the gate lets only sites reach the methods that ask this.
    ///
    /// # Errors
    /// `INTERNAL` when the gate did not stand before this call.
    pub(crate) fn site<T>(request: &tonic::Request<T>) -> Result<HospitalId, Status> {
        match request.extensions().get::<Self>() {
            Some(Self(party)) if party.role == Role::Site => Ok(party.name.clone()),
            Some(_) | None => Err(Status::internal("the call came past the gate")),
        }
    }

    /// Who calls, for the record.
    pub(crate) fn name<T>(request: &tonic::Request<T>) -> String {
        request.extensions().get::<Self>().map_or_else(
            || "nobody".to_owned(),
            |caller| format!("{}/{}", caller.0.role, caller.0.name),
        )
    }
}

#[derive(Debug, Default)]
struct Standing {
    sites: BTreeSet<HospitalId>,
    revoked: HashSet<Digest>,
}

/// Who stands and what was revoked, as the store knows it, at hand for every call.
#[derive(Debug)]
pub(crate) struct Gate {
    consortium: HospitalId,
    standing: RwLock<Standing>,
}

impl Gate {
    /// A gate that lets no site through yet.
    pub(crate) fn new(consortium: HospitalId) -> Self {
        Self { consortium, standing: RwLock::default() }
    }

    /// From now on this site's certificates are good, except those revoked before.
    pub(crate) fn admit(&self, site: HospitalId) {
        self.standing.write().unwrap_or_else(PoisonError::into_inner).sites.insert(site);
    }

    /// From now on this site, and these certificates for ever, are refused.
    pub(crate) fn expel(&self, site: &HospitalId, certificates: impl IntoIterator<Item = Digest>) {
        let mut standing = self.standing.write().unwrap_or_else(PoisonError::into_inner);
        standing.sites.remove(site);
        standing.revoked.extend(certificates);
    }

    /// Whether a site stands.
    pub(crate) fn stands(&self, site: &HospitalId) -> bool {
        self.standing.read().unwrap_or_else(PoisonError::into_inner).sites.contains(site)
    }

    /// Every site that stands.
    pub(crate) fn standing(&self) -> BTreeSet<HospitalId> {
        self.standing.read().unwrap_or_else(PoisonError::into_inner).sites.clone()
    }

    /// Whether a call may go on, and as whom.
    ///
    /// # Errors
    /// `UNIMPLEMENTED`, `UNAUTHENTICATED` or `PERMISSION_DENIED`, with the reason.
    pub(crate) fn check(
        &self,
        path: &str,
        peer: &Peer,
        now: Timestamp,
    ) -> Result<Option<Caller>, Status> {
        let Some(who) = whose(path) else {
            return Err(Status::unimplemented("there is no such method"));
        };
        if who == Who::Anyone {
            return Ok(None);
        }
        let shown = match &peer.certificate {
            None => {
                let wanted =
                    format!("expected a certificate of consortium {}, found none", self.consortium);
                return Err(Status::unauthenticated(wanted));
            }
            Some(Err(fault)) => return Err(Status::unauthenticated(fault.clone())),
            Some(Ok(shown)) => shown,
        };
        let PartyName { consortium, role, name } = &shown.party;
        if *consortium != self.consortium {
            return Err(Status::permission_denied(format!(
                "expected a certificate of consortium {}, found one of {consortium}",
                self.consortium
            )));
        }
        if shown.ends <= now {
            let ended = clock::written(shown.ends);
            return Err(Status::unauthenticated(format!(
                "the certificate of {role} {name} ended at {ended}"
            )));
        }
        let standing = self.standing.read().unwrap_or_else(PoisonError::into_inner);
        let stands = *role != Role::Site || standing.sites.contains(name);
        if !stands || standing.revoked.contains(&shown.fingerprint) {
            return Err(Status::permission_denied(format!(
                "the certificate of {role} {name} was revoked"
            )));
        }
        if !who.admits(Some(*role)) {
            let method = path.rsplit('/').next().unwrap_or(path);
            return Err(Status::permission_denied(format!(
                "the role {role} may not call {method}"
            )));
        }
        Ok(Some(Caller(shown.party.clone())))
    }
}

/// A refusal as HTTP spells it.
pub(crate) fn refused_status(refused: &Status) -> http::StatusCode {
    if refused.code() == Code::Unauthenticated {
        http::StatusCode::UNAUTHORIZED
    } else {
        http::StatusCode::FORBIDDEN
    }
}

/// Puts the gate before every path.
#[derive(Debug, Clone)]
pub(crate) struct GateLayer(pub(crate) Arc<Gate>);

impl<S> tower::Layer<S> for GateLayer {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded { gate: Arc::clone(&self.0), inner }
    }
}

/// A service behind the gate.
#[derive(Debug, Clone)]
pub(crate) struct Guarded<S> {
    gate: Arc<Gate>,
    inner: S,
}

impl<S, B> tower::Service<http::Request<B>> for Guarded<S>
where
    S: tower::Service<http::Request<B>, Response = http::Response<tonic::body::Body>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<S::Response, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<B>) -> Self::Future {
        let of_log = request.uri().path().starts_with(LOG);
        let nobody = Peer { certificate: None };
        let peer = request.extensions().get::<Arc<Peer>>().map_or(&nobody, AsRef::as_ref);
        match self.gate.check(request.uri().path(), peer, clock::now()) {
            Ok(caller) => {
                if let Some(caller) = caller {
                    request.extensions_mut().insert(caller);
                }
                Either::Left(self.inner.call(request))
            }
            Err(refused) => {
                tracing::warn!(
                    method = request.uri().path(),
                    reason = refused.message(),
                    "call refused"
                );
                // Who reads files is answered as who serves files answers.
                let answer =
                    if of_log { bare(refused_status(&refused)) } else { refused.into_http() };
                Either::Right(ready(Ok(answer)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

    // As much of google/protobuf/descriptor.proto as it takes to list methods.
    #[derive(Message)]
    struct Files {
        #[prost(message, repeated, tag = "1")]
        file: Vec<File>,
    }
    #[derive(Message)]
    struct File {
        #[prost(string, tag = "2")]
        package: String,
        #[prost(message, repeated, tag = "6")]
        service: Vec<Service>,
    }
    #[derive(Message)]
    struct Service {
        #[prost(string, tag = "1")]
        name: String,
        #[prost(message, repeated, tag = "2")]
        method: Vec<Method>,
    }
    #[derive(Message)]
    struct Method {
        #[prost(string, tag = "1")]
        name: String,
    }

    fn methods() -> Vec<String> {
        let files = Files::decode(proto::DESCRIPTORS).expect("our own descriptors");
        let mut paths = Vec::new();
        for file in &files.file {
            for service in &file.service {
                for method in &service.method {
                    paths.push(format!("/{}.{}/{}", file.package, service.name, method.name));
                }
            }
        }
        paths
    }

    fn name(text: &str) -> HospitalId {
        HospitalId::new(text).expect("a valid name")
    }

    fn peer(consortium: &str, role: Role, ends: Timestamp) -> Peer {
        let party = PartyName { consortium: name(consortium), role, name: name("alpha") };
        let fingerprint = Digest::sha256(role.as_str().as_bytes());
        Peer { certificate: Some(Ok(Shown { party, ends, fingerprint })) }
    }

    fn later() -> Timestamp {
        NOW.saturating_add(std::time::Duration::from_secs(60))
    }

    fn gate() -> Gate {
        let gate = Gate::new(name("north"));
        gate.admit(name("alpha"));
        gate
    }

    #[test]
    fn every_method_of_the_schema_has_a_row_and_every_row_a_method() {
        let methods = methods();
        assert_eq!(methods.len(), TABLE.len(), "{methods:?}");
        for method in &methods {
            assert!(TABLE.iter().any(|(known, _)| known == method), "{method} has no row");
        }
    }

    #[test]
    fn each_role_reaches_its_methods_and_no_other() {
        let gate = gate();
        for method in methods() {
            let short = method.rsplit('/').next().expect("a path");
            let service = method.rsplit('/').nth(1).expect("a path");
            let reads = ["ListSites", "ListOperatorStudies", "ShowStudy", "WatchStudy", "ShowLog"]
                .contains(&short);
            for role in Role::ALL {
                let expected = match (service.rsplit('.').next(), role) {
                    (Some("Enrolment"), _)
                    | (Some("Federation"), Role::Site)
                    | (Some("Operator"), Role::Operator | Role::Admin) => true,
                    (Some("Operator"), Role::Auditor) => reads,
                    _ => false,
                };
                let answer = gate.check(&method, &peer("north", role, later()), NOW);
                assert_eq!(answer.is_ok(), expected, "{method} as {role}: {answer:?}");
            }
            let answer = gate.check(&method, &Peer { certificate: None }, NOW);
            assert_eq!(answer.is_ok(), short == "Enrol", "{method} without a certificate");
        }
    }

    #[test]
    fn the_log_is_read_by_everybody_of_the_consortium_and_by_nobody_else() {
        let gate = gate();
        for path in ["/log/checkpoint", "/log/tile/entries/000.p/1", "/log/../coordinator.sqlite"] {
            for role in Role::ALL {
                let answer = gate.check(path, &peer("north", role, later()), NOW);
                assert!(answer.is_ok(), "{path} as {role}: {answer:?}");
            }
            for stranger in [Peer { certificate: None }, peer("south", Role::Auditor, later())] {
                assert!(gate.check(path, &stranger, NOW).is_err(), "{path}");
            }
        }
        assert!(gate.check("/log", &peer("north", Role::Admin, later()), NOW).is_err());
    }

    #[test]
    fn kept_rounds_are_read_by_those_who_audit_and_by_no_hospital() {
        let gate = gate();
        let path = format!("{KEPT}{}/3/record.json", "ab".repeat(32));
        for role in Role::ALL {
            let answer = gate.check(&path, &peer("north", role, later()), NOW);
            assert_eq!(answer.is_ok(), role != Role::Site, "{role}: {answer:?}");
        }
        assert!(gate.check(&path, &Peer { certificate: None }, NOW).is_err());
    }

    #[test]
    fn an_unknown_path_is_refused_for_everyone() {
        for role in Role::ALL {
            let refused = gate().check(
                "/consilium.federation.v1.Operator/Shell",
                &peer("north", role, later()),
                NOW,
            );
            assert_eq!(refused.expect_err("refused").code(), Code::Unimplemented);
        }
    }

    #[test]
    fn an_ended_foreign_or_unreadable_certificate_is_refused() {
        let gate = gate();
        let path = TABLE[1].0;
        let refused = gate.check(path, &peer("north", Role::Site, NOW), NOW).expect_err("ended");
        assert_eq!(refused.code(), Code::Unauthenticated);
        let refused =
            gate.check(path, &peer("south", Role::Site, later()), NOW).expect_err("foreign");
        assert_eq!(refused.code(), Code::PermissionDenied);
        let unreadable = Peer::new(Some(b"no certificate"));
        let refused = gate.check(path, &unreadable, NOW).expect_err("garbage");
        assert_eq!(refused.code(), Code::Unauthenticated);
    }

    #[test]
    fn a_revoked_site_is_refused_at_once_and_its_old_certificate_for_ever() {
        let gate = gate();
        let path = TABLE[1].0;
        let site = peer("north", Role::Site, later());
        assert!(gate.check(path, &site, NOW).is_ok());
        gate.expel(&name("alpha"), [Digest::sha256(Role::Site.as_str().as_bytes())]);
        assert_eq!(
            gate.check(path, &site, NOW).expect_err("revoked").code(),
            Code::PermissionDenied
        );
        gate.admit(name("alpha"));
        assert_eq!(
            gate.check(path, &site, NOW).expect_err("revoked").code(),
            Code::PermissionDenied
        );
    }
}
