//! The driver between a coordinator of a few lines and a trainer made of a shell script.

mod fake;
mod federation;
mod masked;
mod stage;

use aggregation::ids::Digest;

use self::fake::Said;
use self::stage::{Running, Stage, lenient};
use super::*;
use crate::policy::Policy;
use crate::policy::tests::MANIFEST;
use proto::federation as wire;

async fn ready_in_the_first_slot() -> (Stage, Running) {
    let mut stage = Stage::set(usize::MAX).await;
    let running = stage.start().await;
    running.offer(&stage.terms(1)).await;
    assert_eq!(stage.next().await, Said::Fetch(0));
    assert_eq!(stage.next().await, Said::Ready(1));
    (stage, running)
}

#[tokio::test]
async fn a_round_goes_from_the_offer_to_the_upload_and_leaves_only_the_model() {
    let mut stage = Stage::set(usize::MAX).await;
    let running = stage.start().await;
    for (slot, run) in [(1, 1), (2, 2)] {
        running.offer(&stage.terms(slot)).await;
        if slot == 1 {
            assert_eq!(stage.next().await, Said::Fetch(0));
        }
        assert_eq!(stage.next().await, Said::Ready(slot));
        running.hears(stage.roster(slot)).await;
        assert_eq!(stage.next().await, Said::Update(slot, stage.update(run)));
        running.hears(stage.closed(slot)).await;
        stage.leaves(&[&stage.model_name()]).await;
    }
    let last =
        stage.house.journal.last_slot(stage.charter.id()).await.expect("read").expect("used");
    assert_eq!((last.terms.slot.get(), last.stage), (2, crate::journal::Stage::Closed));
}

#[tokio::test]
async fn after_a_kill_the_very_same_bytes_are_sent_and_nothing_is_trained_twice() {
    let (mut stage, running) = ready_in_the_first_slot().await;
    running.kill().await;

    // The second time it was killed before the receipt was heard, for all we know.
    for _ in 0..2 {
        let running = stage.start().await;
        running.offer(&stage.terms(1)).await;
        assert_eq!(stage.next().await, Said::Ready(1));
        running.hears(stage.roster(1)).await;
        assert_eq!(stage.next().await, Said::Update(1, stage.update(1)));
        assert_eq!(stage.trained_runs(), 1);
        running.kill().await;
    }

    // The bytes are lost: then nothing is sent at all.
    let update = folder_of(&stage.house, stage.charter.id()).join("1.update");
    std::fs::write(update, b"other bytes").expect("written");
    let running = stage.start().await;
    running.offer(&stage.terms(1)).await;
    assert_eq!(stage.next().await, Said::Declined(1, wire::DeclineReason::Trainer));
    assert_eq!(stage.trained_runs(), 1);
    running.kill().await;
}

#[tokio::test]
async fn killed_while_training_the_slot_is_declined_and_the_next_one_is_worked_on() {
    let mut stage = Stage::set(usize::MAX).await;
    let wait = stage.folder.path().join("wait");
    std::fs::write(&wait, "").expect("written");
    let running = stage.start().await;
    running.offer(&stage.terms(1)).await;
    assert_eq!(stage.next().await, Said::Fetch(0));
    while stage.trained_runs() == 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    running.kill().await;
    std::fs::remove_file(&wait).expect("removed");

    let running = stage.start().await;
    running.offer(&stage.terms(1)).await;
    assert_eq!(stage.next().await, Said::Declined(1, wire::DeclineReason::Trainer));
    running.offer(&stage.terms(2)).await;
    assert_eq!(stage.next().await, Said::Ready(2));
    assert_eq!(stage.trained_runs(), 2);
    running.kill().await;
}

#[tokio::test]
async fn an_interrupted_download_goes_on_where_it_stopped() {
    let mut stage = Stage::set(100).await;
    let running = stage.start().await;
    running.offer(&stage.terms(1)).await;
    assert_eq!(stage.next().await, Said::Fetch(0));
    assert_eq!(stage.next().await, Said::Fetch(100));
    assert_eq!(stage.next().await, Said::Ready(1));
    running.kill().await;
}

