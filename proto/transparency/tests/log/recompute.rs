//! `recompute`: a coordinator that kept what it had to, and several that lie.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use aggregation::ids::Digest as Blake;
use aggregation::masking::group::Modulus;
use aggregation::masking::keystream::{KeyedMask, MaskKey as Key, Sign};
use aggregation::masking::masks::Masks;
use aggregation::recount::Recount;
use aggregation::secret::Secret;
use data_encoding::HEXLOWER;
use ring::digest::{SHA256, digest as hash};
use serde_json::{Value, json};
use transparency::fact::Digest;
use transparency::folder::Folder;
use transparency::leaf::Leaf;
use transparency::recompute::{MaskKey, RECORD, Record, Released, Upload, update_file};
use transparency::time::UtcTime;

use crate::fixture::{Federation, policy};
use crate::program::{Answer, Desk};
use crate::story::digest;

const SITES: [&str; 3] = ["alder", "birch", "cedar"];
const LANES: usize = 5_000;
const ROUNDS: u64 = 8;
const SHARE: f64 = 0.5;
const MODULUS: Modulus = Modulus::Bits24;

/// One round: what arrived, and what the masks were.
struct Round {
    released: Released,
    updates: BTreeMap<String, Vec<u8>>,
    record: Record,
}

impl Round {
    /// Sites whose updates are masked once each.
    fn new(number: u64) -> Self {
        let seed = |site: usize| {
            u8::try_from(number * 10).expect("few") + u8::try_from(site).expect("few")
        };
        let masked = |(at, site): (usize, &&str)| {
            let mut update = Vec::new();
            let lanes: Vec<u32> = (0..u32::try_from(LANES).expect("few"))
                .map(|lane| lane * 7 + u32::from(seed(at)))
                .collect();
            MODULUS.pack(&lanes, &mut update);
            let own = KeyedMask { key: Key::new(Secret::new([seed(at); 32])), sign: Sign::Add };
            let masks = Masks::new(MODULUS, [own.mask()]);
            masks.pass(LANES).mask(&mut update).expect("all of it");
            ((*site).to_owned(), update)
        };
        let updates: BTreeMap<_, _> = SITES.iter().enumerate().map(masked).collect();
        let removed = |at: usize| KeyedMask {
            key: Key::new(Secret::new([seed(at); 32])),
            sign: Sign::Subtract,
        };
        let mut sum = Recount::new(MODULUS, LANES * MODULUS.bytes()).expect("whole lanes");
        updates.values().for_each(|update| sum.add(update).expect("its length"));
        let sum = sum.finish(&(0..SITES.len()).map(removed).collect::<Vec<_>>());
        let study = Digest::new(&digest("the study")).expect("a digest");
        let sum = Digest::new(&sum.to_string()).expect("a digest");
        let released = Released { study, round: number, slot: number + 1, sum };
        let uploads = updates.iter().map(|(site, bytes)| (site.clone(), upload(bytes))).collect();
        let masks = (0..SITES.len())
            .map(|at| MaskKey { key: HEXLOWER.encode(&[seed(at); 32]), add: false })
            .collect();
        let record = Record::new(&released, MODULUS.bits(), uploads, masks);
        Self { released, updates, record }
    }

    fn digests(&self) -> BTreeMap<String, Digest> {
        let one = |(site, upload): (&String, &Upload)| (site.clone(), upload.digest.clone());
        self.record.uploads.iter().map(one).collect()
    }

    fn place(&self) -> String {
        format!("kept/{}/{}", self.released.study, self.released.slot)
    }
}

fn upload(bytes: &[u8]) -> Upload {
    let digest = Digest::new(&Blake::blake3(bytes).to_string()).expect("a digest");
    Upload { digest, bytes: u64::try_from(bytes.len()).expect("short") }
}

/// Days after which everything that was kept may be forgotten.
const LATER: u64 = 500;

