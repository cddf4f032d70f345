//! The door: TCP, TLS, and what each connection has shown of itself.
//!
//! A client certificate is asked for, and verified against the consortium's CA when one is shown.
//! None is needed to shake hands, since a site that enrols has none yet; the gate decides at each
//! call. Handshakes are bounded in number and time, connections in number.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, BufReader, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

use crate::clock;
use crate::config::Limits;
use crate::coordinator::Coordinator;
use crate::identity::Peer;
use crate::identity::authority::Authority;
use crate::identity::server_certificate::ServerCertificate;
use crate::service::log;

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// rustls asks for 4 KiB at a time; from a buffer that costs no system call each.
const READ_AT_ONCE: usize = 64 * 1024;
/// After a failed accept (no file descriptors left, say) the door rests for this long.
const REST: Duration = Duration::from_millis(200);

/// Why the door cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ListenError {
    /// The address cannot be had.
    #[error("cannot listen on {address}")]
    Bind {
        /// Which.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// TLS cannot be set up from the CA.
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
}

/// TLS as this server speaks it.
///
/// # Errors
/// When the CA's certificate cannot be a root.
pub(crate) fn tls(
    authority: &Authority,
    shown: Arc<ServerCertificate>,
) -> Result<Arc<ServerConfig>, ListenError> {
    let wrong = |fault: &dyn std::fmt::Display| ListenError::Tls(fault.to_string());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(authority.der().clone()).map_err(|fault| wrong(&fault))?;
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .allow_unauthenticated()
            .build()
            .map_err(|fault| wrong(&fault))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|fault| wrong(&fault))?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(shown);
    // The log is read by programs that speak nothing newer than HTTP/1.1.
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Takes the address.
///
/// # Errors
/// When somebody else has it, or it is not this machine's.
pub(crate) async fn bind(address: SocketAddr) -> Result<TcpListener, ListenError> {
    TcpListener::bind(address).await.map_err(|source| ListenError::Bind { address, source })
}

/// Shakes hands with whoever comes, until the receiver of the connections is gone. Who speaks HTTP/2
/// is handed on; who does not may read the log, and is served here: gRPC's server speaks first, so it
/// cannot wait and see which of the two a client is.
pub(crate) fn accept(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    limits: &Limits,
    house: &Arc<Coordinator>,
) -> ReceiverStream<Result<Connection, std::io::Error>> {
    let (ready, connections) = mpsc::channel(16);
    let open = Arc::new(Semaphore::new(limits.connections));
    let shaking = Arc::new(Semaphore::new(limits.handshakes));
    let acceptor = TlsAcceptor::from(tls);
    let house = Arc::clone(house);
    tokio::spawn(async move {
        loop {
            let Ok(open) = Arc::clone(&open).acquire_owned().await else { return };
            let Ok(turn) = Arc::clone(&shaking).acquire_owned().await else { return };
            let accepted = tokio::select! {
                () = ready.closed() => return,
                accepted = listener.accept() => accepted,
            };
            let (tcp, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(fault) => {
                    tracing::warn!(%fault, "a connection was not accepted");
                    clock::wait_for(REST).await;
                    continue;
                }
            };
            let (acceptor, ready) = (acceptor.clone(), ready.clone());
            let house = Arc::clone(&house);
            tokio::spawn(async move {
                // A refused option only costs latency.
                let _ = tcp.set_nodelay(true);
                let tcp = BufReader::with_capacity(READ_AT_ONCE, tcp);
                let shaken = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(tcp)).await;
                drop(turn);
                match shaken {
                    Ok(Ok(stream)) => {
                        let tls = &stream.get_ref().1;
                        let leaf = tls.peer_certificates().and_then(<[_]>::first);
                        let shown = leaf.is_some();
                        let calls = tls.alpn_protocol() == Some(b"h2".as_slice());
                        let peer = Arc::new(Peer::new(leaf.map(AsRef::as_ref)));
                        if !calls {
                            // Strangers have nothing to read here.
                            if shown {
                                log::serve(house, stream, peer).await;
                            }
                            drop(open);
                            return;
                        }
                        // The server is shutting down if nobody takes it.
                        let _ = ready.send(Ok(Connection { stream, peer, _open: open })).await;
                    }
                    Ok(Err(fault)) => tracing::debug!(%peer, %fault, "handshake failed"),
                    Err(_) => tracing::debug!(%peer, "handshake took too long"),
                }
            });
        }
    });
    ReceiverStream::new(connections)
}

/// One connection, with what it has shown of itself.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TlsStream<BufReader<TcpStream>>,
    peer: Arc<Peer>,
    _open: OwnedSemaphorePermit,
}

impl Connected for Connection {
    type ConnectInfo = Arc<Peer>;

    fn connect_info(&self) -> Arc<Peer> {
        Arc::clone(&self.peer)
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buffer)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
