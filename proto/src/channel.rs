//! The client's end of the wire: TCP, through an HTTP proxy where there is one, then TLS with the
//! consortium's CA and nothing else, then gRPC. And what to tell a person when it does not work.

mod trust;

use std::error::Error as StdError;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use thiserror::Error;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};
use tower::Service as _;

use aggregation::ids::Digest;

use self::trust::{tls_config, tls_trouble};

/// How long TCP, proxy and TLS may take together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// Firewalls drop idle flows; a ping in this interval keeps ours.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// Large enough that a chunked model is not held up by window updates.
const WINDOW: u32 = 8 * 1024 * 1024;
/// The largest HTTP/2 frame that we take. With frames of 16 KiB, the default, every one would end
/// in a TLS record of its header's few bytes.
const FRAME: u32 = 256 * 1024;
/// What is read from a socket at once.
const READ_BUFFER: usize = 64 * 1024;

/// Whom to reach, and how.
#[derive(Clone, Debug)]
pub struct Target {
    /// `https://host:port`.
    pub url: String,
    /// Through what.
    pub proxy: Proxy,
    /// Which server is the right one.
    pub trust: Trust,
    /// Who we are; without it only enrolment is possible.
    pub client: Option<ClientIdentity>,
}

/// Which way out of the house.
#[derive(Clone, Debug, Default)]
pub enum Proxy {
    /// As `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` say.
    #[default]
    Environment,
    /// None, whatever the environment says.
    Direct,
    /// This one: `http://[user:password@]host:port`.
    Url(String),
}

/// What the server's certificate must descend from.
#[derive(Clone, Debug)]
pub enum Trust {
    /// This CA, in PEM.
    Ca(String),
    /// The CA with this SHA-256 over its DER, which the server presents.
    Pinned(Digest),
}

/// Our certificate and key, in PEM.
#[derive(Clone)]
pub struct ClientIdentity {
    /// The leaf.
    pub certificate_pem: String,
    /// Its private key, PKCS #8.
    pub key_pem: String,
}

impl std::fmt::Debug for ClientIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientIdentity").finish_non_exhaustive()
    }
}

/// What kind of trouble, for exit codes and `doctor`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The URL, the CA, the certificate or the key that we were given cannot be used.
    Settings,
    /// The name does not resolve.
    Name,
    /// Nobody answers at that address.
    Unreachable,
    /// The proxy wants a user and a password, or others.
    ProxyAuthentication,
    /// The proxy did not let us through.
    Proxy,
    /// The server's certificate is not from the consortium's CA.
    WrongServer,
    /// A certificate is not valid at this time, by this machine's clock.
    Clock,
    /// The server does not accept our certificate.
    Rejected,
    /// TLS failed otherwise.
    Tls,
    /// It took too long.
    Timeout,
}

/// Why there is no channel.
#[derive(Clone, Debug, Error)]
#[error("{message}")]
pub struct ChannelError {
    /// What kind.
    pub trouble: Trouble,
    /// What was expected and what was found.
    pub message: String,
    /// What to do about it.
    pub hint: String,
}

impl ChannelError {
    fn new(trouble: Trouble, message: impl Into<String>, hint: &str) -> Self {
        Self { trouble, message: message.into(), hint: hint.to_owned() }
    }
}

/// Connects, so that trouble shows now and not at the first call.
///
/// # Errors
/// What went wrong, in a person's words.
pub async fn connect(target: &Target) -> Result<Channel, ChannelError> {
    let route = Route::new(target)?;
    let endpoint = Endpoint::from(route.uri.clone())
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(2 * WINDOW)
        .max_frame_size(FRAME)
        .tcp_nodelay(true)
        .user_agent(concat!("consilium/", env!("CARGO_PKG_VERSION")))
        .map_err(|error| ChannelError::new(Trouble::Settings, error.to_string(), ""))?;
    let dial = tower::service_fn({
        let route = route.clone();
        move |_: Uri| {
            let route = route.clone();
            async move { route.dial().await.map(TokioIo::new) }
        }
    });
    match tokio::time::timeout(CONNECT_TIMEOUT, endpoint.connect_with_connector(dial)).await {
        Ok(Ok(channel)) => Ok(channel),
        Ok(Err(error)) => Err(explain(&error).unwrap_or_else(|| {
            ChannelError::new(
                Trouble::Unreachable,
                format!("no connection to {}: {}", target.url, root_cause(&error)),
                "check the address and the network",
            )
        })),
        Err(_) => Err(ChannelError::new(
            Trouble::Timeout,
            format!("no connection to {} within {} s", target.url, CONNECT_TIMEOUT.as_secs()),
            "check the address, the firewall and the proxy",
        )),
    }
}

