//! The page that a compliance officer reads.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use aggregation::privacy::accountant::{Accountant, Composition, Mechanism};
use aggregation::units::{Delta, NoiseMultiplier, SamplingRate};
use serde_json::{Map, Value};
use transparency::folder::Folder;
use transparency::leaf::Leaf;

use crate::fixture::{build, policy};
use crate::program::Desk;
use crate::story::{HOSTILE, ROUNDS, SITES, Story, digest};

/// A desk with the log of a story and a policy.
fn desk(name: &str, last: &str) -> Desk {
    desk_with(&Story::new(name, last).leaves)
}

fn desk_with(leaves: &[Vec<u8>]) -> Desk {
    let desk = Desk::bare();
    let size = leaves.len();
    let at = |number: u64| leaves[usize::try_from(number).expect("few")].clone();
    build(Folder::create(&desk.at("log")).expect("made"), &[size as u64], at);
    fs::write(desk.at("policy"), policy(2).to_string()).expect("written");
    desk
}

fn page(desk: &Desk, study: &str) -> String {
    let line = format!("report --log log --policy policy --out report.html --study {study}");
    let answer = desk.run(&line);
    assert_eq!((answer.code, answer.err.as_str()), (Some(0), ""), "{}", answer.out);
    fs::read_to_string(desk.at("report.html")).expect("written")
}

/// The text of the section with this title.
fn section<'a>(page: &'a str, title: &str) -> &'a str {
    let from = page.find(&format!("</span>{title}</h2>")).expect(title);
    let rest = &page[from..];
    &rest[..rest.find("</section>").expect("it ends")]
}

#[test]
fn a_study_is_one_page_that_fetches_and_runs_nothing() {
    let desk = desk("radiographs", SITES[4]);
    let page = page(&desk, "radiographs");
    for word in ["<script", "http://", "https://", "<link", "<img", "url(", "@import", "onload"] {
        assert!(!page.contains(word), "{word}");
    }
    assert!(page.contains("default-src 'none'"));
    for text in [
        "Cosigned by 3 witnesses",
        &Story::private(),
        "whether what the entries say is true",
        "the protocol is signed by all sites",
        "network maintenance",
        "2 sites were ready; the quorum is 3",
        "outside its hours",
        "a sum was counted twice in one step",
    ] {
        assert!(page.contains(text), "{text}");
    }
    let approvals = section(&page, "Who approved it, and when");
    assert_eq!(approvals.matches("chip good").count(), SITES.len());
    let drawn = section(&page, "Who took part").matches("<svg class=\"plot\"").count();
    assert_eq!(drawn, 1);
    assert_eq!(section(&page, "Privacy spent").matches("<svg class=\"plot half\"").count(), 2);
    assert_eq!(section(&page, "How the model fared").matches("<svg").count(), 3);
    let rows = section(&page, "Every attempt at a round").matches("<tr><td>").count();
    assert_eq!(rows as u64, ROUNDS + 1);
    // To be looked at; nobody reads it back.
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join("report.html");
    fs::write(kept, &page).expect("written");
    // The same log gives the same bytes.
    assert_eq!(self::page(&desk, &Story::private()[..10]), page);
}

#[test]
fn files_that_nothing_needs_do_not_change_the_page() {
    let leaves = Story::new("radiographs", SITES[4]).leaves;
    let desk = desk_with(&leaves);
    let before = page(&desk, "radiographs");
    // As the log was when it was shorter.
    let at = |number: u64| leaves[usize::try_from(number).expect("few")].clone();
    build(Folder::create(&desk.at("shorter")).expect("made"), &[100], at);
    for old in ["tile/0/000.p/100", "tile/entries/000.p/100"] {
        let to = desk.at("log").join(old);
        fs::create_dir_all(to.parent().expect("a folder")).expect("made");
        fs::copy(desk.at("shorter").join(old), to).expect("copied");
    }
    fs::write(desk.at("log/stranger"), "no part of a log").expect("written");
    let verified = desk.run("verify --log log --policy policy");
    assert!(verified.out.contains(" 2 older partial files"), "{}", verified.out);
    assert!(verified.out.contains("\"stranger\""), "{}", verified.out);
    assert_eq!(page(&desk, "radiographs"), before);
}