#[tokio::test]
async fn a_model_that_is_not_the_offered_one_is_not_trained_on() {
    let mut stage = Stage::set(usize::MAX).await;
    let running = stage.start().await;
    let terms = Terms { model: Digest::sha256(b"another"), ..stage.terms(1) };
    running.offer(&terms).await;
    assert_eq!(stage.next().await, Said::Fetch(0));
    assert_eq!(stage.next().await, Said::Declined(1, wire::DeclineReason::Trainer));
    stage.leaves(&[]).await;
    assert_eq!(stage.trained_runs(), 0);
    running.kill().await;
}

#[tokio::test]
async fn a_model_that_is_too_short_or_too_long_is_declined_at_once() {
    for change in [-4_isize, 4] {
        let mut stage = Stage::set_with(usize::MAX, change).await;
        let running = stage.start().await;
        running.offer(&stage.terms(1)).await;
        assert_eq!(stage.next().await, Said::Fetch(0));
        assert_eq!(stage.next().await, Said::Declined(1, wire::DeclineReason::Trainer));
        stage.leaves(&[]).await;
        running.kill().await;
    }
}

#[tokio::test]
async fn a_house_that_says_no_is_heard_with_its_reason() {
    let closed_hours = ["00:00-00:01", "12:00-12:01"].map(|text| text.parse().expect("a window"));
    let now = clock::now();
    // One of the two windows is shut at any time.
    let shut = closed_hours
        .into_iter()
        .find(|window| !Policy { hours: vec![*window], ..Policy::default() }.open_at(now));
    let shut = Policy { hours: shut.into_iter().collect(), ..lenient() };
    let cases = [
        (Policy::default(), wire::DeclineReason::Policy),
        (Policy { min_cohort: 4, ..lenient() }, wire::DeclineReason::Policy),
        (shut, wire::DeclineReason::OutsideHours),
    ];
    for (policy, reason) in cases {
        let mut stage = Stage::set(usize::MAX).await;
        let config = Config { policy, ..Config::clone(&stage.house.config) };
        stage.house.config = Arc::new(config);
        let running = stage.start().await;
        running.offer(&stage.terms(1)).await;
        assert_eq!(stage.next().await, Said::Declined(1, reason));
        assert_eq!(stage.trained_runs(), 0);
        running.kill().await;
    }
}

#[tokio::test]
async fn a_cap_that_is_tightened_while_we_run_binds_the_next_round() {
    let (mut stage, running) = ready_in_the_first_slot().await;

    let faulty = "state = \"state\"\ncolour = 1\n";
    let strict = "state = \"state\"\n[network]\nproxy = \"none\"\n[data.images]\nkind = \"npz\"\npath = \"a.npz\"\n";
    for text in [faulty, strict] {
        std::fs::write(&stage.house.config.file, text).expect("written");
        tokio::time::sleep(LOOK_EVERY * 2).await;
    }
    running.offer(&stage.terms(2)).await;
    assert_eq!(stage.next().await, Said::Declined(2, wire::DeclineReason::Policy));
    running.kill().await;
}

#[tokio::test]
async fn a_withdrawal_on_the_command_line_ends_the_round_and_later_ones() {
    let (mut stage, running) = ready_in_the_first_slot().await;

    // As `study withdraw` does it: another process on the same journal.
    let command = Journal::open(&stage.house.state.journal()).await.expect("opens");
    let approved = command.study(stage.charter.id()).await.expect("read").expect("there");
    let withdrawn =
        LocalStudy { decision: Decision::Withdrawn, data: None, told: false, ..approved };
    command.decide(&withdrawn).await.expect("recorded");
    while folder_of(&stage.house, stage.charter.id()).exists() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    running.hears(stage.roster(1)).await;
    running.offer(&stage.terms(2)).await;
    assert_eq!(stage.next().await, Said::Declined(2, wire::DeclineReason::NotApproved));
    let notice = StudyNotice {
        digest: stage.charter.id().digest().as_bytes().to_vec(),
        manifest_toml: MANIFEST.to_owned(),
        state: StudyState::Running.into(),
        decision: wire::Decision::Approved.into(),
        sites: stage.charter.sites().iter().map(ToString::to_string).collect(),
        rounds_released: 0,
        identities: Vec::new(),
    };
    running.hears(notice::Notice::Study(notice)).await;
    assert_eq!(stage.next().await, Said::Decided(wire::Decision::Withdrawn));
    running.kill().await;
}
