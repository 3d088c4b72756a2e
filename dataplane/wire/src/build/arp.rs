//! ARP (RFC 826).

use super::{BuildError, ethernet, room};
use crate::addr::{Ip, MacAddr};
use crate::bytes;
use crate::ether;
use crate::parse::{self, ARP_PREFIX, ArpOperation, Parsed};

const LEN: usize = ether::HEADER + 28;

/// Builds the reply to an ARP request: the requested address is at `mac`.
///
/// # Errors
///
/// `NotAnswerable` for anything but a request, `NoRoom`.
pub fn arp_reply(head: &[u8], p: &Parsed, mac: MacAddr, out: &mut [u8]) -> Result<usize, BuildError> {
    let asked = parse::arp(head, p).ok_or(BuildError::NotAnswerable)?;
    if asked.operation != ArpOperation::Request || asked.sender_mac.is_multicast() {
        return Err(BuildError::NotAnswerable);
    }
    write(
        out,
        asked.sender_mac,
        2,
        (mac, asked.target),
        (asked.sender_mac, asked.sender),
    )
}

/// Builds a broadcast ARP request for `target`.
///
/// # Errors
///
/// `NoRoom`, and `NotAnswerable` for addresses that are not IPv4.
pub fn arp_request(mac: MacAddr, sender: Ip, target: Ip, out: &mut [u8]) -> Result<usize, BuildError> {
    if !sender.is_v4() || !target.is_v4() {
        return Err(BuildError::NotAnswerable);
    }
    write(out, MacAddr::BROADCAST, 1, (mac, sender), (MacAddr::default(), target))
}

fn write(
    out: &mut [u8],
    dst: MacAddr,
    operation: u16,
    sender: (MacAddr, Ip),
    target: (MacAddr, Ip),
) -> Result<usize, BuildError> {
    let frame = room(out, LEN)?;
    ethernet(frame, dst, sender.0, ether::ARP);
    let at = ether::HEADER;
    bytes::put(frame, at, ARP_PREFIX);
    bytes::put16(frame, at + 6, operation);
    bytes::put(frame, at + 8, sender.0.0);
    bytes::put(frame, at + 14, sender.1.v4_octets());
    bytes::put(frame, at + 18, target.0.0);
    bytes::put(frame, at + 24, target.1.v4_octets());
    Ok(LEN)
}
