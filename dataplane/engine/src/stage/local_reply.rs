//! heddle's own answers, in the frame of the packet that they answer: they leave by the port where that came in.

use heddle_port::{HEADROOM, Packet};
use heddle_tables::NodeTable;
use heddle_wire::build::{self, BuildError, IcmpError, Unreachable};
use heddle_wire::{Ip, MacAddr, Parsed, Proto, rewrite};

use crate::context::Context;
use crate::reason::{AbsorbReason, AnswerKind, DropReason};
use crate::verdict::Verdict;

/// Puts an answer that was built in the scratch buffer into the packet's frame; the packet's other frames are freed.
/// Where there is no answer, the packet is dropped for `otherwise`.
pub(crate) fn send(
    cx: &mut Context<'_>,
    packet: &mut Packet,
    built: Result<usize, BuildError>,
    kind: AnswerKind,
    otherwise: DropReason,
) -> Verdict {
    let Ok(len) = built else {
        return Verdict::drop(otherwise);
    };
    let Some(answer) = cx.stages.scratch.get(..len) else {
        return Verdict::drop(otherwise);
    };
    if len > cx.store.room() as usize {
        return Verdict::drop(otherwise);
    }
    if packet.frames() > 1 {
        for frame in packet.split_following(cx.store) {
            cx.pool.free(frame);
        }
    }
    packet.set_head_range(cx.store, HEADROOM, len as u32);
    packet.bytes_mut(cx.store).copy_from_slice(answer);
    Verdict::Answer(kind)
}

/// The gateway of a packet's family.
fn gateway(p: &Parsed) -> Ip {
    if p.dst.is_v4() {
        NodeTable::GATEWAY_V4
    } else {
        NodeTable::GATEWAY_V6
    }
}

/// An ICMP error, as long as the turn's budget lasts.
fn error(
    cx: &mut Context<'_>,
    packet: &mut Packet,
    p: &Parsed,
    error: IcmpError,
    from: Ip,
    kind: AnswerKind,
    otherwise: DropReason,
) -> Verdict {
    let Some(left) = cx.stages.errors_left.checked_sub(1) else {
        return Verdict::drop(otherwise);
    };
    let head = packet.bytes(cx.store);
    let built = build::icmp_error(head, p, error, MacAddr::GATEWAY, from, &mut cx.stages.scratch[..]);
    if built.is_ok() {
        cx.stages.errors_left = left;
    }
    send(cx, packet, built, kind, otherwise)
}

/// The packet's time is up.
#[cold]
pub(crate) fn time_exceeded(cx: &mut Context<'_>, packet: &mut Packet, p: &Parsed) -> Verdict {
    let (kind, otherwise) = (AnswerKind::TimeExceeded, DropReason::TtlExceeded);
    error(cx, packet, p, IcmpError::TimeExceeded, gateway(p), kind, otherwise)
}

/// The packet does not fit its way out, which takes `mtu` (RFC 1191, RFC 8201).
#[cold]
pub(crate) fn too_big(cx: &mut Context<'_>, packet: &mut Packet, p: &Parsed, mtu: u16) -> Verdict {
    let (kind, otherwise) = (AnswerKind::TooBig, DropReason::TooBig);
    error(
        cx,
        packet,
        p,
        IcmpError::TooBig { mtu: u32::from(mtu) },
        gateway(p),
        kind,
        otherwise,
    )
}

/// The Service has no such port or no endpoint: what kube-proxy's reject answers, from the Service's address.
#[cold]
pub(crate) fn reject(cx: &mut Context<'_>, packet: &mut Packet, p: &Parsed) -> Verdict {
    let otherwise = DropReason::ServiceRejected;
    if p.proto == Proto::TCP {
        return reset(cx, packet, p, AnswerKind::RejectReset, otherwise);
    }
    let unreachable = IcmpError::Unreachable(Unreachable::Port);
    error(
        cx,
        packet,
        p,
        unreachable,
        p.dst,
        AnswerKind::RejectUnreachable,
        otherwise,
    )
}

/// A reset for a segment of no connection (RFC 9293 section 3.10.7.1). No budget: one small segment for each received.
#[cold]
pub(crate) fn reset(
    cx: &mut Context<'_>,
    packet: &mut Packet,
    p: &Parsed,
    kind: AnswerKind,
    otherwise: DropReason,
) -> Verdict {
    let built = build::tcp_reset(packet.bytes(cx.store), p, MacAddr::GATEWAY, &mut cx.stages.scratch[..]);
    send(cx, packet, built, kind, otherwise)
}

/// The end of a packet for the gateway itself: it answers to echo requests, of any length, and to nothing else.
#[cold]
pub(crate) fn to_gateway(cx: &mut Context<'_>, packet: &mut Packet, p: &Parsed) -> Verdict {
    if rewrite::echo_reply_in_place(packet.bytes_mut(cx.store), p, MacAddr::GATEWAY) {
        Verdict::Answer(AnswerKind::Echo)
    } else {
        Verdict::Absorb(AbsorbReason::ToGateway)
    }
}
