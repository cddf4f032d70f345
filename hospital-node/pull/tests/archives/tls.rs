//! Over TLS: only the archive that this house believes, and, where it asks, with our certificate.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hospital_pull::dimse::Dimse;
use hospital_pull::fault::Fault;
use hospital_pull::job::Proxy;
use hospital_pull::pull::PullError;
use hospital_pull::trust::Trust;
use hospital_pull::web::Web;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::held::contents;
use crate::house::{ALL, PATIENCE, pull_once};
use crate::{scp, server};

/// An authority, the archive's certificate and ours.
struct Paper {
    ca: PathBuf,
    client: (PathBuf, PathBuf),
    config: Arc<ServerConfig>,
}

fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt as _;
    let path = folder.join(name);
    std::fs::write(&path, text).expect("written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("set");
    path
}

fn paper(folder: &Path, asks: bool) -> Paper {
    let key = || KeyPair::generate().expect("a key");
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, key()).expect("an authority");
    let signed = |names: Vec<String>| {
        let own = key();
        let params = CertificateParams::new(names).expect("names");
        (params.signed_by(&own, &issuer).expect("signed").pem(), own.serialize_pem())
    };
    let (archive, archive_key) = signed(vec!["127.0.0.1".to_owned()]);
    let (ours, our_key) = signed(vec!["us".to_owned()]);
    let ca = CertificateDer::from_pem_slice(issuer.pem().as_bytes()).expect("PEM");
    let mut roots = RootCertStore::empty();
    roots.add(ca).expect("an authority");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("versions");
    let builder = if asks {
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        builder.with_client_cert_verifier(verifier.build().expect("a verifier"))
    } else {
        builder.with_no_client_auth()
    };
    let chain = vec![CertificateDer::from_pem_slice(archive.as_bytes()).expect("PEM")];
    let key = PrivateKeyDer::from_pem_slice(archive_key.as_bytes()).expect("PEM");
    Paper {
        ca: write(folder, "ca.pem", &issuer.pem()),
        client: (write(folder, "us.pem", &ours), write(folder, "us.key", &our_key)),
        config: Arc::new(builder.with_single_cert(chain, key).expect("a pair")),
    }
}

/// What came of a pull each way.
fn both(config: &Arc<ServerConfig>, trust: &Trust) -> [Result<usize, Fault>; 2] {
    let fetched = |archive: &mut dyn hospital_pull::archive::Archive| {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        match pull_once(archive, scratch.path(), ALL) {
            Ok(report) => Ok(report.fetched),
            Err(PullError::Archive(fault)) => Err(fault),
            Err(PullError::Store(error)) => Err(Fault::Disk(error.to_string())),
        }
    };
    let tls = Some(Arc::clone(config));
    let (port, _) = server::serve_over(tls.clone(), contents(), server::Manner::Good);
    let base = format!("https://127.0.0.1:{port}/dicom-web");
    let mut web = Web::new(&base, Some(trust), None, &Proxy::Direct, PATIENCE).expect("a way");
    let (port, _) = scp::serve_over(tls, contents(), scp::Manner::Good);
    let own = Some(trust.config().expect("a configuration"));
    let [host, called, calling] = ["127.0.0.1", "ARCHIVE", "US"].map(str::to_owned);
    let mut dimse = Dimse::new(host, port, own, called, calling, PATIENCE);
    [fetched(&mut web), fetched(&mut dimse)]
}

#[test]
fn the_archive_that_this_house_believes_is_spoken_with() {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let paper = paper(scratch.path(), false);
    let trust = Trust::load(Some(&paper.ca), None).expect("trust");
    assert_eq!(both(&paper.config, &trust), [Ok(12), Ok(12)]);
}

#[test]
fn another_one_is_told_nothing() {
    let [scratch, other] = [(); 2].map(|()| tempfile::tempdir().expect("a scratch folder"));
    let own = paper(scratch.path(), false);
    let trust = Trust::load(Some(&paper(other.path(), false).ca), None).expect("trust");
    for found in both(&own.config, &trust) {
        let text = "its certificate is of nobody whom this house believes (see ca)";
        assert_eq!(found, Err(Fault::Unreachable(text.to_owned())));
    }
}

#[test]
fn an_archive_that_asks_for_a_certificate_is_shown_ours() {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let paper = paper(scratch.path(), true);
    let (chain, key) = &paper.client;
    let trust = Trust::load(Some(&paper.ca), Some((chain, key))).expect("trust");
    assert_eq!(both(&paper.config, &trust), [Ok(12), Ok(12)]);
    let without = Trust::load(Some(&paper.ca), None).expect("trust");
    for found in both(&paper.config, &without) {
        assert!(found.is_err(), "{found:?}");
    }
}

#[test]
fn files_that_are_no_certificates_or_that_others_may_read_are_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let paper = paper(scratch.path(), false);
    let (chain, key) = &paper.client;
    assert!(Trust::load(Some(key), None).is_err());
    assert!(Trust::load(Some(&paper.ca), Some((chain, chain))).is_err());
    assert!(Trust::load(Some(&scratch.path().join("none")), None).is_err());
    std::fs::set_permissions(key, std::fs::Permissions::from_mode(0o644)).expect("set");
    let error = Trust::load(Some(&paper.ca), Some((chain, key))).expect_err("refused");
    assert!(error.contains("mode 644"), "{error}");
}

#[test]
fn a_certificate_without_its_key_or_of_no_use_is_told_before_anything_is_sent() {
    let [scratch, other] = [(); 2].map(|()| tempfile::tempdir().expect("a scratch folder"));
    let (own, theirs) = (paper(scratch.path(), true), paper(other.path(), true));
    let pair = Trust::load(Some(&own.ca), Some((&own.client.0, &theirs.client.1)));
    // What is between the marks is no certificate.
    let text = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let nobody = Trust::load(Some(&write(scratch.path(), "none.pem", text)), None);
    for (trust, expected) in
        [(pair, "the client certificate"), (nobody, "a usable certificate to believe")]
    {
        let trust = trust.expect("each by itself is in order");
        let web = Web::new("https://127.0.0.1:1/", Some(&trust), None, &Proxy::Direct, PATIENCE);
        for error in [web.err(), trust.config().err()] {
            let error = error.expect("refused");
            assert!(error.contains(expected), "{error}");
        }
    }
}
