//! One module per target, each with `run`, which takes any bytes and panics only if a promise is broken, and `seeds`,
//! inputs that reach deep. The libFuzzer binaries in `fuzz_targets/` and the smoke in `proto/tests/fuzz_smoke.rs` call the
//! same functions.

pub mod hybrid;
pub mod tunnel_message;
pub mod ws_frame;
