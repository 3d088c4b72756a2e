//! Any bytes as a request of the agent's CNI socket: a valid message or an error, never a panic.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| heddle_proto::fuzzing::check_request(data));
