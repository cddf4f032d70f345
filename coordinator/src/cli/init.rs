//! `coordinator init`: a consortium's CA, the server's certificate, the log's key, and a
//! certificate each for an operator and an auditor.

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use aggregation::ids::HospitalId;
use clap::Args;
use proto::cli::Failure;
use proto::identity::{PartyName, Role};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519};

use super::out::Out;
use crate::clock;
use crate::config::ServiceUrl;
use crate::identity::authority::{Authority, AuthorityError};

const DAY: Duration = Duration::from_secs(24 * 3600);
/// People renew by hand, so theirs lives longer than a site's.
const PERSON_LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);

/// Arguments of `coordinator init`.
#[derive(Debug, Args)]
pub(super) struct InitArgs {
    /// The folder to set up; nothing in it is overwritten.
    #[arg(long)]
    dir: PathBuf,
    /// The consortium's name: 1 to 63 of a-z, 0-9 and '-'.
    #[arg(long)]
    consortium: String,
    /// Where hospitals will reach the coordinator: `https://HOST:PORT`.
    #[arg(long)]
    url: String,
    /// Where the coordinator listens; by default on all addresses at the URL's port.
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<SocketAddr>,
}

/// Sets up a consortium.
pub(super) fn run(args: &InitArgs, out: Out) -> Result<(), Failure> {
    let consortium = HospitalId::new(&args.consortium).map_err(|_| {
        let found = &args.consortium;
        let message =
            format!("--consortium: expected 1 to 63 of a-z, 0-9 and '-', found {found:?}");
        Failure::usage("bad_consortium", message)
    })?;
    let url = ServiceUrl::parse(&args.url).map_err(|expected| {
        Failure::usage("bad_url", format!("--url: expected {expected}, found {:?}", args.url))
    })?;
    let listen = args.listen.unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], url.port)));
    let files = contents(&consortium, &url, listen).map_err(|fault| {
        Failure::failed("no_certificate", format!("the certificates cannot be made: {fault}"))
    })?;
    write_all(&args.dir, &files.all)?;
    let dir = args.dir.display();
    let text = format!(
        "Consortium {consortium} is set up in {dir}\n\
         CA fingerprint  {fingerprint}\n\n\
         Next:\n  \
         coordinator serve --config {dir}/coordinator.toml\n  \
         coordinator site token NAME --config {dir}/coordinator.toml    for each hospital\n\n\
         Keep {dir}/ca.key safe: whoever has it can admit anyone.",
        fingerprint = files.fingerprint,
    );
    let data = serde_json::json!({
        "consortium": consortium.as_str(),
        "dir": args.dir,
        "config": args.dir.join("coordinator.toml"),
        "ca_fingerprint": files.fingerprint,
        "url": url.text,
    });
    out.result(&data, &text)
}

struct Contents {
    fingerprint: String,
    /// Name, text, and whether it is secret.
    all: Vec<(&'static str, String, bool)>,
}

fn contents(
    consortium: &HospitalId,
    url: &ServiceUrl,
    listen: SocketAddr,
) -> Result<Contents, AuthorityError> {
    let now = clock::now();
    let (ca, ca_key) = Authority::create(consortium.as_str(), now)?;
    let server_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let server = ca.certify_server(&url.host, &server_key, 90 * DAY, now)?;
    let log_key = KeyPair::generate_for(&PKCS_ED25519)?;
    let person = |role: Role| {
        let name = HospitalId::new(role.as_str()).map_err(|_| AuthorityError::BadRequest)?;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let party = PartyName { consortium: consortium.clone(), role, name };
        let issued = ca.certify_key(&party, &key, PERSON_LIFETIME, now)?;
        Ok::<_, AuthorityError>((issued.pem, key.serialize_pem()))
    };
    let (operator, operator_key) = person(Role::Operator)?;
    let (auditor, auditor_key) = person(Role::Auditor)?;
    let config = config_text(consortium, url, listen);
    Ok(Contents {
        fingerprint: ca.fingerprint(),
        all: vec![
            ("ca.pem", ca.pem().to_owned(), false),
            ("ca.key", ca_key, true),
            ("server.pem", server.pem, false),
            ("server.key", server_key.serialize_pem(), true),
            ("log.key", log_key.serialize_pem(), true),
            ("operator.pem", operator, false),
            ("operator.key", operator_key, true),
            ("auditor.pem", auditor, false),
            ("auditor.key", auditor_key, true),
            // Last: a folder with a configuration is a complete one.
            ("coordinator.toml", config, false),
        ],
    })
}

fn config_text(consortium: &HospitalId, url: &ServiceUrl, listen: SocketAddr) -> String {
    format!(
        r#"# The coordinator of one consortium. Paths are relative to this file.
# `coordinator check` validates it; every fault is reported at once.

# Part of every certificate; cannot be changed later.
consortium = "{consortium}"
# Where hospitals and operators reach the coordinator.
url = "{url}"
# Where it listens.
listen = "{listen}"
# Database, models and uploads. An initial model that a study names by its SHA-256 is looked for
# here as initial/<sha256>.safetensors.
state = "state"
# What the log of all that happens is signed with. Whoever has it can sign another history; the
# hospitals, who cosign, notice.
log_key = "log.key"

[certificates]
ca = "ca.pem"
ca_key = "ca.key"
server = "server.pem"            # renewed by itself at two thirds of its life
server_key = "server.key"
site_lifetime = "30d"            # hospitals renew theirs by themselves
server_lifetime = "90d"

# Whom the commands `site`, `study` and `model` speak as.
[operator]
certificate = "operator.pem"
key = "operator.key"

[limits]
connections = 1024
handshakes = 64                  # under way at once
upload_idle = "30s"              # an upload that is silent for longer is given up

# Of some released rounds everything is kept that it takes to add the sum up again: the updates as
# they arrived, and the keys of the masks in them. Which ones is drawn so that nobody knows it when
# the sum is released. An auditor compares with the log (`consilium-audit recompute`).
[recompute]
share = 0.1                      # of all rounds; 0 keeps nothing
space = "16GiB"                  # all of them together; what does not fit is forgotten, and logged
retention = "1y"

# Every fact of the log, live, to a collector: RFC 5424 syslog over TLS (RFC 5425). What happens while
# it is away is told when it is back. The certificate and its key are for a collector that asks for one.
# [syslog]
# receiver = "siem.example.org:6514"
# ca = "siem-ca.pem"
# certificate = "siem-client.pem"
# key = "siem-client.key"
"#,
        url = url.text,
    )
}

fn write_all(dir: &Path, files: &[(&str, String, bool)]) -> Result<(), Failure> {
    let trouble = |path: &Path, fault: &std::io::Error| {
        Failure::failed("not_written", format!("{}: {fault}", path.display()))
    };
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|fault| trouble(dir, &fault))?;
    let there: Vec<&str> =
        files.iter().map(|(name, _, _)| *name).filter(|name| dir.join(name).exists()).collect();
    if !there.is_empty() {
        let message =
            format!("{} has {} already; nothing was written", dir.display(), there.join(", "));
        return Err(Failure::usage("already_set_up", message).hint("choose another --dir"));
    }
    files.iter().try_for_each(|(name, text, secret)| {
        let path = dir.join(name);
        create(&path, text, *secret).map_err(|fault| trouble(&path, &fault))
    })
}

