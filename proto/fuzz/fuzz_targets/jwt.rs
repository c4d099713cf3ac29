//! JSON Web Tokens under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(init: causeway_fuzz::plant(causeway_fuzz::jwt::seeds()), |data: &[u8]| causeway_fuzz::jwt::run(data));
