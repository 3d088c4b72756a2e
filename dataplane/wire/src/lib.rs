//! Views, builders and checksums for the protocols that heddle speaks. Knows no table and no socket.

#![deny(unsafe_code)]

mod addr;
pub mod build;
mod bytes;
pub mod checksum;
pub mod ether;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod icmp;
pub mod ndp;
pub mod parse;
mod proto;
pub mod rewrite;
pub mod simd;
pub mod tcp;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use addr::{Ip, MacAddr};
pub use icmp::IcmpMessage;
pub use parse::{Fragment, L3, ParseError, Parsed, parse};
pub use proto::Proto;
pub use tcp::TcpFlags;
