//! Whom a verifier believes, after C2SP [tlog-policy]: the log's keys, the witnesses' keys, and how
//! many witnesses are enough. This file is all that an auditor trusts; get it from a hand, not from
//! the log.
//!
//! ```text
//! log consilium.example/log+1a2b3c4d+AX...
//! witness st-anna consilium.example/witness/st-anna+5e6f7a8b+BK...
//! witness charite consilium.example/witness/charite+9c0d1e2f+BM...
//! group hospitals 2 st-anna charite
//! quorum hospitals
//! ```
//!
//! [tlog-policy]: https://c2sp.org/tlog-policy

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::checkpoint::SignedCheckpoint;
use crate::cosignature::CosignerKey;
use crate::key::KeyError;
use crate::note::{SignatureFault, VerifierKey};
use crate::text::decimal;

/// The largest policy file that is read.
pub const MAX_POLICY_BYTES: usize = 1 << 20;

/// The most logs, witnesses and groups together.
const MAX_LINES: usize = 10_000;

/// What is wrong with a policy, and on which line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {fault}")]
pub struct PolicyError {
    /// Counted from 1; one past the last line for what the whole file lacks.
    pub line: usize,
    /// What is wrong.
    pub fault: PolicyFault,
}

/// What is wrong with a policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyFault {
    /// More bytes or lines than are read.
    #[error("expected at most {MAX_POLICY_BYTES} bytes and {MAX_LINES} definitions")]
    TooLong,
    /// A control character other than tab and newline, or not UTF-8.
    #[error("expected UTF-8 text without control characters")]
    Text,
    /// An unknown first word.
    #[error("expected log, witness, group or quorum, found {0:?}")]
    Keyword(String),
    /// Too few or too many words.
    #[error("expected {0}")]
    Words(&'static str),
    /// A key that is not one.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The same public key twice.
    #[error("expected each key once, found {0} again")]
    DuplicateKey(String),
    /// A name defined twice, or the reserved one.
    #[error("expected a new name other than \"none\", found {0:?}")]
    DuplicateName(String),
    /// A name that no line above defines.
    #[error("expected a witness or group defined above, found {0:?}")]
    UnknownName(String),
    /// A name that is a member already.
    #[error("expected each name to be a member at most once, found {0:?} again")]
    DuplicateMember(String),
    /// A threshold outside 1 to the number of members.
    #[error("expected any, all or a number from 1 to {members}, found {found:?}")]
    Threshold {
        /// How many members there are.
        members: usize,
        /// What is written.
        found: String,
    },
    /// No quorum line, or a second one.
    #[error("expected exactly one quorum line")]
    Quorum,
    /// No log line: nothing could be verified.
    #[error("expected at least one log line")]
    NoLog,
}

/// A rule over witnesses; members are defined earlier, so that rules never form a circle.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Rule {
    /// This witness cosigned.
    Witness(CosignerKey),
    /// At least so many of these rules hold.
    Group { threshold: usize, members: Vec<usize> },
}

/// A policy; displayed as its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    logs: Vec<VerifierKey>,
    rules: Vec<(String, Rule)>,
    quorum: Option<usize>,
}

/// What one witness of the policy did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WitnessVerdict {
    /// The witness's name in the policy.
    pub name: String,
    /// Its key, for people.
    pub key: String,
    /// When it cosigned, in seconds since 1970, or what is wrong.
    pub cosigned: Result<u64, SignatureFault>,
}

/// What a policy says of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The log's key that signed, for people, or what is wrong.
    pub log: Result<String, SignatureFault>,
    /// Every witness of the policy.
    pub witnesses: Vec<WitnessVerdict>,
    /// Whether enough witnesses cosigned.
    pub quorum_met: bool,
    /// The rule for that, for people.
    pub quorum: String,
}

