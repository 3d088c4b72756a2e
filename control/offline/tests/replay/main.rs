//! The golden packets, by the code of `heddle replay`: transcripts of each packet, its verdict and the packets that leave. They
//! are a specification of NAT; `INSTA_UPDATE=always cargo test -p heddle-offline --test replay` rewrites the snapshots.

#![allow(clippy::unwrap_used, reason = "a test: a failure must end it")]
#![allow(clippy::expect_used, reason = "a test: a failure must end it")]
#![allow(clippy::panic, reason = "a test: a failure must end it")]

mod golden;
mod render;
mod script;
mod tunnel;
