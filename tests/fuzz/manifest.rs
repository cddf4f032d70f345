//! The study manifest: a text that an operator writes and a hospital approves by its digest.

/// What is accepted is a study without faults, and the same text is the same study.
#[must_use]
pub(crate) fn run(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    let Ok(study) = proto::manifest::parse(text) else { return false };
    assert!(study.faults().is_empty(), "a manifest with faults was accepted");
    let again = proto::manifest::parse(text).expect("it was accepted once");
    assert_eq!(again.digest(), study.digest());
    let _parameters = study.layout().parameters();
    true
}

/// The sample that is shipped.
#[must_use]
pub(crate) fn examples() -> Vec<Vec<u8>> {
    vec![include_bytes!("../../compose/study.toml").to_vec()]
}
