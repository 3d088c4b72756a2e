//! Finds a connection's egress and its source address there.
//!
//! A local pod is reached by its port, and every other destination by the host port: the kernel routes to other nodes and to the
//! outside, so no connection has a node or the uplink as its egress yet. A connection that would leave where it came in has no
//! route. The Service determines which connections are masqueraded. A connection of the node itself keeps its source, because
//! its replies come back through heddle anyway.

use heddle_flow::Egress;
use heddle_tables::{AddressInfo, EndpointId, NodeTable, Place, Snapshot};

use super::anti_spoof::is_link_local;
use super::types::{Denial, Source, Target};
use crate::reason::DropReason;

/// Returns the egress of a connection and the source that its destination sees.
///
/// # Errors
/// The destination cannot be reached.
pub(super) fn route(
    snapshot: &Snapshot,
    from: EndpointId,
    target: Target,
    src: AddressInfo,
    dst: AddressInfo,
) -> Result<(Egress, Source), Denial> {
    let node = snapshot.node();
    let no_route = || Denial::new(DropReason::NoRoute);
    let to = match dst.place {
        Place::Local(pod) => pod,
        // RFC 4291 section 2.5.6. IPv4 link-local addresses go to the kernel: node-local DNS, the cloud's metadata.
        _ if is_link_local(target.dst) => return Err(Denial::new(DropReason::Martian)),
        Place::Unreachable => return Err(Denial::new(DropReason::UnknownDestination)),
        // The kernel's routes for Service ranges lead back to heddle, so the packet would loop.
        Place::Outside if node.in_service_range(target.dst) => {
            return Err(Denial::new(DropReason::UnknownDestination));
        }
        Place::Host | Place::Node(_) | Place::RemoteHost(_) | Place::Outside => EndpointId::HOST,
    };
    if snapshot.endpoint(to).is_none() {
        return Err(Denial::new(DropReason::UnknownDestination));
    }
    let source = if to == from {
        if !target.service {
            return Err(no_route());
        }
        if to.is_pod() {
            // The pod would answer its own address inside the pod.
            Source::Hairpin(if target.dst.is_v4() {
                NodeTable::GATEWAY_V4
            } else {
                NodeTable::GATEWAY_V6
            })
        } else {
            // The kernel would deliver the reply to an address of the node directly, without heddle's translation.
            Source::Masqueraded(node.masquerade.address_for(target.dst).ok_or_else(no_route)?)
        }
    } else if target.masquerade && src.place != Place::Host {
        Source::Masqueraded(node.masquerade.address_for(target.dst).ok_or_else(no_route)?)
    } else {
        Source::Kept
    };
    Ok((Egress::Endpoint(to), source))
}
