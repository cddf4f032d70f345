//! Whose keys the policy's witnesses are: each is held against what its site announced in the log,
//! under its identity. So a policy that was made up beside a log shows as such.
//!
//! The log alone cannot prove it: whoever wrote both could have made up the identities, too. So they
//! are told, for a person to compare with what the hospitals say.

use std::collections::BTreeMap;

use aggregation::ids::HospitalId;
use aggregation::keys::identity::{IdentityKey, Signature};
use aggregation::keys::witness::WitnessKey;
use data_encoding::HEXLOWER;
use ring::digest::{SHA256, digest};
use serde::Serialize;
use transparency::cosignature::CosignerKey;
use transparency::fact::Fact;
use transparency::folder::{ReadError, Source};
use transparency::leaf::Leaf;
use transparency::policy::Policy;
use transparency::verify::{Finding, Kept, MAX_FINDINGS, Report, verify_each};

/// The most announcements that are kept: as many as a policy has lines.
const MOST: usize = 10_000;

/// A log's verification, with what the log says of the witnesses.
#[derive(Serialize)]
pub(crate) struct Verified {
    #[serde(flatten)]
    pub(crate) report: Report,
    /// Every witness of the policy.
    pub(crate) witnesses: Vec<Standing>,
}

/// What the log says of a witness's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Said {
    /// It is the one that its site announced last.
    Announced,
    /// Its site announced it, and another one since.
    Earlier,
    /// Its site announced another one, and never this under the same identity.
    Other,
    /// Announced, and never by its site's identity.
    Unsigned,
    /// Nobody announced it.
    Nothing,
}

/// A witness of the policy.
#[derive(Serialize)]
pub(crate) struct Standing {
    /// Its name in the policy.
    pub(crate) witness: String,
    /// Its key, for people.
    pub(crate) key: String,
    pub(crate) cosigned: bool,
    pub(crate) said: Said,
    /// The entry that says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) entry: Option<u64>,
    /// Fingerprint of the identity key under which it is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) identity: Option<String>,
}

impl Standing {
    /// For people, without the witness's name.
    pub(crate) fn words(&self) -> String {
        let entry = self.entry.map(|entry| format!("entry {entry}")).unwrap_or_default();
        match self.said {
            Said::Announced => format!("announced in {entry}"),
            Said::Earlier => format!("announced, and another key since, in {entry}"),
            Said::Other => format!("another key is announced in {entry}"),
            Said::Unsigned => format!("announced in {entry}, with a signature that does not hold"),
            Said::Nothing => "announced by nobody".to_owned(),
        }
    }
}

/// How many sites with two identities are told.
const MOST_TOLD: usize = 20;

/// A site's word on its key.
struct Announced {
    index: u64,
    key: [u8; 32],
    identity: [u8; 32],
    signature: Option<[u8; 64]>,
    /// Whether the identity signed it for this log; known when the log is.
    holds: bool,
}

/// What sites said of their keys, in order.
#[derive(Default)]
struct Announcements {
    sites: BTreeMap<String, Vec<Announced>>,
    kept: usize,
    left_out: u64,
}

/// Verifies a log as the library does, and its witnesses' keys.
pub(crate) fn verify<S: Source>(
    source: &S,
    policy: &Policy,
    since: &[Kept],
) -> Result<Verified, ReadError> {
    let mut announcements = Announcements::default();
    let mut report =
        verify_each(source, policy, since, &mut |index, leaf| announcements.take(index, leaf))?;
    let witnesses = if report.verified {
        announcements.judge(policy, &mut report)
    } else {
        report
            .not_checked
            .push("whose keys the witnesses have: the log is not verified".to_owned());
        Vec::new()
    };
    Ok(Verified { report, witnesses })
}

impl Announcements {
    fn take(&mut self, index: u64, leaf: &Leaf) {
        if leaf.kind() != "witness_announced" {
            return;
        }
        let Ok(Fact::WitnessAnnounced { site, key, identity_key, signature }) = Fact::read(leaf)
        else {
            return;
        };
        let (Some(key), Some(identity)) = (bytes(key.as_str()), bytes(identity_key.as_str()))
        else {
            return;
        };
        // A name that no site can have; and what is kept has a bound.
        if HospitalId::new(&site).is_err() {
            return;
        }
        let announced =
            Announced { index, key, identity, signature: bytes(&signature), holds: false };
        if self.kept == MOST {
            self.left_out += 1;
            return;
        }
        self.kept += 1;
        self.sites.entry(site).or_default().push(announced);
    }

    /// An announcement that its site did not sign is the coordinator's word alone, of which the honest
    /// one writes none: it is wrong whoever it is of, and changes nobody's standing.
    fn check(&mut self, report: &mut Report) {
        for (site, said) in &mut self.sites {
            for one in said {
                one.holds = one.is_signed(&report.origin, site);
                if !one.holds && report.findings.len() < MAX_FINDINGS {
                    report.findings.push(Finding {
                        place: format!("entry {}", one.index),
                        what: format!(
                            "expected the signature of {site} over its key {}, found one that does not hold",
                            HEXLOWER.encode(&one.key)
                        ),
                    });
                }
            }
        }
    }

