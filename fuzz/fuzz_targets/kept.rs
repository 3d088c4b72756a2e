//! Feeds any bytes to the reader of the file of last good versions: the result is legal versions or an error.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| heddle_source::fuzzing::check_kept(data));