/// Says after this leaf, so many days later, that what was kept is not any more.
fn forget(leaves: &mut Vec<(String, Value)>, at: usize, reason: &str, days: u64) {
    let (_, mut fields) = leaves[at].clone();
    fields["reason"] = reason.into();
    leaves.insert(at + 1, ("round_forgotten".to_owned(), fields));
    for (_, fields) in leaves.iter_mut().skip(at + 1) {
        fields["days"] = days.into();
    }
}

/// A study of a few rounds, and what its coordinator kept of those that were drawn.
struct Stage {
    desk: Desk,
    rounds: Vec<Round>,
    drawn: Vec<usize>,
}

impl Stage {
    /// `alter` may change the leaves before they are published.
    fn new(alter: impl Fn(&mut Vec<(String, Value)>)) -> Self {
        Self::cosigned(LATER, alter)
    }

    /// The same, seen by its witnesses so many days after its first leaf.
    fn cosigned(days: u64, alter: impl Fn(&mut Vec<(String, Value)>)) -> Self {
        let rounds: Vec<Round> = (1..=ROUNDS).map(Round::new).collect();
        let mut leaves = Vec::new();
        let mut drawn = Vec::new();
        let mut tell = |kind: &str, fields: Value| leaves.push((kind.to_owned(), fields));
        let mut settle = |at: usize, tell: &mut dyn FnMut(&str, Value)| {
            let round: &Round = &rounds[at];
            let record = round.record.to_bytes().expect("short");
            let record = HEXLOWER.encode(hash(&SHA256, &record).as_ref());
            drawn.push(at);
            tell("round_kept", at_round(round, json!({"record": record, "bytes": 9})));
        };
        for (at, round) in rounds.iter().enumerate() {
            for (site, upload) in &round.record.uploads {
                let fields = json!({"site": site, "digest": upload.digest, "bytes": upload.bytes});
                tell("round_contribution", at_round(round, fields));
            }
            let fields =
                json!({"contributed": SITES, "sum": round.released.sum, "recompute_share": SHARE});
            tell("round_released", at_round(round, fields));
            if at > 0 && rounds[at - 1].released.is_drawn(SHARE, &round.digests()) {
                settle(at - 1, &mut tell);
            }
        }
        settle(rounds.len() - 1, &mut tell);
        let study = rounds[0].released.study.clone();
        tell(
            "study_changed",
            json!({"study": study, "from": "running", "to": "completed", "by": "coordinator"}),
        );
        alter(&mut leaves);
        let desk = Desk::bare();
        let encoded: Vec<Vec<u8>> =
            (0..).zip(leaves).map(|(at, (kind, fields))| entry(at, &kind, fields)).collect();
        let folder = Folder::create(&desk.at("log")).expect("made");
        Federation::new(folder).publish(&encoded, 1_795_000_100 + days * 86_400);
        fs::write(desk.at("policy"), policy(2).to_string()).expect("written");
        for at in &drawn {
            let round = &rounds[*at];
            fs::create_dir_all(desk.at(&round.place())).expect("made");
            let path = |name: &str| desk.at(&format!("{}/{name}", round.place()));
            fs::write(path(RECORD), round.record.to_bytes().expect("short")).expect("written");
            for (site, bytes) in &round.updates {
                fs::write(path(&update_file(site)), bytes).expect("written");
            }
        }
        Self { desk, rounds, drawn }
    }

    fn good() -> Self {
        Self::new(|_| {})
    }

    fn run(&self, more: &str) -> Answer {
        self.desk.run(&format!("recompute --log log --policy policy --kept kept {more}"))
    }

    /// The last round, which is always kept, and a file of it.
    fn last(&self) -> (&Round, PathBuf) {
        let round = self.rounds.last().expect("there are rounds");
        (round, self.desk.at(&format!("{}/{}", round.place(), update_file(SITES[1]))))
    }

    /// The program must say this of the last round, and that the others are as they should be.
    fn fails_with(&self, words: &str) {
        let text = self.run("");
        assert_eq!(text.code, Some(1), "{}", text.out);
        let place = format!("round {ROUNDS} (slot {})", ROUNDS + 1);
        assert!(text.err.contains(&place) && text.err.contains(words), "{words}: {}", text.err);
        let json = self.run("--format json").json();
        assert_eq!(
            (&json["error_code"], &json["data"]["wrong"]),
            (&"recompute_failed".into(), &1.into())
        );
        assert_eq!(json["data"]["same"], self.drawn.len() - 1, "{json}");
    }
}