/// Writes files, each with its text and whether it is secret, if none of them is there.
///
/// # Errors
/// When one is, or the disk refuses.
pub(super) fn write_new(files: &[(&Path, String, bool)]) -> Result<(), Failure> {
    if let Some((path, ..)) = files.iter().find(|(path, ..)| path.exists()) {
        let message = format!("{} is there already; nothing was written", path.display());
        return Err(Failure::usage("already_there", message).hint("choose another --out"));
    }
    for (place, (path, text, secret)) in files.iter().enumerate() {
        if let Err(fault) = create(path, text, *secret) {
            // A key without its certificate would stand in the way of the next attempt. What cannot be
            // removed either is named then.
            let ours = fault.kind() != std::io::ErrorKind::AlreadyExists;
            for (written, ..) in &files[..place + usize::from(ours)] {
                let _ = fs::remove_file(written);
            }
            let message = format!("{}: {fault}", path.display());
            return Err(Failure::failed("not_written", message));
        }
    }
    Ok(())
}

fn create(path: &Path, text: &str, secret: bool) -> std::io::Result<()> {
    let mode = if secret { 0o600 } else { 0o644 };
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all())
}

/// A consortium in a folder, for tests of other commands.
#[cfg(test)]
pub(super) fn set_up(dir: &Path) {
    let url = "https://localhost:8443".to_owned();
    let args = InitArgs { dir: dir.to_owned(), consortium: "north".to_owned(), url, listen: None };
    run(&args, Out::new(proto::cli::Format::Json)).expect("set up");
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use proto::cli::{Exit, Format};

    use super::*;
    use crate::config::Config;

    fn args(dir: &Path) -> InitArgs {
        InitArgs {
            dir: dir.to_owned(),
            consortium: "north".to_owned(),
            url: "https://localhost:8443".to_owned(),
            listen: None,
        }
    }

    #[test]
    fn what_it_writes_can_be_read_and_keys_only_by_their_owner() {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path().join("consortium");
        set_up(&dir);
        let config = Config::load(&dir.join("coordinator.toml")).expect("a valid configuration");
        Authority::load(&config.certificates.ca, &config.certificates.ca_key).expect("a CA");
        for key in ["ca.key", "server.key", "log.key", "operator.key", "auditor.key"] {
            let mode = fs::metadata(dir.join(key)).expect("there").permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{key}");
        }
    }

    #[test]
    fn nothing_is_overwritten() {
        let folder = tempfile::tempdir().expect("a folder");
        run(&args(folder.path()), Out::new(Format::Json)).expect("set up");
        let before = fs::read(folder.path().join("ca.key")).expect("there");
        let refused = run(&args(folder.path()), Out::new(Format::Json)).expect_err("set up before");
        assert_eq!((refused.exit, refused.code), (Exit::Usage, "already_set_up"));
        assert_eq!(fs::read(folder.path().join("ca.key")).expect("there"), before);
    }
}
