//! The messages and services of `federation/v1/*.proto`, as generated.
#![expect(
    missing_docs,
    missing_debug_implementations,
    reason = "generated; the .proto files say what each field is"
)]
#![cfg_attr(
    feature = "grpc",
    expect(
        clippy::missing_errors_doc,
        clippy::allow_attributes,
        clippy::allow_attributes_without_reason,
        unused_qualifications,
        reason = "generated"
    )
)]
include!(concat!(env!("OUT_DIR"), "/consilium.federation.v1.rs"));
