//! Neighbor advertisements (RFC 4861 section 4.4).

use super::{BuildError, Envelope};
use crate::addr::{Ip, MacAddr};
use crate::bytes;
use crate::ether;
use crate::icmp;
use crate::ndp;
use crate::parse::Parsed;
use crate::proto::Proto;

const ALL_NODES: Ip = Ip::from_v6([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
const ROUTER: u8 = 0x80;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;
/// The length of the header, the target address, and the option with the Ethernet address.
const LEN: usize = 32;

/// Builds the advertisement that answers a neighbor solicitation: the target is at `mac`, and is a `router` or not.
///
/// The answer to a probe for a duplicate address goes to all nodes, without the solicited flag (RFC 4861 section 7.2.4).
///
/// # Errors
///
/// `NotAnswerable` for anything but a valid solicitation, `NoRoom`.
pub fn neighbor_advertisement(
    head: &[u8],
    p: &Parsed,
    mac: MacAddr,
    router: bool,
    out: &mut [u8],
) -> Result<usize, BuildError> {
    let asked = ndp::solicitation(head, p).map_err(|_| BuildError::NotAnswerable)?;
    let (dst, dst_mac, solicited) = if asked.is_probe() {
        (ALL_NODES, ndp::multicast_mac(ALL_NODES), 0)
    } else {
        let mac = asked
            .source_mac
            .or_else(|| ether::source(head))
            .ok_or(BuildError::NotAnswerable)?;
        (asked.asker, mac, SOLICITED)
    };
    let envelope = Envelope {
        src_mac: mac,
        dst_mac,
        src: asked.target,
        dst,
        proto: Proto::ICMPV6,
        class: 0,
        ttl: 255,
    };
    envelope.write(out, LEN, 2, |m| {
        bytes::put(m, 0, [icmp::v6::NEIGHBOR_ADVERTISEMENT, 0]);
        bytes::put(m, 4, [solicited | OVERRIDE | if router { ROUTER } else { 0 }]);
        bytes::put(m, 8, asked.target.octets());
        bytes::put(m, 24, [ndp::OPTION_TARGET_MAC, 1]);
        bytes::put(m, 26, mac.0);
    })
}
