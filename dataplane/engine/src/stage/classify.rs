//! Classifies a parsed packet: it has a flow key, it belongs to the link, or its verdict needs no tables.

use heddle_flow::FlowKey;
use heddle_wire::parse::quoted;
use heddle_wire::{IcmpMessage, L3, MacAddr, Parsed, Proto, ether};

use super::neighbor::is_link_message;
use crate::context::Context;
use crate::reason::{AbsorbReason, DropReason};
use crate::verdict::Verdict;

/// The group management of IPv4 (RFC 9776).
const IGMP: Proto = Proto(2);

/// The class of a packet.
pub(crate) enum Class {
    /// A packet of the flow with this key.
    Flow(FlowKey),
    /// An ICMP error about a packet of the flow whose replies have this key.
    IcmpError(FlowKey),
    /// ARP, or an ICMP message of the link.
    Link,
    /// A packet that has its verdict.
    Done(Verdict),
}

impl Class {
    fn drop(reason: impl Into<DropReason>) -> Self {
        Self::Done(Verdict::drop(reason.into()))
    }
}

/// Classifies a packet; `head` is its first frame.
///
/// Plan: check the Ethernet addresses, leave the link's own protocols to the neighbor stage, sort out multicast, then take the
/// flow key. The order matters: neighbor discovery is multicast, and everything behind it is routed.
#[inline(always)]
pub(crate) fn classify(cx: &Context<'_>, head: &[u8], p: &Parsed) -> Class {
    // The Ethernet addresses: a pod uses its own, and everything routed goes to the gateway's.
    if cx.is_from_pod() && ether::source(head) != Some(cx.endpoint.mac) {
        return Class::drop(DropReason::SpoofedMac);
    }
    if p.l3 == L3::Arp {
        return link(cx);
    }
    if !p.l2_multicast && ether::destination(head) != Some(MacAddr::GATEWAY) && !is_for_uplink(cx, head) {
        return Class::drop(DropReason::NotForGateway);
    }
    // Neighbor discovery, before multicast: solicitations are multicast.
    let message = p.icmp();
    if message.is_some_and(is_link_message) {
        return link(cx);
    }
    // Other multicast is not forwarded. The host's own is normal and not counted as a drop.
    if p.l2_multicast || p.to_multicast() {
        return if p.proto == IGMP {
            Class::Done(Verdict::Absorb(AbsorbReason::MulticastListener))
        } else if cx.is_from_pod() {
            Class::drop(DropReason::Multicast)
        } else {
            Class::Done(Verdict::Absorb(kernels_own(cx)))
        };
    }
    // Routed packets: the protocols that have flows.
    let key = FlowKey::of(p, cx.origin());
    if p.is_later_fragment() {
        // It has no ports and no protocol header to check. Its first fragment was checked.
        return Class::Flow(key);
    }
    match (p.proto, message) {
        (Proto::TCP, _) if p.tcp_flags.is_impossible() => Class::drop(DropReason::TcpFlags),
        (Proto::TCP | Proto::UDP | Proto::SCTP, _) | (_, Some(IcmpMessage::EchoRequest | IcmpMessage::EchoReply)) => {
            Class::Flow(key)
        }
        (_, Some(IcmpMessage::Error)) => match quoted(head, p) {
            Ok(inner) => Class::IcmpError(FlowKey {
                tuple: inner.tuple().reversed(),
                proto: inner.proto,
                origin: key.origin,
                echo_reply: inner.is_echo_request(),
            }),
            Err(e) => Class::drop(e),
        },
        (_, Some(_)) => Class::drop(DropReason::UnsupportedIcmp),
        (IGMP, None) => Class::drop(DropReason::UnsupportedProtocol),
        // ESP, GRE, IP in IP and the rest have no ports: addresses and policy decide.
        (_, None) => Class::Flow(key),
    }
}

/// Returns true if a packet came in by the uplink outside of a tunnel, and goes to the uplink's own address.
fn is_for_uplink(cx: &Context<'_>, head: &[u8]) -> bool {
    cx.is_from_uplink() && ether::destination(head) == Some(cx.endpoint.mac)
}

/// Returns the class of ARP and of ICMP messages of the link. The kernel keeps the uplink's neighbors, and tunnels have none.
#[cold]
fn link(cx: &Context<'_>) -> Class {
    if cx.is_from_uplink() {
        Class::Done(Verdict::Absorb(AbsorbReason::UplinkLink))
    } else {
        Class::Link
    }
}

/// Returns the reason for which multicast of a kernel is absorbed.
fn kernels_own(cx: &Context<'_>) -> AbsorbReason {
    if cx.is_from_uplink() {
        AbsorbReason::UplinkLink
    } else {
        AbsorbReason::HostLink
    }
}
