//! The services over real TLS on loopback: what is let in, what is refused, and what ends when a
//! site is revoked.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use aggregation::ids::{Digest, HospitalId};
use aggregation::transcript::Transcript;
use bytes::Bytes;
use proto::channel::{ClientIdentity, Proxy, Target, Trouble, Trust, connect};
use proto::federation as wire;
use proto::federation::enrol_reply::State;
use proto::federation::enrolment_client::EnrolmentClient;
use proto::federation::federation_client::FederationClient;
use proto::federation::notice::Notice as Kind;
use proto::federation::operator_client::OperatorClient;
use proto::federation::update_part::Part;
use proto::identity::{PartyName, Role};
use rcgen::{CertificateParams, KeyPair};
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use tokio::sync::oneshot;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::clock;
use crate::config::Config;
use crate::coordinator::{Coordinator, bind};
use crate::identity::authority::Authority;

mod evidence;

const DAY: Duration = Duration::from_secs(24 * 3600);

fn name(text: &str) -> HospitalId {
    HospitalId::new(text).expect("a valid name")
}

/// A running coordinator in a folder of its own.
struct Running {
    folder: tempfile::TempDir,
    url: String,
    house: Arc<Coordinator>,
    stop: oneshot::Sender<()>,
    served: tokio::task::JoinHandle<()>,
}

impl Running {
    async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let listener = bind(([127, 0, 0, 1], 0).into()).await.expect("a port");
        let url = format!("https://{}", listener.local_addr().expect("bound"));
        let write = |file: &str, text: &str| {
            std::fs::write(folder.path().join(file), text).expect("written");
        };
        let (authority, ca_key) = Authority::create("north", clock::now()).expect("a CA");
        let key = KeyPair::generate().expect("a key");
        let server =
            authority.certify_server("127.0.0.1", &key, DAY, clock::now()).expect("certified");
        write("ca.pem", authority.pem());
        write("ca.key", &ca_key);
        write("server.pem", &server.pem);
        write("server.key", &key.serialize_pem());
        let config = format!("consortium = \"north\"\nurl = \"{url}\"\nlisten = \"127.0.0.1:1\"\n");
        write("coordinator.toml", &config);
        crate::rehearsal::log_key(folder.path());
        let config = Config::load(&folder.path().join("coordinator.toml")).expect("valid");
        let house = Coordinator::open(config, Arc::new(authority)).await.expect("opened");
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = Arc::clone(&house);
        let served = tokio::spawn(async move {
            let stop = async {
                // A dropped sender stops it as well.
                let _ = stopped.await;
            };
            serving.serve(listener, stop).await.expect("served");
        });
        Self { folder, url, house, stop, served }
    }

    fn target(&self, client: Option<ClientIdentity>) -> Target {
        let trust = Trust::Ca(self.house.authority.pem().to_owned());
        Target { url: self.url.clone(), proxy: Proxy::Direct, trust, client }
    }

    async fn channel(&self, client: Option<ClientIdentity>) -> Channel {
        connect(&self.target(client)).await.expect("connected")
    }

    /// A certificate straight from the CA, for a party of any name.
    fn identity(&self, role: Role, party: &str, lifetime: Duration) -> ClientIdentity {
        certified(&self.house.authority, "north", role, party, lifetime)
    }

    async fn operator(&self) -> OperatorClient<Channel> {
        OperatorClient::new(self.channel(Some(self.identity(Role::Operator, "op", DAY))).await)
    }

    /// Invites, enrols and approves a site as a node and an operator would.
    async fn admit(&self, site: &str) -> ClientIdentity {
        let mut operator = self.operator().await;
        let request = wire::CreateTokenRequest { site: site.to_owned(), valid_seconds: 0 };
        let token = operator.create_token(request).await.expect("a token").into_inner().token;
        let node = Node::new();
        let mut enrolment = EnrolmentClient::new(self.channel(None).await);
        let reply = enrolment.enrol(node.asks(&token)).await.expect("enrolled").into_inner();
        assert_eq!(reply.state(), State::Pending);
        let request =
            wire::ApproveSiteRequest { site: site.to_owned(), identity_fingerprint: String::new() };
        operator.approve_site(request).await.expect("approved");
        let reply = enrolment.enrol(node.asks(&token)).await.expect("approved").into_inner();
        assert_eq!(reply.state(), State::Approved);
        ClientIdentity { certificate_pem: reply.certificate_pem, key_pem: node.key.serialize_pem() }
    }

    async fn end(self) {
        self.stop.send(()).expect("still serving");
        self.served.await.expect("stopped in good order");
    }
}

