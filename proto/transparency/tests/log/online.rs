//! The program reads a log behind HTTPS: from a server on loopback that behaves, and from servers
//! that do not.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::thread;

use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use transparency::folder::Folder;

use crate::fixture::{build, policy};
use crate::program::Desk;
use crate::story::{SITES, Story};

/// How a server answers.
#[derive(Clone, Copy)]
enum Manner {
    /// With the file, or 404.
    Honest,
    /// With more bytes than any file of a log has, and no end.
    Endless,
    /// With a redirect to a place that would answer.
    Redirecting,
    /// With an error.
    Broken,
    /// With an error, when it is asked for this file.
    BrokenAt(&'static str),
}

/// A server with a certificate of its own; gives its port. It lives as long as the test program.
fn serve(root: &Path, manner: Manner, ca: &Path) -> u16 {
    serve_to(root, manner, ca, None)
}

/// The same; with `clients` only whoever has a certificate that these vouch for is let in.
fn serve_to(root: &Path, manner: Manner, ca: &Path, clients: Option<RootCertStore>) -> u16 {
    let key = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a key");
    fs::write(ca, key.cert.pem()).expect("written");
    let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("versions that ring has");
    let asking = match clients {
        None => versions.with_no_client_auth(),
        Some(roots) => {
            let roots = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            versions.with_client_cert_verifier(roots.build().expect("a certificate to believe"))
        }
    };
    let config = asking
        .with_single_cert(vec![key.cert.der().clone()], private)
        .expect("its own certificate");
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let root = root.to_owned();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (config, root) = (Arc::clone(&config), root.clone());
            thread::spawn(move || converse(stream, config, &root, manner));
        }
    });
    port
}

/// Answers questions until the other side hangs up.
fn converse(stream: TcpStream, config: Arc<ServerConfig>, root: &Path, manner: Manner) {
    let Ok(session) = ServerConnection::new(config) else { return };
    let mut stream = BufReader::new(StreamOwned::new(session, stream));
    loop {
        let mut path = None;
        loop {
            let mut line = String::new();
            if !matches!(stream.read_line(&mut line), Ok(1..)) {
                return;
            }
            if let Some(rest) = line.strip_prefix("GET /log/") {
                path = rest.split(' ').next().map(ToOwned::to_owned);
            }
            if line == "\r\n" {
                break;
            }
        }
        let out = stream.get_mut();
        let manner = if let Manner::BrokenAt(file) = manner {
            if path.as_deref() == Some(file) { Manner::Broken } else { Manner::Honest }
        } else {
            manner
        };
        let file = path.and_then(|path| fs::read(root.join(path)).ok());
        let answered = match (manner, file) {
            (Manner::Honest, Some(bytes)) => {
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", bytes.len());
                out.write_all(head.as_bytes()).and_then(|()| out.write_all(&bytes))
            }
            (Manner::Honest, None) => {
                out.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            }
            (Manner::Endless, _) => {
                let _ = out.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
                while out.write_all(&[b'x'; 4096]).is_ok() {}
                return;
            }
            (Manner::Redirecting, _) => out.write_all(
                b"HTTP/1.1 302 Found\r\nLocation: /log/checkpoint\r\nContent-Length: 0\r\n\r\n",
            ),
            (Manner::Broken | Manner::BrokenAt(_), _) => out
                .write_all(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 4\r\n\r\noops"),
        };
        if answered.and_then(|()| out.flush()).is_err() {
            return;
        }
    }
}

fn served(manner: Manner) -> (Desk, String) {
    let desk = Desk::new();
    let port = serve(&desk.at("log"), manner, &desk.at("ca.pem"));
    let open = format!("--log https://localhost:{port}/log/ --ca ca.pem --policy policy");
    (desk, open)
}

#[test]
fn a_log_behind_https_is_verified_and_read() {
    let (desk, open) = served(Manner::Honest);
    let verified = desk.run(&format!("verify {open} --since kept"));
    assert_eq!(verified.code, Some(0), "{}{}", verified.out, verified.err);
    assert!(verified.out.contains("this source cannot list its files"), "{}", verified.out);
    let shown = desk.run(&format!("show {open} --index 599 --format json"));
    assert_eq!(shown.json()["data"]["entries"][0]["index"], 599, "{}", shown.err);
    let found = desk.run(&format!("search {open} --kind round_announced --where round=7"));
    assert_eq!((found.code, found.out.lines().count()), (Some(0), 1), "{}", found.err);
    let proven = desk.run(&format!("prove {open} --index 333 --out receipt"));
    assert_eq!(proven.code, Some(0), "{}", proven.err);
    assert_eq!(desk.run("verify-proof --proof receipt --policy policy").code, Some(0));
    desk.flip("log/tile/0/001");
    let tampered = desk.run(&format!("verify {open}"));
    assert_eq!(tampered.code, Some(1));
    assert!(tampered.err.starts_with("error: tile/0/001: "), "{}", tampered.err);
}

#[test]
fn a_report_can_be_made_from_afar() {
    let desk = Desk::bare();
    let story = Story::new("radiographs", SITES[4]);
    let size = story.leaves.len();
    let at = |number: u64| story.leaves[usize::try_from(number).expect("few")].clone();
    build(Folder::create(&desk.at("log")).expect("made"), &[size as u64], at);
    fs::write(desk.at("policy"), policy(2).to_string()).expect("written");
    let port = serve(&desk.at("log"), Manner::Honest, &desk.at("ca.pem"));
    let open = format!("--log https://localhost:{port}/log --ca ca.pem --policy policy");
    let made = desk.run(&format!("report {open} --study radiographs --out far.html"));
    assert_eq!(made.code, Some(0), "{}", made.err);
    let near = "report --log log --policy policy --study radiographs --out near.html";
    assert_eq!(desk.run(near).code, Some(0));
    let page = |name: &str| fs::read_to_string(desk.at(name)).expect("written");
    assert_eq!(page("far.html"), page("near.html"));
}

#[test]
fn a_server_that_does_not_behave_gets_nowhere() {
    for (manner, said, code) in [
        (Manner::Endless, "at most", 1),
        (Manner::Redirecting, "found 302", 2),
        (Manner::Broken, "found 500", 2),
    ] {
        let (desk, open) = served(manner);
        let refused = desk.run(&format!("verify {open}"));
        assert_eq!(refused.code, Some(code), "{}", refused.out);
        assert!(refused.err.contains(said), "{}", refused.err);
    }
}

#[test]
fn a_server_that_fails_after_a_forgery_was_found_takes_nothing_back() {
    let (desk, open) = served(Manner::BrokenAt("tile/entries/002.p/88"));
    let line = format!("verify {open} --format json");
    let unread = desk.run(&line);
    let code = &unread.json()["error_code"];
    assert_eq!((unread.code, code), (Some(2), &"not_reached".into()), "{}", unread.err);
    desk.flip("log/tile/0/001");
    let forged = desk.run(&line);
    let code = &forged.json()["error_code"];
    assert_eq!((forged.code, code), (Some(1), &"verification_failed".into()), "{}", forged.err);
    assert!(forged.err.starts_with("error: tile/0/001: "), "{}", forged.err);
    let not_checked = forged.json()["data"]["not_checked"].to_string();
    assert!(not_checked.contains("tile/entries/002.p/88: expected to read it"), "{not_checked}");
    assert!(not_checked.contains("found 500"), "{not_checked}");
}

#[test]
fn a_server_of_another_authority_is_not_asked() {
    let (desk, open) = served(Manner::Honest);
    let public = desk.run(&format!("verify {}", open.replace("--ca ca.pem", "")));
    assert_eq!(public.code, Some(2), "{}", public.out);
    assert!(public.err.contains("certificate"), "{}", public.err);
    assert!(public.err.contains("hint: --ca names"), "{}", public.err);
    let plain = desk.run(&format!("verify {}", open.replace("https", "http")));
    assert_eq!(plain.code, Some(4), "{}", plain.err);
}

#[test]
fn a_client_certificate_with_the_key_of_another_is_a_wrong_argument() {
    let (desk, open) = served(Manner::Honest);
    for name in ["one", "other"] {
        let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).expect("a key");
        fs::write(desk.at(&format!("{name}.pem")), made.cert.pem()).expect("written");
        let key = made.signing_key.serialize_pem();
        fs::write(desk.at(&format!("{name}.key")), key).expect("written");
    }
    let line = format!("verify {open} --format json --client-cert one.pem --client-key");
    let wrong = desk.run(&format!("{line} other.key"));
    assert_eq!((wrong.code, wrong.err.lines().count()), (Some(4), 1), "{}", wrong.err);
    assert_eq!(wrong.json()["status"], "error");
    assert!(wrong.err.contains("expected the key of --client-cert"), "{}", wrong.err);
    assert_eq!(desk.run(&format!("{line} one.key")).code, Some(0));
}

