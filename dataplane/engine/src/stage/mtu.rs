//! The path MTU of a connection: known when its flow is compiled, and kept there as the MSS that fits.
//!
//! One size for both directions, the lesser of both ends: a segment size that one end announces is what the other one
//! sends. TCP is told by its MSS option; whatever else is larger is answered or fragmented by the forwarding stage.

use heddle_tables::{EndpointId, Place, Snapshot};
use heddle_wire::{Ip, L3};

/// Headers of IPv4 and TCP without options (RFC 9293 section 3.7.1).
const V4_HEADERS: u16 = 20 + 20;
/// The same of IPv6.
const V6_HEADERS: u16 = 40 + 20;

/// The MSS that fits the path of a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Fit(u16);

impl Fit {
    /// As it stands in a flow's entry: the MSS; 0 means that nothing is known.
    pub(crate) const fn from_mss(mss: u16) -> Self {
        Self(mss)
    }

    /// The most that an MSS option may say; 0: anything.
    pub(crate) const fn mss(self) -> u16 {
        self.0
    }

    fn of(mtu: u16, v4: bool) -> Self {
        Self(mtu.saturating_sub(if v4 { V4_HEADERS } else { V6_HEADERS }))
    }

    /// The MTU, for a packet of that family; `None`: not known, and not bounded.
    #[inline]
    pub(crate) const fn mtu(self, l3: L3) -> Option<u16> {
        if self.0 == 0 {
            return None;
        }
        let headers = if matches!(l3, L3::V6) { V6_HEADERS } else { V4_HEADERS };
        Some(self.0.saturating_add(headers))
    }
}

/// The fit of a connection between two endpoints, each with its address after translation.
pub(crate) fn fit(snapshot: &Snapshot, ends: [(EndpointId, Ip); 2]) -> Fit {
    let v4 = ends[0].1.is_v4();
    let mtu = ends.map(|(id, ip)| take(snapshot, id, ip)).into_iter().flatten().min();
    mtu.map_or(Fit(0), |mtu| Fit::of(mtu, v4))
}

/// Returns the MTU of the path to an address behind an endpoint.
fn take(snapshot: &Snapshot, id: EndpointId, ip: Ip) -> Option<u16> {
    let own = snapshot.endpoint(id).map_or(0, |e| e.mtu);
    // Pods of other nodes are told of the tunnel's size even while the kernel routes to them.
    let mtu = if !id.is_pod() && matches!(snapshot.address(ip).place, Place::Node(_)) {
        match snapshot.node().overlay_mtu {
            0 => own,
            overlay => overlay,
        }
    } else {
        own
    };
    (mtu != 0).then_some(mtu)
}