fn certified(
    authority: &Authority,
    consortium: &str,
    role: Role,
    party: &str,
    lifetime: Duration,
) -> ClientIdentity {
    let key = KeyPair::generate().expect("a key");
    let party = PartyName { consortium: name(consortium), role, name: name(party) };
    let issued = authority.certify_key(&party, &key, lifetime, clock::now()).expect("certified");
    ClientIdentity { certificate_pem: issued.pem, key_pem: key.serialize_pem() }
}

/// A node's keys.
struct Node {
    key: KeyPair,
    csr: Vec<u8>,
    identity: Ed25519KeyPair,
}

impl Node {
    #[expect(clippy::disallowed_methods, reason = "a test's key needs no injected randomness")]
    fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let csr = CertificateParams::default().serialize_request(&key).expect("a request");
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("a key");
        let identity = Ed25519KeyPair::from_pkcs8(document.as_ref()).expect("a key");
        Self { key, csr: csr.der().to_vec(), identity }
    }

    fn asks(&self, token: &str) -> wire::EnrolRequest {
        let mut said = Transcript::new("consilium/enrol/1");
        said.bytes(&self.csr).text(token);
        wire::EnrolRequest {
            token: token.to_owned(),
            csr_der: self.csr.clone(),
            identity_public_key: self.identity.public_key().as_ref().to_vec(),
            identity_proof: self.identity.sign(said.finish().as_bytes()).as_ref().to_vec(),
        }
    }
}

