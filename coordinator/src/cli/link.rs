//! The operator's commands speak with the running coordinator as anybody does: over mTLS.

use std::path::Path;
use std::time::Duration;

use proto::channel::{ClientIdentity, Proxy, Target, Trust, connect};
use proto::cli::{Exit, Failure};
use proto::federation::operator_client::OperatorClient;
use proto::limits::MAX_MESSAGE;
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

use crate::config::{Config, ConfigError};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// A list of studies with long histories is larger than what peers may send.
const LARGEST_ANSWER: usize = 32 * MAX_MESSAGE;

/// Reads the configuration; every fault of it in one message.
pub(super) fn config(path: &Path) -> Result<Config, Failure> {
    Config::load(path).map_err(|fault| {
        let (code, hint) = match &fault {
            ConfigError::Unreadable { .. } => {
                ("no_config", "name it with --config FILE, or make one with `coordinator init`")
            }
            ConfigError::NotToml { .. } | ConfigError::Faults { .. } => ("bad_config", ""),
        };
        let message = match &fault {
            ConfigError::Unreadable { source, .. } => format!("{fault}: {source}"),
            ConfigError::NotToml { .. } | ConfigError::Faults { .. } => fault.to_string(),
        };
        Failure::usage(code, message).hint(hint)
    })
}

/// Connects as the operator that the configuration names.
pub(super) async fn operator(path: &Path) -> Result<OperatorClient<Channel>, Failure> {
    let config = config(path)?;
    let read = |path: &Path| {
        std::fs::read_to_string(path).map_err(|fault| {
            Failure::usage("no_certificate", format!("{}: {fault}", path.display()))
        })
    };
    let target = Target {
        url: config.url.text.clone(),
        proxy: Proxy::Environment,
        trust: Trust::Ca(read(&config.certificates.ca)?),
        client: Some(ClientIdentity {
            certificate_pem: read(&config.operator.certificate)?,
            key_pem: read(&config.operator.key)?,
        }),
    };
    let channel = connect(&target).await?;
    Ok(OperatorClient::new(channel).max_decoding_message_size(LARGEST_ANSWER))
}

/// What a call was answered when it was not let in, or failed.
pub(super) fn refused(status: &Status) -> Failure {
    let failure = proto::status::to_failure(status);
    let door = [Code::Unauthenticated, Code::PermissionDenied].contains(&status.code());
    if door && failure.hint.is_empty() {
        return failure.hint("[operator] in the configuration names the certificate that is shown");
    }
    failure
}

/// Waits for an answer, but not for ever.
pub(super) async fn answer<T>(
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, Failure> {
    match tokio::time::timeout(PATIENCE, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(refused(&status)),
        Err(_) => {
            let message = format!("no answer from the coordinator within {} s", PATIENCE.as_secs());
            Err(Failure::new(Exit::Timeout, "timeout", message))
        }
    }
}
