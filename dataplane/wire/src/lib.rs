//! Parser, header rewriting, packet builders and checksums for heddle's protocols. It uses no table and no socket.
//!
//! A packet is parsed once, into offsets and the fields of its flow key ([`parse()`]). The checksum changes of a flow's rewrite are
//! computed once ([`rewrite::Deltas`]) and applied to each packet ([`rewrite::forward`]). [`build`] writes
//! heddle's local replies into a caller's buffer. No function allocates, keeps state, or panics on any bytes.
//!
//! The engine's stages call these functions for each packet. The tables and the flow table use the types of addresses and tuples.
//!
//! ```
//! use heddle_wire::rewrite::{Deltas, Tuple, forward};
//! use heddle_wire::{Ip, MacAddr, checksum, parse};
//!
//! # fn main() -> Result<(), heddle_wire::ParseError> {
//! # let mut frame = [
//! #     0x02, 0, 0, 0, 0, 2, 0x02, 0, 0, 0, 0, 1, 0x08, 0x00, 0x45, 0, 0, 28, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 96, 0, 10,
//! #     0x10, 0, 0, 53, 0, 8, 0, 0,
//! # ];
//! # let sum = checksum::sum(&frame[14..34]).checksum();
//! # frame[24..26].copy_from_slice(&sum.to_be_bytes());
//! let packet = parse(&frame, frame.len())?;
//! assert_eq!((packet.dst, packet.dport), (Ip::from_v4([10, 96, 0, 10]), 53));
//!
//! let backend = Tuple { dst: Ip::from_v4([10, 1, 0, 7]), dport: 5353, ..packet.tuple() };
//! let deltas = Deltas::between(packet.proto, &packet.tuple(), &backend);
//! let macs = (MacAddr([0x02, 0, 0, 0, 0, 7]), MacAddr::GATEWAY);
//! assert!(forward(&mut frame, &packet, macs, Some((&backend, deltas))));
//! assert_eq!(parse(&frame, frame.len())?.tuple(), backend);
//! # Ok(())
//! # }
//! ```

#![deny(unsafe_code)]

mod addr;
pub mod build;
mod bytes;
pub mod checksum;
pub mod ether;
mod fragment;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod icmp;
pub mod ndp;
pub mod parse;
mod proto;
pub mod rewrite;
mod segment;
pub mod simd;
pub mod tcp;
mod tcp_flags;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod vxlan;

pub use addr::{Ip, MacAddr};
pub use fragment::Fragmenter;
pub use icmp::IcmpMessage;
pub use parse::{Fragment, L3, ParseError, Parsed, parse};
pub use proto::Proto;
pub use segment::{Segmenter, is_divisible};
pub use tcp_flags::TcpFlags;
