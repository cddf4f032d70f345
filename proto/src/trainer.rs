//! The messages of `trainer/v1/trainer.proto`, as generated.
#![expect(
    missing_docs,
    missing_debug_implementations,
    reason = "generated; the .proto file says what each field is"
)]
include!(concat!(env!("OUT_DIR"), "/consilium.trainer.v1.rs"));
