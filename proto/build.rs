//! Compiles the contract with `protox`, so that no `protoc` needs to be installed, and writes the descriptor set that
//! server reflection answers from.

use std::{error::Error, fs, path::PathBuf};

use prost::Message;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(["tunnel.proto", "google_rpc.proto"], ["proto"])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    fs::write(out.join("tunnel.descriptors"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().build_transport(false).bytes(".causeway.tunnel.v1").compile_fds(descriptors)?;
    Ok(())
}
