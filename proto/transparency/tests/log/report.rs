//! The page that a compliance officer reads.

use std::fs;
use std::path::Path;

use transparency::folder::Folder;

use crate::fixture::{build, policy};
use crate::program::Desk;
use crate::story::{HOSTILE, ROUNDS, SITES, Story};

/// A desk with the log of a story and a policy.
fn desk(name: &str, last: &str) -> Desk {
    let desk = Desk::bare();
    let story = Story::new(name, last);
    let size = story.leaves.len();
    let at = |number: u64| story.leaves[usize::try_from(number).expect("few")].clone();
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
fn facts_that_do_not_fit_are_said() {
    let desk = desk("radiographs", SITES[4]);
    let said = desk.run(
        "report --log log --policy policy --study radiographs --out report.html --format json",
    );
    assert_eq!((&said.json()["data"]["exceptions"], said.code), (&0.into(), Some(0)));
    let page = page(&desk, "rehearsal");
    let verified = section(&page, "What was verified");
    assert!(verified.contains("expected slot") || verified.contains("missing field"), "{verified}");
    assert!(verified.contains("fact_of_tomorrow"), "{verified}");
    let privacy = section(&page, "Privacy spent");
    assert!(privacy.contains("Privacy was off."), "{privacy}");
    assert!(!page.contains("How the model fared"));
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
    desk.flip("log/tile/entries/001");
    let line = "report --log log --policy policy --study radiographs --out report.html";
    let refused = desk.run(line);
    assert_eq!(refused.code, Some(1), "{}", refused.out);
    assert!(refused.err.contains("tile/entries/001"), "{}", refused.err);
    assert!(!desk.at("report.html").exists());
}
