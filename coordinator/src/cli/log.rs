//! `coordinator log`: how far the log is, and the policy file with which others verify it.

mod rotation;

use std::path::PathBuf;

use aggregation::ids::{Digest, HospitalId};
use aggregation::keys::identity::{IdentityKey, Signature};
use aggregation::keys::witness::WitnessKey;
use clap::Subcommand;
use proto::cli::Failure;
use proto::federation as wire;
use serde::Serialize;
use transparency::checkpoint::SignedCheckpoint;
use transparency::cosignature::CosignerKey;
use transparency::note::VerifierKey;
use transparency::policy::Policy;

use super::link::{answer, operator};
use super::out::{Out, table};
use crate::identity::authority::fingerprint_text;

/// What can be asked of the log.
#[derive(Debug, Subcommand)]
pub(super) enum LogCommand {
    /// How far it is, and which hospitals have cosigned how much of it.
    Status,
    /// The policy file for `consilium-audit --policy`: the log's key, the hospitals' cosigning keys,
    /// and how many of them must have cosigned.
    Policy {
        /// Where to write it; on standard output if not given.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// Of how many hospitals a cosignature is asked; most of them if not given.
        #[arg(long, value_name = "N")]
        quorum: Option<usize>,
    },
    /// Sign the log with another key from now on, while the coordinator is stopped. Hospitals and
    /// auditors have to be told the new key by hand: to them it is an alarm otherwise.
    Rotate {
        /// The new key; it is made if it is not there.
        #[arg(long, value_name = "FILE")]
        new_key: PathBuf,
    },
}

/// Asks, and shows.
pub(super) async fn run(
    command: LogCommand,
    config: &std::path::Path,
    out: Out,
) -> Result<(), Failure> {
    match command {
        LogCommand::Status => {
            let view = ask(config).await?;
            let shown = view.shown();
            let rows: Vec<Vec<String>> = shown.witnesses.iter().map(ShownWitness::row).collect();
            let mut text = view.warnings();
            text += &format!(
                "log         {}\nfacts       {}\nsigned      {}\npublished   {}, cosigned by {} (asked for: {})\n\n",
                shown.key, shown.facts, shown.signed, shown.published, shown.cosigned, shown.quorum
            );
            text += &table(&["SITE", "COSIGNED", "CONNECTED", "IDENTITY", "KEY"], &rows);
            out.result(&shown, &text)
        }
        LogCommand::Policy { out: file, quorum } => {
            let text = ask(config).await?.policy(quorum)?;
            let data = serde_json::json!({ "policy": text, "file": file });
            match file {
                Some(file) => {
                    std::fs::write(&file, &text).map_err(|fault| {
                        Failure::failed("not_written", format!("{}: {fault}", file.display()))
                    })?;
                    let said = format!(
                        "{}: give it to auditors, who compare its keys with the hospitals'",
                        file.display()
                    );
                    out.result(&data, &said)
                }
                None => out.result(&data, &text),
            }
        }
        LogCommand::Rotate { new_key } => rotation::run(config, &new_key, out),
    }
}

/// What the running coordinator says of its log.
async fn ask(config: &std::path::Path) -> Result<Log, Failure> {
    let mut operator = operator(config).await?;
    Log::read(answer(operator.show_log(wire::ShowLogRequest {})).await?)
}

/// A site that cosigns, and whose key is known to be its own.
struct Witness {
    site: HospitalId,
    key: CosignerKey,
    identity: IdentityKey,
    size: u64,
    connected: bool,
}

/// What the coordinator said of its log, checked as far as it can be.
pub(super) struct Log {
    key: VerifierKey,
    facts: u64,
    signed: SignedCheckpoint,
    published: SignedCheckpoint,
    quorum: usize,
    witnesses: Vec<Witness>,
    unannounced: Vec<HospitalId>,
    alarm: Option<String>,
}

#[derive(Serialize)]
struct ShownWitness {
    site: String,
    key: String,
    identity_fingerprint: String,
    cosigned: u64,
    connected: bool,
}

impl ShownWitness {
    fn row(&self) -> Vec<String> {
        let connected = if self.connected { "yes" } else { "no" };
        vec![
            self.site.clone(),
            self.cosigned.to_string(),
            connected.to_owned(),
            self.identity_fingerprint.clone(),
            self.key.clone(),
        ]
    }
}

#[derive(Serialize)]
struct Shown {
    key: String,
    facts: u64,
    signed: u64,
    published: u64,
    cosigned: usize,
    quorum: usize,
    witnesses: Vec<ShownWitness>,
    unannounced: Vec<String>,
    alarm: Option<String>,
}

fn bad(what: impl std::fmt::Display) -> Failure {
    Failure::failed("bad_answer", format!("the coordinator's log: {what}"))
}

