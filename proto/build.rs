//! Compiles the schema with protox, so that no `protoc` has to be installed.

#![expect(clippy::disallowed_methods, reason = "cargo speaks to build scripts through variables")]

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let schema = [
        "federation/v1/federation.proto",
        "federation/v1/operator.proto",
        "trainer/v1/trainer.proto",
    ];
    for file in schema {
        println!("cargo::rerun-if-changed={file}");
    }
    let descriptors = protox::compile(schema, ["."])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    // The descriptors travel with the crate: the coordinator's table of methods and roles is
    // checked against them, so that a method without a rule cannot be added.
    std::fs::write(
        out.join("descriptors.bin"),
        protox::prost::Message::encode_to_vec(&descriptors),
    )?;
    let services = std::env::var_os("CARGO_FEATURE_GRPC").is_some();
    tonic_prost_build::configure()
        .build_client(services)
        .build_server(services)
        .build_transport(services)
        .bytes(".consilium.federation.v1.Chunk")
        // A field of a oneof is named by its message, not by the oneof.
        .bytes(".consilium.federation.v1.UpdatePart.data")
        .bytes(".consilium.trainer.v1.ToTrainer.model")
        .bytes(".consilium.trainer.v1.FromTrainer.update")
        .skip_debug([
            // These carry models, updates and tokens: nothing prints them by accident.
            ".consilium.federation.v1.Chunk",
            ".consilium.federation.v1.UpdatePart",
            ".consilium.federation.v1.BatchPart",
            ".consilium.federation.v1.ShareOf",
            ".consilium.federation.v1.SharesRequest",
            ".consilium.federation.v1.EnrolRequest",
            ".consilium.federation.v1.CreateTokenReply",
            ".consilium.trainer.v1.ToTrainer",
            ".consilium.trainer.v1.FromTrainer",
        ])
        .compile_fds(descriptors)?;
    Ok(())
}
