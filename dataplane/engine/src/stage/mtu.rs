//! The path MTU of a connection. It is looked up when the flow is compiled, and stored in the flow's entry as the largest MSS
//! that fits.
//!
//! Both directions have the same path MTU, the smaller one of both ends, because an end's MSS option limits what the other end
//! sends. A TCP connection gets a smaller MSS option. Each end's own option lowers the limit of the direction towards it
//! ([`note_announced`]), because it is the size of the segments that a large packet is cut into. Any other packet that is too large is
//! answered or fragmented by the forwarding stage.

use heddle_flow::{Egress, Origin, SlotId};
use heddle_port::Packet;
use heddle_tables::Snapshot;
use heddle_wire::{L3, Parsed, Proto, tcp};

use crate::context::Context;

/// Returns the octets of the headers of IP and TCP without options (RFC 9293 section 3.7.1).
const fn headers(l3: L3) -> u16 {
    if matches!(l3, L3::V6) { 40 + 20 } else { 20 + 20 }
}

/// Returns the MSS of a connection whose ends announce none, which every host accepts (RFC 9293 section 3.7.1). A smaller one is not taken,
/// from a receiver or from a router: it would make one packet into thousands.
const fn default_mss(l3: L3) -> u16 {
    if matches!(l3, L3::V6) { 1220 } else { 536 }
}

/// The MSS that fits the path of a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Fit(u16);

impl Fit {
    /// Makes the value from a flow entry's MSS; 0 means unknown.
    pub(crate) const fn from_mss(mss: u16) -> Self {
        Self(mss)
    }

    /// Returns the limit of an MSS option; 0 means no limit.
    pub(crate) const fn mss(self) -> u16 {
        self.0
    }

    /// Returns the limit for a direction of a connection that has `current` now. A receiver's announcement has lowered it perhaps, and it
    /// counts for the life of the connection, so a limit of TCP never rises.
    pub(crate) fn limit(self, current: u16, proto: Proto) -> u16 {
        match (self.0, current) {
            (path, 0) => path,
            (0, current) if proto == Proto::TCP => current,
            (path, current) if proto == Proto::TCP => path.min(current),
            (path, _) => path,
        }
    }

    /// Returns the MSS for packets of at most `mtu` octets.
    fn of(mtu: u16, v4: bool) -> Self {
        Self(mtu.saturating_sub(headers(if v4 { L3::V4 } else { L3::V6 })))
    }

    /// Returns the MTU for a packet of this family; `None` if it is unknown, which means no limit.
    #[inline]
    pub(crate) const fn mtu(self, l3: L3) -> Option<u16> {
        if self.0 == 0 {
            return None;
        }
        Some(self.0.saturating_add(headers(l3)))
    }
}

/// Returns the MSS that fits the path of a connection of a family, by the egress of each direction. `origin` is the origin of the
/// opener's packets: those that come from a node must fit its path, although the replies may take another way.
pub(crate) fn fit(snapshot: &Snapshot, origin: Origin, egresses: [Egress; 2], v4: bool) -> Fit {
    let mtu = egresses
        .into_iter()
        .chain(origin.as_node().map(Egress::Node))
        .filter_map(|egress| path_mtu(snapshot, egress, v4))
        .min();
    mtu.map_or(Fit(0), |mtu| Fit::of(mtu, v4))
}

/// Returns the MTU of packets of a family that leave by an egress; `None` if there is no limit.
fn path_mtu(snapshot: &Snapshot, egress: Egress, is_v4: bool) -> Option<u16> {
    let mtu = match egress {
        Egress::Endpoint(id) => snapshot.endpoint(id)?.mtu,
        Egress::Node(id) => snapshot.node_path_for(id, is_v4)?.mtu,
        Egress::Uplink(_) => snapshot.node().uplink_mtu,
    };
    (mtu != 0).then_some(mtu)
}

/// Notes the MSS that the sender of a SYN or SYN-ACK announces, or the default if it announces none (RFC 9293 section 3.7.1): the limit of
/// the direction towards it gets lower. The option itself is clamped to the limit that this direction had, which is the path's.
#[cold]
#[inline(never)]
pub(crate) fn note_announced(cx: &mut Context<'_>, packet: &Packet, p: &Parsed, slot: SlotId) {
    let towards = slot.peer();
    cx.mss_option = cx.flows.view(towards).map_or(0, |view| view.mss_clamp);
    let least = default_mss(p.l3);
    let announced = tcp::mss(packet.bytes(cx.store), p).map_or(least, |(_, mss)| mss);
    cx.flows.limit_mss(towards, announced.max(least));
}

/// Lowers the limit of a direction to the MSS of a path whose MTU a router has reported.
pub(crate) fn note_reported(cx: &Context<'_>, mtu: u32, l3: L3, direction: SlotId) {
    let mtu = u16::try_from(mtu).unwrap_or(u16::MAX);
    let mss = mtu.saturating_sub(headers(l3)).max(default_mss(l3));
    cx.flows.limit_mss(direction, mss);
}

/// Returns the octets of data in a segment of a TCP packet whose connection has this limit. An MSS counts headers without options and
/// extension headers (RFC 6691).
pub(crate) fn segment_size(fit: Fit, p: &Parsed) -> u16 {
    let options = p
        .payload_offset
        .saturating_sub(headers(p.l3) + Parsed::L3_OFFSET as u16);
    fit.mss().saturating_sub(options).max(1)
}
