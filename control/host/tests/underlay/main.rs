//! The underlay in real network namespaces: a node, a router and another node on one segment. Needs root, as the agent does.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests: a failure is to end the test"
)]

mod entries;
mod network;
mod paths;
mod scale;
mod uplink;
