//! One module per target, each with `run`, which takes any bytes and panics only if a promise is broken, and `seeds`,
//! inputs that reach deep. The libFuzzer binaries in `fuzz_targets/` and the smokes in `tests/fuzz_smoke.rs` of `proto`,
//! `identity` and `relay` call the same functions.

pub mod http_head;
pub mod hybrid;
pub mod jwt;
pub mod sas;
pub mod tunnel_message;
pub mod ws_frame;

use std::path::PathBuf;

/// Writes a target's seeds into the folder that `CAUSEWAY_FUZZ_SEEDS` names, before libFuzzer reads it as its corpus.
///
/// # Panics
/// When the folder cannot be written.
pub fn plant(seeds: Vec<Vec<u8>>) {
    let Some(folder) = std::env::var_os("CAUSEWAY_FUZZ_SEEDS").map(PathBuf::from) else { return };
    for (number, seed) in seeds.iter().enumerate() {
        std::fs::write(folder.join(format!("seed-{number:02}")), seed).expect("the folder of seeds can be written");
    }
}
