//! Who takes the lines: a host, the CA that vouches for it, and what it is shown.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::{AlertDescription, CertificateError, ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::PORT;
use crate::channel::{ChannelError, Trouble};

/// How long TCP and TLS may take together, and a record that is sent.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);
/// How long a connection must stand after the handshake to count: a receiver that says no to our
/// certificate says so within a round trip.
const STOOD: Duration = Duration::from_secs(1);
/// A connection on which nothing was sent for this long is tried, and again after each [`PROBE`]: a
/// firewall that forgot it, or a receiver without power, is found out before there is something to say.
const IDLE: Duration = Duration::from_secs(30);
const PROBE: Duration = Duration::from_secs(5);
/// What waits in the kernel at most, which doubles it. So a link that takes some kilobytes a second has
/// taken all of it within [`Patience::delivered`].
const IN_KERNEL: usize = 32 * 1024;

/// How long to wait for what a vanished receiver does not say.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// TCP gives up when what it sent is not acknowledged after this (RFC 9293 section 3.9.1, "user
    /// timeout"; RFC 5482).
    pub(super) unacknowledged: Duration,
    /// What was sent before this, on a connection that still stands, has been acknowledged. Longer than
    /// the other by what the kernel's timers, which begin with the first repetition, may be late.
    pub(super) delivered: Duration,
}

impl Patience {
    const USUAL: Self =
        Self { unacknowledged: Duration::from_secs(10), delivered: Duration::from_secs(15) };
}

/// What a configuration says of a receiver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `HOST` or `HOST:PORT`.
    pub receiver: String,
    /// The file of the CA that vouches for it, PEM.
    pub ca: PathBuf,
    /// The files of the certificate that it is shown and of its key, PEM.
    pub client: Option<(PathBuf, PathBuf)>,
}

/// Where lines go.
#[derive(Clone)]
pub struct Receiver {
    host: String,
    port: u16,
    name: ServerName<'static>,
    tls: Arc<ClientConfig>,
    pub(super) patience: Patience,
}

impl std::fmt::Debug for Receiver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Receiver").field("address", &self.address()).finish_non_exhaustive()
    }
}

