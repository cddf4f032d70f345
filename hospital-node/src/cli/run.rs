//! `run`: the daemon.

use std::sync::Arc;

use clap::Args;
use proto::cli::{Exit, Failure};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc};

use super::Context;
use crate::driver::{self, Driver};
use crate::identity::{self, Enrolled};
use crate::journal::Journal;
use crate::link::Link;
use crate::purse::Purse;
use crate::state::State;
use crate::witness::Desk;
use crate::{clock, cpu, syslog};

/// Notices that wait for the driver; beyond that the session itself waits.
const WAITING: usize = 64;

#[derive(Debug, Args)]
pub(super) struct Run {
    /// Stops when standard input ends: for a parent process that may die without a word
    #[arg(long)]
    until_stdin_closes: bool,
}

impl Run {
    pub(super) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let orphaned = Arc::new(Notify::new());
        if self.until_stdin_closes {
            let orphaned = Arc::clone(&orphaned);
            // A thread of its own: a runtime would wait for this read when it ends.
            std::thread::spawn(move || {
                // An error is an end, too.
                let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
                orphaned.notify_one();
            });
        }
        run(context, &orphaned).await
    }
}

async fn run(context: &Context, orphaned: &Notify) -> Result<Exit, Failure> {
    cpu::require_aes(cpu::has_aes())?;
    let config = context.load()?;
    let state = State::open(&config.state)?;
    let _held = state.lock()?;
    let enrolled = Enrolled::load(&state)?;
    let feeding = match &config.syslog {
        Some(settings) => {
            let fed = syslog::begin(settings, &state, enrolled.me.as_str());
            let fed =
                fed.map_err(|fault| Failure::usage("bad_syslog", format!("syslog: {fault}")))?;
            Some(tokio::spawn(fed))
        }
        None => None,
    };
    let identity = Arc::new(identity::signing(&state)?);
    let journal = Journal::open(&state.journal()).await?;
    let purse = Purse::open(&state, &enrolled.me)?;
    let (consortium, me) = (&enrolled.consortium, enrolled.me.clone());
    let witness = Desk::open(state.clone(), consortium, me, Arc::clone(&identity))?;
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| no_signals(&error))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| no_signals(&error))?;
    tracing::info!(
        site = enrolled.me.as_str(),
        coordinator = enrolled.coordinator,
        certificate_until = clock::rfc3339(enrolled.ends),
        "starting"
    );

    let again = Arc::new(Notify::new());
    let (heard, hears) = mpsc::channel(WAITING);
    let link = Link::new(state.clone(), config.proxy.clone(), Arc::clone(&again));
    let linking = tokio::spawn(link.keep_up(heard));
    let driver = Driver::new(
        driver::House {
            config: Arc::new(config),
            state,
            me: enrolled.me,
            identity,
            journal: journal.clone(),
            purse,
            witness: Arc::new(witness),
        },
        again,
    );
    let stop = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = orphaned.notified() => {}
        }
    };
    driver.run(hears, stop).await;
    linking.abort();
    if let Some(feeding) = feeding {
        feeding.abort();
    }
    journal.finish().await;
    tracing::info!("stopped");
    Ok(Exit::Ok)
}

fn no_signals(error: &std::io::Error) -> Failure {
    Failure::failed("signals", format!("cannot listen for signals: {error}"))
}
