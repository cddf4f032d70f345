use std::fs;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::channel::Trouble;

fn line<'a>(kind: &'a str, fields: &'a [(String, String)], text: &'a str) -> Line<'a> {
    Line {
        severity: Severity::Alert,
        millis: 1_795_000_000_123,
        host: "coordinator.example.org",
        program: "coordinator",
        kind,
        fields,
        text,
    }
}

fn field(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

#[test]
fn a_line_is_spelt_as_rfc_5424_says() {
    let fields = [field("site", "north"), field("reason", r#"a "quoted" \ [thing]"#)];
    let expected = concat!(
        "<105>1 2026-11-18T11:06:40.123Z coordinator.example.org coordinator - alarm ",
        r#"[consilium@32473 site="north" reason="a \"quoted\" \\ [thing\]"] "#,
        "\u{feff}somebody has to look"
    );
    let line = line("alarm", &fields, "somebody has to look");
    assert_eq!(line.encode(), expected);
    assert_eq!(line.frame(), format!("{} {expected}", expected.len()).into_bytes());
}

#[test]
fn nothing_that_is_written_breaks_out_of_its_field() {
    let fields = [field("bad name=\"]", "a\nb\u{1b}[31m"), field("", "")];
    let said = line("two words", &fields, "a\r\n<0>1 forged").encode();
    assert!(said.contains(r#" twowords [consilium@32473 badname="a b [31m" -=""] "#), "{said}");
    assert!(!said.contains(['\n', '\r', '\u{1b}']), "{said}");
    let bare = line("", &[], "").encode();
    assert!(bare.ends_with(" - - - \u{feff}"), "{bare}");
    let long = "x]".repeat(100_000);
    let many: Vec<_> = (0..100).map(|at| field(&format!("field-{at}"), &long)).collect();
    let said = line(&long, &many, &long).encode();
    assert!(said.len() < 16_384, "{}", said.len());
}

/// Frames that count up.
fn frame(number: u32) -> Vec<u8> {
    let text = format!("line {number}");
    format!("{} {text}", text.len()).into_bytes()
}

fn numbers(bytes: &[u8]) -> Vec<u32> {
    let text = String::from_utf8(bytes.to_vec()).expect("text");
    text.split("line ")
        .skip(1)
        .map(|part| {
            let digits: String = part.chars().take_while(char::is_ascii_digit).collect();
            // The length of the next frame follows without a space between: it has one digit.
            let own = if part.contains(' ') { &digits[..digits.len() - 1] } else { &digits[..] };
            own.parse().expect("a number")
        })
        .collect()
}

fn all(spool: &mut Spool) -> Vec<u32> {
    let mut found = Vec::new();
    while let Some((bytes, place)) = spool.next(1, None).expect("read") {
        found.extend(numbers(&bytes));
        spool.delivered(place).expect("noted");
    }
    found
}

mod feed;
mod spool;

/// A CA, a server's certificate for 127.0.0.1, and a client's, all in PEM.
struct Keys {
    ca: String,
    server: (String, String),
    client: (String, String),
}

fn keys() -> Keys {
    let ca_key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = params.self_signed(&ca_key).expect("signed");
    let issuer = Issuer::new(params, ca_key);
    let signed = |name: &str| {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        (params.signed_by(&key, &issuer).expect("signed").pem(), key.serialize_pem())
    };
    Keys { ca: ca.pem(), server: signed("127.0.0.1"), client: signed("client.example.org") }
}

/// What a collector heard, connection by connection; each ends after so many bytes.
async fn collector(
    listener: TcpListener,
    keys: &Keys,
    heard: mpsc::UnboundedSender<Vec<u8>>,
    ends_after: usize,
) {
    use rustls_pki_types::pem::PemObject as _;
    use rustls_pki_types::{CertificateDer, PrivateKeyDer};
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(keys.ca.as_bytes()).expect("a CA")).expect("a CA");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let asks = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("TLS")
        .with_client_cert_verifier(asks.build().expect("a verifier"))
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(keys.server.0.as_bytes()).expect("its own")],
            PrivateKeyDer::from_pem_slice(keys.server.1.as_bytes()).expect("its own"),
        )
        .expect("they fit");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    while let Ok((stream, _)) = listener.accept().await {
        let Ok(mut stream) = acceptor.accept(stream).await else { continue };
        let mut read = 0;
        let mut buffer = vec![0; 4_096];
        while read < ends_after {
            match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(some) => {
                    read += some;
                    if heard.send(buffer[..some].to_vec()).is_err() {
                        return;
                    }
                }
            }
        }
    }
}

#[test]
fn a_receiver_is_a_host_with_certificates() {
    let keys = keys();
    let ca = keys.ca.as_bytes();
    for (address, expected) in [
        ("siem.example.org", "siem.example.org:6514"),
        ("siem.example.org:7000", "siem.example.org:7000"),
        ("127.0.0.1:1", "127.0.0.1:1"),
        ("[::1]:7000", "[::1]:7000"),
        ("::1", "[::1]:6514"),
    ] {
        let receiver = Receiver::new(address, ca, None).expect(address);
        assert_eq!(receiver.address(), expected);
    }
    for wrong in ["", "a b", "host:port", "host:70000"] {
        assert!(Receiver::new(wrong, ca, None).is_err(), "{wrong:?}");
    }
    assert!(Receiver::new("host", b"no certificate", None).is_err());
    let bad = Receiver::new("host", ca, Some((ca, b"no key"))).expect_err("no key");
    assert!(!bad.contains("no key"), "{bad}");
}

/// What a probe of the collector with these keys finds.
async fn probed(keys: &Keys, host: &str, ca: &str, client: bool) -> Result<(), Trouble> {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let shown = (keys.client.0.as_bytes(), keys.client.1.as_bytes());
    let shown = client.then_some(shown);
    let address = format!("{host}:{port}");
    let receiver = Receiver::new(&address, ca.as_bytes(), shown).expect("settings");
    let (tell, mut heard) = mpsc::unbounded_channel();
    let found = tokio::select! {
        found = receiver.probe() => found,
        () = collector(listener, keys, tell, usize::MAX) => unreachable!("it listens for ever"),
    };
    assert!(heard.try_recv().is_err(), "nothing is sent");
    found.map_err(|error| {
        assert!(!error.hint.is_empty(), "{error}");
        error.trouble
    })
}

#[tokio::test]
async fn a_probe_tells_what_is_in_the_way() {
    let (ours, others) = (keys(), keys());
    assert_eq!(probed(&ours, "127.0.0.1", &ours.ca, true).await, Ok(()));
    assert_eq!(probed(&ours, "127.0.0.1", &ours.ca, false).await, Err(Trouble::Rejected));
    assert_eq!(probed(&ours, "127.0.0.1", &others.ca, true).await, Err(Trouble::WrongServer));
    assert_eq!(probed(&ours, "localhost", &ours.ca, true).await, Err(Trouble::WrongServer));
    assert_eq!(probed(&ours, "no-such-host.invalid", &ours.ca, true).await, Err(Trouble::Name));
    let free = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = free.local_addr().expect("bound").to_string();
    drop(free);
    let receiver = Receiver::new(&address, ours.ca.as_bytes(), None).expect("settings");
    let error = receiver.probe().await.expect_err("nobody is there");
    assert_eq!(error.trouble, Trouble::Unreachable);
    assert!(error.message.contains(&address), "{error}");
}
