//! WebSocket frames under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| causeway_fuzz::ws_frame::run(data));
