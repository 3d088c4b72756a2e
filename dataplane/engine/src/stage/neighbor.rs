//! ARP and neighbor discovery (RFC 826, RFC 4861, RFC 5227). The gateway replies for its own address and for every other one except
//! the asker's own and IPv6 link-local ones, because the gateway is the only neighbor on the asker's link.
//!
//! Pods and the host ask for the gateway, for pods and for Services, and the reply is always the gateway's MAC address. ARP
//! packets and neighbor solicitations of pods are checked for spoofed senders. Announcements are absorbed, because
//! the tables contain the neighbors.

use heddle_port::Packet;
use heddle_tables::{NodeTable, Place};
use heddle_wire::build::{self, BuildError};
use heddle_wire::parse::{ArpOperation, arp as arp_fields};
use heddle_wire::{IcmpMessage, Ip, L3, MacAddr, Parsed, ndp};

use super::next::{Next, Reply};
use crate::context::Context;
use crate::decide::is_link_local;
use crate::reason::{AbsorbReason, AnswerKind, DropReason};
use crate::verdict::Verdict;

/// The unspecified address.
const NO_ADDRESS: Ip = Ip::from_v4([0; 4]);

/// Returns true if the address belongs to the endpoint behind the port.
fn is_own(cx: &Context<'_>, ip: Ip) -> bool {
    cx.endpoint.has_address(ip) || (!cx.is_from_pod() && cx.snapshot.address(ip).place == Place::Host)
}

/// Returns true if the ICMP message is about the link, so that this stage handles it.
#[inline]
pub(crate) const fn is_link_message(message: IcmpMessage) -> bool {
    match message {
        IcmpMessage::NeighborSolicitation
        | IcmpMessage::NeighborAdvertisement
        | IcmpMessage::RouterSolicitation
        | IcmpMessage::Mld
        | IcmpMessage::RouterAdvertisement
        | IcmpMessage::Redirect => true,
        IcmpMessage::EchoRequest | IcmpMessage::EchoReply | IcmpMessage::Error | IcmpMessage::Other => false,
    }
}

/// Handles an ARP packet or a message of the link.
#[cold]
pub(crate) fn handle(cx: &mut Context<'_>, packet: &Packet, p: &Parsed) -> Next {
    if p.l3 == L3::Arp {
        return arp(cx, packet, p);
    }
    match p.icmp() {
        Some(IcmpMessage::NeighborSolicitation) => solicitation(cx, packet, p),
        Some(IcmpMessage::NeighborAdvertisement) => absorb(AbsorbReason::NeighborAnnouncement),
        Some(IcmpMessage::RouterSolicitation) => absorb(AbsorbReason::RouterSolicitation),
        Some(IcmpMessage::Mld) => absorb(AbsorbReason::MulticastListener),
        // Router advertisements and redirects. A pod is no router, so from a pod they are spoofed.
        _ if cx.is_from_pod() => Next::drop(DropReason::SpoofedNeighbor),
        _ => absorb(AbsorbReason::HostLink),
    }
}

/// Ends the packet here.
fn absorb(reason: AbsorbReason) -> Next {
    Next::Done(Verdict::Absorb(reason))
}

/// Returns the reply that was built, or a drop for `otherwise`.
fn reply(built: Result<usize, BuildError>, kind: AnswerKind, otherwise: DropReason) -> Next {
    match built.map(u16::try_from) {
        Ok(Ok(len)) => Next::Reply(Reply::Prepared { len, kind }),
        Ok(Err(_)) | Err(_) => Next::drop(otherwise),
    }
}

/// Handles an ARP packet: replies to requests for other addresses, absorbs probes and announcements, drops spoofed packets.
fn arp(cx: &mut Context<'_>, packet: &Packet, p: &Parsed) -> Next {
    let Some(a) = arp_fields(packet.bytes(cx.store), p) else {
        return Next::drop(DropReason::ArpMalformed);
    };
    // The sender of a probe for a duplicate address has no address yet (RFC 5227 section 1.1).
    let probe = a.sender == NO_ADDRESS;
    if cx.is_from_pod() && (a.sender_mac != cx.endpoint.mac || !(probe || is_own(cx, a.sender))) {
        return Next::drop(DropReason::SpoofedNeighbor);
    }
    if a.operation == ArpOperation::Reply {
        return absorb(AbsorbReason::NeighborAnnouncement);
    }
    if probe {
        return absorb(AbsorbReason::DuplicateAddressDetection);
    }
    if is_own(cx, a.target) {
        return absorb(AbsorbReason::NeighborAnnouncement);
    }
    let built = build::arp_reply(packet.bytes(cx.store), p, MacAddr::GATEWAY, &mut cx.stages.scratch[..]);
    reply(built, AnswerKind::Arp, DropReason::ArpMalformed)
}

/// Handles a neighbor solicitation, as [`arp`] does a request.
fn solicitation(cx: &mut Context<'_>, packet: &Packet, p: &Parsed) -> Next {
    let asked = match ndp::solicitation(packet.bytes(cx.store), p) {
        Ok(asked) => asked,
        Err(e) => return Next::drop(e.into()),
    };
    if asked.is_probe() {
        return absorb(AbsorbReason::DuplicateAddressDetection);
    }
    // The kernel asks from the address that it will send from, or from its link-local address.
    if cx.is_from_pod() && !is_own(cx, asked.asker) && !is_link_local(asked.asker) {
        return Next::drop(DropReason::SpoofedNeighbor);
    }
    if is_own(cx, asked.target) || asked.target == asked.asker {
        return absorb(AbsorbReason::NeighborAnnouncement);
    }
    let gateway = NodeTable::is_gateway(asked.target);
    if is_link_local(asked.target) && !gateway {
        return Next::drop(DropReason::Martian);
    }
    let built = build::neighbor_advertisement(
        packet.bytes(cx.store),
        p,
        MacAddr::GATEWAY,
        gateway,
        &mut cx.stages.scratch[..],
    );
    reply(built, AnswerKind::Neighbor, DropReason::NeighborInvalid)
}
