//! `enroll` and `renew`: how this site gets its certificate, and a new one.

use std::path::Path;
use std::time::Duration;

use aggregation::ids::Digest;
use clap::Args;
use indicatif::ProgressBar;
use proto::channel::{self, Target, Trust};
use proto::cli::{Exit, Failure};
use proto::federation::enrolment_client::EnrolmentClient;
use proto::federation::{EnrolReply, EnrolRequest, enrol_reply};
use proto::limits::{MAX_MESSAGE, MAX_TOKEN};
use proto::status::to_failure;
use serde_json::json;
use tonic::Code;
use tonic::transport::Channel;

use super::{Context, Session};
use crate::config::{Config, ConfigError, SAMPLE};
use crate::identity::{self, Enrolled, Grant, Keys};
use crate::link::{self, Backoff};
use crate::state::{self, State};
use crate::{clock, config};

/// How often we ask whether an operator has approved.
const ASK_EVERY: Duration = Duration::from_secs(2);
/// A clock further away than this makes certificates look expired or not yet valid.
const SKEW: Duration = Duration::from_secs(60);

#[derive(Debug, Args)]
pub(super) struct Enroll {
    /// The coordinator's address, as https://host:port
    #[arg(long, value_name = "URL")]
    coordinator: String,
    /// The one-time token from the operator
    #[arg(long, value_name = "TOKEN")]
    token: String,
    /// The CA's fingerprint from the operator, as sha256:<64 hex digits>
    #[arg(long, value_name = "sha256:HEX", value_parser = fingerprint)]
    ca_fingerprint: Digest,
    /// How long to wait for the operator's approval
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = humantime::parse_duration)]
    wait: Duration,
}

fn fingerprint(text: &str) -> Result<Digest, String> {
    text.strip_prefix("sha256:")
        .and_then(|hex| hex.parse().ok())
        .ok_or_else(|| "expected sha256: and 64 hexadecimal digits".to_owned())
}

impl Enroll {
    pub(super) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        if self.token.is_empty() || self.token.len() > MAX_TOKEN {
            return Err(Failure::usage(
                "token",
                format!(
                    "expected a token of 1 to {MAX_TOKEN} characters, found {}",
                    self.token.len()
                ),
            ));
        }
        let config = settings(context)?;
        let state = State::open(&config.state)?;
        identity::refuse_elsewhere(&state, self.ca_fingerprint)?;
        let keys = Keys::load_or_make(&state)?;
        context.say(&format!("this site's identity key is {}", keys.identity_fingerprint()));

        let spinner = ProgressBar::new_spinner();
        spinner.enable_steady_tick(Duration::from_millis(120));
        let asked =
            tokio::time::timeout(self.wait, self.ask(context, &config, &keys, &spinner)).await;
        spinner.finish_and_clear();
        let grant = asked.map_err(|_| {
            let waited = humantime::format_duration(self.wait);
            Failure::new(Exit::Timeout, "not_approved_yet", format!("no operator approved this site within {waited}"))
                .hint("when the operator has approved it, repeat the same command: it goes on where it was")
        })??;
        let enrolled = identity::keep(&state, &keys, self.ca_fingerprint, &grant, clock::now())?;
        told(context, "enrolled", &enrolled, Some(&keys.identity_fingerprint()))
    }

    /// Asks until an operator has said yes or no.
    async fn ask(
        &self,
        context: &Context,
        config: &Config,
        keys: &Keys,
        spinner: &ProgressBar,
    ) -> Result<Grant, Failure> {
        let target = Target {
            url: self.coordinator.clone(),
            proxy: config.proxy.for_channel(),
            trust: Trust::Pinned(self.ca_fingerprint),
            client: None,
        };
        spinner.set_message(format!("connecting to {}", self.coordinator));
        let mut client = enrolment(channel::connect(&target).await.map_err(Failure::from)?);
        let mut waited_for = false;
        let mut backoff = Backoff::new();
        loop {
            let request = EnrolRequest {
                token: self.token.clone(),
                csr_der: keys.request().to_vec(),
                identity_public_key: keys.identity_public().to_vec(),
                identity_proof: keys.enrolment_proof(&self.token),
            };
            match client.enrol(request).await {
                Ok(reply) => {
                    let reply = reply.into_inner();
                    if !waited_for {
                        refuse_wrong_clock(reply.server_time_ms)?;
                    }
                    match self.read(reply)? {
                        Some(grant) => return Ok(grant),
                        None if waited_for => {}
                        None => {
                            waited_for = true;
                            context.say("the operator has to approve this site now; waiting");
                            spinner.set_message("waiting for the operator's approval");
                        }
                    }
                    backoff.reset();
                    tokio::time::sleep(ASK_EVERY).await;
                }
                // Once the token was taken, a coordinator that restarts is worth waiting for.
                Err(status) if waited_for && link::may_pass(&status) => {
                    spinner.set_message("the coordinator does not answer; trying again");
                    tokio::time::sleep(backoff.wait()).await;
                }
                Err(status) => {
                    let failure = to_failure(&status);
                    let refused = [Code::PermissionDenied, Code::Unauthenticated];
                    return Err(if refused.contains(&status.code()) {
                        failure.hint("a token holds for one site, once, and for a limited time")
                    } else {
                        failure
                    });
                }
            }
        }
    }

    fn read(&self, reply: EnrolReply) -> Result<Option<Grant>, Failure> {
        match reply.state() {
            enrol_reply::State::Pending => Ok(None),
            enrol_reply::State::Approved => Ok(Some(Grant {
                coordinator: self.coordinator.clone(),
                site: Some(reply.site),
                certificate_pem: reply.certificate_pem,
                ca_pem: reply.ca_pem,
            })),
            enrol_reply::State::Revoked => {
                Err(Failure::new(Exit::Connection, "refused", "the operator refused this site")
                    .hint("ask the operator; a new token is needed to try again"))
            }
            enrol_reply::State::Unspecified => Err(Failure::failed(
                "protocol",
                "expected a state in the coordinator's answer, found none",
            )
            .hint("the coordinator may be newer than this program")),
        }
    }
}

