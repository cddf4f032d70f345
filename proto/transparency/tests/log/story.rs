//! Two studies as a coordinator tells them: one with privacy, charges, dropouts, a pause, an
//! abandoned attempt, a refusal and an alarm; one short and without privacy.

use std::collections::BTreeMap;

use data_encoding::HEXLOWER;
use serde_json::{Map, Value, json};
use transparency::leaf::Leaf;
use transparency::time::UtcTime;
use transparency::tree::leaf_hash;

/// Rounds of the first study that were released.
pub(crate) const ROUNDS: u64 = 48;

/// How the sites of the first study are called.
pub(crate) const SITES: [&str; 5] = ["alder", "birch", "cedar", "elm", "maple"];

/// A name that is an attack on whoever shows it as HTML.
pub(crate) const HOSTILE: &str =
    "</title><script>alert('x')</script><img src=x onerror=alert(1)>\"'&";

/// A digest that depends on what it names.
pub(crate) fn digest(of: &str) -> String {
    HEXLOWER.encode(&leaf_hash(of.as_bytes()))
}

/// Leaves in the order in which they are told.
pub(crate) struct Story {
    pub(crate) leaves: Vec<Vec<u8>>,
    clock: u64,
    study: String,
    slot: u64,
    round: u64,
    /// Charges so far, by site.
    charged: BTreeMap<String, u32>,
}

impl Story {
    /// One more leaf.
    pub(crate) fn tell(&mut self, kind: &str, fields: Value) {
        self.clock += 700;
        let time = UtcTime::from_millis(self.clock).expect("before 10000");
        let Value::Object(fields) = fields else { return };
        let leaf = Leaf::new(kind, time, fields).expect("a small leaf");
        self.leaves.push(leaf.bytes().to_vec());
    }

    fn of_study(&mut self, kind: &str, mut fields: Value) {
        fields["study"] = self.study.clone().into();
        self.tell(kind, fields);
    }

    fn of_round(&mut self, kind: &str, mut fields: Value) {
        fields["round"] = self.round.into();
        fields["slot"] = self.slot.into();
        self.of_study(kind, fields);
    }

    fn model(&self, round: u64) -> String {
        digest(&format!("{} model {round}", self.study))
    }

    /// A consortium of five sites and its two studies. `name` is that of the first study, `last`
    /// that of its fifth site.
    pub(crate) fn new(name: &str, last: &str) -> Self {
        let mut story = Self {
            leaves: Vec::new(),
            clock: 1_795_000_000_000,
            study: String::new(),
            slot: 0,
            round: 0,
            charged: BTreeMap::new(),
        };
        let sites = [SITES[0], SITES[1], SITES[2], SITES[3], last];
        for site in sites {
            story.tell("site_invited", json!({"site": site, "by": "operator/root"}));
            let identity = digest(&format!("identity {site}"));
            story.tell("site_enrolled", json!({"site": site, "identity": identity}));
            let certificate = digest(&format!("certificate {site}"));
            let fields = json!({"site": site, "by": "operator/root", "certificate": certificate, "identity": identity});
            story.tell("site_approved", fields);
        }
        story.private_study(name, &sites);
        story.plain_study();
        story
    }

    /// The digest of the first study.
    pub(crate) fn private() -> String {
        digest("study one")
    }

    /// The digest of the second.
    pub(crate) fn plain() -> String {
        digest("study two")
    }

    fn private_study(&mut self, name: &str, sites: &[&str]) {
        self.study = Self::private();
        let privacy = json!({
            "mode": "distributed", "epsilon": 3, "delta": 0.00001, "clipping_norm": 1,
            "sampling_rate": 0.05, "solo_epsilon_cap": 20,
        });
        let first = self.model(0);
        let fields = json!({"name": name, "by": "operator/root", "sites": sites, "model": first, "manifest": digest("manifest"), "privacy": privacy});
        self.of_study("study_proposed", fields);
        for site in sites {
            self.clock += 4_000_000;
            self.of_study("study_decided", json!({"site": site, "decision": "approved"}));
            self.of_study("key_announced", json!({"site": site, "digest": digest(site)}));
            self.of_study(
                "prekey_batch",
                json!({"site": site, "batch": 0, "digest": digest(site)}),
            );
        }
        self.of_study(
            "study_changed",
            json!({"from": "proposed", "to": "approved", "by": "sites"}),
        );
        let start = json!({"from": "approved", "to": "running", "by": "operator/root", "reason": "the protocol is signed by all sites"});
        self.of_study("study_changed", start);
        for round in 1..=ROUNDS {
            self.round = round;
            if round == 17 {
                self.abandoned_attempt(sites);
                let change = |from: &str, to: &str, reason: &str| json!({"from": from, "to": to, "by": "operator/root", "reason": reason});
                self.of_study("study_changed", change("running", "paused", "network maintenance"));
                self.clock += 7_200_000;
                self.of_study("study_changed", change("paused", "running", ""));
            }
            if round == 29 {
                self.of_round("alarm", json!({"reason": "a sum was counted twice in one step"}));
            }
            self.private_round(sites);
        }
        let done = json!({"from": "running", "to": "completed", "by": "coordinator", "reason": "all rounds are done"});
        self.of_study("study_changed", done);
        let export = json!({"model": self.model(ROUNDS), "by": "operator/root", "round": ROUNDS});
        self.of_study("model_exported", export);
    }

    fn announce(&mut self, sites: &[&str], absent: &[&str], work: &str) -> Vec<String> {
        self.slot += 1;
        self.clock += 60_000;
        let invited: Vec<_> =
            sites.iter().filter(|it| !absent.contains(it)).map(|it| (*it).to_owned()).collect();
        let terms = digest(&format!("terms {} {}", self.study, self.slot));
        let model = self.model(self.round - 1);
        let fields = json!({"terms": terms, "work": work, "model": model, "invited": invited});
        self.of_round("round_announced", fields);
        for site in absent {
            self.of_round("round_absent", json!({"site": site}));
        }
        invited
    }

