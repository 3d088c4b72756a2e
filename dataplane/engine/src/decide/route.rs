//! Finds a connection's egress, the egress of its replies, and its source address at the destination.
//!
//! A local pod is reached by its port. Another node's pods are reached by that node's path, and so are its own addresses from pods
//! if it runs heddle. Other destinations are the kernel's: by the host port, for which the kernel masquerades pods. A connection
//! from the uplink that a Service sends to such a destination keeps the uplink as its end, because its replies come in there.
//!
//! A connection that is forwarded without translation goes to its backend's node, which answers the client by the kernel's routes:
//! the way that it came by leads to the node that forwarded it.
//!
//! A connection that would leave where it came in has no route, unless a Service changed its destination. The Service determines
//! which connections are masqueraded. A connection of the node itself keeps its source, because its replies come back through
//! heddle anyway.

use heddle_flow::{Egress, Origin};
use heddle_tables::{EndpointId, FrontendKey, NextHopId, NodeId, NodeTable, Place, Snapshot};
use heddle_wire::Ip;

use super::anti_spoof::{forwarder, is_link_local, owner};
use super::service::takes_forwarded;
use super::types::{Denial, Query, Source, Target};
use crate::reason::DropReason;

/// The opener of a connection.
#[derive(Clone, Copy)]
pub(super) struct Opener {
    /// Where its packets come in.
    pub(super) origin: Origin,
    /// The endpoint there.
    pub(super) endpoint: EndpointId,
    /// Its address.
    pub(super) address: Ip,
    /// The place of its address.
    pub(super) place: Place,
}

/// The path of a connection.
#[derive(Clone, Copy)]
pub(super) struct Path {
    /// The egress of the opener's packets.
    pub(super) egress: Egress,
    /// The egress of the replies.
    pub(super) back: Egress,
    /// The origin of the replies.
    pub(super) reply_origin: Origin,
    /// The source that the destination sees.
    pub(super) source: Source,
}

/// Returns the path of a connection to a target at a place.
///
/// # Errors
/// The destination cannot be reached.
pub(super) fn route(snapshot: &Snapshot, opener: Opener, target: Target, to: Place) -> Result<Path, Denial> {
    if target.forwarded {
        return forwarded(snapshot, &opener, to);
    }
    let egress = egress(snapshot, opener.endpoint, &target, to)?;
    if let Egress::Endpoint(to) = egress
        && snapshot.endpoint(to).is_none()
    {
        return Err(Denial::new(DropReason::UnknownDestination));
    }
    Ok(Path {
        egress,
        back: back(&opener),
        reply_origin: reply_origin(snapshot, egress),
        source: source(snapshot, &opener, &target, egress)?,
    })
}

/// Returns the path of a connection that is forwarded without translation to the node of its backend, which is at a place.
#[cold]
fn forwarded(snapshot: &Snapshot, opener: &Opener, to: Place) -> Result<Path, Denial> {
    // Elsewhere, the pod that the connection went to is gone, and another one has its address.
    let Place::Node(node) = to else {
        return Err(Denial::new(DropReason::UnknownDestination));
    };
    if !takes_forwarded(snapshot, to) {
        return Err(Denial::new(DropReason::NodeUnreachable));
    }
    let egress = Egress::Node(node);
    Ok(Path {
        egress,
        back: back(opener),
        reply_origin: reply_origin(snapshot, egress),
        source: Source::Kept,
    })
}

/// Returns the egress to a place.
fn egress(snapshot: &Snapshot, from: EndpointId, target: &Target, place: Place) -> Result<Egress, Denial> {
    let from_uplink = from == EndpointId::UPLINK;
    let unknown = Err(Denial::new(DropReason::UnknownDestination));
    match place {
        Place::Local(pod) => Ok(Egress::Endpoint(pod)),
        // RFC 4291 section 2.5.6. IPv4 link-local addresses go to the kernel: node-local DNS, the cloud's metadata.
        _ if is_link_local(target.dst) => Err(Denial::new(DropReason::Martian)),
        Place::Unreachable => unknown,
        // The kernel's routes for Service ranges lead back to heddle, so the packet would loop.
        Place::Outside if snapshot.node().in_service_range(target.dst) => unknown,
        Place::Host => Ok(Egress::Endpoint(EndpointId::HOST)),
        // heddle is no router between others: only a Service sends a connection on.
        Place::Node(_) | Place::RemoteHost(_) | Place::Outside if from_uplink && !target.service => {
            Err(Denial::new(DropReason::NoRoute))
        }
        Place::Node(id) => match snapshot.node_path(id) {
            Some(_) => Ok(Egress::Node(id)),
            None => Err(Denial::new(DropReason::NodeUnreachable)),
        },
        Place::RemoteHost(id) if from.is_pod() && takes_own(snapshot, id) => Ok(Egress::Node(id)),
        Place::RemoteHost(_) | Place::Outside if from_uplink => Ok(Egress::Uplink(NextHopId::KERNEL)),
        Place::RemoteHost(_) | Place::Outside => Ok(Egress::Endpoint(EndpointId::HOST)),
    }
}