fn at_round(round: &Round, mut fields: Value) -> Value {
    fields["study"] = json!(round.released.study);
    fields["round"] = round.released.round.into();
    fields["slot"] = round.released.slot.into();
    fields
}

/// A leaf; so many `days` after the others, if it says so.
fn entry(at: u64, kind: &str, fields: Value) -> Vec<u8> {
    let Value::Object(mut fields) = fields else { return Vec::new() };
    let days = fields.remove("days").and_then(|days| days.as_u64()).unwrap_or(0);
    let time = 1_795_000_000_000 + at + days * 86_400_000;
    let time = UtcTime::from_millis(time).expect("before 10000");
    Leaf::new(kind, time, fields).expect("a small leaf").bytes().to_vec()
}

#[test]
fn every_round_that_was_drawn_adds_up_and_the_others_need_not() {
    let stage = Stage::good();
    let drawn = stage.drawn.len();
    assert!((2..8).contains(&drawn), "a coin for seven rounds, and the last: {drawn}");
    let text = stage.run("");
    assert_eq!((text.code, text.err.as_str()), (Some(0), ""), "{}", text.out);
    assert!(
        text.out.contains(&format!("{drawn} sums are as the log has them, 0 are not")),
        "{}",
        text.out
    );
    let json = stage.run("--format json").json();
    let data = &json["data"];
    assert_eq!((&data["same"], &data["not_drawn"]), (&drawn.into(), &(8 - drawn).into()));
    assert_eq!(
        (&data["rounds"][0]["updates"], &data["rounds"][0]["masks"]),
        (&3.into(), &3.into())
    );
    assert_eq!(stage.run("--round 8").code, Some(0));
    let missing = (0..8).find(|at| !stage.drawn.contains(at)).expect("one was not drawn") + 1;
    let text = stage.run(&format!("--round {missing}"));
    assert_eq!((text.code, text.err.contains("was not drawn")), (Some(1), true), "{}", text.err);
    for wrong in ["--round 9", "--study unknown", "--kept nowhere"] {
        assert_eq!(stage.run(wrong).code, Some(4), "{wrong}");
    }
    let bare = stage.desk.run("recompute --log log --policy policy");
    assert_eq!((bare.code, bare.err.contains("--kept")), (Some(4), true), "{}", bare.err);
}

#[test]
fn a_tampered_and_a_missing_update_and_a_record_of_another_kind_are_named() {
    let stage = Stage::good();
    let (round, file) = stage.last();
    stage.desk.flip(&file);
    stage.fails_with("the update of birch is not the one that arrived");
    fs::remove_file(&file).expect("removed");
    stage.fails_with("the update of birch is missing");
    fs::write(&file, &round.updates[SITES[1]][1..]).expect("written");
    stage.fails_with("the update of birch is not the one that arrived");
    let mut long = round.updates[SITES[1]].clone();
    long.push(0);
    fs::write(&file, long).expect("written");
    stage.fails_with("the update of birch is too long");
    // The update of another site, which arrived, too.
    fs::write(&file, &round.updates[SITES[0]]).expect("written");
    stage.fails_with("the update of birch is not the one that arrived");
    fs::write(&file, &round.updates[SITES[1]]).expect("written");
    assert_eq!(stage.run("").code, Some(0));
    stage.desk.flip(format!("{}/{RECORD}", round.place()));
    stage.fails_with("its record is not the one that the log names");
}

/// Changes the leaf of this kind in the last round.
fn last_of<'a>(leaves: &'a mut [(String, Value)], kind: &str) -> &'a mut Value {
    let of_kind = leaves.iter_mut().filter(|(found, _)| found == kind);
    &mut of_kind.last().expect("there is one").1
}

