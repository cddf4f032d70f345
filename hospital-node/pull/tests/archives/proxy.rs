//! Through the hospital's proxy, by CONNECT, and what happens where it is of another kind.

use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use hospital_pull::fault::Fault;
use hospital_pull::job::Proxy;
use hospital_pull::pull::PullError;
use hospital_pull::web::Web;

use crate::held::contents;
use crate::house::{PATIENCE, SECRET, pull_once};
use crate::server::{Manner, serve};

/// A proxy that passes on or refuses; its address, and the first lines that it was sent.
fn proxy(passes: bool) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = format!("http://{}", listener.local_addr().expect("an address"));
    let told = Arc::<Mutex<Vec<String>>>::default();
    let lines = Arc::clone(&told);
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let lines = Arc::clone(&lines);
            // One that has gone away is no concern of ours.
            std::thread::spawn(move || relay(client, passes, &lines));
        }
    });
    (address, told)
}

fn relay(client: TcpStream, passes: bool, lines: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let mut line = String::from("headers");
    while !line.trim_end().is_empty() {
        line.clear();
        reader.read_line(&mut line)?;
    }
    let to = first.split(' ').nth(1).unwrap_or_default().to_owned();
    lines.lock().unwrap_or_else(PoisonError::into_inner).push(first.trim_end().to_owned());
    let mut client = client;
    if !passes {
        return client.write_all(b"HTTP/1.1 403 CANARY\r\n\r\n");
    }
    let mut server = TcpStream::connect(to)?;
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
    let (mut back, mut forth) = (server.try_clone()?, client.try_clone()?);
    std::thread::spawn(move || pump(&mut back, &mut forth));
    pump(&mut reader, &mut server);
    Ok(())
}

fn pump(from: &mut impl Read, to: &mut TcpStream) {
    let _ = std::io::copy(from, to);
    let _ = to.shutdown(std::net::Shutdown::Both);
}

#[test]
fn everything_goes_through_the_proxy_that_is_named() {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let (base, _) = serve(contents(), Manner::Good);
    let (address, lines) = proxy(true);
    let mut web =
        Web::new(&base, None, None, &Proxy::Url(address), PATIENCE).expect("a connection");
    let report = pull_once(&mut web, scratch.path(), "modality = \"CR\"").expect("a report");
    assert_eq!(report.fetched, 12);
    let lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
    let there = base.trim_start_matches("http://").split('/').next().expect("an address");
    let expected = format!("CONNECT {there} HTTP/1.1");
    assert!(!lines.is_empty() && lines.iter().all(|line| *line == expected), "{lines:?}");
}

#[test]
fn a_proxy_that_refuses_is_told_from_an_archive_that_does() {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let (base, asked) = serve(contents(), Manner::Good);
    let (address, _) = proxy(false);
    let mut web = Web::new(&base, None, None, &Proxy::Url(address), PATIENCE).expect("a way");
    let ended = pull_once(&mut web, scratch.path(), "modality = \"CR\"");
    let expected = "the proxy does not let us through";
    assert!(
        matches!(&ended, Err(PullError::Archive(Fault::Unreachable(text))) if text == expected),
        "{ended:?}"
    );
    assert_eq!(asked.about("studies"), 0);
}

/// The program with such words on proxies in its environment; what it said, and its exit code.
fn program(from: &str, into: &Path, variables: &[(&str, &str)]) -> (String, Option<i32>) {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let secret = scratch.path().join("secret");
    std::fs::write(&secret, SECRET).expect("written");
    let job = format!(
        "name = \"test\"\nbase = \"/\"\nsecret = {secret:?}\n[pull]\nproxy = \"auto\"\n\
         from = {from:?}\ninto = {into:?}\nmodality = \"CR\"\n"
    );
    let mut child = Command::new(env!("CARGO_BIN_EXE_hospital-pull"))
        .env_clear()
        .env("ALL_PROXY", "socks5://127.0.0.1:1")
        .envs(variables.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program");
    child.stdin.take().expect("a pipe").write_all(job.as_bytes()).expect("a job");
    let ended = child.wait_with_output().expect("an end");
    (String::from_utf8_lossy(&ended.stderr).into_owned(), ended.status.code())
}

#[test]
fn a_proxy_that_we_cannot_speak_with_is_a_fault_of_the_configuration() {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let into = scratch.path().join("set");
    let (said, code) = program("https://pacs.hospital.invalid/", &into, &[]);
    assert_eq!(code, Some(4), "{said}");
    assert!(said.contains("found SOCKS"), "{said}");
    assert!(!into.exists(), "nothing was begun");
}

#[test]
fn socks_in_the_environment_is_no_fault_where_it_is_not_used() {
    let (base, _) = serve(contents(), Manner::Good);
    let (http, lines) = proxy(true);
    for (variables, is_through) in [
        ([("NO_PROXY", "other.invalid,127.0.0.1"), ("HTTPS_PROXY", "socks5://127.0.0.1:1")], false),
        ([("HTTPS_PROXY", http.as_str()), ("NO_PROXY", "other.invalid")], true),
        ([("HTTPS_PROXY", "socks5://127.0.0.1:1"), ("http_proxy", http.as_str())], true),
    ] {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let (said, code) = program(&base, &scratch.path().join("set"), &variables);
        assert_eq!(code, Some(0), "{variables:?}: {said}");
        let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
        assert_eq!(!lines.is_empty(), is_through, "{variables:?}");
        lines.clear();
    }
}
