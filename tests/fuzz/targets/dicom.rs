#![no_main]

libfuzzer_sys::fuzz_target!(
    // A panic of a decoder that the reader catches is none of ours; one that gets here aborts.
    init: drop(std::panic::take_hook()),
    |data: &[u8]| bodies::fuzz("dicom", data)
);
