//! Messages of a tunnel stream under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| causeway_fuzz::tunnel_message::run(data));
