//! Anti-spoofing: the addresses that may send from an origin. A pod sends from its own addresses, to any destination. The host
//! sends from every address but the gateway's, the ones in pod ranges of this node, which it does not route, and the ones of pods
//! that come by the uplink. By a tunnel, a node sends from its own addresses and its pods'. Everything else at the uplink comes from
//! outside of the cluster, from other nodes, or from the pods of nodes that are reached without a tunnel. If a node is not reached,
//! nobody knows by which way its pods' packets should come.
//!
//! A node that runs heddle also forwards connections from outside to Services (direct server return). Their sources are those
//! that anybody outside may use at this node's own uplink, so this admits nobody new.

use heddle_flow::Origin;
use heddle_tables::{EndpointId, NodeId, NodeTable, Place, Snapshot};
use heddle_wire::Ip;

use super::types::{Denial, Query};
use crate::reason::DropReason;

/// Returns the endpoint that a packet of this origin comes from.
#[must_use]
pub(crate) fn owner(origin: Origin) -> EndpointId {
    match origin.as_pod() {
        Some(pod) => pod,
        None if origin == Origin::HOST => EndpointId::HOST,
        None => EndpointId::UPLINK,
    }
}

/// Returns true for an IPv6 link-local address, which no router forwards (RFC 4291 section 2.5.6).
#[must_use]
pub(crate) fn is_link_local(ip: Ip) -> bool {
    let o = ip.octets();
    o[0] == 0xfe && o[1] & 0xc0 == 0x80
}

/// Returns the endpoint that the connection comes from.
///
/// # Errors
/// The endpoint does not exist, the source address does not belong to it, the source is the unspecified address, or it is a pod's of
/// a node that is not reached.
pub(crate) fn check(snapshot: &Snapshot, q: &Query) -> Result<EndpointId, Denial> {
    let from = owner(q.origin);
    let Some(endpoint) = snapshot.endpoint(from) else {
        return Err(Denial::new(DropReason::PortClosed));
    };
    let src = q.tuple.src;
    let own = if from.is_pod() {
        // A pod's link-local address is valid on its link only, where the gateway is the only other end.
        endpoint.has_address(src) || (NodeTable::is_gateway(q.tuple.dst) && is_link_local(src))
    } else if from == EndpointId::HOST {
        comes_by_kernel(snapshot, src) && !NodeTable::is_gateway(src)
    } else {
        comes_by_uplink(snapshot, q)?
    };
    if !own {
        return Err(Denial::new(DropReason::SpoofedSource));
    }
    if src == Ip::UNSPECIFIED || src == Ip::from_v4([0; 4]) {
        return Err(Denial::new(DropReason::Martian));
    }
    Ok(from)
}

/// Returns true if packets of a source come in by the host port. Pods of a node that packets go to by heddle come by the uplink: by
/// the kernel, anybody on the network between the nodes could speak for them.
fn comes_by_kernel(snapshot: &Snapshot, src: Ip) -> bool {
    match snapshot.address(src).place {
        Place::Local(_) | Place::Unreachable => false,
        Place::Node(node) => snapshot.node_path(node).is_none(),
        Place::Host | Place::RemoteHost(_) | Place::Outside => true,
    }
}

/// Returns true if a packet comes in by the uplink: from a node, or else outside of tunnels.
///
/// # Errors
/// The packet came outside of tunnels from a pod of a node that is not reached, or from a node that forwarded it and is not.
fn comes_by_uplink(snapshot: &Snapshot, q: &Query) -> Result<bool, Denial> {
    let src = q.tuple.src;
    let is_outside = !is_link_local(src) && !NodeTable::is_gateway(src);
    Ok(match (snapshot.address(src).place, q.origin.as_node()) {
        (Place::Node(of) | Place::RemoteHost(of), Some(node)) => of == node,
        (Place::Node(of), None) => match snapshot.node_path(of) {
            Some(path) => path.outer.is_none(),
            None => return Err(Denial::new(DropReason::NodeUnreachable)),
        },
        (Place::RemoteHost(_) | Place::Outside, None) => is_outside,
        (Place::Outside, Some(node)) => is_outside && forwards(snapshot, node, q.tuple.dst)?,
        (Place::Local(_) | Place::Host | Place::Unreachable, _) => false,
    })
}

/// Returns true if a node may forward packets to an address.
///
/// # Errors
/// The node cannot be reached.
fn forwards(snapshot: &Snapshot, node: NodeId, dst: Ip) -> Result<bool, Denial> {
    match snapshot.remote_node(node) {
        Some(known) if known.takes_own && known.path.is_err() => Err(Denial::new(DropReason::NodeUnreachable)),
        Some(known) => Ok(known.takes_forwarded && snapshot.may_be_forwarded(node, dst)),
        None => Ok(false),
    }
}

/// Returns the node that forwarded a connection of a client outside, if one did. The source must have been checked.
#[must_use]
pub(crate) fn forwarder(snapshot: &Snapshot, q: &Query) -> Option<NodeId> {
    let node = q.origin.as_node()?;
    (snapshot.address(q.tuple.src).place == Place::Outside).then_some(node)
}
