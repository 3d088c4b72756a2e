//! Where a connection leaves, and under which source address.
//!
//! A local pod by its port, everything else by the host port: the kernel knows the way to other nodes and outside
//! (the uplink and the tunnel are a later stage's). What would lead back to where it came from goes nowhere.
//! Who is masqueraded the Service says; an address of this node's own is one already, and its answers come by heddle.

use heddle_tables::{AddressInfo, EndpointId, NodeTable, Place, Snapshot};

use super::anti_spoof::is_link_local;
use super::{Denial, Source, Target};
use crate::reason::DropReason;

pub(super) fn route(
    snapshot: &Snapshot,
    from: EndpointId,
    target: Target,
    src: AddressInfo,
    dst: AddressInfo,
) -> Result<(EndpointId, Source), Denial> {
    let node = snapshot.node();
    let no_route = || Denial::new(DropReason::NoRoute);
    let to = match dst.place {
        Place::Local(pod) => pod,
        // RFC 4291 section 2.5.6. IPv4's are the kernel's to know: node-local DNS, the cloud's metadata.
        _ if is_link_local(target.dst) => return Err(Denial::new(DropReason::Martian)),
        Place::Unreachable => return Err(Denial::new(DropReason::UnknownDestination)),
        // The kernel's routes for Services lead back here.
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
            // Its reply to its own address would never leave the pod.
            Source::Hairpin(if target.dst.is_v4() {
                NodeTable::GATEWAY_V4
            } else {
                NodeTable::GATEWAY_V6
            })
        } else {
            // With a source of the node's own the reply would not come by heddle.
            Source::Masqueraded(node.masquerade.address_for(target.dst).ok_or_else(no_route)?)
        }
    } else if target.masquerade && src.place != Place::Host {
        Source::Masqueraded(node.masquerade.address_for(target.dst).ok_or_else(no_route)?)
    } else {
        Source::Kept
    };
    Ok((to, source))
}
