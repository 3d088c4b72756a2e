//! The golden packets, by the code of `heddle replay`: what each packet is, how it ends, and what leaves. They read as a
//! specification of NAT; `INSTA_UPDATE=always cargo test -p heddle-offline --test replay` rewrites the snapshots.

#![allow(clippy::unwrap_used, reason = "a test: a failure is to end it")]
#![allow(clippy::expect_used, reason = "a test: a failure is to end it")]
#![allow(clippy::panic, reason = "a test: a failure is to end it")]

mod golden;
mod render;
mod script;
