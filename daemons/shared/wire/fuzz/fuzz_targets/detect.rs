//! `cargo +nightly fuzz run detect`; the check itself is shared with the tests of the crate.
#![no_main]

#[path = "../checks.rs"]
#[allow(dead_code, reason = "each target uses one of the checks")]
mod checks;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| checks::detect(bytes));
