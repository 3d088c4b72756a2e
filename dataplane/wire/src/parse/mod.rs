//! The parser: from the bytes of a packet to the offsets of its headers and the fields of its flow key.
//!
//! [`parse`] reads the head frame only and copies nothing but addresses and ports. It refuses packets that cannot be
//! forwarded correctly, each with its own [`ParseError`], and never panics, whatever the bytes. It verifies the IPv4 header
//! checksum; `checksum` verifies transport checksums. It keeps no state: it reports fragments and does not reassemble them.

mod arp;
mod error;
mod fragment;
mod ipv4;
mod ipv6;
mod parsed;
mod quoted;
mod transport;

pub(crate) use arp::PREFIX as ARP_PREFIX;
pub use arp::{ArpOperation, ArpPacket, arp};
pub use error::ParseError;
pub use ipv6::MAX_EXTENSIONS;
pub use parsed::{Fragment, L3, Parsed};
pub use quoted::{Inner, quoted};

use crate::bytes;
use crate::ether;

/// Parses a packet. `head` is its first frame, and `packet_len` the length of all its frames in octets.
///
/// # Errors
///
/// A [`ParseError`]: the reason for which the packet cannot be forwarded.
#[inline(always)]
pub fn parse(head: &[u8], packet_len: usize) -> Result<Parsed, ParseError> {
    let head = head.get(..packet_len).unwrap_or(head);
    let Some(eth) = bytes::read::<{ ether::HEADER }>(head, 0) else {
        return Err(ParseError::EthernetTruncated);
    };
    let l2_multicast = eth[0] & 1 == 1;
    match u16::from_be_bytes([eth[12], eth[13]]) {
        ether::IPV4 => ipv4::parse(head, packet_len, l2_multicast),
        ether::IPV6 => ipv6::parse(head, packet_len, l2_multicast),
        ether::ARP => arp::parse(head, packet_len, l2_multicast),
        tag if ether::is_vlan(tag) => Err(ParseError::VlanTagged),
        _ => Err(ParseError::UnknownEtherType),
    }
}

#[cfg(test)]
mod tests;
