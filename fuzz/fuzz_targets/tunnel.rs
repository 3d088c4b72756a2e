//! Feeds any bytes to the tunnel: as a packet at the uplink, and as the inner frame of one. Every frame is accounted for, what leaves
//! is valid, and an encapsulated frame comes out as it went in.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    heddle_wire::fuzzing::check_tunnel(data);
    heddle_engine::fuzzing::check_uplink(data);
});
