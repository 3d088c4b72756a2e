//! Turns an echo request into its reply in place. The request may have any length, and may be a chain of frames.

use super::{apply_icmp, set_addresses, set_macs, set_ttl};
use crate::addr::MacAddr;
use crate::bytes;
use crate::checksum::Delta;
use crate::ether;
use crate::icmp::{self, IcmpMessage};
use crate::parse::{L3, Parsed};

/// TTL and hop limit of local replies.
const TTL: u8 = 64;

/// Turns an echo request into its reply, sent from the address that the request was sent to and from `mac`. Identifier, sequence number and data stay
/// (RFC 792, RFC 4443 section 4.2).
///
/// Returns false and changes nothing for anything but a whole echo request to one host.
pub fn echo_reply_in_place(frame: &mut [u8], p: &Parsed, mac: MacAddr) -> bool {
    if p.icmp() != Some(IcmpMessage::EchoRequest) || p.is_fragment() || p.to_multicast() || p.icmp_code != 0 {
        return false;
    }
    let (request, reply) = match p.l3 {
        L3::V4 => (icmp::v4::ECHO_REQUEST, icmp::v4::ECHO_REPLY),
        _ => (icmp::v6::ECHO_REQUEST, icmp::v6::ECHO_REPLY),
    };
    let Some(asker) = ether::source(frame) else {
        return false;
    };
    // A swap of the two addresses changes no sum.
    set_addresses(frame, p, p.dst, p.src, Delta::NONE)
        && set_macs(frame, asker, mac)
        && set_ttl(frame, p, TTL)
        && bytes::put(frame, p.l4(), [reply, 0])
        && apply_icmp(
            frame,
            p,
            Delta::word(u16::from_be_bytes([request, 0]), u16::from_be_bytes([reply, 0])),
        )
}
