#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::run("signer_key", data));
