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
    while let Some((bytes, place)) = spool.next(1).expect("read") {
        found.extend(numbers(&bytes));
        spool.delivered(place).expect("noted");
    }
    found
}

#[test]
fn what_waits_outlives_a_restart_in_order_and_what_is_delivered_does_not_come_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut spool = Spool::open(folder.path(), 1 << 20).expect("opened");
    for number in 0..50 {
        assert_eq!(spool.append(&frame(number)).expect("kept"), 0);
    }
    let (first, place) = spool.next(1).expect("read").expect("some wait");
    assert_eq!(numbers(&first), (0..50).collect::<Vec<_>>());
    drop(spool);
    // Not delivered: it comes again.
    let mut spool = Spool::open(folder.path(), 1 << 20).expect("opened");
    assert_eq!(spool.next(1).expect("read").map(|(bytes, _)| bytes), Some(first));
    spool.delivered(place).expect("noted");
    spool.append(&frame(50)).expect("kept");
    drop(spool);
    let mut spool = Spool::open(folder.path(), 1 << 20).expect("opened");
    assert_eq!(all(&mut spool), [50]);
    assert_eq!(spool.next(1).expect("read"), None);
}

#[test]
fn a_frame_that_was_cut_off_is_dropped_and_those_after_it_are_whole() {
    let folder = tempfile::tempdir().expect("a folder");
    for cut in 1..frame(7).len() {
        let folder = folder.path().join(cut.to_string());
        let mut spool = Spool::open(&folder, 1 << 20).expect("opened");
        spool.append(&frame(6)).expect("kept");
        drop(spool);
        let file = fs::read_dir(&folder).expect("there").map(|entry| entry.expect("there").path());
        let file = file.last().expect("one file");
        let mut bytes = fs::read(&file).expect("there");
        bytes.extend(&frame(7)[..cut]);
        fs::write(&file, bytes).expect("written");
        let mut spool = Spool::open(&folder, 1 << 20).expect("opened");
        spool.append(&frame(8)).expect("kept");
        assert_eq!(all(&mut spool), [6, 8], "cut at {cut}");
    }
}

#[test]
fn without_room_the_oldest_go_and_are_counted() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut spool = Spool::open(folder.path(), 1_600).expect("opened");
    let mut lost = 0;
    for number in 0..1_000 {
        lost += spool.append(&frame(number)).expect("kept");
    }
    let taken: u64 = fs::read_dir(folder.path())
        .expect("there")
        .map(|entry| entry.expect("there").metadata().expect("there").len())
        .sum();
    assert!(taken < 2_000, "{taken} bytes");
    let left = all(&mut spool);
    assert_eq!(u64::try_from(left.len()).expect("few") + lost, 1_000);
    assert_eq!(left, (1_000 - u32::try_from(left.len()).expect("few")..1_000).collect::<Vec<_>>());
    // Delivered ones that go are no loss.
    assert_eq!(spool.append(&frame(1_000)).expect("kept"), 0);
}

/// A spool as a feed.
struct Waiting(Arc<Mutex<Spool>>);

impl Feed for Waiting {
    type Place = Place;

    async fn next(&mut self) -> io::Result<Option<(Vec<u8>, Place)>> {
        self.0.lock().expect("nobody panicked").next(1)
    }

    async fn delivered(&mut self, place: Place) -> io::Result<()> {
        self.0.lock().expect("nobody panicked").delivered(place)
    }

    async fn more(&mut self) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    fn tell(&mut self, _: &str, _: Result<(), &str>) {}
}

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

/// A port of this machine, and the settings that lead to it.
async fn receiver(keys: &Keys) -> (TcpListener, Receiver) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    let client = (keys.client.0.as_bytes(), keys.client.1.as_bytes());
    let receiver = Receiver::new(&address, keys.ca.as_bytes(), Some(client)).expect("settings");
    (listener, receiver)
}

fn spooled(folder: &Path, lines: std::ops::Range<u32>) -> Arc<Mutex<Spool>> {
    let mut spool = Spool::open(folder, 1 << 20).expect("opened");
    for number in lines {
        spool.append(&frame(number)).expect("kept");
    }
    Arc::new(Mutex::new(spool))
}

async fn hear(heard: &mut mpsc::UnboundedReceiver<Vec<u8>>, until: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let last = format!("line {until}").into_bytes();
    while !bytes.ends_with(&last) {
        let more = tokio::time::timeout(Duration::from_secs(20), heard.recv()).await;
        bytes.extend(more.expect("in time").expect("the collector listens"));
    }
    bytes
}