/// Returns true if a packet came in by the uplink, but is for another node or its pods, and no frontend has its destination. The
/// sender's route is wrong then: it is old, for example.
pub(crate) fn is_for_others(snapshot: &Snapshot, q: &Query) -> bool {
    let is_elsewhere = match snapshot.address(q.tuple.dst).place {
        Place::Node(_) | Place::RemoteHost(_) => true,
        Place::Outside => q.origin.as_node().is_some(),
        Place::Local(_) | Place::Host | Place::Unreachable => false,
    };
    let key = FrontendKey {
        ip: q.tuple.dst,
        proto: q.proto,
        port: q.tuple.dport,
    };
    let frontend = match forwarder(snapshot, q) {
        Some(node) => snapshot.forwarded_frontend(node, key),
        None => snapshot.frontend_at(key),
    };
    owner(q.origin) == EndpointId::UPLINK && is_elsewhere && frontend.is_none()
}

/// Returns true if packets to a node's own addresses go there like packets to its pods.
fn takes_own(snapshot: &Snapshot, id: NodeId) -> bool {
    snapshot
        .remote_node(id)
        .is_some_and(|node| node.takes_own && node.path.is_ok())
}

/// Returns true if a node is reached by a tunnel, but does not run heddle.
fn is_without_heddle(snapshot: &Snapshot, id: NodeId) -> bool {
    snapshot
        .remote_node(id)
        .is_some_and(|node| !node.takes_own && node.path.is_ok_and(|path| path.outer.is_some()))
}

/// Returns the egress of the replies: back to where the connection came in.
fn back(opener: &Opener) -> Egress {
    if opener.endpoint != EndpointId::UPLINK {
        return Egress::Endpoint(opener.endpoint);
    }
    match (opener.origin.as_node(), opener.place) {
        // A client outside, whose connection another node forwarded.
        (Some(_), Place::Outside) => Egress::Uplink(NextHopId::KERNEL),
        // The packets of a node's pods that come without a tunnel are replied to without one.
        (Some(node), _) | (None, Place::Node(node)) => Egress::Node(node),
        // The worker that opens the connection knows the neighbor that the packet came from.
        (None, _) => Egress::Uplink(NextHopId::KERNEL),
    }
}

/// Returns the origin of the packets that an address sends; `None` if it cannot be reached.
pub(crate) fn origin_of(snapshot: &Snapshot, address: Ip) -> Option<Origin> {
    match snapshot.address(address).place {
        Place::Local(pod) => Some(Origin::pod(pod)),
        Place::Unreachable => None,
        Place::Node(id) => snapshot.node_path(id).map(|_| reply_origin(snapshot, Egress::Node(id))),
        Place::RemoteHost(id) if takes_own(snapshot, id) => Some(reply_origin(snapshot, Egress::Node(id))),
        Place::Host | Place::RemoteHost(_) | Place::Outside => Some(Origin::HOST),
    }
}

/// Returns the origin of packets that come back from an egress.
fn reply_origin(snapshot: &Snapshot, egress: Egress) -> Origin {
    match egress {
        Egress::Endpoint(EndpointId::HOST) => Origin::HOST,
        Egress::Endpoint(pod) => Origin::pod(pod),
        Egress::Node(id) if snapshot.node_path(id).is_some_and(|path| path.outer.is_some()) => Origin::node(id),
        Egress::Node(_) | Egress::Uplink(_) => Origin::UPLINK,
    }
}

/// Returns the source that a pod sees when it reaches itself through a Service. It would answer its own address inside the pod.
///
/// With IPv6 the gateway's address will not do: to a link-local address, a UDP server that is not bound to one of the pod's addresses
/// answers from the pod's link-local one (RFC 6724 section 5, rule 2).
fn hairpin_address(node: &NodeTable, v4: bool) -> Ip {
    if v4 {
        return NodeTable::GATEWAY_V4;
    }
    node.masquerade
        .address_for(NodeTable::GATEWAY_V6)
        .unwrap_or(NodeTable::GATEWAY_V6)
}

/// Returns the source that the destination sees.
fn source(snapshot: &Snapshot, opener: &Opener, target: &Target, egress: Egress) -> Result<Source, Denial> {
    let node = snapshot.node();
    let from = opener.endpoint;
    let no_route = || Denial::new(DropReason::NoRoute);
    let masquerade = |address: Option<Ip>| address.map(Source::Masqueraded).ok_or_else(no_route);
    let v4 = target.dst.is_v4();
    match egress {
        // A node without heddle, behind a tunnel: its kernel sends replies into the tunnel only if they go to a pod range. They must
        // come back by the tunnel, so the node itself and clients of Services have an address of this node's range.
        Egress::Node(id) if is_without_heddle(snapshot, id) => {
            if from.is_pod() && !target.masquerade || node.host.addresses.contains(&opener.address) {
                return Ok(Source::Kept);
            }
            masquerade(node.masquerade.address_for(target.dst))
        }
        // Another node knows this node's pods and the addresses of its Node object. The reply to any other opener must come back
        // to this node, because the opener does not know the backend, or the other node does not know the opener's address.
        Egress::Node(_) | Egress::Uplink(_)
            if from.is_pod() && !target.masquerade || node.addresses.contains(&opener.address) =>
        {
            Ok(Source::Kept)
        }
        Egress::Node(_) | Egress::Uplink(_) => masquerade(node.address_of_family(v4)),
        Egress::Endpoint(to) if to == from => {
            if !target.service {
                return Err(no_route());
            }
            if to.is_pod() {
                return Ok(Source::Hairpin(hairpin_address(node, v4)));
            }
            // The kernel would deliver the reply to an address of the node directly, without heddle's translation.
            masquerade(node.masquerade.address_for(target.dst))
        }
        Egress::Endpoint(_) if target.masquerade && opener.place != Place::Host => {
            masquerade(node.masquerade.address_for(target.dst))
        }
        Egress::Endpoint(_) => Ok(Source::Kept),
    }
}
