//! An input of a round as the journal has it.
//!
//! Shares are secrets. They stand in the journal because a restart must not lose them: the round
//! is erased from it when it closes, and the database overwrites what it erases.

use std::collections::BTreeMap;
use std::sync::Arc;

use aggregation::ids::{Digest, HospitalId};
use aggregation::keys::identity::Signature;
use aggregation::masking::sharing::{Holder, SecretScalar, Share};
use aggregation::message::{DeclineReason, SetStatement, Shares, StopReason};
use aggregation::secret::Secret;
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

use super::{StoreError, bytes, digest, hospital};

/// An input as the journal has it: an update by its digest, since its bytes are staged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Recorded {
    /// A site was ready.
    Ready { from: HospitalId, terms: Digest },
    /// A site declined.
    Declined { from: HospitalId, terms: Digest, reason: DeclineReason },
    /// A site's update was staged.
    Update { from: HospitalId, terms: Digest, digest: Digest },
    /// A site signed the final set.
    Signed { from: HospitalId, terms: Digest, signature: Signature<SetStatement> },
    /// A site gave its shares.
    Unmask { from: HospitalId, terms: Digest, shares: Arc<Shares> },
    /// A deadline was reached.
    Deadline,
    /// A site was revoked, or withdrew.
    Removed { hospital: HospitalId },
    /// A site's connection was lost for longer than is waited for.
    Lost { hospital: HospitalId },
    /// The coordinator restarted.
    Resumed,
    /// The round was ended from outside.
    Stop { reason: StopReason },
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "input", rename_all = "snake_case", deny_unknown_fields)]
enum InputText {
    Ready { from: String, terms: String },
    Declined { from: String, terms: String, reason: String },
    Update { from: String, terms: String, digest: String },
    Signed { from: String, terms: String, signature: String },
    Unmask { from: String, terms: String, shares: SharesText },
    Deadline,
    Removed { hospital: String },
    Lost { hospital: String },
    Resumed,
    Stop { reason: String },
}

/// All shares of one answer stand under one number.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SharesText {
    holder: Option<u16>,
    own: BTreeMap<String, String>,
    recovery: BTreeMap<String, String>,
}

const STOP_REASONS: [StopReason; 5] = [
    StopReason::Paused,
    StopReason::Stopped,
    StopReason::Interrupted,
    StopReason::Storage,
    StopReason::Alarm,
];

fn damaged() -> StoreError {
    StoreError::Corrupt("an input of the journal".to_owned())
}

impl SharesText {
    fn of(shares: &Shares) -> Self {
        let Shares { own, recovery } = shares;
        let text = |shares: &BTreeMap<HospitalId, Share>| {
            let one = |(site, share): (&HospitalId, &Share)| {
                (site.to_string(), HEXLOWER.encode(share.value().secret().expose()))
            };
            shares.iter().map(one).collect()
        };
        let holder = own.values().chain(recovery.values()).next();
        Self {
            holder: holder.map(|share| share.holder().get()),
            own: text(own),
            recovery: text(recovery),
        }
    }

    fn read(&self) -> Result<Shares, StoreError> {
        let Self { holder, own, recovery } = self;
        let read = |texts: &BTreeMap<String, String>| {
            let one = |(site, text): (&String, &String)| {
                let holder = holder.and_then(Holder::new).ok_or_else(damaged)?;
                let value = SecretScalar::from_canonical(Secret::new(bytes(text, "a share")?));
                Ok((hospital(site)?, Share::new(holder, value.ok_or_else(damaged)?)))
            };
            texts.iter().map(one).collect::<Result<_, StoreError>>()
        };
        Ok(Shares { own: read(own)?, recovery: read(recovery)? })
    }
}

impl Recorded {
    pub(super) fn text(&self) -> Result<String, StoreError> {
        let said = |from: &HospitalId, terms: &Digest| (from.to_string(), terms.to_string());
        let text = match self {
            Self::Ready { from, terms } => {
                let (from, terms) = said(from, terms);
                InputText::Ready { from, terms }
            }
            Self::Declined { from, terms, reason } => {
                let (from, terms) = said(from, terms);
                InputText::Declined { from, terms, reason: reason.name().to_owned() }
            }
            Self::Update { from, terms, digest } => {
                let (from, terms) = said(from, terms);
                InputText::Update { from, terms, digest: digest.to_string() }
            }
            Self::Signed { from, terms, signature } => {
                let (from, terms) = said(from, terms);
                let signature = HEXLOWER.encode(signature.as_bytes());
                InputText::Signed { from, terms, signature }
            }
            Self::Unmask { from, terms, shares } => {
                let (from, terms) = said(from, terms);
                InputText::Unmask { from, terms, shares: SharesText::of(shares) }
            }
            Self::Deadline => InputText::Deadline,
            Self::Removed { hospital } => InputText::Removed { hospital: hospital.to_string() },
            Self::Lost { hospital } => InputText::Lost { hospital: hospital.to_string() },
            Self::Resumed => InputText::Resumed,
            Self::Stop { reason } => InputText::Stop { reason: reason.to_string() },
        };
        serde_json::to_string(&text).map_err(|_| StoreError::Corrupt("an input".to_owned()))
    }