impl Receiver {
    /// The receiver of these settings; reads the files that they name.
    ///
    /// # Errors
    /// What was expected and not found.
    pub fn load(settings: &Settings) -> Result<Self, String> {
        let read = |path: &Path| {
            std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))
        };
        let ca = read(&settings.ca)?;
        let client = match &settings.client {
            Some((certificate, key)) => Some((read(certificate)?, read(key)?)),
            None => None,
        };
        let client = client.as_ref().map(|(shown, key)| (shown.as_slice(), key.as_slice()));
        Self::new(&settings.receiver, &ca, client)
    }

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
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(host.clone()).map_err(|_| expected())?;
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
        Ok(Self { host, port, name, tls: Arc::new(tls), patience: Patience::USUAL })
    }

    /// Where it is, as `HOST:PORT`.
    #[must_use]
    pub fn address(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }

    /// Whether lines could go there now: connects as [`super::feed`] does, and sends nothing.
    ///
    /// # Errors
    /// What is in the way, and what to do about it.
    pub async fn probe(&self) -> Result<(), ChannelError> {
        self.connect().await.map(drop)
    }

    /// Sends frames over a connection of their own, for a program that is about to end. The receiver
    /// says nothing: that they arrived is not known.
    ///
    /// # Errors
    /// What is in the way, and what to do about it.
    pub async fn send(&self, frames: &[u8]) -> Result<(), ChannelError> {
        let mut stream = self.connect().await?;
        let sending = async {
            stream.write_all(frames).await?;
            stream.shutdown().await
        };
        let sent = timeout(PATIENCE, sending).await;
        let sent = sent.map_err(|_| io::ErrorKind::TimedOut.into()).flatten();
        sent.map_err(|error| self.refused(&error))
    }

    /// A connection that has stood for a moment.
    pub(super) async fn connect(&self) -> Result<TlsStream<TcpStream>, ChannelError> {
        match timeout(PATIENCE, self.dial()).await {
            Ok(connected) => connected,
            Err(_) => Err(ChannelError {
                trouble: Trouble::Timeout,
                message: format!(
                    "{} did not answer within {} s",
                    self.address(),
                    PATIENCE.as_secs()
                ),
                hint: "check the address and the firewall".to_owned(),
            }),
        }
    }

    async fn dial(&self) -> Result<TlsStream<TcpStream>, ChannelError> {
        let wrong = |trouble, message, hint: &str| {
            Err(ChannelError { trouble, message, hint: hint.to_owned() })
        };
        let found = match tokio::net::lookup_host((self.host.as_str(), self.port)).await {
            Ok(found) => found.collect::<Vec<_>>(),
            Err(error) => {
                let message = format!("the name {} does not resolve: {error}", self.host);
                return wrong(
                    Trouble::Name,
                    message,
                    "check syslog.receiver, and this machine's DNS",
                );
            }
        };
        let tcp = match TcpStream::connect(found.as_slice()).await {
            Ok(tcp) => tcp,
            Err(error) => {
                let message = format!("nobody answers at {}: {error}", self.address());
                let hint = "check that the receiver runs, that this is its port for TLS, and that the \
                            firewall lets this machine out to it";
                return wrong(Trouble::Unreachable, message, hint);
            }
        };
        // A refused option only costs latency.
        let _ = tcp.set_nodelay(true);
        if let Err(error) = self.watch(&tcp) {
            let message = format!("a connection that breaks could not be found out: {error}");
            return wrong(Trouble::Unreachable, message, "the system refuses options of TCP");
        }
        let connecting = TlsConnector::from(Arc::clone(&self.tls)).connect(self.name.clone(), tcp);
        let mut stream = connecting.await.map_err(|error| self.refused(&error))?;
        // In TLS 1.3 our handshake ends before the receiver has looked at our certificate.
        stood(&mut stream).await.map_err(|error| self.refused(&error))?;
        Ok(stream)
    }

    /// A connection whose other side vanishes without a word ends with an error.
    fn watch(&self, tcp: &TcpStream) -> io::Result<()> {
        let socket = SockRef::from(tcp);
        socket.set_send_buffer_size(IN_KERNEL)?;
        socket.set_tcp_user_timeout(Some(self.patience.unacknowledged))?;
        socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(IDLE).with_interval(PROBE))
    }

    fn refused(&self, error: &io::Error) -> ChannelError {
        use rustls::Error::{AlertReceived, InvalidCertificate};
        let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        let certificate =
            "syslog.certificate and syslog.key must be of a CA that the receiver trusts";
        let (trouble, message, hint) = match tls {
            Some(InvalidCertificate(
                CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. }
                | CertificateError::Expired
                | CertificateError::ExpiredContext { .. },
            )) => (
                Trouble::Clock,
                format!("the receiver's certificate is not valid now: {error}"),
                "check this machine's clock first, then the receiver's certificate",
            ),
            Some(InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => (
                Trouble::WrongServer,
                format!("the receiver's certificate is not for {}: {error}", self.host),
                "syslog.receiver must have the name that is in the receiver's certificate",
            ),
            Some(InvalidCertificate(_)) => (
                Trouble::WrongServer,
                format!("expected a certificate from the CA in syslog.ca, found another: {error}"),
                "syslog.ca must be the CA of the receiver's certificate",
            ),
            Some(AlertReceived(AlertDescription::CertificateRequired)) => {
                (Trouble::Rejected, "the receiver asks for a certificate".to_owned(), certificate)
            }
            Some(AlertReceived(alert)) => (
                Trouble::Rejected,
                format!("the receiver does not accept our certificate: {alert:?}"),
                certificate,
            ),
            Some(other) => {
                (Trouble::Tls, format!("TLS failed: {other}"), "check that the port is one for TLS")
            }
            None => (
                Trouble::Tls,
                format!("the receiver broke the connection off: {error}"),
                "its own log says why; it may ask for syslog.certificate and syslog.key",
            ),
        };
        ChannelError { trouble, message, hint: hint.to_owned() }
    }
}

/// Waits for a moment in which the other side, which has nothing to say, could close or say no.
async fn stood(stream: &mut TlsStream<TcpStream>) -> io::Result<()> {
    let mut nothing = [0; 64];
    match timeout(STOOD, stream.read(&mut nothing)).await {
        Ok(read) => match read? {
            0 => Err(io::ErrorKind::ConnectionAborted.into()),
            _ => Ok(()),
        },
        Err(_) => Ok(()),
    }
}
