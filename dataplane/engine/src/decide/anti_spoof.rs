//! Who may send from which address. A pod: from its own, whatever it asks for. The host: from anything but the gateway's
//! and what is in this node's own pod ranges, which it does not route. Nothing comes by the uplink yet.

use heddle_flow::Origin;
use heddle_tables::{EndpointId, NodeTable, Place, Snapshot};
use heddle_wire::Ip;

use super::{Denial, Query};
use crate::reason::DropReason;

/// The endpoint that a packet of this origin comes from.
#[must_use]
pub(crate) fn owner(origin: Origin) -> EndpointId {
    match origin.as_pod() {
        Some(pod) => pod,
        None if origin == Origin::HOST => EndpointId::HOST,
        None => EndpointId::UPLINK,
    }
}

/// Whether an IPv6 address means something on its own link only (RFC 4291 section 2.5.6).
#[must_use]
pub(crate) fn is_link_local(ip: Ip) -> bool {
    let o = ip.octets();
    o[0] == 0xfe && o[1] & 0xc0 == 0x80
}

/// The endpoint that the connection comes from, if its source address belongs there.
pub(crate) fn check(snapshot: &Snapshot, q: &Query) -> Result<EndpointId, Denial> {
    let from = owner(q.origin);
    let Some(endpoint) = snapshot.endpoint(from) else {
        return Err(Denial::new(DropReason::PortClosed));
    };
    let src = q.tuple.src;
    let own = if from.is_pod() {
        // A pod's link-local address says nothing beyond its link, on which there is the gateway alone.
        endpoint.has_address(src) || (NodeTable::is_gateway(q.tuple.dst) && is_link_local(src))
    } else if from == EndpointId::HOST {
        !matches!(snapshot.address(src).place, Place::Local(_) | Place::Unreachable) && !NodeTable::is_gateway(src)
    } else {
        false
    };
    if !own {
        return Err(Denial::new(DropReason::SpoofedSource));
    }
    if src == Ip::UNSPECIFIED || src == Ip::from_v4([0; 4]) {
        return Err(Denial::new(DropReason::Martian));
    }
    Ok(from)
}