impl Verdict {
    /// Everything for which the checkpoint is to be rejected; none when it is to be believed.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let mut faults: Vec<String> = self.log.iter_err().collect();
        // A known key's line that is wrong or repeated spoils the note (signed-note, signatures).
        for witness in &self.witnesses {
            match &witness.cosigned {
                Ok(_) | Err(SignatureFault::Missing(_)) => {}
                Err(fault @ (SignatureFault::Invalid(_) | SignatureFault::Repeated(_))) => {
                    faults.push(format!("witness {}: {fault}", witness.name));
                }
            }
        }
        if !self.quorum_met {
            let names = |cosigned: bool| {
                let names = self.witnesses.iter().filter(|it| it.cosigned.is_ok() == cosigned);
                let names: Vec<_> = names.map(|it| it.name.as_str()).collect();
                if names.is_empty() { "none".to_owned() } else { names.join(", ") }
            };
            faults.push(format!(
                "expected cosignatures by {}; cosigned: {}; missing: {}",
                self.quorum,
                names(true),
                names(false)
            ));
        }
        faults
    }
}

/// The error of a result, as text.
trait IterErr {
    fn iter_err(&self) -> impl Iterator<Item = String>;
}

impl<T> IterErr for Result<T, SignatureFault> {
    fn iter_err(&self) -> impl Iterator<Item = String> {
        self.as_ref().err().into_iter().map(ToString::to_string)
    }
}

impl Policy {
    /// The policy of a federation: one log, and at least `threshold` of these witnesses. A threshold
    /// of 0 asks for no cosignature.
    ///
    /// # Errors
    /// When a name or key is given twice, or the threshold is above the number of witnesses.
    pub fn threshold(
        log: &VerifierKey,
        witnesses: &[(String, CosignerKey)],
        threshold: usize,
    ) -> Result<Self, PolicyError> {
        let mut text = format!("log {log}\n");
        for (name, key) in witnesses {
            text.push_str(&format!("witness {name} {key}\n"));
        }
        if threshold == 0 {
            text.push_str("quorum none\n");
        } else {
            let names: Vec<_> = witnesses.iter().map(|(name, _)| name.as_str()).collect();
            text.push_str(&format!(
                "group witnesses {threshold} {}\nquorum witnesses\n",
                names.join(" ")
            ));
        }
        Self::parse(text.as_bytes())
    }

    /// Reads a policy file.
    ///
    /// # Errors
    /// The first line that is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self, PolicyError> {
        let at = |line: usize| move |fault: PolicyFault| PolicyError { line, fault };
        if bytes.len() > MAX_POLICY_BYTES {
            return Err(at(1)(PolicyFault::TooLong));
        }
        let text = std::str::from_utf8(bytes).map_err(|_| at(1)(PolicyFault::Text))?;
        let mut reading = Reading::default();
        let mut count = 0;
        for (before, line) in text.split('\n').enumerate() {
            count = before + 1;
            reading.line(line).map_err(at(count))?;
        }
        reading.finish().map_err(at(count + 1))
    }

    /// The logs that are believed.
    #[must_use]
    pub fn logs(&self) -> &[VerifierKey] {
        &self.logs
    }

    /// The witnesses that are known, with their names in the policy.
    pub fn witnesses(&self) -> impl Iterator<Item = (&str, &CosignerKey)> {
        self.rules.iter().filter_map(|(name, rule)| match rule {
            Rule::Witness(key) => Some((name.as_str(), key)),
            Rule::Group { .. } => None,
        })
    }

    /// Whether a checkpoint is believed without any cosignature.
    #[must_use]
    pub fn asks_for_nobody(&self) -> bool {
        self.quorum.is_none()
    }

    /// Verifies the log's signature on a checkpoint and nothing else.
    ///
    /// # Errors
    /// When no log of the policy signed it, or one of them wrongly.
    pub fn check_log(&self, signed: &SignedCheckpoint) -> Result<String, SignatureFault> {
        let origin = signed.checkpoint().origin();
        let mut signer = None;
        for key in self.logs.iter().filter(|key| key.name() == origin) {
            match signed.verify(key) {
                Ok(()) => signer = Some(key.label()),
                // A log may have had several keys; one that did not sign is no fault.
                Err(SignatureFault::Missing(_)) => {}
                Err(fault @ (SignatureFault::Repeated(_) | SignatureFault::Invalid(_))) => {
                    return Err(fault);
                }
            }
        }
        signer.ok_or_else(|| {
            let labels: Vec<_> = self.logs.iter().map(VerifierKey::label).collect();
            SignatureFault::Missing(format!(
                "{} on a checkpoint of {origin:?}",
                labels.join(" or ")
            ))
        })
    }

    /// Judges a checkpoint.
    #[must_use]
    pub fn judge(&self, signed: &SignedCheckpoint) -> Verdict {
        let mut holds = Vec::with_capacity(self.rules.len());
        let mut witnesses = Vec::new();
        for (name, rule) in &self.rules {
            holds.push(match rule {
                Rule::Witness(key) => {
                    let cosigned = key.verify(signed);
                    let held = cosigned.is_ok();
                    witnesses.push(WitnessVerdict {
                        name: name.clone(),
                        key: key.label(),
                        cosigned,
                    });
                    held
                }
                Rule::Group { threshold, members } => {
                    members.iter().filter(|member| holds[**member]).count() >= *threshold
                }
            });
        }
        Verdict {
            log: self.check_log(signed),
            witnesses,
            quorum_met: self.quorum.is_none_or(|quorum| holds[quorum]),
            quorum: self.describe_quorum(),
        }
    }

    fn describe_quorum(&self) -> String {
        let Some((name, rule)) = self.quorum.map(|quorum| &self.rules[quorum]) else {
            return "nobody".to_owned();
        };
        match rule {
            Rule::Witness(_) => name.clone(),
            Rule::Group { threshold, members } => {
                format!("{threshold} of the {} of {name}", members.len())
            }
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.logs.iter().try_for_each(|key| writeln!(f, "log {key}"))?;
        for (name, rule) in &self.rules {
            match rule {
                Rule::Witness(key) => writeln!(f, "witness {name} {key}")?,
                Rule::Group { threshold, members } => {
                    write!(f, "group {name} {threshold}")?;
                    members
                        .iter()
                        .try_for_each(|member| write!(f, " {}", self.rules[*member].0))?;
                    writeln!(f)?;
                }
            }
        }
        writeln!(f, "quorum {}", self.quorum.map_or("none", |quorum| &self.rules[quorum].0))
    }
}

