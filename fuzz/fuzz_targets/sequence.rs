//! Feeds any bytes to a small node in memory as a sequence of packets and changes: every frame and every packet is accounted
//! for, and every packet that leaves is valid.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    heddle_engine::fuzzing::check_sequence(data);
});
