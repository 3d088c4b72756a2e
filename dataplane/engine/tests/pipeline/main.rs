//! Packets through the whole pipeline, in memory: workers, hand-over, flow table and hand-built tables, no socket.
//!
//! Each test names the counters that change; no other counter may. At the end of a world no frame is missing, every received
//! packet has ended in exactly one way, and etherparse has verified every frame that left.

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
mod fragments_limits;
mod fragments_refused;
mod gateway;
mod handover;
mod host;
mod icmp;
mod large;
mod limits;
mod malformed;
mod nodes;
mod nodes_addresses;
mod nodes_bursts;
mod nodes_direct;
mod nodes_errors;
mod nodes_flannel;
mod nodes_forwarded;
mod nodes_sizes;
mod nodes_tunnel;
mod origin;
mod paths;
mod policy;
mod properties;
mod restart;
mod segments;
mod services;
mod spoofing;
mod tables;
mod tcp;
mod threads;
mod world;
