//! Feeds any bytes to the reader and the decoder of an API server's objects: the result is an object or a refusal.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| heddle_source::fuzzing::check_object(data));
