//! Packets through the whole pipeline, in memory: workers, hand-over, flow table and hand-built tables, no socket.
//!
//! Each test says which counters change, by name, and every other one must not. When a world ends, no frame is missing,
//! every packet received has ended in exactly one way, and every frame that left was verified by etherparse.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail loudly"
)]

mod adoption;
mod affinity;
mod datagram;
mod decision;
mod drops;
mod external;
mod forwarding;
mod fragmented;
mod fragments;
mod fragments_counted;
mod gateway;
mod handover;
mod host;
mod icmp;
mod large;
mod malformed;
mod origin;
mod paths;
mod policy;
mod properties;
mod restart;
mod services;
mod spoofing;
mod tables;
mod tcp;
mod threads;
mod world;