#[test]
fn the_study_file_is_shown_if_it_is_the_one_that_was_proposed() {
    let text = "name = \"radiographs\"\n[task]\nkind = \"classification\"\n[model]\narch = \"<linear>\"\n[train]\nrounds = 48\n[cohort]\nquorum = 3\ntolerate_colluding = 1\n";
    let sha = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    let sha = data_encoding::HEXLOWER.encode(sha.as_ref());
    let desk = desk_with(&bent("study_proposed", put("manifest", sha.into())));
    let without = page(&desk, "radiographs");
    let studied = section(&without, "What was studied");
    assert!(studied.contains("Not in the log:") && !studied.contains("Quorum"), "{studied}");
    fs::write(desk.at("study.toml"), text).expect("written");
    let with = page(&desk, "radiographs --manifest study.toml");
    let studied = section(&with, "What was studied");
    for row in [
        "<dt>Task</dt><dd>classification</dd>",
        "<dt>Model</dt><dd>&lt;linear&gt;</dd>",
        "<dt>Rounds planned</dt><dd>48</dd>",
        "<dt>Quorum</dt><dd>3</dd>",
        "<dt>Tolerated colluders</dt><dd>1</dd>",
    ] {
        assert!(studied.contains(row), "{row}: {studied}");
    }
    assert!(section(&with, "To check this by hand").contains("tolerate_colluding = 1"));
    fs::write(desk.at("study.toml"), format!("{text}\n")).expect("written");
    fs::remove_file(desk.at("report.html")).expect("removed");
    let line = "report --log log --policy policy --study radiographs --out report.html";
    let other = desk.run(&format!("{line} --manifest study.toml --format json"));
    assert_eq!((other.code, &other.json()["error_code"]), (Some(1), &"another_manifest".into()));
    assert!(!desk.at("report.html").exists());
}

/// Gives a leaf this field.
fn put(key: &'static str, value: Value) -> impl Fn(&mut Map<String, Value>) -> bool {
    move |data| {
        data.insert(key.to_owned(), value.clone());
        true
    }
}

/// Charges as they are where every site is charged the same, and what they make.
fn counted_by(accountant: Accountant) -> Vec<Vec<u8>> {
    let mut steps: BTreeMap<String, u64> = BTreeMap::new();
    let mechanism = Mechanism::new(
        NoiseMultiplier::new(1.125).expect("positive"),
        SamplingRate::new(0.05).expect("a rate"),
    );
    let mut told: BTreeMap<u64, f64> = BTreeMap::new();
    let mut count = |steps: u64| {
        *told.entry(steps).or_insert_with(|| {
            let delta = Delta::new(1e-5).expect("a delta");
            accountant.epsilon(&Composition::of(mechanism, steps), delta).get()
        })
    };
    let bend = |bytes: Vec<u8>| {
        let leaf = Leaf::decode(&bytes).expect("a leaf");
        let mut data = leaf.data().clone();
        if leaf.kind() != "ledger_charge" {
            return bytes;
        }
        let site = data["site"].as_str().expect("a site").to_owned();
        let steps = steps.entry(site).or_default();
        *steps += 1;
        data.insert("epsilon_planned".to_owned(), count(*steps).into());
        Leaf::new(leaf.kind(), leaf.time(), data).expect("a leaf").bytes().to_vec()
    };
    Story::new("radiographs", SITES[4]).leaves.into_iter().map(bend).collect()
}

