//! Feeds any bytes to the parser as a frame: its invariants, answers and rewrites hold, and etherparse finds the same.
#![no_main]

use heddle_wire::fuzzing;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    fuzzing::check_parse(data);
    fuzzing::check_against_etherparse(data);
});
