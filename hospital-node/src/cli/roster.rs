//! `roster`: the identity keys that the other sites are known by. They sign what their hospitals say
//! about keys and sums, so a key that is not theirs would open the way to their updates and ours.

use std::collections::BTreeMap;

use aggregation::ids::{Digest, HospitalId};
use aggregation::keys::identity::IdentityKey;
use aggregation::units::Timestamp;
use clap::{Args, Subcommand};
use proto::cli::{Exit, Failure};
use serde_json::{Value, json};

use super::Context;
use crate::identity::fingerprint;
use crate::journal::{Journal, News, Pin};
use crate::policy::NewSites;
use crate::state::State;
use crate::{clock, identity};

#[derive(Debug, Subcommand)]
pub(super) enum Roster {
    /// Lists the sites and the identity keys that they are known by
    List,
    /// Accepts the key that the coordinator names for a site which is new, or whose key changed
    Accept(Accept),
}

#[derive(Debug, Args)]
pub(super) struct Accept {
    /// The site
    #[arg(long, value_name = "NAME")]
    site: String,
    /// The fingerprint that the site told over another channel; another one is refused
    #[arg(long, value_name = "sha256:HEX", value_parser = sha256)]
    fingerprint: Option<Digest>,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

fn sha256(text: &str) -> Result<Digest, String> {
    let digits = text.strip_prefix("sha256:").ok_or("expected sha256: and 64 hex digits")?;
    digits.parse().map_err(|_| "expected 64 hex digits after sha256:".to_owned())
}

impl Roster {
    pub(super) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let config = context.load()?;
        let state = State::open(&config.state)?;
        let journal = Journal::open(&state.journal()).await?;
        match self {
            Self::List => list(context, &state, &journal).await,
            Self::Accept(accept) => accept.run(context, &journal).await,
        }
    }
}

async fn list(context: &Context, state: &State, journal: &Journal) -> Result<Exit, Failure> {
    let pins = journal.pins().await?;
    let own = fingerprint(&identity::signing(state)?.key());
    let rows: Vec<Value> = pins.iter().map(|(site, pin)| row(site, pin)).collect();
    context.print(&json!({ "own_fingerprint": own, "sites": rows }), |out| {
        writeln!(out, "this site's own: {own}")?;
        if pins.is_empty() {
            return writeln!(out, "no other site was seen yet; studies name them");
        }
        for (site, pin) in &pins {
            writeln!(out, "{site:<20} {}", told(pin))?;
        }
        Ok(())
    })?;
    Ok(Exit::Ok)
}

fn row(site: &HospitalId, pin: &Pin) -> Value {
    let key = |key: Option<(IdentityKey, Timestamp)>| key.map(|(key, _)| fingerprint(&key));
    let at = |key: Option<(IdentityKey, Timestamp)>| key.map(|(_, at)| clock::rfc3339(at));
    json!({
        "site": site.as_str(),
        "state": word(pin),
        "fingerprint": key(pin.key),
        "since": at(pin.key),
        "found": key(pin.found),
        "found_since": at(pin.found),
    })
}

/// Where a site's identity stands, in one word.
const fn word(pin: &Pin) -> &'static str {
    match (&pin.key, &pin.found) {
        (Some(_), None) => "pinned",
        (Some(_), Some(_)) => "changed",
        (None, _) => "new",
    }
}

fn told(pin: &Pin) -> String {
    let text = |key: &IdentityKey, at: Timestamp| {
        format!("{} since {}", fingerprint(key), clock::rfc3339(at))
    };
    match (pin.key, pin.found) {
        (Some((key, at)), None) => format!("pinned   {}", text(&key, at)),
        (Some((key, at)), Some((found, found_at))) => {
            format!("CHANGED  {}; was {}", text(&found, found_at), text(&key, at))
        }
        (None, Some((found, at))) => format!("new      {}; not accepted yet", text(&found, at)),
        (None, None) => "new".to_owned(),
    }
}

impl Accept {
    async fn run(self, context: &Context, journal: &Journal) -> Result<Exit, Failure> {
        let unknown = || {
            Failure::failed("no_such_site", format!("no key of {:?} waits to be accepted", self.site))
                .hint("`hospital-node roster list` shows the sites; `study list` asks the coordinator anew")
        };
        let site = HospitalId::new(&self.site).map_err(|_| unknown())?;
        let pin = journal.pins().await?.get(&site).copied().ok_or_else(unknown)?;
        let Some((found, _)) = pin.found else {
            // Said twice, it is answered as the first time.
            let same = pin.key.is_some_and(|(key, _)| {
                self.fingerprint.is_none_or(|said| said == Digest::sha256(key.as_bytes()))
            });
            return if same { told_accepted(context, &site, &pin) } else { Err(unknown()) };
        };
        match self.fingerprint {
            Some(said) if said != Digest::sha256(found.as_bytes()) => {
                return Err(Failure::failed(
                    "other_fingerprint",
                    format!("expected sha256:{said}, found {}", fingerprint(&found)),
                )
                .hint("ask the site itself, not the coordinator, which of the two is its own"));
            }
            Some(_) => {}
            None => {
                if let Some((key, _)) = pin.key {
                    context.say(&format!("pinned until now: {}", fingerprint(&key)));
                }
                let question = format!("accept {} as the key of {site}?", fingerprint(&found));
                context.confirm(&question, self.yes)?;
            }
        }
        let now = clock::now();
        journal.accept(&site, found, now).await?;
        told_accepted(context, &site, &Pin { key: Some((found, now)), found: None })
    }
}

fn told_accepted(context: &Context, site: &HospitalId, pin: &Pin) -> Result<Exit, Failure> {
    context.print(&row(site, pin), |out| {
        writeln!(out, "{site} {}", told(pin))?;
        writeln!(out, "studies that were approved with another key have to be approved again")
    })?;
    Ok(Exit::Ok)
}

/// Keeps what the coordinator names, and says what is new.
pub(super) async fn meet(
    context: &Context,
    journal: &Journal,
    me: &HospitalId,
    told: &BTreeMap<HospitalId, IdentityKey>,
    new: NewSites,
) -> Result<(), Failure> {
    let others = told.iter().filter(|(site, _)| *site != me);
    let others = others.map(|(site, key)| (site.clone(), *key)).collect();
    for (site, key, news) in journal.meet(&others, new, clock::now()).await? {
        let key = fingerprint(&key);
        context.say(&match news {
            News::Pinned => format!("identity of {site} pinned: {key}"),
            News::Waits => format!("{site} is new: {key}; `hospital-node roster accept` decides"),
            News::Changed => format!(
                "THE IDENTITY KEY OF {site} CHANGED to {key}; `hospital-node roster accept` decides"
            ),
        });
    }
    Ok(())
}
