//! Whose keys the witnesses of a policy are, who is missing, and what nobody has cosigned.

use std::fs;

use aggregation::ids::HospitalId;
use aggregation::keys::identity::Identity;
use aggregation::keys::witness::WitnessKey;
use aggregation::secret::Secret;
use data_encoding::HEXLOWER;
use serde_json::json;
use transparency::cosignature::Cosigner;
use transparency::folder::Folder;
use transparency::leaf::Leaf;
use transparency::policy::Policy;
use transparency::time::UtcTime;

use crate::fixture::{Federation, ORIGIN, build, cosigner, leaf, policy, signer};
use crate::program::{Answer, Desk};
use crate::story::{SITES, Story};

/// The leaf in which a site says which key it cosigns with, under the identity of `by`.
fn announced(site: u8, key: &Cosigner, by: u8) -> Vec<u8> {
    let hospital = HospitalId::new(&format!("hospital-{site}")).expect("a name");
    let identity = Identity::from_seed(&Secret::new([by; 32])).expect("a seed");
    let said = WitnessKey { log: ORIGIN.to_owned(), hospital, key: *key.key().public() };
    let fields = json!({
        "site": format!("hospital-{site}"),
        "key": HEXLOWER.encode(key.key().public()),
        "identity_key": HEXLOWER.encode(identity.key().as_bytes()),
        "signature": HEXLOWER.encode(identity.sign(&said).as_bytes()),
    });
    let serde_json::Value::Object(fields) = fields else { return Vec::new() };
    let time = UtcTime::from_millis(1_795_000_000_000).expect("before 10000");
    Leaf::new("witness_announced", time, fields).expect("a small leaf").bytes().to_vec()
}

/// Another key of the second site.
fn renewed() -> Cosigner {
    Cosigner::from_seed("consilium.example/witness/hospital-2", &[99; 32]).expect("a seed")
}

/// A desk with a log of these leaves and 20 more, and the policy of three witnesses.
fn desk(first: &[Vec<u8>]) -> Desk {
    let desk = Desk::bare();
    let at = |number: u64| {
        let number_at = usize::try_from(number).expect("few");
        first.get(number_at).cloned().unwrap_or_else(|| leaf(number, ""))
    };
    let folder = Folder::create(&desk.at("log")).expect("made");
    build(folder, &[first.len() as u64 + 20], at);
    fs::write(desk.at("policy"), policy(2).to_string()).expect("written");
    desk
}

fn verify(desk: &Desk) -> Answer {
    desk.run("verify --log log --policy policy")
}

#[test]
fn keys_that_their_sites_announced_are_told_with_their_identities() {
    let desk = desk(&[1, 2, 3].map(|site| announced(site, &cosigner(site), site)));
    let verified = verify(&desk);
    assert_eq!(verified.code, Some(0), "{}{}", verified.out, verified.err);
    let told = verified.out.lines().filter(|line| line.starts_with("witness "));
    let told: Vec<_> = told.filter(|line| line.contains(" under identity sha256:")).collect();
    assert_eq!(told.len(), 3, "{}", verified.out);
    assert!(told[2].contains("hospital-3") && told[2].contains("announced in entry 2"), "{told:?}");
    assert!(verified.out.contains("hospital-node doctor"), "{}", verified.out);
    let json = desk.run("verify --log log --policy policy --format json").json();
    assert_eq!(json["data"]["witnesses"][0]["said"], "announced");
    assert_eq!(json["data"]["verified"], true);
}

/// The coordinator has the log's key, and makes up witnesses.
#[test]
fn a_policy_with_made_up_witnesses_is_not_verified() {
    let other = |site: u8| Cosigner::from_seed("real", &[50 + site; 32]).expect("a seed");
    let desk = desk(&[1, 2, 3].map(|site| announced(site, &other(site), site)));
    let refused = verify(&desk);
    assert_eq!(refused.code, Some(1), "{}", refused.out);
    assert!(refused.err.contains("policy: expected the key that hospital-1 announced"));
    assert!(refused.out.ends_with("NOT VERIFIED\n"), "{}", refused.out);
    assert_eq!(refused.out.matches("wrong        policy: ").count(), 3, "{}", refused.out);
    let json = desk.run("verify --log log --policy policy --format json").json();
    assert_eq!(json["error_code"], "verification_failed");
    assert_eq!(json["data"]["verified"], false);
    let page = desk.run("report --log log --policy policy --study x --out page.html");
    assert_eq!(page.code, Some(1), "{}", page.err);
    assert!(page.err.contains("that hospital-1 announced"), "{}", page.err);
}

/// The same announcement, with the signature of another one.
fn forged(honest: Vec<u8>) -> Vec<u8> {
    let [text, other] =
        [honest, announced(1, &cosigner(1), 77)].map(|leaf| String::from_utf8(leaf).expect("text"));
    let field = |text: &str| {
        let at = text.find("\"signature\"").expect("there is one");
        text[at..at + 144].to_owned()
    };
    text.replace(&field(&text), &field(&other)).into_bytes()
}

#[test]
fn an_announcement_under_another_identity_is_not_believed() {
    let forged = forged(announced(1, &cosigner(1), 1));
    let refused = verify(&desk(&[forged]));
    assert_eq!(refused.code, Some(1), "{}", refused.out);
    assert!(refused.err.contains("entry 0: expected the signature of hospital-1"));
}

