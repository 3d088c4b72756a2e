//! Feeds any bytes to the reader of the file of the saved cluster: the result is legal objects or an error.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| heddle_source::fuzzing::check_saved(data));
