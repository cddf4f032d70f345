//! The noise's table is the one that its script makes, byte for byte (PROTOCOL D-06). Where python3
//! or its mpmath cannot be had the test says so; the table's hash is pinned beside it in any case.

use std::path::Path;
use std::process::Command;

#[test]
#[expect(clippy::print_stderr, reason = "a skipped test says so")]
fn the_script_makes_the_table_again() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/privacy/noise");
    let made = Path::new(env!("CARGO_TARGET_TMPDIR")).join("table.bin");
    let able = Command::new("python3").args(["-c", "import mpmath"]).output();
    if !able.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: python3 with mpmath is not here, so the table was not made again");
        return;
    }
    let output = Command::new("python3").arg(here.join("make_table.py")).arg(&made).output();
    let output = output.expect("python3 was there a moment ago");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let made = std::fs::read(made).expect("the script has written it");
    let kept = std::fs::read(here.join("table.bin")).expect("it is in the repository");
    assert!(made == kept, "the script makes another table than the one that is compiled in");
}