impl Log {
    /// Reads what the coordinator said. That each cosigning key is the site's own word is checked
    /// here; that the identity is the site's is for people to compare.
    pub(super) fn read(view: wire::LogView) -> Result<Self, Failure> {
        let key: VerifierKey = view.key.parse().map_err(bad)?;
        let checkpoint = |text: &str| {
            let signed = SignedCheckpoint::parse(text.as_bytes()).map_err(bad)?;
            signed.verify(&key).map_err(bad)?;
            Ok::<_, Failure>(signed)
        };
        let (signed, published) = (checkpoint(&view.signed)?, checkpoint(&view.published)?);
        let witnesses = view.witnesses.into_iter().map(|one| {
            let site = HospitalId::new(&one.site).map_err(bad)?;
            let cosigner: CosignerKey = one.key.parse().map_err(bad)?;
            let identity: [u8; 32] =
                one.identity.try_into().map_err(|_| bad("an identity is no key"))?;
            let said: [u8; 64] =
                one.signature.try_into().map_err(|_| bad("a signature is none"))?;
            let identity = IdentityKey::new(identity);
            let statement = WitnessKey {
                log: key.name().to_owned(),
                hospital: site.clone(),
                key: *cosigner.public(),
            };
            identity.verify(&statement, &Signature::new(said)).map_err(|_| {
                bad(format!("the cosigning key of {site} is not signed by its identity"))
            })?;
            let (size, connected) = (one.size, one.connected);
            Ok(Witness { site, key: cosigner, identity, size, connected })
        });
        let witnesses = witnesses.collect::<Result<_, Failure>>()?;
        let quorum = usize::try_from(view.quorum).map_err(bad)?;
        let unannounced = view.unannounced.iter().map(|site| HospitalId::new(site).map_err(bad));
        let unannounced = unannounced.collect::<Result<_, Failure>>()?;
        let alarm: String = view.alarm.chars().filter(|c| !c.is_control()).collect();
        let alarm = Some(alarm).filter(|alarm| !alarm.is_empty());
        Ok(Self {
            key,
            facts: view.facts,
            signed,
            published,
            quorum,
            witnesses,
            unannounced,
            alarm,
        })
    }

    /// Whether every fact is in the published checkpoint, and all witnesses have cosigned that.
    pub(super) fn is_settled(&self) -> bool {
        self.published.checkpoint().size() == self.facts && self.cosigned() == self.witnesses.len()
    }

    /// Whether every fact is in the published checkpoint.
    pub(super) fn is_published(&self) -> bool {
        self.published.checkpoint().size() == self.facts
    }

    fn cosigned(&self) -> usize {
        self.witnesses.iter().filter(|one| one.key.verify(&self.published).is_ok()).count()
    }

    /// The policy file.
    pub(super) fn policy(&self, quorum: Option<usize>) -> Result<String, Failure> {
        let witnesses: Vec<(String, CosignerKey)> =
            self.witnesses.iter().map(|one| (one.site.to_string(), one.key.clone())).collect();
        let admitted = witnesses.len() + self.unannounced.len();
        if quorum.is_none() && self.quorum > witnesses.len() {
            let message = format!(
                "most of the {admitted} admitted hospitals have to cosign, and {} of them announced a \
                 cosigning key",
                witnesses.len()
            );
            return Err(Failure::failed("too_few_witnesses", message)
                .hint("their nodes announce it when they run; `--quorum` asks for fewer"));
        }
        let quorum = quorum.unwrap_or(self.quorum);
        if quorum > witnesses.len() {
            let message = format!(
                "--quorum: expected at most {}, the number of witnesses, found {quorum}",
                witnesses.len()
            );
            return Err(Failure::usage("bad_quorum", message));
        }
        let policy = Policy::threshold(&self.key, &witnesses, quorum).map_err(bad)?;
        let mut text = "# Whom to believe of this log: each hospital's cosigning key, said under its identity. Compare each with\n# the line \"witness key\" of `hospital-node doctor` there, and the identities with `hospital-node roster list`.\n".to_owned();
        for one in &self.witnesses {
            text += &format!("# {}: identity {}\n", one.site, fingerprint(&one.identity));
        }
        for site in &self.unannounced {
            text += &format!("# {site}: admitted, and has announced no cosigning key\n");
        }
        if quorum < self.quorum {
            text += &format!("# {quorum} of {admitted} admitted hospitals are not most of them\n");
        }
        text += &policy.to_string();
        Ok(text)
    }

    /// What an operator has to know first.
    fn warnings(&self) -> String {
        let mut text = String::new();
        if let Some(alarm) = &self.alarm {
            text += &format!("ALARM       {alarm}; put back the state folder as it was last\n");
        }
        if self.quorum > self.witnesses.len() {
            text += &format!(
                "nothing can be published: {} of {} admitted hospitals have announced a cosigning key, \
                 and {} have to cosign\n",
                self.witnesses.len(),
                self.witnesses.len() + self.unannounced.len(),
                self.quorum
            );
        }
        text
    }

    fn shown(&self) -> Shown {
        let one = |one: &Witness| ShownWitness {
            site: one.site.to_string(),
            key: one.key.to_string(),
            identity_fingerprint: fingerprint(&one.identity),
            cosigned: one.size,
            connected: one.connected,
        };
        Shown {
            key: self.key.to_string(),
            facts: self.facts,
            signed: self.signed.checkpoint().size(),
            published: self.published.checkpoint().size(),
            cosigned: self.cosigned(),
            quorum: self.quorum,
            witnesses: self.witnesses.iter().map(one).collect(),
            unannounced: self.unannounced.iter().map(ToString::to_string).collect(),
            alarm: self.alarm.clone(),
        }
    }
}

fn fingerprint(identity: &IdentityKey) -> String {
    fingerprint_text(Digest::sha256(identity.as_bytes()))
}