fn code<T>(answer: Result<T, Status>) -> Code {
    answer.map(|_| ()).expect_err("refused").code()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_site_enrols_with_a_token_and_only_then_may_call() {
    let running = Running::start().await;
    let mut nobody = FederationClient::new(running.channel(None).await);
    assert_eq!(code(nobody.list_studies(wire::ListStudiesRequest {}).await), Code::Unauthenticated);
    let mut enrolment = EnrolmentClient::new(running.channel(None).await);
    let node = Node::new();
    assert_eq!(code(enrolment.enrol(node.asks("0123.abc")).await), Code::PermissionDenied);

    let mut operator = running.operator().await;
    let request = wire::CreateTokenRequest { site: "alpha".to_owned(), valid_seconds: 0 };
    let token = operator.create_token(request).await.expect("a token").into_inner().token;
    let mut unproven = node.asks(&token);
    unproven.identity_proof[0] ^= 1;
    assert_eq!(code(enrolment.enrol(unproven).await), Code::InvalidArgument);
    enrolment.enrol(node.asks(&token)).await.expect("pending");
    assert_eq!(code(enrolment.enrol(Node::new().asks(&token)).await), Code::PermissionDenied);

    let alpha = running.admit("beta").await;
    let mut site = FederationClient::new(running.channel(Some(alpha.clone())).await);
    site.list_studies(wire::ListStudiesRequest {}).await.expect("let in");
    let mut not_operator = OperatorClient::new(running.channel(Some(alpha)).await);
    assert_eq!(
        code(not_operator.list_sites(wire::ListSitesRequest {}).await),
        Code::PermissionDenied
    );
    let renewed =
        site.renew(wire::RenewRequest { csr_der: Node::new().csr }).await.expect("renewed");
    assert!(renewed.into_inner().certificate_pem.contains("BEGIN CERTIFICATE"));
    running.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_of_other_consortia_and_unknown_sites_are_refused() {
    let running = Running::start().await;
    let stranger = running.identity(Role::Site, "never-enrolled", DAY);
    let mut site = FederationClient::new(running.channel(Some(stranger)).await);
    assert_eq!(code(site.list_studies(wire::ListStudiesRequest {}).await), Code::PermissionDenied);

    let (other, _) = Authority::create("north", clock::now()).expect("another CA");
    let foreign = certified(&other, "north", Role::Operator, "op", DAY);
    let refused = connect(&running.target(Some(foreign))).await.expect_err("refused");
    assert_eq!(refused.trouble, Trouble::Rejected, "{refused}");

    let brief = running.identity(Role::Operator, "op", Duration::from_secs(1));
    let mut ended = OperatorClient::new(running.channel(Some(brief)).await);
    clock::wait_for(Duration::from_millis(1100)).await;
    let refused = ended.list_sites(wire::ListSitesRequest {}).await.expect_err("ended");
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert!(refused.message().starts_with("the certificate of operator op ended at"), "{refused}");
    running.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revocation_ends_open_streams_and_refuses_every_call_at_once() {
    let running = Running::start().await;
    let alpha = running.admit("alpha").await;
    let mut site = FederationClient::new(running.channel(Some(alpha)).await);
    let request = wire::WatchRequest { version: "test".to_owned() };
    let mut notices = site.watch(request).await.expect("let in").into_inner();
    let hello = notices.message().await.expect("a notice").expect("a notice").notice;
    assert!(matches!(hello, Some(Kind::Hello(_))));
    let log = notices.message().await.expect("a notice").expect("a notice").notice;
    assert!(matches!(log, Some(Kind::Log(_))));

    let mut operator = running.operator().await;
    let request = wire::RevokeSiteRequest { site: "alpha".to_owned() };
    operator.revoke_site(request).await.expect("revoked");
    let ended =
        tokio::time::timeout(Duration::from_secs(2), notices.message()).await.expect("at once");
    assert_eq!(code(ended), Code::PermissionDenied);
    assert_eq!(code(site.list_studies(wire::ListStudiesRequest {}).await), Code::PermissionDenied);
    assert_eq!(
        code(site.renew(wire::RenewRequest { csr_der: Node::new().csr }).await),
        Code::PermissionDenied
    );
    running.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_update_without_a_round_or_without_a_header_stores_nothing() {
    let running = Running::start().await;
    let alpha = running.admit("alpha").await;
    let mut site = FederationClient::new(running.channel(Some(alpha)).await);
    let manifest = include_str!("tests/study.toml");
    let entry = running.house.propose(manifest, "test").await.expect("proposed");
    let header = wire::UpdateHeader {
        study: entry.id.digest().as_bytes().to_vec(),
        round: 1,
        slot: 1,
        terms: vec![0; 32],
        bytes: 1_000_000_000_000,
        digest: vec![0; 32],
    };
    let part = |part| wire::UpdatePart { part: Some(part) };
    let parts = [part(Part::Header(header)), part(Part::Data(Bytes::from_static(b"x")))];
    let answer = site.send_update(tokio_stream::iter(parts)).await;
    assert_eq!(code(answer), Code::FailedPrecondition, "the study does not run");
    let parts = [part(Part::Data(Bytes::from_static(b"x")))];
    assert_eq!(code(site.send_update(tokio_stream::iter(parts)).await), Code::InvalidArgument);
    let staged: PathBuf = running.folder.path().join("state/blobs/staged");
    assert!(!staged.exists(), "nothing was stored");
    let request = wire::FetchModelRequest {
        study: entry.id.digest().as_bytes().to_vec(),
        model: Digest::sha256(b"x").as_bytes().to_vec(),
        offset: 0,
    };
    assert_eq!(code(site.fetch_model(request).await), Code::FailedPrecondition);
    running.end().await;
}
