//! heddle's local replies. A reply is written into the frame of the packet that it answers, and leaves by the port where that
//! packet came in. Only the reply to a packet that another node forwarded (direct server return) leaves by the kernel's route to the
//! client, like the answers of that connection.

use heddle_flow::Egress;
use heddle_port::Packet;
use heddle_tables::{NextHopId, NodeTable};
use heddle_wire::build::{self, IcmpError, Unreachable};
use heddle_wire::{Ip, MacAddr, Parsed, Proto, ether, rewrite};

use super::next::Reply;
use super::tunnel;
use crate::context::Context;
use crate::decide::{self, Query};
use crate::reason::{AbsorbReason, AnswerKind};
use crate::verdict::Verdict;

/// Replies to a packet. A packet that gets no reply is dropped for the reply's reason.
#[cold]
pub(crate) fn send(cx: &mut Context<'_>, packet: &mut Packet, p: &Parsed, reply: Reply) -> Verdict {
    let (built, kind) = match reply {
        Reply::Gateway => return gateway_echo(cx, packet, p),
        Reply::Prepared { len, kind } => (Some(usize::from(len)), kind),
        Reply::TimeExceeded => (
            icmp_error(cx, packet, p, IcmpError::TimeExceeded, error_source(cx, p)),
            AnswerKind::TimeExceeded,
        ),
        // RFC 1191 and RFC 8201: the error carries the MTU of the path.
        Reply::TooBig { mtu } => {
            let error = IcmpError::TooBig { mtu: u32::from(mtu) };
            (
                icmp_error(cx, packet, p, error, error_source(cx, p)),
                AnswerKind::TooBig,
            )
        }
        // As kube-proxy's reject target: from the Service's address.
        Reply::Reject if p.proto == Proto::TCP => (tcp_reset(cx, packet, p), AnswerKind::RejectReset),
        Reply::Reject => {
            let error = IcmpError::Unreachable(Unreachable::Port);
            (icmp_error(cx, packet, p, error, p.dst), AnswerKind::RejectUnreachable)
        }
        Reply::Reset(_) => (tcp_reset(cx, packet, p), AnswerKind::TcpReset),
    };
    match built {
        Some(len) if is_forwarded(cx, p) && cx.copy_scratch(packet, len) && leave_by_kernel(cx, packet) => {
            Verdict::Forward(Egress::Uplink(NextHopId::KERNEL))
        }
        Some(_) if is_forwarded(cx, p) => Verdict::drop(reply.otherwise()),
        Some(len) if cx.copy_scratch(packet, len) && leave(cx, packet) => Verdict::Answer(kind),
        _ => Verdict::drop(reply.otherwise()),
    }
}

/// Returns true if another node forwarded the packet for a client outside. The way back leads to the client and not to that node.
fn is_forwarded(cx: &Context<'_>, p: &Parsed) -> bool {
    let query = Query {
        origin: cx.origin(),
        tuple: p.tuple(),
        proto: p.proto,
    };
    decide::forwarder(cx.snapshot, &query).is_some()
}

/// Gives a reply the Ethernet addresses with which the kernel takes it and routes it. Returns false if it cannot be sent.
fn leave_by_kernel(cx: &Context<'_>, packet: &mut Packet) -> bool {
    let head = packet.bytes_mut(cx.store);
    let link = cx.link(Egress::Uplink(NextHopId::KERNEL), !ether::is_ipv6(head));
    link.is_ok_and(|link| rewrite::set_macs(head, link.macs.0, link.macs.1))
}

/// Gives a reply at the uplink the Ethernet addresses of its link, and the outer headers of the tunnel that the packet came by. It
/// goes to the neighbor that the packet came from. Returns false if it cannot be sent.
fn leave(cx: &mut Context<'_>, packet: &mut Packet) -> bool {
    if !cx.is_from_uplink() {
        return true;
    }
    let head = packet.bytes_mut(cx.store);
    let Some(neighbor) = ether::destination(head) else {
        return false;
    };
    let Some(node) = cx.origin().as_node() else {
        return rewrite::set_macs(head, neighbor, cx.endpoint.mac);
    };
    let Some(path) = cx.snapshot.node_path_for(node, !ether::is_ipv6(head)) else {
        return false;
    };
    let Some(outer) = path.outer.map(|outer| outer.with_macs(neighbor, cx.endpoint.mac)) else {
        return false;
    };
    let sent = rewrite::set_macs(head, path.next_hop.dst, path.next_hop.src)
        && tunnel::encapsulate_whole(cx.store, packet, &outer).is_ok();
    cx.stages.encapsulated += u64::from(sent);
    sent
}

/// Returns the source of an ICMP error: the gateway towards a pod, and this node's own address towards everybody else. The
/// gateway's addresses are link-local, so routers drop packets from them (RFC 3927 section 2.7, RFC 4291 section 2.5.6).
fn error_source(cx: &Context<'_>, p: &Parsed) -> Ip {
    let is_v4 = p.dst.is_v4();
    let gateway = if is_v4 {
        NodeTable::GATEWAY_V4
    } else {
        NodeTable::GATEWAY_V6
    };
    if cx.is_from_pod() {
        return gateway;
    }
    cx.snapshot.node().address_of_family(is_v4).unwrap_or(gateway)
}

/// Builds an ICMP error, as long as the budget of the ingress port lasts.
fn icmp_error(cx: &mut Context<'_>, packet: &Packet, p: &Parsed, error: IcmpError, from: Ip) -> Option<usize> {
    let head = packet.bytes(cx.store);
    let built = build::icmp_error(head, p, error, MacAddr::GATEWAY, from, &mut cx.stages.scratch[..]).ok()?;
    cx.stages.errors.allow(cx.ingress.port, cx.now).then_some(built)
}

/// Builds a reset for a segment of no connection (RFC 9293 section 3.10.7.1). Resets have no budget, because a reset is never
/// larger than the segment that it answers.
fn tcp_reset(cx: &mut Context<'_>, packet: &Packet, p: &Parsed) -> Option<usize> {
    build::tcp_reset(packet.bytes(cx.store), p, MacAddr::GATEWAY, &mut cx.stages.scratch[..]).ok()
}

/// Handles a packet to the gateway address: answers echo requests of any length, and absorbs all other packets.
fn gateway_echo(cx: &Context<'_>, packet: &mut Packet, p: &Parsed) -> Verdict {
    // The gateway is the pods' and the host's: nobody else knows a way to it.
    if !cx.is_from_uplink() && rewrite::echo_reply_in_place(packet.bytes_mut(cx.store), p, MacAddr::GATEWAY) {
        Verdict::Answer(AnswerKind::Echo)
    } else {
        Verdict::Absorb(AbsorbReason::ToGateway)
    }
}
