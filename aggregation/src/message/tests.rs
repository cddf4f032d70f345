use super::*;
use crate::rehearsal::{at, charter, site, terms};

/// Breaks R-02: any field that the digest leaves out could differ between two hospitals.
#[test]
fn every_field_changes_the_digest_of_the_terms() {
    let changes: [fn(&mut Terms); 11] = [
        |t| t.study = StudyId::new(Digest::new([1; 32])),
        |t| t.round = t.round.next(),
        |t| t.slot = t.slot.next(),
        |t| t.work = Work::Evaluate,
        |t| t.work = Work::TrainAndEvaluate,
        |t| t.model = Digest::new([2; 32]),
        |t| assert!(t.invited.remove(&site(0))),
        |t| assert!(t.invited.insert(site(7))),
        |t| t.ready_by = at(1),
        |t| t.log.size = 7,
        |t| t.log.root = Digest::new([3; 32]),
    ];
    let original = terms(&charter(3, 3), 1, 1);
    let mut seen = BTreeSet::from([original.digest()]);
    for (index, change) in changes.iter().enumerate() {
        let mut terms = original.clone();
        change(&mut terms);
        assert!(seen.insert(terms.digest()), "change {index} does not show");
    }
}

#[test]
fn an_update_prints_its_size_and_none_of_its_bytes() {
    let digest = Digest::blake3(b"");
    let said = Said::Update { terms: digest, digest, packed: vec![171; 100] };
    let text = format!("{said:?}");
    assert!(text.contains("bytes: 100") && !text.contains("171"), "{text}");
}

#[test]
fn a_notice_names_who_is_missing_but_not_why() {
    let terms = terms(&charter(3, 3), 1, 1);
    let closed = Closed {
        study: terms.study,
        round: terms.round,
        slot: terms.slot,
        outcome: Outcome::Abandoned(Abandoned::TooFewUpdates { contributed: 2, quorum: 3 }),
        contributed: [site(0), site(1)].into(),
        dropped: [(site(2), Dropped::Declined(DeclineReason::Policy))].into(),
    };
    let notice = closed.notice();
    assert_eq!(notice.reason, "2 updates were complete; the quorum is 3");
    assert_eq!(notice.dropped, [site(2)].into());
    assert!(!notice.released);
    assert!(!format!("{notice:?}").contains("Policy"));
}
