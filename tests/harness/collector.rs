//! A hospital's own collector: RFC 5425 on loopback, with certificates of its own, and now and then away.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio_rustls::TlsAcceptor;

use crate::consortium::free_port;
use crate::{Outcome, Trouble};

/// Most digits of a frame's length that are read.
const MOST_DIGITS: usize = 6;

/// What was heard: whole frames without their lengths, in the order in which they came.
type Heard = Arc<Mutex<Vec<Vec<u8>>>>;

/// The collector. Dropped, it is gone.
#[derive(Debug)]
pub struct Collector {
    folder: PathBuf,
    port: u16,
    heard: Heard,
    there: Option<Runtime>,
}

impl Collector {
    /// Writes its certificates into a folder; it does not listen yet.
    ///
    /// # Errors
    /// When they cannot be made.
    pub fn new(folder: &Path) -> Outcome<Self> {
        fs::create_dir_all(folder)?;
        let ca_key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        fs::write(folder.join("ca.pem"), params.self_signed(&ca_key)?.pem())?;
        let issuer = Issuer::new(params, ca_key);
        for (file, name) in [("server", "127.0.0.1"), ("client", "client.example.org")] {
            let key = KeyPair::generate()?;
            let certificate = CertificateParams::new(vec![name.to_owned()])?;
            let certificate = certificate.signed_by(&key, &issuer)?;
            fs::write(folder.join(format!("{file}.pem")), certificate.pem())?;
            fs::write(folder.join(format!("{file}.key")), key.serialize_pem())?;
        }
        let (folder, heard) = (folder.to_owned(), Heard::default());
        Ok(Self { folder, port: free_port()?, heard, there: None })
    }

    /// The section of a configuration that feeds it.
    #[must_use]
    pub fn section(&self) -> String {
        let file = |name: &str| self.folder.join(name);
        format!(
            "\n[syslog]\nreceiver = \"127.0.0.1:{}\"\nca = {:?}\ncertificate = {:?}\nkey = {:?}\n",
            self.port,
            file("ca.pem"),
            file("client.pem"),
            file("client.key"),
        )
    }

    /// From now on it takes lines.
    ///
    /// # Errors
    /// When its port is taken, or its certificates cannot be used.
    pub fn listen(&mut self) -> Outcome<()> {
        let acceptor = TlsAcceptor::from(Arc::new(self.tls()?));
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = runtime.block_on(TcpListener::bind(("127.0.0.1", self.port)))?;
        let heard = Arc::clone(&self.heard);
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, heard) = (acceptor.clone(), Arc::clone(&heard));
                tokio::spawn(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        listen_to(stream, &heard).await;
                    }
                });
            }
        });
        self.there = Some(runtime);
        Ok(())
    }

    /// It goes away: connections end, and nobody answers any more.
    pub fn leave(&mut self) {
        if let Some(runtime) = self.there.take() {
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
    }

    /// What it has heard so far.
    #[must_use]
    pub fn heard(&self) -> Vec<Vec<u8>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn tls(&self) -> Outcome<ServerConfig> {
        let file = |name: &str| self.folder.join(name);
        let certificate = |name: &str| CertificateDer::from_pem_file(file(name));
        let mut roots = RootCertStore::empty();
        roots.add(certificate("ca.pem")?)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let asks =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(asks.build()?)
            .with_single_cert(
                vec![certificate("server.pem")?],
                PrivateKeyDer::from_pem_file(file("server.key"))?,
            )?;
        Ok(config)
    }
}

/// Takes frames apart until the connection ends (RFC 5425 section 4.3); half a frame is forgotten.
async fn listen_to(mut stream: impl AsyncRead + Unpin, heard: &Heard) {
    while let Ok(Some(frame)) = frame(&mut stream).await {
        heard.lock().unwrap_or_else(PoisonError::into_inner).push(frame);
    }
}

async fn frame(stream: &mut (impl AsyncRead + Unpin)) -> Outcome<Option<Vec<u8>>> {
    let mut digits = String::new();
    loop {
        let mut byte = [0];
        if stream.read(&mut byte).await? == 0 && digits.is_empty() {
            return Ok(None);
        }
        match byte[0] {
            b' ' => break,
            digit if digit.is_ascii_digit() && digits.len() < MOST_DIGITS => {
                digits.push(char::from(digit));
            }
            other => return Err(Trouble::new(format!("expected a length, found {other}"))),
        }
    }
    let mut frame = vec![0; digits.parse()?];
    stream.read_exact(&mut frame).await?;
    Ok(Some(frame))
}
