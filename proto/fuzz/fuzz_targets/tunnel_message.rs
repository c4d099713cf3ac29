//! Messages of a tunnel stream under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(init: causeway_fuzz::plant(causeway_fuzz::tunnel_message::seeds()), |data: &[u8]| causeway_fuzz::tunnel_message::run(data));