    fn abandoned_attempt(&mut self, sites: &[&str]) {
        let invited = self.announce(sites, &[], "train");
        for site in &invited[..2] {
            self.of_round("round_ready", json!({"site": site}));
        }
        for site in &invited[2..] {
            let fields = json!({"site": site, "reason": "was not ready in time"});
            self.of_round("round_dropout", fields);
        }
        let reason = "2 sites were ready; the quorum is 3";
        self.of_round("round_abandoned", json!({"reason": reason}));
    }

    fn private_round(&mut self, sites: &[&str]) {
        let round = self.round;
        let absent: &[&str] = if (9..=12).contains(&round) { &sites[1..2] } else { &[] };
        let evaluates = round.is_multiple_of(4) || round == 1;
        let work = if evaluates { "train-and-evaluate" } else { "train" };
        let invited = self.announce(sites, absent, work);
        let mut members = Vec::new();
        for (at, site) in (0_u64..).zip(&invited) {
            if at == 2 && round % 11 == 5 {
                let fields = json!({"site": site, "reason": "outside its hours"});
                self.of_round("round_declined", fields);
            } else if at == 3 && round > 44 {
                let reason = "the planned epsilon of this study may be 2.5; with this round it would be 2.53";
                self.of_round("ledger_refused", json!({"site": site, "reason": reason}));
                let fields = json!({"site": site, "reason": "against its policy"});
                self.of_round("round_declined", fields);
            } else {
                self.of_round("round_ready", json!({"site": site}));
                members.push(site.clone());
            }
        }
        self.of_round("round_frozen", json!({"members": members}));
        let lost = (round % 13 == 7).then(|| members[members.len() - 1].clone());
        for site in &members {
            let seq = self.charged.entry(site.clone()).or_default();
            *seq += 1;
            let (seq, spent) = (*seq, f64::from(*seq));
            let cap = if site == sites[3] { 2.5 } else { 3.0 };
            let fields = json!({
                "site": site, "mode": "distributed", "z": 1.125, "q": 0.05, "delta": 0.00001,
                "epsilon_planned": 0.3 + 0.33 * spent.sqrt(), "epsilon_solo": 1.5 + 1.75 * spent.sqrt(),
                "cap_planned": cap, "cap_solo": 20, "seq": seq, "head": digest(&format!("{site} {round}")),
            });
            self.of_round("ledger_charge", fields);
            if lost.as_ref() != Some(site) {
                let masked = digest(&format!("{site} {} {round}", self.study));
                let fields = json!({"site": site, "digest": masked, "bytes": 4_000_000});
                self.of_round("round_contribution", fields);
            }
        }
        if let Some(site) = &lost {
            let reason = "was ready, but its update did not arrive in time";
            self.of_round("round_dropout", json!({"site": site, "reason": reason}));
            members.retain(|member| member != site);
            self.of_round("round_recovery", json!({"missing": [site]}));
        }
        self.of_round("round_final_set", json!({"members": members}));
        for site in &members {
            self.of_round("round_set_signed", json!({"site": site}));
            self.of_round("round_shares", json!({"site": site}));
        }
        let sum = digest(&format!("sum {round}"));
        let most = f64::from(self.charged.values().copied().max().unwrap_or_default());
        let fields = json!({
            "contributed": members, "sum": sum, "noise_multiplier": 1.125, "delta": 0.00001,
            "epsilon": 0.3 + 0.33 * most.sqrt(), "epsilon_solo": 1.5 + 1.75 * most.sqrt(),
        });
        self.of_round("round_released", fields);
        if evaluates {
            let done = f64::from(u32::try_from(round).expect("few"));
            let fields = json!({
                "model": self.model(round - 1), "sites": members.len(),
                "loss": 0.31 + 0.42 / (1.0 + done / 7.0), "auroc": 0.93 - 0.4 / (1.0 + done / 5.0),
                "accuracy": 0.88 - 0.3 / (1.0 + done / 5.0),
            });
            self.of_round("round_evaluated", fields);
        }
        let fields = json!({"before": self.model(round - 1), "after": self.model(round)});
        self.of_round("model_changed", fields);
    }

    fn plain_study(&mut self) {
        self.study = Self::plain();
        self.slot = 0;
        let sites = &SITES[..3];
        let first = self.model(0);
        let fields = json!({"name": "rehearsal", "by": "operator/root", "sites": sites, "model": first, "privacy": {"mode": "danger_no_privacy"}});
        self.of_study("study_proposed", fields);
        for site in sites {
            self.of_study("study_decided", json!({"site": site, "decision": "approved"}));
        }
        self.of_study("study_changed", json!({"from": "approved", "to": "running", "by": "sites"}));
        for round in 1..=3 {
            self.round = round;
            let members = self.announce(sites, &[], "train");
            for site in &members {
                self.of_round("round_ready", json!({"site": site}));
                let fields = json!({"site": site, "digest": digest(site), "bytes": 4_000_000});
                self.of_round("round_contribution", fields);
            }
            self.of_round("round_released", json!({"contributed": members}));
            let fields = json!({"before": self.model(round - 1), "after": self.model(round)});
            self.of_round("model_changed", fields);
        }
        self.tell("site_revoked", json!({"site": SITES[0], "by": "operator/root"}));
        // What a newer coordinator may say, and what a faulty one may.
        self.of_round("fact_of_tomorrow", json!({"a": Map::new()}));
        self.of_round("round_ready", json!({}));
    }
}