/// A policy while it is read.
#[derive(Default)]
struct Reading {
    logs: Vec<VerifierKey>,
    rules: Vec<(String, Rule)>,
    places: BTreeMap<String, usize>,
    members: BTreeSet<usize>,
    log_keys: BTreeSet<[u8; 32]>,
    witness_keys: BTreeSet<[u8; 32]>,
    quorum: Option<Option<usize>>,
}

impl Reading {
    fn line(&mut self, line: &str) -> Result<(), PolicyFault> {
        if line.bytes().any(|byte| (byte < b' ' && byte != b'\t') || byte == 0x7f) {
            return Err(PolicyFault::Text);
        }
        let words: Vec<&str> = line.split([' ', '\t']).filter(|word| !word.is_empty()).collect();
        if self.logs.len() + self.rules.len() >= MAX_LINES {
            return Err(PolicyFault::TooLong);
        }
        match words.as_slice() {
            [] => Ok(()),
            [comment, ..] if comment.starts_with('#') => Ok(()),
            ["log", key] | ["log", key, _] => self.log(key.parse()?),
            ["log", ..] => Err(PolicyFault::Words("log KEY [URL]")),
            ["witness", name, key] | ["witness", name, key, _] => {
                let key: CosignerKey = key.parse()?;
                if !self.witness_keys.insert(*key.public()) {
                    return Err(PolicyFault::DuplicateKey(key.label()));
                }
                self.define(name, Rule::Witness(key))
            }
            ["witness", ..] => Err(PolicyFault::Words("witness NAME KEY [URL]")),
            ["group", name, threshold, members @ ..] if !members.is_empty() => {
                self.group(name, threshold, members)
            }
            ["group", ..] => Err(PolicyFault::Words("group NAME any|all|K MEMBER...")),
            ["quorum", name] => {
                let quorum = if *name == "none" { None } else { Some(self.place(name)?) };
                if self.quorum.replace(quorum).is_some() {
                    Err(PolicyFault::Quorum)
                } else {
                    Ok(())
                }
            }
            ["quorum", ..] => Err(PolicyFault::Words("quorum NAME|none")),
            [other, ..] => Err(PolicyFault::Keyword(other.chars().take(40).collect())),
        }
    }

    fn log(&mut self, key: VerifierKey) -> Result<(), PolicyFault> {
        if !self.log_keys.insert(*key.public()) {
            return Err(PolicyFault::DuplicateKey(key.label()));
        }
        self.logs.push(key);
        Ok(())
    }

