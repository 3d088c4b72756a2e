//! ARP and neighbor discovery: the gateway answers for everything that is not on the asker's own link, so for everything.
//!
//! Pods and host ask for the gateway, for pods, for Services; all are at the gateway's MAC. What they say about
//! themselves is checked for pods and needed by nobody: heddle knows its neighbours (RFC 826, RFC 4861, RFC 5227).

use heddle_port::Packet;
use heddle_tables::{NodeTable, Place};
use heddle_wire::parse::{ArpOperation, arp as arp_fields};
use heddle_wire::{IcmpMessage, Ip, MacAddr, Parsed, build, ndp};

use super::local_reply;
use crate::context::Context;
use crate::decide::is_link_local;
use crate::reason::{AbsorbReason, AnswerKind, DropReason};
use crate::verdict::Verdict;

const NO_ADDRESS: Ip = Ip::from_v4([0; 4]);

/// Whether the address is that of whoever is behind the port.
fn own(cx: &Context<'_>, ip: Ip) -> bool {
    cx.endpoint.has_address(ip) || (!cx.is_from_pod() && cx.snapshot.address(ip).place == Place::Host)
}

/// The end of an ARP packet.
#[cold]
pub(crate) fn arp(cx: &mut Context<'_>, packet: &mut Packet, p: &Parsed) -> Verdict {
    let Some(a) = arp_fields(packet.bytes(cx.store), p) else {
        return Verdict::drop(DropReason::ArpMalformed);
    };
    let probe = a.sender == NO_ADDRESS;
    if cx.is_from_pod() && (a.sender_mac != cx.endpoint.mac || !(probe || own(cx, a.sender))) {
        return Verdict::drop(DropReason::SpoofedNeighbor);
    }
    if a.operation == ArpOperation::Reply {
        return Verdict::Absorb(AbsorbReason::NeighborAnnouncement);
    }
    if probe {
        return Verdict::Absorb(AbsorbReason::DuplicateAddressDetection);
    }
    if own(cx, a.target) {
        return Verdict::Absorb(AbsorbReason::NeighborAnnouncement);
    }
    let built = build::arp_reply(packet.bytes(cx.store), p, MacAddr::GATEWAY, &mut cx.stages.scratch[..]);
    local_reply::send(cx, packet, built, AnswerKind::Arp, DropReason::ArpMalformed)
}

/// The end of a message of the link, if the packet is one.
#[inline]
pub(crate) fn neighbor(cx: &mut Context<'_>, packet: &mut Packet, p: &Parsed, message: IcmpMessage) -> Option<Verdict> {
    match message {
        IcmpMessage::NeighborSolicitation => Some(solicitation(cx, packet, p)),
        IcmpMessage::NeighborAdvertisement => Some(Verdict::Absorb(AbsorbReason::NeighborAnnouncement)),
        IcmpMessage::RouterSolicitation => Some(Verdict::Absorb(AbsorbReason::RouterSolicitation)),
        IcmpMessage::Mld => Some(Verdict::Absorb(AbsorbReason::MulticastListener)),
        // There is one router, and the pod is not it.
        IcmpMessage::RouterAdvertisement | IcmpMessage::Redirect => Some(if cx.is_from_pod() {
            Verdict::drop(DropReason::SpoofedNeighbor)
        } else {
            Verdict::Absorb(AbsorbReason::HostLink)
        }),
        IcmpMessage::EchoRequest | IcmpMessage::EchoReply | IcmpMessage::Error | IcmpMessage::Other => None,
    }
}

#[cold]
fn solicitation(cx: &mut Context<'_>, packet: &mut Packet, p: &Parsed) -> Verdict {
    let asked = match ndp::solicitation(packet.bytes(cx.store), p) {
        Ok(asked) => asked,
        Err(e) => return Verdict::drop(e.into()),
    };
    if asked.is_probe() {
        return Verdict::Absorb(AbsorbReason::DuplicateAddressDetection);
    }
    // The kernel asks from the address that it is about to send from, or from its link-local one.
    if cx.is_from_pod() && !own(cx, asked.asker) && !is_link_local(asked.asker) {
        return Verdict::drop(DropReason::SpoofedNeighbor);
    }
    if own(cx, asked.target) || asked.target == asked.asker {
        return Verdict::Absorb(AbsorbReason::NeighborAnnouncement);
    }
    let gateway = NodeTable::is_gateway(asked.target);
    if is_link_local(asked.target) && !gateway {
        return Verdict::drop(DropReason::Martian);
    }
    let built = build::neighbor_advertisement(
        packet.bytes(cx.store),
        p,
        MacAddr::GATEWAY,
        gateway,
        &mut cx.stages.scratch[..],
    );
    local_reply::send(cx, packet, built, AnswerKind::Neighbor, DropReason::NeighborInvalid)
}
