//! Any bytes as environment and standard input of the CNI plugin: a valid call or an error, never a panic.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| heddle_cni::fuzzing::check_input(data));
