//! Parses a packet and says what it is: one that a flow answers for, or one whose end is clear without tables.

use heddle_flow::FlowKey;
use heddle_port::Packet;
use heddle_wire::parse::{Inner, quoted};
use heddle_wire::{IcmpMessage, L3, MacAddr, Parsed, Proto, ether, parse};

use super::link;
use crate::context::Context;
use crate::reason::{AbsorbReason, DropReason};
use crate::verdict::Verdict;

/// The group management of IPv4 (RFC 9776).
const IGMP: Proto = Proto(2);

/// What a packet is.
pub(crate) enum Class {
    /// One of a flow: its own, or the one that it quotes.
    Flow(Parsed, FlowKey, Option<Inner>),
    /// One that has ended.
    Done(Verdict),
}

impl Class {
    fn drop(reason: impl Into<DropReason>) -> Self {
        Self::Done(Verdict::drop(reason.into()))
    }
}

#[inline]
pub(crate) fn classify(cx: &mut Context<'_>, packet: &mut Packet) -> Class {
    let head = packet.bytes(cx.store);
    let p = match parse(head, packet.len() as usize) {
        Ok(p) => p,
        Err(e) => return Class::drop(e),
    };
    if cx.is_from_pod() && ether::source(head) != Some(cx.endpoint.mac) {
        return Class::drop(DropReason::SpoofedMac);
    }
    if p.l3 == L3::Arp {
        return Class::Done(link::arp(cx, packet, &p));
    }
    if !p.l2_multicast && ether::destination(head) != Some(MacAddr::GATEWAY) {
        return Class::drop(DropReason::NotForGateway);
    }
    let message = p.icmp();
    if let Some(message) = message
        && let Some(verdict) = link::neighbor(cx, packet, &p, message)
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
    if p.is_later_fragment() {
        return Class::drop(DropReason::FragmentNotFirst);
    }
    let key = FlowKey::of(&p, cx.origin());
    match (p.proto, message) {
        (Proto::TCP, _) if p.tcp_flags.is_impossible() => Class::drop(DropReason::TcpFlags),
        (Proto::TCP | Proto::UDP | Proto::SCTP, _) | (_, Some(IcmpMessage::EchoRequest | IcmpMessage::EchoReply)) => {
            Class::Flow(p, key, None)
        }
        (_, Some(IcmpMessage::Error)) => match quoted(packet.bytes(cx.store), &p) {
            Ok(inner) => {
                let answers = FlowKey {
                    tuple: inner.tuple().reversed(),
                    proto: inner.proto,
                    origin: key.origin,
                };
                Class::Flow(p, answers, Some(inner))
            }
            Err(e) => Class::drop(e),
        },
        (_, Some(_)) => Class::drop(DropReason::UnsupportedIcmp),
        _ => Class::drop(DropReason::UnsupportedProtocol),
    }
}
