//! Feeds any bytes to the CNI plugin as environment and standard input: the result is a valid call or an error.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| heddle_cni::fuzzing::check_input(data));
