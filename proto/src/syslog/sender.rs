//! The sender: one connection, one batch at a time, for ever.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::PORT;

/// How long TCP and TLS may take together, and one batch.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a connection must stand after a batch for it to count as delivered: a receiver that is
/// gone says so within a round trip.
const STOOD: Duration = Duration::from_secs(1);
/// Between two attempts to connect, doubled up to the longest.
const FIRST_REST: Duration = Duration::from_millis(500);
const LONGEST_REST: Duration = Duration::from_secs(60);

/// Where lines go.
#[derive(Clone)]
pub struct Receiver {
    address: String,
    name: ServerName<'static>,
    tls: Arc<ClientConfig>,
}

impl std::fmt::Debug for Receiver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Receiver").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Receiver {
    /// The receiver at `HOST` or `HOST:PORT`, vouched for by these certificates, all in PEM; `client`
    /// are the certificate and key that it is shown.
    ///
    /// # Errors
    /// What was expected and not found.
    pub fn new(address: &str, ca: &[u8], client: Option<(&[u8], &[u8])>) -> Result<Self, String> {
        let expected = || format!("expected HOST or HOST:PORT, found {address:?}");
        let (host, port) = match address.rsplit_once(':') {
            // An IPv6 address without a port has colons of its own.
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
                (host, port.parse().map_err(|_| expected())?)
            }
            Some(_) | None => (address, PORT),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(host.to_owned()).map_err(|_| expected())?;
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(ca) {
            let certificate =
                certificate.map_err(|error| format!("expected certificates in PEM: {error}"))?;
            roots.add(certificate).map_err(|error| error.to_string())?;
        }
        if roots.is_empty() {
            return Err("expected a certificate in PEM, found none".to_owned());
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots);
        let tls = match client {
            None => builder.with_no_client_auth(),
            Some((shown, key)) => {
                let shown: Vec<_> = CertificateDer::pem_slice_iter(shown)
                    .collect::<Result<_, _>>()
                    .map_err(|error| format!("expected a certificate in PEM: {error}"))?;
                // Why it is none stays out of messages.
                let key = PrivateKeyDer::from_pem_slice(key)
                    .map_err(|_| "expected a private key in PEM".to_owned())?;
                builder.with_client_auth_cert(shown, key).map_err(|error| error.to_string())?
            }
        };
        let address =
            if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        Ok(Self { address, name, tls: Arc::new(tls) })
    }

    /// Where it is.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    async fn connect(&self) -> io::Result<TlsStream<TcpStream>> {
        let connecting = async {
            let stream = TcpStream::connect(&self.address).await?;
            stream.set_nodelay(true)?;
            TlsConnector::from(Arc::clone(&self.tls)).connect(self.name.clone(), stream).await
        };
        timeout(PATIENCE, connecting).await.map_err(|_| io::ErrorKind::TimedOut)?
    }
}

/// What is sent.
pub trait Feed: Send {
    /// What marks the end of a batch.
    type Place: Send;

    /// The first frames that are not delivered, and the place behind them; none when all are.
    ///
    /// # Errors
    /// The disk's own; it is asked again later.
    fn next(&mut self) -> impl Future<Output = io::Result<Option<(Vec<u8>, Self::Place)>>> + Send;

    /// Everything before this place is delivered.
    ///
    /// # Errors
    /// The disk's own; then it may be sent again.
    fn delivered(&mut self, place: Self::Place) -> impl Future<Output = io::Result<()>> + Send;

    /// Waits until there may be something new.
    fn more(&mut self) -> impl Future<Output = ()> + Send;

    /// Tells this program's own log, once for each change, whether the receiver can be reached.
    fn tell(&mut self, reached: Result<(), &io::Error>);
}

/// Sends until the future is dropped.
pub async fn feed(receiver: &Receiver, mut feed: impl Feed) {
    let mut rest = FIRST_REST;
    let mut known = None;
    loop {
        let outcome = match receiver.connect().await {
            Ok(stream) => {
                rest = FIRST_REST;
                if known.replace(true) != Some(true) {
                    feed.tell(Ok(()));
                }
                serve(stream, &mut feed).await
            }
            Err(fault) => Err(fault),
        };
        if let Err(fault) = outcome {
            if known.replace(false) != Some(false) {
                feed.tell(Err(&fault));
            }
            sleep(rest).await;
            rest = rest.saturating_mul(2).min(LONGEST_REST);
        }
    }
}

/// Sends over one connection until it breaks.
async fn serve(mut stream: TlsStream<TcpStream>, feed: &mut impl Feed) -> io::Result<()> {
    loop {
        let Some((frames, place)) = feed.next().await? else {
            // A receiver says nothing; if it closes, this ends.
            let mut nothing = [0; 64];
            tokio::select! {
                () = feed.more() => {}
                closed = stream.read(&mut nothing) => gone(closed?)?,
            }
            continue;
        };
        let sending = async {
            stream.write_all(&frames).await?;
            stream.flush().await
        };
        timeout(PATIENCE, sending)
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        let mut nothing = [0; 64];
        if let Ok(closed) = timeout(STOOD, stream.read(&mut nothing)).await {
            gone(closed?)?;
        }
        feed.delivered(place).await?;
    }
}

/// Nothing read is the end of a connection.
fn gone(read: usize) -> io::Result<()> {
    if read == 0 { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
}