#[tokio::test]
async fn lines_wait_for_their_receiver_and_come_in_order_once_it_is_there() {
    let keys = keys();
    let folder = tempfile::tempdir().expect("a folder");
    let spool = spooled(folder.path(), 0..30);
    let (listener, receiver) = receiver(&keys).await;
    let address = listener.local_addr().expect("bound");
    let (tell, mut heard) = mpsc::unbounded_channel();
    drop(listener);
    let sending = feed(&receiver, Waiting(Arc::clone(&spool)));
    let story = async {
        // Nobody listens at first.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let listener = TcpListener::bind(address).await.expect("the same port");
        let collecting = collector(listener, &keys, tell, usize::MAX);
        let telling = async {
            assert_eq!(numbers(&hear(&mut heard, 29).await), (0..30).collect::<Vec<_>>());
            for number in 30..40 {
                spool.lock().expect("nobody panicked").append(&frame(number)).expect("kept");
            }
            assert_eq!(numbers(&hear(&mut heard, 39).await), (30..40).collect::<Vec<_>>());
            // What has stood for a moment is not sent again after a restart.
            tokio::time::sleep(Duration::from_millis(1_500)).await;
        };
        tokio::select! { () = collecting => {} () = telling => {} }
    };
    tokio::select! { () = sending => {} () = story => {} }
    drop(spool);
    let mut again = Spool::open(folder.path(), 1 << 20).expect("opened");
    assert_eq!(all(&mut again), Vec::<u32>::new());
}

#[tokio::test]
async fn a_receiver_that_breaks_off_gets_the_same_lines_again() {
    let keys = keys();
    let folder = tempfile::tempdir().expect("a folder");
    let spool = spooled(folder.path(), 0..30);
    let (listener, receiver) = receiver(&keys).await;
    let (tell, mut heard) = mpsc::unbounded_channel();
    let story = async {
        // It takes a few bytes and is gone, again and again.
        let collecting = collector(listener, &keys, tell, 1);
        let telling = async {
            for _ in 0..2 {
                assert_eq!(numbers(&hear(&mut heard, 29).await), (0..30).collect::<Vec<_>>());
            }
        };
        tokio::select! { () = collecting => {} () = telling => {} }
    };
    tokio::select! { () = feed(&receiver, Waiting(Arc::clone(&spool))) => {} () = story => {} }
    assert!(spool.lock().expect("nobody panicked").next(1).expect("read").is_some());
}

#[tokio::test]
async fn a_receiver_that_nobody_vouches_for_gets_nothing() {
    let (keys, others) = (keys(), keys());
    let folder = tempfile::tempdir().expect("a folder");
    let spool = spooled(folder.path(), 0..3);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    let (tell, mut heard) = mpsc::unbounded_channel();
    let strange = Receiver::new(&address, others.ca.as_bytes(), None).expect("settings");
    tokio::select! {
        () = feed(&strange, Waiting(Arc::clone(&spool))) => {}
        () = collector(listener, &keys, tell, usize::MAX) => {}
        () = tokio::time::sleep(Duration::from_secs(2)) => {}
    }
    assert!(heard.try_recv().is_err());
    assert!(spool.lock().expect("nobody panicked").next(1).expect("read").is_some());
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

#[test]
fn a_mark_that_cannot_be_understood_begins_anew() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("delivered");
    let mark = Mark::new(file.clone());
    assert_eq!(mark.read().expect("nothing there"), [0, 0]);
    mark.note(&[7, 8]).expect("noted");
    assert_eq!(mark.read().expect("there"), [7, 8]);
    for strange in ["7", "7 8 9", "7 eight", "\u{fffd}", ""] {
        fs::write(&file, strange).expect("written");
        assert_eq!(mark.read().expect("there"), [0, 0], "{strange:?}");
    }
    fs::write(&file, [0xff, 0xfe]).expect("written");
    assert_eq!(mark.read().expect("there"), [0]);
    assert!(Mark::new(folder.path().to_owned()).read::<1>().is_err());
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

/// Counts how often somebody is told, and sends one line that is never delivered.
struct Told(Arc<Mutex<Vec<bool>>>);

impl Feed for Told {
    type Place = ();

    async fn next(&mut self) -> io::Result<Option<(Vec<u8>, ())>> {
        Ok(Some((frame(1), ())))
    }

    async fn delivered(&mut self, (): ()) -> io::Result<()> {
        Ok(())
    }

    async fn more(&mut self) {}

    fn tell(&mut self, _: &str, reached: Result<(), &str>) {
        self.0.lock().expect("nobody panicked").push(reached.is_ok());
    }
}

#[tokio::test]
async fn a_receiver_that_does_not_take_our_certificate_is_told_of_once() {
    let keys = keys();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    let receiver = Receiver::new(&address, keys.ca.as_bytes(), None).expect("settings");
    let (tell, mut heard) = mpsc::unbounded_channel();
    let told = Arc::default();
    tokio::select! {
        () = feed(&receiver, Told(Arc::clone(&told))) => {}
        () = collector(listener, &keys, tell, usize::MAX) => {}
        // Time for the first three attempts.
        () = tokio::time::sleep(Duration::from_secs(3)) => {}
    }
    assert_eq!(*told.lock().expect("nobody panicked"), [false]);
    assert!(heard.try_recv().is_err());
}