#[test]
fn the_accountant_is_told_with_the_line_to_type() {
    for (accountant, name) in [(Accountant::Rdp, "rdp"), (Accountant::Pld, "pld")] {
        let desk = desk_with(&counted_by(accountant));
        let line = "report --log log --policy policy --study radiographs --out report.html";
        desk.run(line);
        let page = fs::read_to_string(desk.at("report.html")).expect("written");
        let privacy = section(&page, "Privacy spent");
        assert!(privacy.contains(&format!("figures are those of <b>{name}</b>")), "{privacy}");
        let command = format!(
            "epsilon --noise-multiplier 1.125 --sampling-rate 0.05 --steps 48 --delta 0.00001 --accountant {name}"
        );
        assert!(privacy.contains(&format!("<code>consilium-audit {command}</code>")), "{privacy}");
        // What is typed gives what is shown.
        let typed = desk.run(&command).out;
        let shown = typed.split(' ').nth(1).and_then(|it| it.parse::<f64>().ok()).expect("epsilon");
        assert!(privacy.contains(&format!("<td>{shown:.3} ")), "{shown}: {privacy}");
    }
    let plan = serde_json::json!({"mode": "distributed", "epsilon": 3, "accountant": "pld"});
    let desk = desk_with(&bent("study_proposed", put("privacy", plan)));
    let page = page(&desk, "radiographs");
    let privacy = section(&page, "Privacy spent");
    assert!(privacy.contains("accountant <b>pld</b>, as the proposal says"), "{privacy}");
    assert!(privacy.contains("; the study may spend 3<"), "{privacy}");
    assert!(privacy.contains("class=\"promised\""), "{privacy}");
}

#[test]
fn a_round_that_only_scored_made_no_model() {
    let mut leaves = Story::new("radiographs", SITES[4]).leaves;
    let study = Story::private();
    let mut last = 0;
    for leaf in leaves.iter().map(|bytes| Leaf::decode(bytes).expect("a leaf")) {
        if leaf.data().get("study").and_then(Value::as_str) == Some(&study) {
            last = last.max(leaf.data().get("slot").and_then(Value::as_u64).unwrap_or(0));
        }
    }
    let model = digest(&format!("{study} model {ROUNDS}"));
    let time = Leaf::decode(leaves.last().expect("many")).expect("a leaf").time();
    let mut tell = |kind: &str, mut fields: Value| {
        fields["study"] = study.clone().into();
        (fields["round"], fields["slot"]) = ((ROUNDS + 1).into(), (last + 1).into());
        let Value::Object(fields) = fields else { return };
        leaves.push(Leaf::new(kind, time, fields).expect("a leaf").bytes().to_vec());
    };
    let terms = digest("terms");
    tell(
        "round_announced",
        serde_json::json!({"terms": terms, "work": "evaluate", "model": model, "invited": [SITES[0]]}),
    );
    let update = digest("scores");
    tell("round_contribution", serde_json::json!({"site": SITES[0], "digest": update, "bytes": 9}));
    tell("round_released", serde_json::json!({"contributed": [SITES[0]]}));
    tell("model_changed", serde_json::json!({"before": model, "after": model}));
    let desk = desk_with(&leaves);
    let page = page(&desk, "radiographs");
    let lineage = section(&page, "Where the model came from, and where it went");
    assert!(lineage.contains(&format!("made by round {ROUNDS}, ")), "{lineage}");
    assert_eq!(lineage.matches("as before").count(), 1, "{lineage}");
    assert!(page.contains("<b>48 <small>of 49</small></b>attempts at training released a sum; 1 more only scored the model"));
}

#[test]
fn facts_that_do_not_fit_are_said() {
    let desk = desk("radiographs", SITES[4]);
    let said = desk.run(
        "report --log log --policy policy --study radiographs --out report.html --format json",
    );
    assert_eq!((&said.json()["data"]["exceptions"], said.code), (&0.into(), Some(0)));
    let line = "report --log log --policy policy --study rehearsal --out report.html --format json";
    let said = desk.run(line);
    assert_eq!((&said.json()["error_code"], said.code), (&"does_not_fit".into(), Some(1)));
    let page = fs::read_to_string(desk.at("report.html")).expect("written nevertheless");
    let verified = section(&page, "What was verified");
    assert!(verified.contains("expected slot") || verified.contains("missing field"), "{verified}");
    assert!(verified.contains("fact_of_tomorrow"), "{verified}");
    let privacy = section(&page, "Privacy spent");
    assert!(privacy.contains("Privacy was off."), "{privacy}");
    assert!(!page.contains("How the model fared"));
}

