//! The real binary in real network namespaces, with a scripted agent. Needs root (CAP_NET_ADMIN, CAP_SYS_ADMIN).

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests fail by panic, as tests do"
)]

mod add;
mod agent;
mod check;
mod del;
mod offloads;
mod scene;
