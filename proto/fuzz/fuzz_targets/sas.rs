//! Shared access signatures under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(init: causeway_fuzz::plant(causeway_fuzz::sas::seeds()), |data: &[u8]| causeway_fuzz::sas::run(data));