/// The story without, or with another, leaf of this kind in round 20 of the first study.
fn bent(kind: &str, bend: impl Fn(&mut Map<String, Value>) -> bool) -> Vec<Vec<u8>> {
    let study = Value::from(Story::private());
    let leaves = Story::new("radiographs", SITES[4]).leaves;
    let mut left = 1;
    let bend_one = |bytes: Vec<u8>| {
        let leaf = Leaf::decode(&bytes).expect("a leaf");
        let mut data = leaf.data().clone();
        let here = data.get("round").is_none_or(|round| *round == 20)
            && data.get("study") == Some(&study)
            && leaf.kind() == kind;
        if !here || left == 0 {
            return Some(bytes);
        }
        left -= 1;
        let kept = bend(&mut data);
        kept.then(|| Leaf::new(kind, leaf.time(), data).expect("a leaf").bytes().to_vec())
    };
    leaves.into_iter().filter_map(bend_one).collect()
}

/// The story of the study with one more leaf after the last one of this kind, of its twentieth round
/// where it is of a round, made of it by `change`.
fn with_another(kind: &str, change: impl Fn(&mut Map<String, Value>)) -> Vec<Vec<u8>> {
    let mut leaves = Story::new("radiographs", SITES[4]).leaves;
    let study = Value::from(Story::private());
    let is_it = |bytes: &Vec<u8>| {
        let leaf = Leaf::decode(bytes).expect("a leaf");
        let slot = leaf.data().get("slot").is_none_or(|slot| *slot == 21);
        leaf.kind() == kind && slot && leaf.data().get("study") == Some(&study)
    };
    let at = leaves.iter().rposition(is_it).expect("there is one");
    let leaf = Leaf::decode(&leaves[at]).expect("a leaf");
    let mut data = leaf.data().clone();
    change(&mut data);
    let other = Leaf::new(kind, leaf.time(), data).expect("a leaf").bytes().to_vec();
    leaves.insert(at + 1, other);
    leaves
}

/// Charges with caps in a measure of the sites' own: `spent` is what each says to hold against them
/// after so many charges.
fn in_their_own_measure(
    cap_delta: f64,
    mut spent: impl FnMut(&str, u64) -> (f64, f64),
) -> Vec<Vec<u8>> {
    let mut steps: BTreeMap<String, u64> = BTreeMap::new();
    let bend = |bytes: Vec<u8>| {
        let leaf = Leaf::decode(&bytes).expect("a leaf");
        let mut data = leaf.data().clone();
        if leaf.kind() != "ledger_charge" {
            return bytes;
        }
        let site = data["site"].as_str().expect("a site").to_owned();
        let steps = steps.entry(site.clone()).or_default();
        *steps += 1;
        let (planned, solo) = spent(&site, *steps);
        for (key, value) in
            [("cap_delta", cap_delta), ("spent_planned", planned), ("spent_solo", solo)]
        {
            data.insert(key.to_owned(), value.into());
        }
        for (key, cap) in [("cap_planned", 5), ("cap_solo", 50)] {
            data.insert(key.to_owned(), cap.into());
        }
        Leaf::new(leaf.kind(), leaf.time(), data).expect("a leaf").bytes().to_vec()
    };
    Story::new("radiographs", SITES[4]).leaves.into_iter().map(bend).collect()
}

