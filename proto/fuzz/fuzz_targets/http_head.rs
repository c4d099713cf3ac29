//! Heads of HTTP requests and answers under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(init: causeway_fuzz::plant(causeway_fuzz::http_head::seeds()), |data: &[u8]| causeway_fuzz::http_head::run(data));
