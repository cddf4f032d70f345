//! `coordinator log rotate`: another key for a log that goes on.

use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::path::Path;

use aggregation::ids::HospitalId;
use proto::cli::Failure;
use rcgen::{KeyPair, PKCS_ED25519};
use transparency::folder::{Folder, rotate};

use super::super::link;
use super::super::out::Out;
use crate::log::{origin, signer};

/// Signs the log of a coordinator that does not run with another key, and says what comes next. After
/// a crash it is typed again.
pub(super) fn run(config: &Path, new_key: &Path, out: Out) -> Result<(), Failure> {
    let config = link::config(config)?;
    let consortium = HospitalId::new(&config.consortium)
        .map_err(|fault| Failure::usage("bad_config", fault.to_string()))?;
    let origin = origin(&consortium);
    let bad_key = |fault: &dyn std::fmt::Display| Failure::usage("bad_key", fault.to_string());
    let old = signer(&config.log_key, &origin).map_err(|fault| bad_key(&fault))?.key();
    make(new_key)?;
    let new = signer(new_key, &origin).map_err(|fault| bad_key(&fault))?;
    if new.key() == old {
        let message = format!("--new-key: expected another key than the log has, found {old}");
        return Err(Failure::usage("bad_key", message));
    }
    let folder = config.state.join("log");
    let failed = |fault: &dyn std::error::Error| {
        let cause = fault.source().map(|cause| format!(": {cause}")).unwrap_or_default();
        Failure::failed("not_rotated", format!("{}: {fault}{cause}", folder.display()))
            .hint("stop the coordinator first; nothing is lost")
    };
    let disk = Folder::open(&folder).map_err(|fault| failed(&fault))?;
    let head = rotate(disk, &old, &new).map_err(|fault| failed(&fault))?;
    let data = serde_json::json!({
        "old_key": old.to_string(),
        "new_key": new.key().to_string(),
        "size": head.size,
    });
    let text = format!(
        "The log of {} entries is signed with the new key.\n\n  old  {old}\n  new  {}\n\n\
         Next, and before the coordinator is started:\n  \
         set log_key in its configuration to {}\n  \
         tell every hospital the new key by a way that does not lead through this machine: its\n  \
         administrator writes it as the first line of witness.log in the state folder, above the old\n  \
         one, while the node is stopped; a node that meets it before that raises an alarm\n\n\
         Auditors get a new policy file (`coordinator log policy`); one that keeps checkpoints from\n\
         before adds a second line: log {old}",
        head.size,
        new.key(),
        new_key.display(),
    );
    out.result(&data, &text)
}

/// Makes the key where it is not there. It has its name only once it is whole and durable: a key that a
/// power cut has eaten, or half of one, could never sign the log again.
fn make(path: &Path) -> Result<(), Failure> {
    let not_made = |fault: &dyn std::fmt::Display| {
        Failure::failed("not_written", format!("{}: {fault}", path.display()))
    };
    if path.try_exists().map_err(|fault| not_made(&fault))? {
        return Ok(());
    }
    let key = KeyPair::generate_for(&PKCS_ED25519).map_err(|fault| not_made(&fault))?;
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        Some(_) | None => Path::new("."),
    };
    let write = || {
        let mut beside = tempfile::Builder::new().prefix(".log-key").tempfile_in(folder)?;
        beside.write_all(key.serialize_pem().as_bytes())?;
        beside.as_file().sync_all()?;
        match beside.persist_noclobber(path) {
            Err(fault) if fault.error.kind() != ErrorKind::AlreadyExists => return Err(fault.error),
            Ok(_) | Err(_) => {}
        }
        File::open(folder)?.sync_all()
    };
    write().map_err(|fault| not_made(&fault))
}