/// What the story's charges make at this delta, by either accountant, after so many.
fn made(accountant: Accountant, delta: f64, steps: u64) -> f64 {
    let noise = NoiseMultiplier::new(1.125).expect("positive");
    let mechanism = Mechanism::new(noise, SamplingRate::new(0.05).expect("a rate"));
    let delta = Delta::new(delta).expect("a delta");
    accountant.epsilon(&Composition::of(mechanism, steps), delta).get()
}

/// Whatever accountant and delta a site's own caps are in.
#[test]
fn caps_in_a_measure_of_the_sites_own_raise_no_alarm_where_nothing_is_wrong() {
    let mut known: BTreeMap<(bool, u64), f64> = BTreeMap::new();
    let honest = in_their_own_measure(1e-6, |site, steps| {
        let by_pld = site != SITES[0];
        let planned = *known.entry((by_pld, steps)).or_insert_with(|| {
            made(if by_pld { Accountant::Pld } else { Accountant::Rdp }, 1e-6, steps)
        });
        (planned, 3.0 * planned)
    });
    let page = page(&desk_with(&honest), "radiographs");
    assert!(page.contains("What each site holds against its caps"), "it was asked");
    // As a coordinator writes it of a node that does not tell them.
    let silent = in_their_own_measure(0.0, |_, _| (0.0, 0.0));
    self::page(&desk_with(&silent), "radiographs");
}

/// The story of a study that was to be private, without a single charge.
fn without_charges() -> Vec<Vec<u8>> {
    let mut leaves = Story::new("radiographs", SITES[4]).leaves;
    leaves.retain(|bytes| Leaf::decode(bytes).is_ok_and(|leaf| leaf.kind() != "ledger_charge"));
    leaves
}

/// The story with releases that all say that next to nothing was spent.
fn too_little() -> Vec<Vec<u8>> {
    let bend = |bytes: Vec<u8>| {
        let leaf = Leaf::decode(&bytes).expect("a leaf");
        let mut data = leaf.data().clone();
        match data.get_mut("epsilon") {
            Some(epsilon) if leaf.kind() == "round_released" => *epsilon = 0.01.into(),
            Some(_) | None => return bytes,
        }
        Leaf::new(leaf.kind(), leaf.time(), data).expect("a leaf").bytes().to_vec()
    };
    Story::new("radiographs", SITES[4]).leaves.into_iter().map(bend).collect()
}

/// The rounds of a study of which nobody knows what it was.
fn unproposed() -> Vec<Vec<u8>> {
    let mut leaves = Story::new("radiographs", SITES[4]).leaves;
    let study = Value::from(Story::private());
    leaves.retain(|bytes| {
        let leaf = Leaf::decode(bytes).expect("a leaf");
        leaf.kind() != "study_proposed" || leaf.data().get("study") != Some(&study)
    });
    leaves
}

/// An update that is told once the sum is released.
fn late_update() -> Vec<Vec<u8>> {
    let mut leaves = Story::new("radiographs", SITES[4]).leaves;
    let study = Value::from(Story::private());
    let is = |bytes: &Vec<u8>, kind: &str, site: Option<&str>| {
        let leaf = Leaf::decode(bytes).expect("a leaf");
        let data = leaf.data();
        leaf.kind() == kind
            && data.get("slot") == Some(&21.into())
            && data.get("study") == Some(&study)
            && site.is_none_or(|site| data.get("site") == Some(&site.into()))
    };
    let at = leaves.iter().position(|it| is(it, "round_contribution", Some(SITES[1])));
    let update = leaves.remove(at.expect("an update"));
    let released = leaves.iter().position(|it| is(it, "round_released", None)).expect("a release");
    leaves.insert(released + 1, update);
    leaves
}

/// An approval that is written after the round, and dated before it.
fn late_approval() -> Vec<Vec<u8>> {
    let mut leaves = Story::new("radiographs", SITES[4]).leaves;
    let is_it = |bytes: &Vec<u8>| {
        let leaf = Leaf::decode(bytes).expect("a leaf");
        leaf.kind() == "study_decided" && leaf.data().get("site") == Some(&SITES[0].into())
    };
    let at = leaves.iter().position(is_it).expect("an approval");
    let approval = leaves.remove(at);
    leaves.push(approval);
    leaves
}

