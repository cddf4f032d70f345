//! One table between refusals and gRPC codes, used by both ends.

use aggregation::refusal::Refusal;
use aggregation::setup::SetupRefused;
use tonic::{Code, Status};

use crate::cli::{Exit, Failure};
use crate::decode::DecodeError;

/// A message that does not say what it must.
#[must_use]
pub fn from_decode(error: &DecodeError) -> Status {
    Status::invalid_argument(error.to_string())
}

/// What a round did not accept, with the rule that says so.
#[must_use]
pub fn from_refusal(refusal: &Refusal) -> Status {
    let code = match refusal {
        Refusal::Stranger { .. } | Refusal::Removed { .. } | Refusal::NotInRoster { .. } => {
            Code::PermissionDenied
        }
        Refusal::OtherStudy { .. } => Code::NotFound,
        Refusal::OtherTerms { .. }
        | Refusal::WrongRound { .. }
        | Refusal::OtherWork { .. }
        | Refusal::UsedSlot { .. }
        | Refusal::BelowQuorum { .. }
        | Refusal::OutOfPhase { .. }
        | Refusal::BadSet { .. }
        | Refusal::TooFewSignatures { .. }
        | Refusal::TooLate { .. } => Code::FailedPrecondition,
        Refusal::Changed { .. } => Code::AlreadyExists,
        Refusal::WrongLength(_)
        | Refusal::WrongDigest { .. }
        | Refusal::BadSignature { .. }
        | Refusal::WrongShares { .. } => Code::InvalidArgument,
    };
    Status::new(code, format!("{refusal} ({})", refusal.rule()))
}

/// What the setup of a study's keys did not accept, with the rule that says so.
#[must_use]
pub fn from_setup(refused: &SetupRefused) -> Status {
    let code = match refused {
        SetupRefused::Stranger { .. } | SetupRefused::ForAnother { .. } => Code::PermissionDenied,
        SetupRefused::Changed { .. } => Code::AlreadyExists,
        SetupRefused::Early { .. } | SetupRefused::Missing { .. } | SetupRefused::NotDue { .. } => {
            Code::FailedPrecondition
        }
        SetupRefused::Announce(_) | SetupRefused::Graph(_) | SetupRefused::Slot(_) => {
            Code::InvalidArgument
        }
    };
    Status::new(code, format!("{refused} ({})", refused.rule()))
}

/// What a command that was answered with this status tells its user, and how it exits.
#[must_use]
pub fn to_failure(status: &Status) -> Failure {
    let (exit, code) = match status.code() {
        Code::Unauthenticated => (Exit::Connection, "not_authenticated"),
        Code::PermissionDenied => (Exit::Connection, "not_permitted"),
        Code::Unavailable => (Exit::Connection, "unavailable"),
        Code::DeadlineExceeded | Code::Cancelled => (Exit::Timeout, "timeout"),
        Code::InvalidArgument => (Exit::Usage, "bad_request"),
        Code::NotFound => (Exit::Failed, "not_found"),
        Code::AlreadyExists => (Exit::Failed, "already_exists"),
        Code::FailedPrecondition => (Exit::Failed, "not_now"),
        Code::ResourceExhausted => (Exit::Failed, "no_room"),
        Code::Unimplemented => (Exit::Failed, "unknown_to_the_coordinator"),
        Code::Ok
        | Code::Unknown
        | Code::Aborted
        | Code::OutOfRange
        | Code::Internal
        | Code::DataLoss => (Exit::Failed, "failed"),
    };
    if let Some(channel) = crate::channel::explain(status) {
        return channel.into();
    }
    Failure::new(exit, code, status.message())
}

impl From<crate::channel::ChannelError> for Failure {
    fn from(error: crate::channel::ChannelError) -> Self {
        use crate::channel::Trouble;
        let (exit, code) = match error.trouble {
            Trouble::Settings => (Exit::Usage, "bad_settings"),
            Trouble::Name => (Exit::Connection, "name_not_found"),
            Trouble::Unreachable => (Exit::Connection, "unreachable"),
            Trouble::ProxyAuthentication => (Exit::Connection, "proxy_authentication"),
            Trouble::Proxy => (Exit::Connection, "proxy"),
            Trouble::WrongServer => (Exit::Connection, "wrong_server"),
            Trouble::Clock => (Exit::Connection, "clock"),
            Trouble::Rejected => (Exit::Connection, "certificate_rejected"),
            Trouble::Tls => (Exit::Connection, "tls"),
            Trouble::Timeout => (Exit::Timeout, "timeout"),
        };
        Self { exit, code, message: error.message, hint: error.hint }
    }
}