    fn group(&mut self, name: &str, threshold: &str, names: &[&str]) -> Result<(), PolicyFault> {
        let mut members = Vec::with_capacity(names.len());
        for member in names {
            let place = self.place(member)?;
            if !self.members.insert(place) {
                return Err(PolicyFault::DuplicateMember((*member).to_owned()));
            }
            members.push(place);
        }
        let count = members.len();
        let threshold = match threshold {
            "any" => Some(1),
            "all" => Some(count),
            number => decimal(number).and_then(|number| usize::try_from(number).ok()),
        }
        .filter(|threshold| (1..=count).contains(threshold))
        .ok_or_else(|| PolicyFault::Threshold { members: count, found: threshold.to_owned() })?;
        self.define(name, Rule::Group { threshold, members })
    }

    fn define(&mut self, name: &str, rule: Rule) -> Result<(), PolicyFault> {
        if name == "none" || self.places.insert(name.to_owned(), self.rules.len()).is_some() {
            return Err(PolicyFault::DuplicateName(name.to_owned()));
        }
        self.rules.push((name.to_owned(), rule));
        Ok(())
    }

    fn place(&self, name: &str) -> Result<usize, PolicyFault> {
        self.places.get(name).copied().ok_or_else(|| PolicyFault::UnknownName(name.to_owned()))
    }