#[test]
fn every_rule_that_facts_break_is_named_with_the_place() {
    let drop_it = |_: &mut Map<String, Value>| false;
    let add = |key: &'static str, value: Value| {
        move |data: &mut Map<String, Value>| data.insert(key.to_owned(), value.clone()).is_none()
    };
    let invites = |site: &'static str| {
        move |data: &mut Map<String, Value>| {
            let invited = data.get_mut("invited").and_then(Value::as_array_mut);
            invited.map(|invited| invited.push(site.into())).is_some()
        }
    };
    let set = |key: &'static str, value: Value| {
        move |data: &mut Map<String, Value>| data.insert(key.to_owned(), value.clone()).is_some()
    };
    for (leaves, rule, place) in [
        (bent("study_decided", drop_it), "approved it before", "alder: no approval"),
        (
            bent("study_decided", set("decision", "withdrawn".into())),
            "had refused the study or withdrawn",
            "round 1: alder, which had withdrawn",
        ),
        (without_charges(), "charged to its site", "round 1, slot 1: alder"),
        (bent("round_released", drop_it), "released twice", "expected round 20, found round 21"),
        (bent("round_contribution", drop_it), "whose updates arrived", "round 20: alder"),
        (bent("model_changed", drop_it), "follows from the one before", "round 21: expected"),
        (
            bent("round_announced", set("model", Story::plain().into())),
            "offered the model",
            "round 20: offered",
        ),
        (bent("ledger_charge", drop_it), "charged to its site", "round 20, slot 21: alder"),
        (
            bent("ledger_charge", set("epsilon_solo", 0.5.into())),
            "ever went back",
            "alder: round 20 after round 19",
        ),
        (
            bent("ledger_charge", set("z", 0.3.into())),
            "at least what its charges make it",
            "alder: epsilon",
        ),
        (
            bent("round_released", set("epsilon", 0.7.into())),
            "releases say was spent",
            "round 20: less than before",
        ),
        (too_little(), "releases say was spent", "epsilon 0.01, where"),
        (
            bent("ledger_charge", set("cap_planned", 1.into())),
            "more than its caps",
            "alder: planned epsilon 1.776 above 1 since round 20",
        ),
        (
            bent("ledger_charge", add("spent_planned", 3.1.into())),
            "more than its caps",
            "alder: planned epsilon 3.1 above 3 since round 20",
        ),
        (
            bent("ledger_charge", |data| {
                data.insert("cap_planned".to_owned(), 1.into());
                data.insert("spent_planned".to_owned(), 0.into()).is_none()
            }),
            "more than its caps",
            "alder: planned epsilon 1.776 above 1 since round 20",
        ),
        (
            bent("ledger_charge", |data| {
                data.insert("cap_planned".to_owned(), 1.into());
                data.insert("cap_delta".to_owned(), 0.into());
                data.insert("spent_solo".to_owned(), 0.into());
                data.insert("spent_planned".to_owned(), 0.into()).is_none()
            }),
            "more than its caps",
            "alder: planned epsilon 1.776 above 1 since round 20",
        ),
        (
            in_their_own_measure(1e-6, |_, _| (0.0, 9.0)),
            "holds against its caps is at least",
            "alder: planned epsilon 0 after round 48, where 48 charges make it",
        ),
        (
            in_their_own_measure(1e-6, |_, _| (4.5, 0.0)),
            "holds against its caps is at least",
            "birch: solo epsilon 0 after round 48, where 44 charges make it",
        ),
        (
            in_their_own_measure(1e-6, |_, steps| {
                (made(Accountant::Pld, 1e-6, steps) * 0.999, 9.0)
            }),
            "holds against its caps is at least",
            "alder: planned epsilon",
        ),
        (
            bent("ledger_charge", |data| {
                data.insert("cap_planned".to_owned(), 1.into());
                data.insert("cap_delta".to_owned(), 1e-6.into());
                data.insert("spent_solo".to_owned(), 9.into());
                data.insert("spent_planned".to_owned(), 0.5.into()).is_none()
            }),
            "holds against its caps is at least",
            "alder: planned epsilon 0.5 after round 20, where 20 charges make it",
        ),
        (bent("round_announced", invites("quince")), "approved it before", "quince: no approval"),
        (with_another("round_released", |_| {}), "told once", "round 20, slot 21: ended once more"),
        (
            with_another("round_contribution", |data| {
                data.insert("digest".to_owned(), digest("another").into());
            }),
            "told once",
            "round 20, slot 21: another update of",
        ),
        (late_update(), "told once", "round 20, slot 21: an update of birch after its end"),
        (
            with_another("model_changed", |data| {
                let before = data.insert("after".to_owned(), digest("not of a sum").into());
                data.insert("before".to_owned(), before.expect("a model"));
            }),
            "made by a released sum",
            "round 20, slot 21: model",
        ),
        (
            with_another("model_exported", |data| {
                data.insert("model".to_owned(), digest("not of the study").into());
            }),
            "taken out is one of the study",
            "entry",
        ),
        (late_approval(), "approved it before", "alder: no approval"),
        (
            bent("round_ready", set("site", 7.into())),
            "says what its kind says",
            "expected a string",
        ),
    ] {
        let desk = desk_with(&leaves);
        let line = "report --log log --policy policy --study radiographs --out report.html";
        let said = desk.run(line);
        assert_eq!(said.code, Some(1), "{rule}: {}", said.err);
        let found = said.out.lines().any(|line| line.contains(rule) && line.contains(place));
        assert!(found, "{rule}: {}", said.out);
        let page = fs::read_to_string(desk.at("report.html")).expect("written");
        assert!(section(&page, "What was verified").contains("<li class=\"no\">"), "{rule}");
    }
}

