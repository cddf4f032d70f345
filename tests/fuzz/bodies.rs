//! What is fuzzed: every decoder of what others have written, image files among it, and the state
//! machines fed with anything at all.
//!
//! A body takes bytes and must not panic; what it accepts must come back as it went in. The folder
//! is a workspace of its own for `cargo fuzz`, which looks for bytes that nobody thought of
//! (`cargo +nightly fuzz run wire --fuzz-dir tests/fuzz`, from the root). The same bodies are a
//! module of the harness, so that an ordinary test runs each of them over some thousands of inputs.

mod fetched;
mod images;
mod input;
mod log;
mod machines;
mod manifest;
mod prekeys;
mod wire;

use input::Draw;

/// One thing that is fuzzed.
#[derive(Debug, Clone, Copy)]
pub struct Body {
    /// What it is called; the target of `cargo fuzz` has the same name.
    pub name: &'static str,
    /// Takes the bytes. Whether they were accepted as what they pretend to be.
    pub run: fn(&[u8]) -> bool,
    /// Bytes that are accepted, to begin with.
    pub examples: fn() -> Vec<Vec<u8>>,
}

/// Everything that is fuzzed.
pub const BODIES: [Body; 14] = [
    Body { name: "wire", run: wire::run, examples: wire::examples },
    Body { name: "frames", run: wire::run_frames, examples: wire::frame_examples },
    Body { name: "manifest", run: manifest::run, examples: manifest::examples },
    Body { name: "prekeys", run: prekeys::run, examples: prekeys::examples },
    Body { name: "state", run: prekeys::run_state, examples: prekeys::state_examples },
    Body { name: "log", run: log::run, examples: log::examples },
    Body { name: "round", run: machines::round::run, examples: machines::round::examples },
    Body {
        name: "participant",
        run: machines::participant::run,
        examples: machines::participant::examples,
    },
    Body { name: "dicom", run: images::run_dicom, examples: images::dicom_examples },
    Body { name: "nifti", run: images::run_nifti, examples: images::nifti_examples },
    Body { name: "npz", run: images::run_npz, examples: images::npz_examples },
    Body { name: "raster", run: images::run_raster, examples: images::raster_examples },
    Body { name: "fetched", run: fetched::run, examples: fetched::examples },
    Body { name: "setup", run: machines::setup::run, examples: machines::setup::examples },
];

/// Runs the body of that name, as its fuzz target does.
///
/// # Panics
/// When there is none of that name, or the body finds what must not be.
pub fn fuzz(name: &str, data: &[u8]) {
    let body = BODIES.iter().find(|body| body.name == name).expect("a body of that name");
    let _accepted = (body.run)(data);
}

/// The input of this number for a body: an example, changed in a few places, or bytes of no kind.
#[must_use]
pub fn generated(body: &Body, number: u64) -> Vec<u8> {
    let mut draw = Draw::new(number);
    let examples = (body.examples)();
    let mut bytes = match draw.one_of(&examples) {
        Some(example) if !draw.one_in(8) => example.clone(),
        Some(_) | None => {
            let length = draw.below(600);
            (0..length).map(|_| draw.byte()).collect()
        }
    };
    for _ in 0..draw.below(6) {
        draw.change(&mut bytes, &examples);
    }
    bytes
}
