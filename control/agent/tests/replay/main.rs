//! `heddle replay`, and by it the golden packets: what each packet is, how it ends, and what leaves. They read as a
//! specification of NAT; `INSTA_UPDATE=always cargo test -p heddle-agent --test replay` writes them anew, for reading.

#![allow(clippy::unwrap_used, reason = "a test: a failure is to end it")]
#![allow(clippy::expect_used, reason = "a test: a failure is to end it")]
#![allow(clippy::panic, reason = "a test: a failure is to end it")]

mod command;
mod golden;
mod story;
mod told;