#[test]
fn rounds_of_a_study_that_nobody_proposed_do_not_pass() {
    let desk = desk_with(&unproposed());
    let study = Story::private();
    let said = desk.run(&format!("report --log log --policy policy --study {study} --out r.html"));
    assert_eq!(said.code, Some(1), "{}", said.err);
    assert!(said.out.contains("the study was never proposed"), "{}", said.out);
}

#[test]
fn hostile_names_stay_text() {
    let desk = desk(HOSTILE, HOSTILE);
    let page = page(&desk, &Story::private());
    assert!(page.contains("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;"));
    for attack in ["<script", "<img", "onerror=alert(1)>", "</title><s"] {
        assert!(!page.contains(attack), "{attack}");
    }
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join("hostile.html");
    fs::write(kept, &page).expect("written");
}

#[test]
fn there_is_no_report_of_a_log_that_is_not_verified_or_of_no_study() {
    let desk = desk("radiographs", SITES[4]);
    let none = desk.run("report --log log --policy policy --study nothing --out report.html");
    assert_eq!(none.code, Some(4), "{}", none.err);
    assert!(none.err.contains("\"rehearsal\""), "{}", none.err);
    let nowhere = "report --log log --policy policy --study radiographs --out nowhere/page.html";
    let unwritten = desk.run(nowhere);
    assert_eq!(unwritten.code, Some(1), "{}", unwritten.out);
    assert!(unwritten.err.contains("expected to write nowhere/page.html: "), "{}", unwritten.err);
    desk.flip("log/tile/entries/001");
    let line = "report --log log --policy policy --study radiographs --out report.html";
    let refused = desk.run(line);
    assert_eq!(refused.code, Some(1), "{}", refused.out);
    assert!(refused.err.contains("tile/entries/001"), "{}", refused.err);
    assert!(!desk.at("report.html").exists());
}
