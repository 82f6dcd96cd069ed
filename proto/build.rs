//! Generates the Rust side of every contract, in pure Rust: no protoc needed.

use std::error::Error;
use std::path::Path;

const FILES: [&str; 6] = [
    "wk/cluster/v1/cluster.proto",
    "wk/lifecycle/v1/lifecycle.proto",
    "wk/link/v1/link.proto",
    "wk/node/v1/node.proto",
    "wk/supervisor/v1/supervisor.proto",
    "wk/worker/v1/worker.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    for file in FILES {
        println!("cargo::rerun-if-changed={file}");
        assert!(Path::new(file).exists(), "{file} is missing");
    }
    let files = protox::compile(FILES, ["."])?;
    // Payload-carrying fields stay `Bytes` from the socket to the parser: no copy.
    tonic_prost_build::configure()
        .bytes(".wk.link.v1")
        .bytes(".wk.cluster.v1.AppendRequest")
        .bytes(".wk.cluster.v1.ReadReply")
        .bytes(".wk.cluster.v1.JournalEntry")
        .compile_fds(files)?;
    Ok(())
}
