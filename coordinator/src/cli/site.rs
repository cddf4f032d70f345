//! `coordinator site`: who takes part.

use std::path::Path;
use std::time::Duration;

use aggregation::units::Timestamp;
use clap::Subcommand;
use proto::cli::Failure;
use proto::federation as wire;
use serde::Serialize;

use super::link::{answer, operator};
use super::out::{Out, table};
use crate::clock;

/// What can be done with sites.
#[derive(Debug, Subcommand)]
pub(super) enum SiteCommand {
    /// Invite a hospital: a one-time token for its `hospital-node enroll`.
    Token {
        /// The hospital's name: 1 to 63 of a-z, 0-9 and '-'.
        name: String,
        /// How long the token is good, such as "2h".
        #[arg(long, default_value = "24h", value_parser = humantime::parse_duration)]
        valid: Duration,
    },
    /// List hospitals: how they stand, and whether they are connected.
    List,
    /// Approve a hospital that has enrolled.
    Approve {
        /// The hospital's name.
        name: String,
        /// Approve only if its identity has this fingerprint, as the hospital has told you.
        #[arg(long, value_name = "sha256:HEX")]
        fingerprint: Option<String>,
    },
    /// Shut a hospital out, at once and until it has a new token.
    Revoke {
        /// The hospital's name.
        name: String,
    },
}

#[derive(Serialize)]
struct SiteData {
    site: String,
    state: &'static str,
    connected: bool,
    identity_fingerprint: Option<String>,
    certificate_ends: Option<String>,
    version: Option<String>,
}

impl SiteData {
    fn new(view: wire::SiteView) -> Self {
        let given = |text: String| Some(text).filter(|text| !text.is_empty());
        Self {
            state: match view.state() {
                wire::SiteState::Unspecified => "unknown",
                wire::SiteState::Invited => "invited",
                wire::SiteState::Pending => "pending",
                wire::SiteState::Approved => "approved",
                wire::SiteState::Revoked => "revoked",
            },
            certificate_ends: Some(view.certificate_ends_ms)
                .filter(|ends| *ends > 0)
                .map(|ends| clock::written(Timestamp::from_millis(ends))),
            site: view.site,
            connected: view.connected,
            identity_fingerprint: given(view.identity_fingerprint),
            version: given(view.version),
        }
    }

    fn row(&self) -> Vec<String> {
        vec![
            self.site.clone(),
            self.state.to_owned(),
            if self.connected { "yes" } else { "no" }.to_owned(),
            self.certificate_ends.clone().unwrap_or_else(|| "-".to_owned()),
            self.version.clone().unwrap_or_else(|| "-".to_owned()),
            self.identity_fingerprint.clone().unwrap_or_else(|| "-".to_owned()),
        ]
    }
}

/// Runs a site command.
pub(super) async fn run(command: SiteCommand, config: &Path, out: Out) -> Result<(), Failure> {
    let mut operator = operator(config).await?;
    match command {
        SiteCommand::Token { name, valid } => {
            let request = wire::CreateTokenRequest {
                site: name.clone(),
                valid_seconds: valid.as_secs().max(1),
            };
            let made = answer(operator.create_token(request)).await?;
            let ends = clock::written(Timestamp::from_millis(made.expires_ms));
            let text = format!(
                "Token for {name}, good for one enrolment until {ends}:\n\n  \
                 hospital-node enroll --coordinator {url} \\\n    \
                 --ca-fingerprint {ca} \\\n    --token {token}\n\n\
                 Give it to the hospital over a channel that you trust, then: coordinator site approve {name}",
                url = made.url,
                ca = made.ca_fingerprint,
                token = made.token,
            );
            let data = serde_json::json!({
                "site": name,
                "token": made.token,
                "expires": ends,
                "ca_fingerprint": made.ca_fingerprint,
                "url": made.url,
            });
            out.result(&data, &text)
        }
        SiteCommand::List => {
            let listed = answer(operator.list_sites(wire::ListSitesRequest {})).await?;
            let sites: Vec<SiteData> = listed.sites.into_iter().map(SiteData::new).collect();
            let rows: Vec<_> = sites.iter().map(SiteData::row).collect();
            let text = if rows.is_empty() {
                "no sites yet; `coordinator site token NAME` invites one".to_owned()
            } else {
                table(
                    &["SITE", "STATE", "CONNECTED", "CERTIFICATE ENDS", "VERSION", "IDENTITY"],
                    &rows,
                )
            };
            out.result(&serde_json::json!({ "sites": sites }), &text)
        }
        SiteCommand::Approve { name, fingerprint } => {
            let identity_fingerprint = fingerprint.unwrap_or_default();
            let request = wire::ApproveSiteRequest { site: name, identity_fingerprint };
            let approved = answer(operator.approve_site(request)).await?;
            one(approved.site, "approved", out)
        }
        SiteCommand::Revoke { name } => {
            let revoked =
                answer(operator.revoke_site(wire::RevokeSiteRequest { site: name })).await?;
            one(revoked.site, "revoked; its connections are closed", out)
        }
    }
}

fn one(view: Option<wire::SiteView>, what: &str, out: Out) -> Result<(), Failure> {
    let view =
        view.ok_or_else(|| Failure::failed("bad_answer", "the coordinator named no site"))?;
    let site = SiteData::new(view);
    let text = format!(
        "{} is {what}\nidentity  {}",
        site.site,
        site.identity_fingerprint.as_deref().unwrap_or("-")
    );
    out.result(&site, &text)
}
