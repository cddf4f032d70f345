//! gRPC in and out, a file per service: decode, hand on, encode.

mod charge;
pub(crate) mod enrolment;
pub(crate) mod federation;
pub(crate) mod listener;
pub(crate) mod log;
pub(crate) mod operator;
mod operator_view;
mod setup;
mod upload;

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;

use proto::federation::enrolment_server::EnrolmentServer;
use proto::federation::federation_server::FederationServer;
use proto::federation::operator_server::OperatorServer;
use proto::limits::MAX_MESSAGE;
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::transport::Server;
use tower::layer::util::{Identity, Stack};

use crate::coordinator::Coordinator;
use crate::driver::Turned;
use crate::identity::GateLayer;
use crate::store::StoreError;

/// A connection that answers no ping for this long is gone, and its site with it.
const PING_EVERY: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// What one upload, and one connection, may have in flight before we have read it.
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 2 * 1024 * 1024;
const FRAME: u32 = 256 * 1024;
/// Calls that one connection may have open.
const STREAMS: u32 = 64;

/// HTTP/2 as this server speaks it, with the gate before every path.
pub(crate) fn server(house: &Arc<Coordinator>) -> Server<Stack<GateLayer, Identity>> {
    Server::builder()
        .http2_keepalive_interval(Some(PING_EVERY))
        .http2_keepalive_timeout(Some(PING_TIMEOUT))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .max_concurrent_streams(STREAMS)
        .layer(GateLayer(Arc::clone(&house.gate)))
}

/// The three services and the log; the first part of a path says which.
#[derive(Debug, Clone)]
pub(crate) struct Services {
    enrolment: EnrolmentServer<enrolment::Service>,
    federation: FederationServer<federation::Service>,
    operator: OperatorServer<operator::Service>,
    house: Arc<Coordinator>,
}

impl Services {
    pub(crate) fn new(house: &Arc<Coordinator>) -> Self {
        let enrolment = EnrolmentServer::new(enrolment::Service::new(Arc::clone(house)));
        let federation = FederationServer::new(federation::Service::new(Arc::clone(house)));
        let operator = OperatorServer::new(operator::Service::new(Arc::clone(house)));
        Self {
            enrolment: enrolment.max_decoding_message_size(MAX_MESSAGE),
            federation: federation.max_decoding_message_size(MAX_MESSAGE),
            operator: operator.max_decoding_message_size(MAX_MESSAGE),
            house: Arc::clone(house),
        }
    }
}

impl tower::Service<http::Request<Body>> for Services {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<http::Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // Generated services are always ready.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let service = request.uri().path().split('/').nth(1).unwrap_or_default();
        match service {
            EnrolmentServer::<enrolment::Service>::NAME => self.enrolment.call(request),
            FederationServer::<federation::Service>::NAME => self.federation.call(request),
            OperatorServer::<operator::Service>::NAME => self.operator.call(request),
            "log" => {
                let house = Arc::clone(&self.house);
                let (method, uri) = (request.method().clone(), request.uri().clone());
                Box::pin(async move { Ok(log::get(&house, &method, uri.path()).await) })
            }
            _ => Box::pin(async {
                Ok(Status::unimplemented("there is no such service").into_http())
            }),
        }
    }
}

/// What a caller is told of the store's trouble; the log has the whole chain.
pub(crate) fn store_status(fault: &StoreError) -> Status {
    tracing::error!(fault = %fault.chain(), "the store refused");
    match fault {
        StoreError::Disk(_) => Status::resource_exhausted(fault.to_string()),
        StoreError::Database(_)
        | StoreError::Blob(_)
        | StoreError::Corrupt(_)
        | StoreError::Leaf(_)
        | StoreError::Newer { .. }
        | StoreError::InUse => Status::internal(fault.to_string()),
    }
}

/// What a site is told when a driver has turned something away.
pub(crate) fn turned_status(turned: &Turned) -> Status {
    match turned {
        Turned::Refused(refusal) => proto::status::from_refusal(refusal),
        Turned::NoRound => Status::failed_precondition(turned.to_string()),
        Turned::OtherPlace { .. } => Status::invalid_argument(turned.to_string()),
        Turned::NotKept { disk: true } => Status::resource_exhausted(
            "the coordinator's disk is full or failing; say it again later",
        ),
        Turned::NotKept { disk: false } => Status::unavailable(turned.to_string()),
    }
}

#[cfg(test)]
mod tests;
