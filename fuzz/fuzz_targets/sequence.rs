//! Any bytes as a sequence of packets, and of what changes meanwhile, through a small node: every frame and every packet is
//! accounted for, and what leaves is valid.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    heddle_engine::fuzzing::check_sequence(data);
});