#[test]
fn a_wrong_sum_a_withheld_round_and_an_unlogged_update_are_caught() {
    // The coordinator released, and logged, another sum.
    let stage = Stage::new(|leaves| {
        last_of(leaves, "round_released")["sum"] = digest("another sum").into();
    });
    stage.fails_with(&format!("the log has the sum {}, the updates give ", digest("another sum")));

    // It says nothing of a round that it had to keep.
    let silent = Stage::new(|leaves| {
        let at = leaves.iter().rposition(|(kind, _)| kind == "round_kept").expect("kept");
        leaves.remove(at);
    });
    let text = silent.run("");
    assert_eq!(
        (text.code, text.err.contains("the log has nothing of it being kept")),
        (Some(1), true)
    );
    let first = silent.drawn[0] + 1;
    assert_ne!(first, 8);
    assert_eq!(silent.run(&format!("--round {first}")).code, Some(0), "others are as before");

    // It forgot, and says so: only the time that it has to keep rounds for excuses that.
    for (reason, days, outcome, code) in [
        ("size cap", 0, "unchecked", Some(1)),
        ("damaged", 400, "unchecked", Some(1)),
        ("retention", 0, "unchecked", Some(1)),
        ("retention", 30, "expired", Some(0)),
    ] {
        let forgot = Stage::new(|leaves| {
            let at = leaves.iter().rposition(|(kind, _)| kind == "round_kept").expect("kept");
            forget(leaves, at, reason, days);
        });
        let text = forgot.run("");
        assert_eq!(text.code, code, "{reason}: {}", text.err);
        let line = text.out.lines().find(|line| line.starts_with(outcome)).expect("it is told");
        assert!(line.contains("round 8 ") && line.contains(reason), "{line}");
        let json = forgot.run("--format json --round 8").json();
        assert_eq!((&json["error_code"], &json["data"][outcome]), (&"not_kept".into(), &1.into()));
    }

    // Its time is said to be over: neither the leaf after it nor those who cosigned bear that out.
    for (also, seen) in [(2, LATER), (usize::MAX, 0)] {
        let early = Stage::cosigned(seen, |leaves| {
            let at = leaves.iter().rposition(|(kind, _)| kind == "round_kept").expect("kept");
            forget(leaves, at, "retention", 30);
            for (_, fields) in leaves.iter_mut().skip(at.saturating_add(also)) {
                fields["days"] = 0.into();
            }
        });
        let text = early.run("");
        assert_eq!(text.code, Some(1), "{}", text.out);
        assert!(text.out.lines().any(|line| line.starts_with("unchecked")), "{}", text.out);
    }

    // Its time is said to be over of what never was said to be kept, or only since then; or by what is
    // dated back behind leaves that were there before.
    type Way = fn(&mut Vec<(String, Value)>, usize);
    let ways: [Way; 3] = [
        |leaves, at| drop(leaves.remove(at)),
        |leaves, at| leaves[at].1["days"] = 30.into(),
        |leaves, at| leaves[at - 1].1["days"] = 30.into(),
    ];
    for (number, way) in ways.into_iter().enumerate() {
        let forgot = Stage::new(|leaves| {
            let at = leaves.iter().rposition(|(kind, _)| kind == "round_kept").expect("kept");
            forget(leaves, at, "retention", 30);
            way(leaves, at);
        });
        let text = forgot.run("");
        assert_eq!(text.code, Some(1), "{number}: {}", text.out);
        assert!(text.err.contains("is forgotten: retention"), "{number}: {}", text.err);
    }

    // The sum is said to be over a site of which no update is in the log.
    let unlogged = Stage::new(|leaves| {
        last_of(leaves, "round_released")["contributed"] =
            json!(["alder", "birch", "cedar", "../elm"]);
        let logged = last_of(leaves, "round_contribution");
        logged["site"] = "../elm".into();
    });
    let text = unlogged.run("");
    let cedar = text.err.contains("cedar is in the sum, and no update of it is in the log");
    assert_eq!((text.code, cedar), (Some(1), true), "{}", text.err);
}

