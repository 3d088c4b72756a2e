//! Says what a parsed packet is: one that a flow answers for, or one whose end is clear without tables.

use heddle_flow::FlowKey;
use heddle_port::Packet;
use heddle_wire::parse::quoted;
use heddle_wire::{IcmpMessage, L3, MacAddr, Parsed, Proto, ether};

use super::neighbor;
use crate::context::Context;
use crate::reason::{AbsorbReason, DropReason};
use crate::verdict::Verdict;

/// The group management of IPv4 (RFC 9776).
const IGMP: Proto = Proto(2);

/// What a packet is.
pub(crate) enum Class {
    /// One of the flow with that key.
    Flow(FlowKey),
    /// An ICMP error about a packet of the flow whose answers have that key.
    Quote(FlowKey),
    /// One that has ended.
    Done(Verdict),
}

impl Class {
    fn drop(reason: impl Into<DropReason>) -> Self {
        Self::Done(Verdict::drop(reason.into()))
    }
}

#[inline]
pub(crate) fn classify(cx: &mut Context<'_>, packet: &mut Packet, p: &Parsed) -> Class {
    let head = packet.bytes(cx.store);
    if cx.is_from_pod() && ether::source(head) != Some(cx.endpoint.mac) {
        return Class::drop(DropReason::SpoofedMac);
    }
    if p.l3 == L3::Arp {
        return Class::Done(neighbor::arp(cx, packet, p));
    }
    if !p.l2_multicast && ether::destination(head) != Some(MacAddr::GATEWAY) {
        return Class::drop(DropReason::NotForGateway);
    }
    let message = p.icmp();
    if let Some(message) = message
        && let Some(verdict) = neighbor::neighbor(cx, packet, p, message)
    {
        return Class::Done(verdict);
    }
    if p.l2_multicast || p.to_multicast() {
        return if p.proto == IGMP {
            Class::Done(Verdict::Absorb(AbsorbReason::MulticastListener))
        } else if cx.is_from_pod() {
            Class::drop(DropReason::Multicast)
        } else {
            Class::Done(Verdict::Absorb(AbsorbReason::HostLink))
        };
    }
    let key = FlowKey::of(p, cx.origin());
    if p.is_later_fragment() {
        // It has no ports: what it is a packet of, its first fragment says.
        return Class::Flow(key);
    }
    match (p.proto, message) {
        (Proto::TCP, _) if p.tcp_flags.is_impossible() => Class::drop(DropReason::TcpFlags),
        (Proto::TCP | Proto::UDP | Proto::SCTP, _) | (_, Some(IcmpMessage::EchoRequest | IcmpMessage::EchoReply)) => {
            Class::Flow(key)
        }
        (_, Some(IcmpMessage::Error)) => match quoted(packet.bytes(cx.store), p) {
            Ok(inner) => Class::Quote(FlowKey {
                tuple: inner.tuple().reversed(),
                proto: inner.proto,
                origin: key.origin,
            }),
            Err(e) => Class::drop(e),
        },
        (_, Some(_)) => Class::drop(DropReason::UnsupportedIcmp),
        _ => Class::drop(DropReason::UnsupportedProtocol),
    }
}