    fn judge(&mut self, policy: &Policy, report: &mut Report) -> Vec<Standing> {
        self.check(report);
        let standings: Vec<_> =
            policy.witnesses().map(|(name, key)| self.standing(name, key, report)).collect();
        let mut nobody = Vec::new();
        for standing in &standings {
            let name = &standing.witness;
            let place = standing.entry.map(|entry| format!("entry {entry}")).unwrap_or_default();
            match standing.said {
                Said::Announced => {}
                Said::Nothing => nobody.push(name.as_str()),
                Said::Earlier if self.has_newer(policy, standing) => {}
                Said::Earlier => report.not_checked.push(format!(
                    "whether {name} cosigns with its new key, announced in {place}: the policy has the one before"
                )),
                // It vouches for nothing here, and may be announced in what is not published yet.
                Said::Other if !standing.cosigned && report.ahead.is_some() => {
                    nobody.push(name.as_str());
                }
                Said::Other => report.findings.push(Finding {
                    place: "policy".to_owned(),
                    what: format!(
                        "expected the key that {name} announced in {place} of the log, found {}, which it never announced under that identity",
                        standing.key
                    ),
                }),
                // A finding of its own already.
                Said::Unsigned => {}
            }
        }
        let changed = self.sites.iter().filter_map(|(site, said)| {
            let pair = said.windows(2).find(|pair| pair[0].identity != pair[1].identity)?;
            Some((site, pair[0].index, pair[1].index))
        });
        for (site, one, next) in changed.take(MOST_TOLD) {
            report.not_checked.push(format!(
                "whether {site} changed its identity: entry {next} is under another one than entry {one}"
            ));
        }
        if !nobody.is_empty() {
            report.not_checked.push(format!(
                "whose keys these witnesses of the policy have, as the log has no announcement of theirs: {}",
                nobody.join(", ")
            ));
        }
        if self.left_out > 0 {
            report.not_checked.push(format!("{} further announcements of keys", self.left_out));
        }
        if nobody.len() < standings.len() {
            report.not_checked.push(
                "whether the witnesses' keys and identities are the hospitals': compare each witness line of the policy with \"witness key\" of `hospital-node doctor` there, and the identity with its `hospital-node roster list`"
                    .to_owned(),
            );
        }
        report.verified &= report.findings.is_empty();
        standings
    }

    fn standing(&self, name: &str, key: &CosignerKey, report: &Report) -> Standing {
        let cosigned = report.cosigned_by.iter().any(|it| it.witness == name);
        let new = |said, found: Option<&Announced>| Standing {
            witness: name.to_owned(),
            key: key.label(),
            cosigned,
            said,
            entry: found.map(|found| found.index),
            identity: found.map(|found| fingerprint(&found.identity)),
        };
        let Some(all) = self.of(name, key, &report.origin) else {
            return new(Said::Nothing, None);
        };
        let is_own = |one: &&Announced| one.key == *key.public();
        let held = || all.iter().filter(|one| one.holds);
        match (held().rfind(is_own), held().next_back()) {
            (Some(own), Some(last)) if last.key != own.key => {
                // Only the identity that it was announced under can change a key.
                let said = if last.identity == own.identity { Said::Earlier } else { Said::Other };
                new(said, Some(last))
            }
            (Some(own), _) => new(Said::Announced, Some(own)),
            (None, last) => match (all.iter().rfind(is_own), last) {
                (Some(own), _) => new(Said::Unsigned, Some(own)),
                (None, Some(last)) => new(Said::Other, Some(last)),
                (None, None) => new(Said::Nothing, None),
            },
        }
    }

    /// What the site said whose key a witness's is to be: the site that the key or the witness is
    /// named after, or else whoever announced the key.
    fn of(&self, name: &str, key: &CosignerKey, origin: &str) -> Option<&[Announced]> {
        let named = key.name().strip_prefix(origin).and_then(|rest| rest.strip_prefix('/'));
        let by_name = [named, Some(name)].into_iter().flatten();
        let by_name = by_name.filter_map(|site| self.sites.get_key_value(site)).next();
        let mut all = self.sites.iter();
        let found = by_name
            .or_else(|| all.find(|(_, said)| said.iter().any(|it| it.key == *key.public())))?;
        Some(found.1.as_slice())
    }

    /// Whether the policy also has the key that a site announced since.
    fn has_newer(&self, policy: &Policy, standing: &Standing) -> bool {
        let mut said = self.sites.values().flatten();
        let newer = said.find(|it| Some(it.index) == standing.entry);
        newer.is_some_and(|newer| policy.witnesses().any(|(_, key)| *key.public() == newer.key))
    }
}

impl Announced {
    /// Whether the identity signed it for this log and site.
    fn is_signed(&self, origin: &str, site: &str) -> bool {
        let (Ok(hospital), Some(signature)) = (HospitalId::new(site), self.signature) else {
            return false;
        };
        let said = WitnessKey { log: origin.to_owned(), hospital, key: self.key };
        IdentityKey::new(self.identity).verify(&said, &Signature::new(signature)).is_ok()
    }
}

/// As hospitals and their operators are shown it.
fn fingerprint(identity: &[u8; 32]) -> String {
    format!("sha256:{}", HEXLOWER.encode(digest(&SHA256, identity).as_ref()))
}

fn bytes<const N: usize>(hex: &str) -> Option<[u8; N]> {
    HEXLOWER.decode(hex.as_bytes()).ok()?.try_into().ok()
}
