//! The bodies of the fuzz targets, each over some thousands of inputs.

use harness::fuzz::{BODIES, generated};

#[test]
fn what_is_right_is_accepted_by_every_decoder() {
    for body in BODIES {
        let examples = (body.examples)();
        assert!(!examples.is_empty(), "{} has no examples", body.name);
        // The courses of machines are as they are; of the others every example is a good one.
        let machine = ["round", "participant", "setup"].contains(&body.name);
        for (number, example) in examples.iter().enumerate() {
            let accepted = (body.run)(example);
            assert!(accepted || machine, "example {number} of {} is refused", body.name);
        }
    }
}

#[test]
fn no_input_makes_a_decoder_or_a_machine_panic() {
    for body in BODIES {
        let (mut accepted, mut refused) = (0, 0);
        for number in 0..3_000 {
            // A panic names the assertion; the body and the number come with it.
            let bytes = generated(&body, number);
            let found = std::panic::catch_unwind(|| (body.run)(&bytes));
            assert!(found.is_ok(), "{} panics on input {number}: {bytes:?}", body.name);
            if found.unwrap_or(false) {
                accepted += 1;
            } else {
                refused += 1;
            }
        }
        assert!(accepted > 20 && refused > 20, "{}: {accepted}, {refused}", body.name);
    }
}