    fn finish(self) -> Result<Policy, PolicyFault> {
        let quorum = self.quorum.ok_or(PolicyFault::Quorum)?;
        if self.logs.is_empty() {
            return Err(PolicyFault::NoLog);
        }
        Ok(Policy { logs: self.logs, rules: self.rules, quorum })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Checkpoint;
    use crate::cosignature::Cosigner;
    use crate::note::{Signature, Signer};
    use crate::tree::Head;

    fn log(seed: u8) -> Signer {
        Signer::from_seed("log.example", &[seed; 32]).expect("a seed")
    }

    fn witness(seed: u8) -> Cosigner {
        Cosigner::from_seed(&format!("w{seed}.example"), &[seed; 32]).expect("a seed")
    }

    fn policy(threshold: usize) -> Policy {
        let witnesses: Vec<_> =
            (1..=3).map(|seed| (format!("w{seed}"), witness(seed).key())).collect();
        Policy::threshold(&log(9).key(), &witnesses, threshold).expect("a policy")
    }

    fn checkpoint(signer: &Signer, cosigners: &[u8]) -> SignedCheckpoint {
        let head = Head { size: 3, root: [5; 32] };
        let checkpoint = Checkpoint::new("log.example", head).expect("a checkpoint");
        let signed = SignedCheckpoint::sign(checkpoint, signer).expect("our own log");
        let lines: Vec<_> =
            cosigners.iter().map(|seed| witness(*seed).cosign(signed.note().text(), 7)).collect();
        signed.with(&lines).expect("a few lines")
    }

    #[test]
    fn enough_cosignatures_are_enough_and_fewer_are_named() {
        assert_eq!(policy(2).judge(&checkpoint(&log(9), &[1, 3])).faults(), Vec::<String>::new());
        assert_eq!(policy(0).judge(&checkpoint(&log(9), &[])).faults(), Vec::<String>::new());
        assert_eq!(
            policy(2).judge(&checkpoint(&log(9), &[2])).faults(),
            ["expected cosignatures by 2 of the 3 of witnesses; cosigned: w2; missing: w1, w3"]
        );
        // A stranger's cosignature counts for nothing.
        assert!(!policy(2).judge(&checkpoint(&log(9), &[1, 7])).quorum_met);
    }

    #[test]
    fn a_repeated_or_forged_cosignature_spoils_the_checkpoint() {
        let signed = checkpoint(&log(9), &[1, 2, 3]);
        let text = signed.to_string();
        let line = text.lines().last().expect("a cosignature");
        let repeated =
            SignedCheckpoint::parse(format!("{text}{line}\n").as_bytes()).expect("a note");
        let faults = policy(2).judge(&repeated).faults();
        assert_eq!(faults.len(), 1);
        assert!(faults[0].starts_with("witness w3: expected one signature by w3.example+"));
        let elsewhere = witness(3).cosign("another\n", 7);
        let forged = checkpoint(&log(9), &[1, 2]).with(&[elsewhere]).expect("one more");
        let faults = policy(2).judge(&forged).faults();
        assert!(faults[0].contains("does not verify"), "{faults:?}");
    }

    #[test]
    fn a_wrong_log_key_is_named() {
        let verdict = policy(1).judge(&checkpoint(&log(8), &[1]));
        let fault = &verdict.faults()[0];
        assert!(fault.contains(&log(9).key().label()), "{fault}");
        let forged: Signature = log(9).sign("another\n");
        let signed = checkpoint(&log(8), &[1]).with(&[forged]).expect("one more");
        assert!(matches!(policy(1).judge(&signed).log, Err(SignatureFault::Invalid(_))));
    }

    #[test]
    fn groups_of_groups_and_several_log_keys_are_judged() {
        let [w1, w2, w3, w4] = [1, 2, 3, 4].map(|seed| witness(seed).key());
        let text = format!(
            "# a comment\n\n log {} https://log.example/\nlog\t{}\nwitness a {w1}\nwitness b {w2} https://b/\nwitness c {w3}\nwitness d {w4}\ngroup x 2 a b\ngroup y any c d\n\tgroup both all x y\nquorum both\n",
            log(8).key(),
            log(9).key()
        );
        let policy = Policy::parse(text.as_bytes()).expect("a policy");
        assert_eq!(policy.witnesses().count(), 4);
        for (cosigners, met) in [
            (vec![1, 2, 3], true),
            (vec![1, 2, 4], true),
            (vec![1, 2], false),
            (vec![1, 3, 4], false),
        ] {
            let verdict = policy.judge(&checkpoint(&log(9), &cosigners));
            assert_eq!((verdict.quorum_met, verdict.log.is_ok()), (met, true), "{cosigners:?}");
        }
        assert_eq!(Policy::parse(policy.to_string().as_bytes()), Ok(policy));
    }

    #[test]
    fn a_policy_is_read_strictly() {
        let (log, w1, w2) = (log(9).key(), witness(1).key(), witness(2).key());
        let good = format!("log {log}\nwitness a {w1}\nwitness b {w2}\ngroup g 1 a b\nquorum g\n");
        assert!(Policy::parse(good.as_bytes()).is_ok());
        for (from, to, line) in [
            ("log ", "logs ", 1),
            ("log ", "#", 7),
            ("log ", "log\u{b}", 1),
            ("quorum g", "quorum h", 5),
            ("quorum g", "quorum", 5),
            ("quorum g\n", "", 6),
            ("quorum g", "quorum g\nquorum g", 6),
            ("quorum g", "quorum g g", 5),
            ("group g 1 a b", "group g 0 a b", 4),
            ("group g 1 a b", "group g 3 a b", 4),
            ("group g 1 a b", "group g +1 a b", 4),
            ("group g 1 a b", "group g 1 a a", 4),
            ("group g 1 a b", "group g 1 a c", 4),
            ("group g 1 a b", "group g 1", 4),
            ("group g 1 a b", "group g 1 g", 4),
            ("group g 1 a b", "group none 1 a b", 4),
            ("witness b", "witness a", 3),
            ("witness b", "witness none", 3),
            ("witness b ", "witness b u r l ", 3),
            ("\nwitness a", "\nlog a", 2),
        ] {
            let wrong = good.replacen(from, to, 1);
            assert_ne!(wrong, good);
            let error = Policy::parse(wrong.as_bytes()).expect_err(&wrong);
            assert_eq!(error.line, line, "{wrong}: {error}");
        }
        let same_key = good.replacen(&w2.to_string(), &w1.to_string(), 1);
        let error = Policy::parse(same_key.as_bytes()).expect_err("the same key");
        assert!(matches!(error.fault, PolicyFault::DuplicateKey(_)));
        let twice = good.replacen("witness a", &format!("log {log}\nwitness a"), 1);
        assert!(Policy::parse(twice.as_bytes()).is_err());
        let swapped = good.replacen(&w1.to_string(), &log.to_string(), 1);
        assert!(Policy::parse(swapped.as_bytes()).is_err());
        assert!(Policy::parse(b"\xff").is_err());
        assert!(Policy::parse(&vec![b'\n'; MAX_POLICY_BYTES + 1]).is_err());
    }
}