    pub(super) fn from_text(text: &str) -> Result<Self, StoreError> {
        let read: InputText = serde_json::from_str(text).map_err(|_| damaged())?;
        let said = |from: &str, terms: &str| {
            Ok::<_, StoreError>((hospital(from)?, digest(terms, "terms")?))
        };
        Ok(match read {
            InputText::Ready { from, terms } => {
                let (from, terms) = said(&from, &terms)?;
                Self::Ready { from, terms }
            }
            InputText::Declined { from, terms, reason } => {
                let (from, terms) = said(&from, &terms)?;
                let reason = DeclineReason::ALL.into_iter().find(|known| known.name() == reason);
                Self::Declined { from, terms, reason: reason.ok_or_else(damaged)? }
            }
            InputText::Update { from, terms, digest: update } => {
                let (from, terms) = said(&from, &terms)?;
                Self::Update { from, terms, digest: digest(&update, "update")? }
            }
            InputText::Signed { from, terms, signature } => {
                let (from, terms) = said(&from, &terms)?;
                let signature = Signature::new(bytes(&signature, "a signature")?);
                Self::Signed { from, terms, signature }
            }
            InputText::Unmask { from, terms, shares } => {
                let (from, terms) = said(&from, &terms)?;
                Self::Unmask { from, terms, shares: Arc::new(shares.read()?) }
            }
            InputText::Deadline => Self::Deadline,
            InputText::Removed { hospital: name } => Self::Removed { hospital: hospital(&name)? },
            InputText::Lost { hospital: name } => Self::Lost { hospital: hospital(&name)? },
            InputText::Resumed => Self::Resumed,
            InputText::Stop { reason } => Self::Stop {
                reason: STOP_REASONS
                    .into_iter()
                    .find(|known| known.to_string() == reason)
                    .ok_or_else(damaged)?,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alpha() -> HospitalId {
        HospitalId::new("alpha").expect("a valid name")
    }

    fn share(byte: u8) -> Share {
        let value = SecretScalar::from_wide(&Secret::new([byte; 64]));
        Share::new(Holder::new(3).expect("not 0"), value)
    }

    fn shares() -> Shares {
        Shares { own: [(alpha(), share(1))].into(), recovery: [(alpha(), share(2))].into() }
    }

    #[test]
    fn every_input_reads_back_as_it_was_written() {
        let terms = Digest::sha256(b"terms");
        let mut inputs = vec![
            Recorded::Ready { from: alpha(), terms },
            Recorded::Update { from: alpha(), terms, digest: Digest::sha256(b"update") },
            Recorded::Signed { from: alpha(), terms, signature: Signature::new([7; 64]) },
            Recorded::Unmask { from: alpha(), terms, shares: Arc::new(shares()) },
            Recorded::Unmask { from: alpha(), terms, shares: Arc::new(Shares::default()) },
            Recorded::Deadline,
            Recorded::Removed { hospital: alpha() },
            Recorded::Lost { hospital: alpha() },
            Recorded::Resumed,
        ];
        inputs.extend(STOP_REASONS.map(|reason| Recorded::Stop { reason }));
        inputs.extend(DeclineReason::ALL.map(|reason| Recorded::Declined {
            from: alpha(),
            terms,
            reason,
        }));
        for input in inputs {
            let text = input.text().expect("written");
            assert_eq!(Recorded::from_text(&text).expect("read"), input, "{text}");
        }
        assert!(Recorded::from_text("{\"input\":\"surprise\"}").is_err());
    }

    #[test]
    fn shares_are_not_shown_where_inputs_are() {
        let terms = Digest::sha256(b"terms");
        let input = Recorded::Unmask { from: alpha(), terms, shares: Arc::new(shares()) };
        let text = input.text().expect("written");
        let secret = HEXLOWER.encode(share(1).value().secret().expose());
        assert!(text.contains(&secret), "the journal has it");
        let numbers = format!("{:?}", share(1).value().secret().expose());
        let shown = format!("{input:?}");
        assert!(!shown.contains(&secret) && !shown.contains(numbers.trim_matches(['[', ']'])));
    }
}
