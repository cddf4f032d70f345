//! `consilium-audit epsilon`: published figures, there and back again, and arguments that are none.

use std::process::Command;

use serde_json::Value;

struct Answer {
    code: Option<i32>,
    out: String,
    err: String,
}

fn epsilon(arguments: &str) -> Answer {
    let output = Command::new(env!("CARGO_BIN_EXE_consilium-audit"))
        .arg("epsilon")
        .args(arguments.split_whitespace())
        .output()
        .expect("the program is built");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    Answer { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

fn data(arguments: &str) -> Value {
    let answer = epsilon(&format!("{arguments} --format json"));
    assert_eq!((answer.code, answer.err.as_str()), (Some(0), ""), "{arguments}: {}", answer.out);
    let envelope: Value = serde_json::from_str(&answer.out).expect("one envelope");
    assert_eq!((&envelope["schema_version"], &envelope["status"]), (&1.into(), &"ok".into()));
    envelope["data"].clone()
}

fn figure(data: &Value, name: &str) -> f64 {
    data[name].as_f64().expect("a number")
}

/// Noise, rate, steps, delta; epsilon by integer orders (mpmath, 300 bits); the least and greatest
/// that privacy loss distributions can give (Opacus 1.6.0, PRV).
const PUBLISHED: [(f64, f64, u64, f64, f64, f64, f64); 2] = [
    (1.0, 0.01, 1_000, 1e-5, 2.107_753_075_451_565, 1.827_104_725_384_194, 1.829_368_731_567_565),
    (0.8, 0.02, 500, 1e-6, 6.164_547_278_809_121, 5.438_976_612_524_153, 5.441_636_065_070_457),
];

#[test]
fn epsilons_are_the_published_ones() {
    for (noise, rate, steps, delta, rdp, least, greatest) in PUBLISHED {
        let line = format!(
            "--noise-multiplier {noise} --sampling-rate {rate} --steps {steps} --delta {delta}"
        );
        let answer = data(&line);
        assert_eq!((&answer["accountant"], &answer["steps"]), (&"rdp".into(), &steps.into()));
        assert!((figure(&answer, "epsilon") / rdp - 1.0).abs() < 1e-10, "{answer}");
        assert!(answer.get("target_epsilon").is_none());
        let tighter = data(&format!("{line} --accountant pld"));
        assert!((least..=greatest).contains(&figure(&tighter, "epsilon")), "{tighter}");
        let text = epsilon(&line);
        assert_eq!(text.code, Some(0));
        assert!(
            text.out.starts_with(&format!("epsilon {}", &rdp.to_string()[..10])),
            "{}",
            text.out
        );
        assert!(text.out.contains("an upper bound by rdp"), "{}", text.out);
        // Whoever does not say which is told both; whoever does, that one alone.
        assert!(text.out.contains("an upper bound by pld"), "{}", text.out);
        let also = &answer["also"];
        assert_eq!((&also["accountant"], &also["epsilon"]), (&"pld".into(), &tighter["epsilon"]));
        let alone = data(&format!("{line} --accountant rdp"));
        assert!(alone.get("also").is_none() && tighter.get("also").is_none(), "{alone}");
    }
}

#[test]
fn a_target_gives_the_noise_that_meets_it() {
    for accountant in ["rdp", "pld"] {
        let rest =
            format!("--sampling-rate 0.25 --steps 100 --delta 1e-5 --accountant {accountant}");
        let solved = data(&format!("--target-epsilon 3 {rest}"));
        let reached = figure(&solved, "epsilon");
        assert!(reached <= 3.0 && reached > 2.999, "{solved}");
        assert!((figure(&solved, "target_epsilon") - 3.0).abs() < 1e-12, "{solved}");
        let noise = &solved["noise_multiplier"];
        let again = data(&format!("--noise-multiplier {noise} {rest}"));
        assert_eq!(again["epsilon"], solved["epsilon"]);
    }
}

#[test]
fn what_is_no_argument_ends_with_exit_4_and_says_why() {
    let good = "--noise-multiplier 1 --sampling-rate 0.1 --steps 10 --delta 1e-5";
    for (line, says) in [
        (good.replace("plier 1", "plier 0"), "the noise multiplier must be above 0 and finite"),
        (good.replace("plier 1", "plier -1"), "the noise multiplier must be above 0 and finite"),
        (good.replace("plier 1", "plier inf"), "the noise multiplier must be above 0 and finite"),
        (good.replace("plier 1", "plier much"), "expected a number"),
        (good.replace("rate 0.1", "rate 0"), "the sampling rate must be above 0 and at most 1"),
        (good.replace("rate 0.1", "rate 1.5"), "the sampling rate must be above 0 and at most 1"),
        (good.replace("rate 0.1", "rate NaN"), "the sampling rate must be above 0 and at most 1"),
        (good.replace("steps 10", "steps 0"), "expected at least one step"),
        (good.replace("steps 10", "steps 1.5"), "expected a number"),
        (good.replace("delta 1e-5", "delta 1"), "delta must be above 0 and below 1"),
        (good.replace("delta 1e-5", "delta -1e-5"), "delta must be above 0 and below 1"),
        (
            good.replace("noise-multiplier", "target-epsilon").replace("lon 1", "lon 0"),
            "epsilon must be above 0",
        ),
        (good.replace("--noise-multiplier 1", ""), "or --target-epsilon E, found neither"),
        (format!("{good} --target-epsilon 1"), "or --target-epsilon E, found both"),
        (good.replace("--steps 10", ""), "expected --steps N, found none"),
        (good.replace("--delta 1e-5", ""), "expected --delta D, found none"),
        (good.replace("--sampling-rate 0.1", ""), "expected --sampling-rate Q, found none"),
        (format!("{good} --accountant prv"), "invalid value 'prv'"),
    ] {
        let text = epsilon(&line);
        assert_eq!((text.code, text.out.as_str()), (Some(4), ""), "{line}: {}", text.err);
        assert!(text.err.starts_with("error: ") && text.err.contains(says), "{line}: {}", text.err);
        let json = epsilon(&format!("{line} --format json"));
        let envelope: Value = serde_json::from_str(&json.out).expect("one envelope");
        assert_eq!((json.code, &envelope["status"]), (Some(4), &"error".into()), "{line}");
    }
}

#[test]
fn what_cannot_be_reached_ends_with_exit_1() {
    let line = "--sampling-rate 1 --steps 1000000 --delta 1e-300";
    let far = epsilon(&format!("--target-epsilon 1e-9 {line}"));
    assert_eq!(far.code, Some(1));
    assert!(far.err.contains("no noise multiplier up to 1048576 keeps epsilon"), "{}", far.err);
    let none = epsilon(&format!("--noise-multiplier 1e-300 {line} --format json"));
    let envelope: Value = serde_json::from_str(&none.out).expect("one envelope");
    assert_eq!((none.code, &envelope["error_code"]), (Some(1), &"unbounded".into()));
}
