//! Feeds any bytes to the reader of the agent's CNI socket: the result is a valid request or an error.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| heddle_proto::fuzzing::check_request(data));