/// Each of them would have turned a lie into "same", or into a round that was not drawn.
#[test]
fn what_is_told_twice_or_after_the_draw_is_no_way_out() {
    type Alter = fn(&mut Vec<(String, Value)>);
    let cases: [(&str, Alter); 7] = [
        ("it was released twice", |leaves| {
            let at = leaves.iter().rposition(|(kind, _)| kind == "round_released").expect("one");
            let mut lie = leaves[at].clone();
            lie.1["sum"] = digest("another sum").into();
            leaves.insert(at, lie);
        }),
        ("two updates of birch are in the log", |leaves| {
            let is_last = |(kind, fields): &(String, Value)| {
                kind == "round_contribution" && fields["site"] == "birch"
            };
            let at = leaves.iter().rposition(is_last).expect("one");
            let mut late = leaves[at].clone();
            late.1["digest"] = digest("ground until the coin falls well").into();
            leaves.push(late);
        }),
        ("a share of 0, where its study began with 0.5", |leaves| {
            last_of(leaves, "round_released")["recompute_share"] = 0.into();
        }),
        ("two records of it are in the log", |leaves| {
            let mut other = last_of(leaves, "round_kept").clone();
            other["record"] = digest("another record").into();
            leaves.push(("round_kept".to_owned(), other));
        }),
        ("an update of birch is in the log after its release", |leaves| {
            let is_last = |(kind, fields): &(String, Value)| {
                kind == "round_contribution" && fields["site"] == "birch"
            };
            let at = leaves.iter().rposition(is_last).expect("one");
            let late = leaves.remove(at);
            leaves.push(late);
        }),
        ("a model was made of it, and no release is in the log", |leaves| {
            let at = leaves.iter().rposition(|(kind, _)| kind == "round_released").expect("one");
            let (_, released) = leaves.remove(at);
            let model = digest("a model");
            let fields = json!({
                "study": released["study"], "round": released["round"], "slot": released["slot"],
                "before": model, "after": model,
            });
            leaves.push(("model_changed".to_owned(), fields));
        }),
        ("its slot is round 9 as well", |leaves| {
            let mut other = last_of(leaves, "round_contribution").clone();
            other["round"] = 9.into();
            leaves.push(("round_contribution".to_owned(), other));
        }),
    ];
    for (words, alter) in cases {
        Stage::new(alter).fails_with(words);
    }
}

/// A sum could hide in a leaf that does not say what its kind says.
#[test]
fn a_leaf_with_a_hole_is_not_passed_over() {
    let stage = Stage::new(|leaves| {
        let fields = last_of(leaves, "round_released").as_object_mut().expect("an object");
        fields.remove("contributed");
    });
    let text = stage.run("");
    assert_eq!(text.code, Some(1), "{}", text.out);
    assert!(text.err.contains("missing field `contributed`"), "{}", text.err);
    let json = stage.run("--format json").json();
    assert_eq!(json["error_code"], "recompute_failed");
    assert_eq!(json["data"]["defects"].as_array().map(Vec::len), Some(1), "{json}");
    // It is of that study alone.
    let other = digest("another study");
    assert_eq!(stage.run(&format!("--study {other}")).code, Some(4), "there is no such study");
}

#[test]
fn what_cannot_be_read_accuses_nobody_and_is_not_passed_over() {
    let stage = Stage::good();
    let (_, file) = stage.last();
    fs::remove_file(&file).expect("removed");
    fs::create_dir(&file).expect("made");
    let json = stage.run("--format json").json();
    assert_eq!(
        (&json["error_code"], &json["data"]["wrong"], &json["data"]["unreadable"]),
        (&"unreadable".into(), &0.into(), &1.into())
    );
}

#[test]
fn a_log_from_before_rounds_were_drawn_has_nothing_to_add_up() {
    let stage = Stage::new(|leaves| {
        leaves.retain(|(kind, _)| kind != "round_kept");
        for (_, fields) in leaves.iter_mut() {
            fields.as_object_mut().expect("an object").remove("recompute_share");
        }
    });
    let text = stage.run("");
    assert_eq!(text.code, Some(1), "{}", text.err);
    assert!(text.out.contains("0 sums are as the log has them"), "{}", text.out);
    assert!(text.out.contains("neither its digest nor a share"), "{}", text.out);
}