#[test]
fn a_log_that_was_not_reached_does_not_look_forged() {
    let desk = Desk::new();
    let made = rcgen::generate_simple_self_signed(vec!["one".to_owned()]).expect("a key");
    let mut clients = RootCertStore::empty();
    clients.add(made.cert.der().clone()).expect("a certificate");
    let port = serve_to(&desk.at("log"), Manner::Honest, &desk.at("ca.pem"), Some(clients));
    let free = TcpListener::bind("127.0.0.1:0").expect("a port");
    let nobody = free.local_addr().expect("bound").port();
    drop(free);
    for (address, hint) in [
        (format!("localhost:{port}/log"), "--client-cert"),
        (format!("localhost:{nobody}/log"), "is the address that of the log"),
        (format!("nowhere.invalid:{port}/log"), "is the address that of the log"),
    ] {
        let line = format!("verify --log https://{address} --ca ca.pem --policy policy");
        let refused = desk.run(&format!("{line} --format json"));
        let code = &refused.json()["error_code"];
        assert_eq!((refused.code, code), (Some(2), &"not_reached".into()), "{}", refused.err);
        assert!(refused.err.lines().nth(1).is_some_and(|it| it.contains(hint)), "{}", refused.err);
        assert!(!refused.err.contains("docs.rs"), "{}", refused.err);
    }
    // Served, and not the log.
    let port = serve(&desk.at("log"), Manner::Honest, &desk.at("ca.pem"));
    let open = format!("--log https://localhost:{port} --ca ca.pem --policy policy");
    let missing = desk.run(&format!("verify {open}"));
    assert_eq!(missing.code, Some(2), "{}", missing.err);
    assert!(missing.err.contains("ends in /log?"), "{}", missing.err);
}
