//! Hybrid Connections addresses, messages and status texts under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(init: causeway_fuzz::plant(causeway_fuzz::hybrid::seeds()), |data: &[u8]| causeway_fuzz::hybrid::run(data));
