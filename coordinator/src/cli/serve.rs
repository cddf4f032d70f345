//! `coordinator serve` and `coordinator check`.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use clap::Args;
use proto::cli::{Exit, Failure};
use proto::syslog::Receiver;
use tokio::io::AsyncReadExt as _;
use tokio::signal::unix::{SignalKind, signal};

use super::link;
use super::out::Out;
use crate::config::Config;
use crate::coordinator::{Coordinator, StartError, bind};
use crate::identity::authority::{Authority, AuthorityError};
use crate::log::{self, LogError};
use crate::store::StoreError;
use crate::syslog;
use crate::telemetry::{self, LogFormat};

/// Arguments of `coordinator serve`.
#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    /// How events are written to stderr.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
    /// Which events: error, warn, info, debug, trace, or a filter such as "coordinator=debug".
    #[arg(long, default_value = "info", value_name = "LEVEL")]
    log_level: String,
    /// Stop when standard input closes, as when whoever started this program has ended.
    #[arg(long)]
    until_stdin_closes: bool,
}

/// Serves until it is told to stop.
pub(super) async fn run(args: &ServeArgs, path: &Path, out: Out) -> Result<(), Failure> {
    let config = link::config(path)?;
    telemetry::start(args.log_format, &args.log_level)
        .map_err(|fault| Failure::usage("bad_log_level", fault))?;
    let stop = stop_asked(args.until_stdin_closes)?;
    serve(config, stop).await.map_err(|fault| trouble(&fault))?;
    out.silent(&serde_json::json!({ "stopped": true }))
}

async fn serve(config: Config, stop: impl Future<Output = ()> + Send) -> Result<(), StartError> {
    let authority =
        Arc::new(Authority::load(&config.certificates.ca, &config.certificates.ca_key)?);
    // The address first: a port in use is the commonest trouble, and costs nothing to find out.
    let listener = bind(config.listen).await?;
    let (listen, url) = (config.listen, config.url.text.clone());
    let fingerprint = authority.fingerprint();
    let (host, collector) = (config.url.host.clone(), config.syslog.clone());
    let house = match Coordinator::open(config, authority).await {
        Ok(house) => house,
        Err(fault) => {
            if let (StartError::Log(why), Some(settings)) = (&fault, collector)
                && why.is_evidence()
            {
                syslog::tell(&settings, &host, why).await;
            }
            return Err(fault);
        }
    };
    tracing::info!(%listen, url, ca = fingerprint, consortium = %house.consortium, "coordinator is up");
    house.serve(listener, stop).await?;
    tracing::info!("coordinator has stopped");
    Ok(())
}

/// Waits for SIGTERM, SIGINT, or the end of standard input.
fn stop_asked(until_stdin_closes: bool) -> Result<impl Future<Output = ()> + Send, Failure> {
    let listen = |kind| {
        signal(kind).map_err(|fault| {
            Failure::new(Exit::Bug, "no_signals", format!("signals cannot be heard: {fault}"))
        })
    };
    let (mut term, mut interrupt) =
        (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    Ok(async move {
        let closed = async {
            if until_stdin_closes {
                let mut input = tokio::io::stdin();
                let mut ignored = [0; 64];
                while matches!(input.read(&mut ignored).await, Ok(read) if read > 0) {}
            } else {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            _ = term.recv() => {}
            _ = interrupt.recv() => {}
            () = closed => {}
        }
    })
}

/// What a person is told when the coordinator does not start, and how the program exits.
fn trouble(fault: &StartError) -> Failure {
    let mut message = fault.to_string();
    let mut cause = std::error::Error::source(fault);
    while let Some(one) = cause {
        let text = one.to_string();
        if !message.ends_with(&text) {
            message = format!("{message}: {text}");
        }
        cause = one.source();
    }
    match fault {
        StartError::Listen(crate::service::listener::ListenError::Bind { .. }) => {
            Failure::failed("cannot_listen", message)
                .hint("another program may have the port; change `listen` or stop it")
        }
        StartError::Store(StoreError::Newer { .. }) => Failure::failed("newer_state", message)
            .hint("use the newer program; the state cannot go back"),
        StartError::Store(StoreError::InUse) => {
            Failure::failed("state_in_use", message).hint("stop it first")
        }
        StartError::Log(LogError::Key { .. } | LogError::Name(_))
        | StartError::Authority(_)
        | StartError::Server(_)
        | StartError::Syslog(_)
        | StartError::Consortium(_) => {
            Failure::usage("bad_files", message).hint("`coordinator check` checks every file")
        }
        StartError::Log(why) if why.is_evidence() => Failure::failed("log_disagrees", message)
            .hint("restore the state folder whole, as it was last; the log never goes back"),
        StartError::Log(_)
        | StartError::Store(_)
        | StartError::Listen(_)
        | StartError::Study { .. }
        | StartError::Ended(_) => Failure::failed("not_started", message),
    }
}

/// Validates the configuration and the files that it names.
pub(super) fn check(path: &Path, out: Out) -> Result<(), Failure> {
    let config = link::config(path)?;
    let mut faults = Vec::new();
    let certificates = &config.certificates;
    match Authority::load(&certificates.ca, &certificates.ca_key) {
        Ok(_) => {}
        Err(fault @ AuthorityError::Unreadable { .. }) => {
            let cause =
                std::error::Error::source(&fault).map(ToString::to_string).unwrap_or_default();
            faults.push(format!("{fault}: {cause}"));
        }
        Err(fault) => faults.push(fault.to_string()),
    }
    if let Err(fault) = log::check_key(&config.log_key) {
        faults.push(fault.to_string());
    }
    if let Some(Err(fault)) = config.syslog.as_ref().map(Receiver::load) {
        faults.push(format!("syslog: {fault}"));
    }
    let operator = &config.operator;
    for file in [&certificates.server, &operator.certificate] {
        if let Err(fault) = std::fs::read(file) {
            faults.push(format!("cannot read {}: {fault}", file.display()));
        }
    }
    let keys = [&certificates.ca_key, &certificates.server_key, &operator.key, &config.log_key];
    for key in keys {
        match std::fs::metadata(key) {
            Ok(found) if found.permissions().mode() & 0o077 != 0 => {
                let mode = found.permissions().mode() & 0o777;
                faults.push(format!("{}: expected mode 600, found {mode:o}", key.display()));
            }
            Ok(_) => {}
            // These two were tried above.
            Err(_) if *key == certificates.ca_key || *key == config.log_key => {}
            Err(fault) => faults.push(format!("cannot read {}: {fault}", key.display())),
        }
    }
    if !faults.is_empty() {
        let message = format!("{}: {}", path.display(), faults.join("; "));
        return Err(Failure::usage("bad_files", message));
    }
    let data = serde_json::json!({
        "config": path,
        "consortium": config.consortium,
        "url": config.url.text,
        "listen": config.listen.to_string(),
        "state": config.state,
    });
    out.result(&data, &format!("{}: valid", path.display()))
}
