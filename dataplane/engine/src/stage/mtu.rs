//! The path MTU of a connection. It is looked up when the flow is compiled, and stored in the flow's entry as the largest MSS
//! that fits.
//!
//! Both directions have the same size, the smaller one of both ends, because an end's MSS option limits what the other end
//! sends. A TCP connection gets a smaller MSS option; any other packet that is too large is answered or fragmented by the
//! forwarding stage.

use heddle_flow::{Egress, Origin};
use heddle_tables::Snapshot;
use heddle_wire::L3;

/// Headers of IPv4 and TCP without options (RFC 9293 section 3.7.1).
const V4_HEADERS: u16 = 20 + 20;
/// Headers of IPv6 and TCP without options.
const V6_HEADERS: u16 = 40 + 20;

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

    /// Returns the MSS for packets of at most `mtu` octets.
    fn of(mtu: u16, v4: bool) -> Self {
        Self(mtu.saturating_sub(if v4 { V4_HEADERS } else { V6_HEADERS }))
    }

    /// Returns the MTU for a packet of this family; `None` if it is unknown, which means no limit.
    #[inline]
    pub(crate) const fn mtu(self, l3: L3) -> Option<u16> {
        if self.0 == 0 {
            return None;
        }
        let headers = if matches!(l3, L3::V6) { V6_HEADERS } else { V4_HEADERS };
        Some(self.0.saturating_add(headers))
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
