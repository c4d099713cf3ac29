//! WebSocket frames under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(init: causeway_fuzz::plant(causeway_fuzz::ws_frame::seeds()), |data: &[u8]| causeway_fuzz::ws_frame::run(data));