#[test]
fn a_key_that_was_changed_since_is_said_and_no_fault() {
    let changed = [announced(2, &cosigner(2), 2), announced(2, &renewed(), 2)];
    let desk = desk(&changed);
    let verified = verify(&desk);
    assert_eq!(verified.code, Some(0), "{}{}", verified.out, verified.err);
    let older = "the policy has the one before";
    assert!(verified.out.contains(older), "{}", verified.out);
    // Nothing is known of the other two.
    assert!(verified.out.contains("announcement of theirs: hospital-1, hospital-3"));
    let witness = |name: &str, key: &Cosigner| format!("witness {name} {}\n", key.key());
    let both = [
        format!("log {}\n", signer().key()),
        witness("two-old", &cosigner(2)),
        witness("hospital-2", &renewed()),
        "group two any two-old hospital-2\nquorum two\n".to_owned(),
    ];
    let both = Policy::parse(both.concat().as_bytes()).expect("a policy").to_string();
    fs::write(desk.at("policy"), both).expect("written");
    let verified = verify(&desk);
    assert_eq!(verified.code, Some(0), "{}{}", verified.out, verified.err);
    assert!(!verified.out.contains(older), "{}", verified.out);
    assert!(verified.out.contains("missing      hospital-2: "), "{}", verified.out);
}

/// Whoever writes the log can announce anything under an identity that it made up.
#[test]
fn a_key_under_another_identity_is_no_earlier_key() {
    let desk = desk(&[announced(2, &cosigner(2), 66), announced(2, &renewed(), 2)]);
    let refused = verify(&desk);
    assert_eq!(refused.code, Some(1), "{}", refused.out);
    assert!(refused.err.contains("hospital-2 announced in entry 1"), "{}", refused.err);
    let said = "whether hospital-2 changed its identity: entry 1 is under another one than entry 0";
    assert!(refused.out.contains(said), "{}", refused.out);
}

/// Otherwise a coordinator could have a site's key pass for one that the site has given up.
#[test]
fn a_newer_key_that_its_site_did_not_sign_is_found_and_changes_no_standing() {
    let newer = forged(announced(2, &renewed(), 2));
    let desk = desk(&[announced(2, &cosigner(2), 2), newer, forged(announced(9, &renewed(), 9))]);
    let refused = verify(&desk);
    assert_eq!(refused.code, Some(1), "{}", refused.out);
    for line in [
        "entry 1: expected the signature of hospital-2",
        "entry 2: expected the signature of hospital-9",
    ] {
        assert!(refused.out.contains(&format!("wrong        {line}")), "{line}: {}", refused.out);
    }
    assert_eq!(refused.out.matches("wrong        ").count(), 2, "{}", refused.out);
    assert!(refused.out.contains(" announced in entry 0 under identity"), "{}", refused.out);
    assert!(!refused.out.contains("the policy has the one before"), "{}", refused.out);
}

#[test]
fn what_is_signed_and_not_cosigned_is_in_the_answer_and_in_the_seal() {
    let desk = Desk::bare();
    let mut federation = Federation::new(Folder::create(&desk.at("log")).expect("made"));
    let leaves = Story::new("radiographs", SITES[4]).leaves;
    federation.publish(&leaves, 1_795_000_000);
    let more: Vec<_> = (0..5).map(|number| leaf(900_000 + number, "")).collect();
    federation.writer.append(&more).expect("appended");
    let fourth = "fourth consilium.example/witness/hospital-4";
    let stranger = Cosigner::from_seed("consilium.example/witness/hospital-4", &[4; 32]);
    let stranger = format!("fourth {}", stranger.expect("a seed").key());
    assert!(stranger.starts_with(fourth));
    let text = policy(2).to_string().replace("group ", &format!("witness {stranger}\ngroup "));
    let text = text.replace("hospital-3\nquorum", "hospital-3 fourth\nquorum");
    fs::write(desk.at("policy"), text).expect("written");
    let verified = verify(&desk);
    assert_eq!(verified.code, Some(0), "{}{}", verified.out, verified.err);
    for line in [
        "NOT COSIGNED 5 entries are signed and not cosigned, since 2026-11-28T21:06:40.000Z",
        "missing      fourth: no cosignature",
        "newest       the last cosignature is from 2026-11-18T",
        "newest       the last entry is from 20",
    ] {
        assert!(verified.out.contains(line), "{line}: {}", verified.out);
    }
    let json = desk.run("verify --log log --policy policy --format json").json();
    assert_eq!(json["data"]["ahead"]["entries"], 5);
    assert_eq!(json["data"]["not_cosigned_by"], json!(["fourth"]));
    let line = "report --log log --policy policy --study radiographs --out page.html";
    assert_eq!(desk.run(line).code, Some(0));
    let page = fs::read_to_string(desk.at("page.html")).expect("written");
    assert!(page.contains("5 later entries are signed and not cosigned, and may tell otherwise"));
    let seal = &page[page.find("class=\"seal thin\"").expect("a thin seal")..];
    let seal = &seal[..seal.find("</header>").expect("it ends")];
    for text in ["<strong>5 entries are signed and not cosigned", "2026-11-28 21:06:40", "fourth"] {
        assert!(seal.contains(text), "{text}: {seal}");
    }
}