/// Finds in an error's chain of causes the one that a person can act on: ours, or a TLS alert that
/// came after the handshake (in TLS 1.3 a server rejects a client's certificate only then).
#[must_use]
pub fn explain(error: &(dyn StdError + 'static)) -> Option<ChannelError> {
    let mut next = Some(error);
    while let Some(cause) = next {
        if let Some(ours) = cause.downcast_ref::<ChannelError>() {
            return Some(ours.clone());
        }
        if let Some(io) = cause.downcast_ref::<std::io::Error>()
            && let Some(inner) = io.get_ref()
            && let Some(found) = explain(inner)
        {
            return Some(found);
        }
        if let Some(tls) = cause.downcast_ref::<rustls::Error>() {
            return Some(tls_trouble(tls, None));
        }
        next = cause.source();
    }
    None
}

fn root_cause(error: &dyn StdError) -> String {
    let mut last = error;
    while let Some(cause) = last.source() {
        last = cause;
    }
    last.to_string()
}

#[derive(Clone)]
struct Route {
    uri: Uri,
    host: String,
    port: u16,
    proxy: Option<(Uri, Option<http::HeaderValue>)>,
    name: ServerName<'static>,
    tls: Arc<ClientConfig>,
    seen: Arc<Mutex<Option<String>>>,
}

impl Route {
    fn new(target: &Target) -> Result<Self, ChannelError> {
        let settings = |message: String| {
            ChannelError::new(
                Trouble::Settings,
                message,
                "an example: https://coordinator.example.org:443",
            )
        };
        let uri: Uri = target
            .url
            .parse()
            .map_err(|_| settings(format!("expected an https:// URL, found {:?}", target.url)))?;
        if uri.scheme_str() != Some("https") {
            return Err(settings(format!("expected an https:// URL, found {:?}", target.url)));
        }
        let host = uri
            .host()
            .ok_or_else(|| settings(format!("expected a host in the URL, found {:?}", target.url)))?
            .trim_matches(['[', ']'])
            .to_owned();
        let name = ServerName::try_from(host.clone()).map_err(|_| {
            settings(format!("expected a host name or an IP address, found {host:?}"))
        })?;
        let seen = Arc::new(Mutex::new(None));
        Ok(Self {
            port: uri.port_u16().unwrap_or(443),
            proxy: proxy_for(&uri, &target.proxy)?,
            tls: Arc::new(tls_config(target, Arc::clone(&seen))?),
            uri,
            host,
            name,
            seen,
        })
    }

    async fn dial(&self) -> Result<TlsStream<BufReader<TcpStream>>, ChannelError> {
        let tcp = match &self.proxy {
            None => self.direct().await?,
            Some((proxy, authorization)) => self.tunnel(proxy, authorization.clone()).await?,
        };
        // A refused option only costs latency.
        let _ = tcp.set_nodelay(true);
        // rustls reads 4 KiB at a time; a model in such bites would be a thousand system calls.
        let buffered = BufReader::with_capacity(READ_BUFFER, tcp);
        let mut tls = TlsConnector::from(Arc::clone(&self.tls))
            .connect(self.name.clone(), buffered)
            .await
            .map_err(|error| self.tls_failed(&error))?;
        // In TLS 1.3 our handshake ends before the server has looked at our certificate. An HTTP/2
        // server speaks first, so what comes now is its settings, or the alert that says no.
        let first = tls.fill_buf().await.map_err(|error| self.tls_failed(&error))?;
        if first.is_empty() {
            return Err(self.tls_failed(&std::io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(tls)
    }

    async fn direct(&self) -> Result<TcpStream, ChannelError> {
        let addresses: Vec<_> = tokio::net::lookup_host((self.host.as_str(), self.port))
            .await
            .map_err(|error| {
                ChannelError::new(
                    Trouble::Name,
                    format!("the name {} does not resolve: {error}", self.host),
                    "check the name, and this machine's DNS or proxy",
                )
            })?
            .collect();
        TcpStream::connect(addresses.as_slice()).await.map_err(|error| {
            ChannelError::new(
                Trouble::Unreachable,
                format!("nobody answers at {}:{}: {error}", self.host, self.port),
                "check that the coordinator runs, and that the firewall lets this machine out to it",
            )
        })
    }

    async fn tunnel(
        &self,
        proxy: &Uri,
        authorization: Option<http::HeaderValue>,
    ) -> Result<TcpStream, ChannelError> {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        let mut tunnel = Tunnel::new(proxy.clone(), http);
        if let Some(value) = authorization {
            tunnel = tunnel.with_auth(value);
        }
        let target = format!("https://{}", self.uri.authority().map_or("", |a| a.as_str()));
        let target: Uri = target.parse().map_err(|_| {
            ChannelError::new(Trouble::Settings, format!("no host in {}", self.uri), "")
        })?;
        let shown = format!("{}:{}", proxy.host().unwrap_or("?"), proxy.port_u16().unwrap_or(80));
        match tunnel.call(target).await {
            Ok(io) => Ok(io.into_inner()),
            Err(error) => {
                let cause = error.to_string();
                Err(if cause.contains("authorization required") {
                    ChannelError::new(
                        Trouble::ProxyAuthentication,
                        format!("the proxy {shown} wants a user and a password"),
                        "put them into the proxy's URL, or ask for an exception for this host",
                    )
                } else {
                    ChannelError::new(
                        Trouble::Proxy,
                        format!(
                            "the proxy {shown} did not connect us to {}:{}: {}",
                            self.host,
                            self.port,
                            root_cause(&error)
                        ),
                        "ask for CONNECT to this host and port to be allowed",
                    )
                })
            }
        }
    }

    fn tls_failed(&self, error: &std::io::Error) -> ChannelError {
        let issuer = self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
        error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()).map_or_else(
            || {
                ChannelError::new(
                    Trouble::Tls,
                    format!("{}:{} ended the TLS handshake: {error}", self.host, self.port),
                    "check that this is the coordinator's address",
                )
            },
            |tls| tls_trouble(tls, issuer.as_deref()),
        )
    }
}

fn proxy_for(
    uri: &Uri,
    proxy: &Proxy,
) -> Result<Option<(Uri, Option<http::HeaderValue>)>, ChannelError> {
    let matcher = match proxy {
        Proxy::Direct => return Ok(None),
        Proxy::Environment => Matcher::from_env(),
        Proxy::Url(url) => {
            let matcher = Matcher::builder().all(url.as_str()).build();
            if matcher.intercept(uri).is_none() {
                return Err(ChannelError::new(
                    Trouble::Settings,
                    "expected the proxy as a URL, found something else",
                    "an example: http://proxy.example.org:3128",
                ));
            }
            matcher
        }
    };
    Ok(matcher
        .intercept(uri)
        .map(|intercept| (intercept.uri().clone(), intercept.basic_auth().cloned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(url: &str) -> Target {
        Target {
            url: url.to_owned(),
            proxy: Proxy::Direct,
            trust: Trust::Pinned(Digest::sha256(b"ca")),
            client: None,
        }
    }

    #[tokio::test]
    async fn what_is_no_https_url_is_refused_before_anything_is_dialled() {
        for url in ["", "http://localhost:1", "localhost:443", "https://", "https://a b"] {
            let error = connect(&target(url)).await.expect_err(url);
            assert_eq!(error.trouble, Trouble::Settings, "{url}: {error}");
        }
    }

    #[tokio::test]
    async fn a_port_where_nobody_listens_is_said_to_be_so() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let port = listener.local_addr().expect("bound").port();
        drop(listener);
        let error =
            connect(&target(&format!("https://127.0.0.1:{port}"))).await.expect_err("closed");
        assert_eq!(error.trouble, Trouble::Unreachable);
        assert!(error.message.contains(&port.to_string()));
    }

    #[tokio::test]
    async fn a_proxy_that_asks_for_a_password_or_refuses_is_told_apart() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        for (answer, trouble) in [
            ("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", Trouble::ProxyAuthentication),
            ("HTTP/1.1 403 Forbidden\r\n\r\n", Trouble::Proxy),
        ] {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("loopback");
            let port = listener.local_addr().expect("bound").port();
            let proxy = tokio::spawn(async move {
                let (mut socket, _) = listener.accept().await.expect("one client");
                let mut buffer = [0; 512];
                let read = socket.read(&mut buffer).await.expect("request");
                socket.write_all(answer.as_bytes()).await.expect("reply");
                String::from_utf8_lossy(&buffer[..read]).into_owned()
            });
            let mut through = target("https://coordinator.example.org");
            through.proxy = Proxy::Url(format!("http://127.0.0.1:{port}"));
            let error = connect(&through).await.expect_err("no tunnel");
            assert_eq!(error.trouble, trouble, "{error}");
            let request = proxy.await.expect("proxy");
            assert!(
                request.starts_with("CONNECT coordinator.example.org:443 HTTP/1.1"),
                "{request}"
            );
        }
    }
}
