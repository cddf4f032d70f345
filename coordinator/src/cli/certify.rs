//! `coordinator certify`: another certificate for an operator or an auditor, before theirs ends or for one
//! more of them. Made from the CA's files alone, whether or not the coordinator runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aggregation::ids::HospitalId;
use clap::{Args, ValueEnum};
use proto::cli::Failure;
use proto::identity::{PartyName, Role};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls_pki_types::CertificateSigningRequestDer;
use rustls_pki_types::pem::PemObject as _;

use super::init::write_new;
use super::link;
use super::out::Out;
use crate::clock;
use crate::identity::authority::{Authority, AuthorityError, fingerprint_text};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// For whom a certificate can be made.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum For {
    /// Runs the consortium: admits hospitals, runs studies, exports models.
    Operator,
    /// Reads what happened; gets no models.
    Auditor,
}

/// Arguments of `coordinator certify`.
#[derive(Debug, Args)]
pub(super) struct CertifyArgs {
    /// For whom.
    #[arg(long, value_enum)]
    role: For,
    /// The file to write it to; nothing is overwritten. Its key is put beside it, as `.key`.
    #[arg(long, value_name = "FILE.pem")]
    out: PathBuf,
    /// A certificate request (PKCS #10, PEM): whoever made it keeps the key, and none is made here.
    #[arg(long, value_name = "FILE")]
    request: Option<PathBuf>,
    /// Days until it ends.
    #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=3_660))]
    days: u32,
}

/// Makes a certificate.
pub(super) fn run(args: &CertifyArgs, config: &Path, out: Out) -> Result<(), Failure> {
    let config = link::config(config)?;
    let no_ca = |fault: &AuthorityError| Failure::usage("bad_files", fault.to_string());
    let ca = Authority::load(&config.certificates.ca, &config.certificates.ca_key)
        .map_err(|fault| no_ca(&fault))?;
    let role = match args.role {
        For::Operator => Role::Operator,
        For::Auditor => Role::Auditor,
    };
    let not_made = |fault: &dyn std::fmt::Display| {
        Failure::failed("no_certificate", format!("the certificate cannot be made: {fault}"))
    };
    let name = |text: &str| HospitalId::new(text).map_err(|fault| not_made(&fault));
    let party =
        PartyName { consortium: name(&config.consortium)?, role, name: name(role.as_str())? };
    let (lifetime, now) = (DAY * args.days, clock::now());
    let key_file = args.out.with_extension("key");
    if args.request.is_none() && key_file == args.out {
        let message = format!(
            "--out: expected a name that does not end in .key, found {}",
            key_file.display()
        );
        return Err(
            Failure::usage("bad_out", message).hint("the key is put beside it, under that name")
        );
    }
    let (issued, key) = match &args.request {
        Some(file) => {
            let request = request(file)?;
            let issued = ca.certify_request(&party, &request, lifetime, now);
            (issued.map_err(|_| not_a_request(file))?, None)
        }
        None => {
            let key =
                KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|fault| not_made(&fault))?;
            let issued = ca.certify_key(&party, &key, lifetime, now);
            (issued.map_err(|fault| not_made(&fault))?, Some(key))
        }
    };
    let mut files = vec![(args.out.as_path(), issued.pem.clone(), false)];
    if let Some(key) = &key {
        // The key first: a certificate without one is of no use.
        files.insert(0, (key_file.as_path(), key.serialize_pem(), true));
    }
    write_new(&files)?;
    let (fingerprint, ends) = (fingerprint_text(issued.fingerprint), issued.ends.to_string());
    let data = serde_json::json!({
        "role": role.as_str(),
        "certificate": args.out,
        "key": key.map(|_| &key_file),
        "fingerprint": fingerprint,
        "ends": ends,
    });
    let text = format!("{}\nfingerprint  {fingerprint}\nends         {ends}", args.out.display());
    out.result(&data, &text)
}

fn request(file: &Path) -> Result<Vec<u8>, Failure> {
    let text = fs::read(file)
        .map_err(|fault| Failure::usage("bad_request", format!("{}: {fault}", file.display())))?;
    let request = CertificateSigningRequestDer::from_pem_slice(&text);
    request.map(|der| der.to_vec()).map_err(|_| not_a_request(file))
}

fn not_a_request(file: &Path) -> Failure {
    let file = file.display();
    Failure::usage(
        "bad_request",
        format!("{file}: expected a certificate request in PEM, signed by its own key"),
    )
    .hint(
        "openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=auditor \
         -keyout auditor.key -out auditor.csr",
    )
}

#[cfg(test)]
mod tests {
    use proto::cli::{Exit, Format};
    use rcgen::{CertificateParams, PublicKeyData as _};

    use super::*;
    use crate::cli::init;

    #[test]
    fn a_certificate_is_made_with_a_key_or_for_one_that_stays_where_it_is() {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path().join("council");
        init::set_up(&dir);
        let config = dir.join("coordinator.toml");
        let at = |name: &str| folder.path().join(name);
        let args = |out: &str, request: Option<&str>| CertifyArgs {
            role: For::Auditor,
            out: at(out),
            request: request.map(at),
            days: 30,
        };
        let issue = |args: &CertifyArgs| run(args, &config, Out::new(Format::Json));
        issue(&args("one.pem", None)).expect("made");
        let subject = |name: &str| {
            let pem = fs::read(at(name)).expect("written");
            let (_, pem) = x509_parser::pem::parse_x509_pem(&pem).expect("PEM");
            let certificate = pem.parse_x509().expect("a certificate");
            let days = certificate.validity().time_to_expiration().expect("valid").whole_days();
            (certificate.public_key().raw.to_vec(), days)
        };
        assert!((29..=30).contains(&subject("one.pem").1));
        assert!(fs::read_to_string(at("one.key")).expect("written").contains("PRIVATE KEY"));
        // Nothing is overwritten, and nothing is left half done.
        let again = issue(&args("one.pem", None)).expect_err("there is one");
        assert_eq!((again.exit, again.code), (Exit::Usage, "already_there"));

        // A key of that name would be in its certificate's place.
        let wrong = issue(&args("two.key", None)).expect_err("no name for a certificate");
        assert_eq!((wrong.exit, wrong.code), (Exit::Usage, "bad_out"));
        assert!(!at("two.key").exists());

        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
        let request = CertificateParams::new(Vec::new()).expect("no names");
        let request = request.serialize_request(&key).expect("signed").pem().expect("PEM");
        fs::write(at("their.csr"), request).expect("written");
        issue(&args("their.pem", Some("their.csr"))).expect("made");
        assert_eq!(subject("their.pem").0, key.subject_public_key_info());
        assert!(!at("their.key").exists());
        let wrong = issue(&args("wrong.pem", Some("one.pem"))).expect_err("no request");
        assert_eq!((wrong.exit, wrong.code), (Exit::Usage, "bad_request"));
        assert!(!at("wrong.pem").exists());
    }
}