/// The settings; where there are none yet, the sample is written first.
fn settings(context: &Context) -> Result<Config, Failure> {
    match Config::load(&context.config) {
        Err(ConfigError::Missing(path)) => {
            write_sample(&path)?;
            context.say(&format!("wrote a sample configuration to {}", path.display()));
            context.load()
        }
        other => Ok(other?),
    }
}

fn write_sample(path: &Path) -> Result<(), Failure> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    folder
        .map_or(Ok(()), std::fs::create_dir_all)
        .map_err(state::StateError::io("make the folder of", path))
        .and_then(|()| state::replace(path, SAMPLE.as_bytes()))
        .map_err(Failure::from)
}

fn refuse_wrong_clock(server_ms: u64) -> Result<(), Failure> {
    let (ours, theirs) = (clock::now(), aggregation::units::Timestamp::from_millis(server_ms));
    let away = ours.since(theirs).max(theirs.since(ours));
    if server_ms == 0 || away <= SKEW {
        return Ok(());
    }
    Err(Failure::new(
        Exit::Connection,
        "clock",
        format!(
            "this machine's clock says {}, the coordinator's {}",
            clock::rfc3339(ours),
            clock::rfc3339(theirs)
        ),
    )
    .hint("set the clock (NTP), then repeat the command"))
}

fn enrolment(channel: Channel) -> EnrolmentClient<Channel> {
    EnrolmentClient::new(channel).max_decoding_message_size(MAX_MESSAGE)
}

/// `renew`.
pub(super) async fn renew(context: &Context) -> Result<Exit, Failure> {
    let Session { state, enrolled, mut client, .. } = Session::open(context).await?;
    let renewed = link::renew(&mut client, &state, &enrolled).await?;
    told(context, "renewed", &renewed, None)
}

fn told(
    context: &Context,
    what: &str,
    enrolled: &Enrolled,
    identity: Option<&str>,
) -> Result<Exit, Failure> {
    let ends = clock::rfc3339(enrolled.ends);
    let data = json!({
        "site": enrolled.me.as_str(),
        "consortium": enrolled.consortium.as_str(),
        "coordinator": enrolled.coordinator,
        "certificate_ends": ends,
        "identity_fingerprint": identity,
        "config": context.config,
    });
    context.print(&data, |out| {
        writeln!(
            out,
            "{what} as {} in {}; the certificate holds until {ends}",
            enrolled.me, enrolled.consortium
        )?;
        if identity.is_some() {
            writeln!(
                out,
                "next: name your data in {}, then `hospital-node run`",
                context.config.display()
            )?;
        }
        Ok(())
    })?;
    Ok(Exit::Ok)
}

impl config::Proxy {
    /// The same in the channel's words.
    #[must_use]
    pub(crate) fn for_channel(&self) -> channel::Proxy {
        match self {
            Self::Auto => channel::Proxy::Environment,
            Self::Direct => channel::Proxy::Direct,
            Self::Url(url) => channel::Proxy::Url(url.clone()),
        }
    }
}
