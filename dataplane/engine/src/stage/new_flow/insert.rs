//! Compiles an allowed connection into the two directions of its flow and inserts both into the table.
//!
//! Tries another source port if the reply's tuple already belongs to another connection, as with one client port and the same
//! backend behind two Services. A masqueraded connection always gets a source port of the masquerade range.

use heddle_flow::{FlowFlags, FlowKey, InsertError, NewFlow, Rewrite};
use heddle_wire::rewrite::Tuple;

use super::super::mtu;
use super::super::next::Replay;
use crate::context::Context;
use crate::decide::{Allowed, Query, Source};
use crate::reason::DropReason;
use heddle_tables::{EndpointId, Place};

/// Both directions of a connection in the table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pair {
    pub(super) forward: Replay,
    pub(super) reverse: Replay,
}

/// The most ports of a range that are tried for one connection. Few, because each first packet of a connection that finds no free
/// port costs the worker all of these tries.
const TRIES: u32 = 8;
/// The range of another source port if the source is not masqueraded: all except the system ports (RFC 6335 section 6).
const UNRESERVED: (u16, u16) = (1024, 65535);

/// Inserts a connection into the table. `hash` is the secret hash of its tuple.
///
/// Plan: try source ports in turn, compile both directions for each, insert them together. The table refuses a pair whose
/// reverse tuple belongs to another connection; then the next port is tried.
///
/// # Errors
/// The reason for which the table refuses the connection.
pub(super) fn insert(
    cx: &mut Context<'_>,
    query: &Query,
    allowed: &Allowed,
    mut flags: FlowFlags,
    hash: u64,
) -> Result<Pair, DropReason> {
    flags.set(FlowFlags::OUTSIDE, pays_outside(cx, query, allowed, flags));
    let own = query.tuple.sport;
    let ports = match allowed.source {
        Source::Masqueraded(_) => Ports::within(cx.snapshot.node().masquerade.ports, hash, None),
        Source::Kept | Source::Hairpin(_) => Ports::within(UNRESERVED, hash, Some(own)),
    };
    for (tried, sport) in ports.enumerate() {
        if tried > 0 {
            cx.stages.slow_left = cx.stages.slow_left.checked_sub(1).ok_or(DropReason::SlowPathLimit)?;
        }
        let (forward, reverse) = compile(cx, query, allowed, sport, flags).ok_or(DropReason::UnknownDestination)?;
        match cx.flows.insert(&forward, &reverse, cx.now) {
            Ok((a, b)) => {
                return Ok(Pair {
                    forward: Replay::inserted(a, &forward),
                    reverse: Replay::inserted(b, &reverse),
                });
            }
            // Another worker inserted the connection first. Its translation is used.
            Err(InsertError::Exists(winner)) => {
                let forward = Replay::of(&winner);
                let peer = cx.flows.view(winner.slot.peer()).ok_or(DropReason::FlowContended)?;
                return Ok(Pair {
                    forward,
                    reverse: Replay::of_view(winner.slot.peer(), &peer),
                });
            }
            Err(InsertError::ReverseTaken) => {}
            Err(InsertError::Full) => return Err(DropReason::FlowTableFull),
            Err(InsertError::Quota(_)) => return Err(DropReason::FlowQuota),
            Err(InsertError::SourceQuota) => return Err(DropReason::FlowSourceQuota),
            Err(InsertError::PortShare) => return Err(DropReason::FlowPortShare),
            Err(InsertError::OtherOrigin(_) | InsertError::NotAPair) => return Err(DropReason::FlowContended),
        }
    }
    Err(DropReason::FlowPortsUsedUp)
}

/// Returns true if the connection is charged to a source prefix outside of this node. The payer is the side whose packet makes
/// the entry.
fn pays_outside(cx: &Context<'_>, query: &Query, allowed: &Allowed, flags: FlowFlags) -> bool {
    let (payer, address) = match flags.contains(FlowFlags::RESPONDER_PAYS) {
        false => (allowed.from, query.tuple.src),
        true => (allowed.to(), allowed.target.dst),
    };
    payer == EndpointId::UPLINK || payer == EndpointId::HOST && cx.snapshot.address(address).place != Place::Host
}

/// Compiles the two directions with the source port `sport`. Returns `None` if one of the endpoints is gone.
fn compile(
    cx: &Context<'_>,
    query: &Query,
    allowed: &Allowed,
    sport: u16,
    mut flags: FlowFlags,
) -> Option<(NewFlow, NewFlow)> {
    let Allowed {
        from,
        egress,
        target,
        source,
        reply_origin,
        ..
    } = *allowed;
    let to = allowed.to();
    let back = cx.way_back(allowed.back);
    // The tuple as the opener sends it, and as the destination receives it.
    let seen = query.tuple;
    let src = match source {
        Source::Kept => seen.src,
        Source::Hairpin(ip) | Source::Masqueraded(ip) => ip,
    };
    let sent = Tuple {
        src,
        dst: target.dst,
        sport,
        dport: target.dport,
    };
    // The flags with which a later revalidation compares the connection.
    flags.set(FlowFlags::NAT, sent != seen);
    flags.set(FlowFlags::FORWARDED, target.forwarded);
    flags.set(FlowFlags::SERVICE, target.service);
    flags.set(FlowFlags::HAIRPIN, matches!(source, Source::Hairpin(_)));
    flags.set(FlowFlags::MASQUERADED, matches!(source, Source::Masqueraded(_)));
    // Generations and MTU are stored in the entry, so that a hit does not look them up.
    let generations = cx.generations([from, to])?;
    let fit = mtu::fit(cx.snapshot, query.origin, [egress, back], seen.src.is_v4());
    let there = FlowKey::opening(seen, query.proto, query.origin);
    let rewrite = if sent == seen {
        Rewrite::none(&there)
    } else {
        Rewrite::between(&there, sent)
    };
    // The backend's node translates the packets of a connection that is forwarded. The entry keeps the choice of the backend.
    let mut there_flags = flags;
    there_flags.set(FlowFlags::NAT, sent != seen && !target.forwarded);
    let direction = |key: FlowKey, rewrite: Rewrite, egress, endpoints, generations, flags| NewFlow {
        key,
        rewrite,
        egress,
        endpoints,
        generations,
        mss_clamp: fit.mss(),
        flags,
    };
    // The reply's direction: the sent tuple reversed, back to the opener's own addresses.
    let [g, h] = generations;
    Some((
        direction(there, rewrite, egress, [from, to], [g, h], there_flags),
        direction(
            FlowKey::replying(sent, query.proto, reply_origin),
            rewrite.back(&seen),
            back,
            [to, from],
            [h, g],
            flags | FlowFlags::REPLY,
        ),
    ))
}

/// The source ports to be tried: first the packet's own, if it may stay, then ports of a range. A secret hash of the connection
/// chooses them, so that no sender can choose connections whose ports are all taken.
struct Ports {
    own: Option<u16>,
    first: u16,
    count: u32,
    next: u32,
    stride: u32,
    left: u32,
}

impl Ports {
    fn within((first, last): (u16, u16), hash: u64, own: Option<u16>) -> Self {
        // A first port of 0 means that no range is configured.
        let (first, last) = if first == 0 { UNRESERVED } else { (first, last) };
        let count = u32::from(last.saturating_sub(first)) + 1;
        let below = |half: u64, limit: u32| ((half * u64::from(limit)) >> 32) as u32;
        Self {
            own,
            first,
            count,
            next: below(hash >> 32, count),
            // A small range is tried port by port, so that each port is tried once.
            stride: if count <= TRIES {
                1
            } else {
                1 + below(hash & 0xffff_ffff, count - 1)
            },
            left: TRIES.min(count),
        }
    }
}

impl Iterator for Ports {
    type Item = u16;

    fn next(&mut self) -> Option<u16> {
        if let Some(own) = self.own.take() {
            return Some(own);
        }
        self.left = self.left.checked_sub(1)?;
        let port = self.first + (self.next % self.count) as u16;
        self.next = (self.next + self.stride) % self.count;
        Some(port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_port_is_tried_first_and_then_a_few_of_the_range() {
        let mut first = Vec::new();
        for hash in (0..100).map(|n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15)) {
            let ports: Vec<u16> = Ports::within(UNRESERVED, hash, Some(5)).collect();
            assert_eq!(ports.len() as u32, TRIES + 1);
            assert_eq!(ports[0], 5);
            assert!(ports[1..].iter().all(|p| *p >= 1024));
            first.push(ports[1]);
        }
        first.sort_unstable();
        first.dedup();
        assert!(first.len() > 95, "the hash spreads the ports: {first:?}");
    }

    #[test]
    fn a_masquerade_stays_in_its_range_and_tries_each_of_few_ports_once() {
        for hash in [0, 1 << 31, u64::MAX, 0x1234_5678_9abc_def0] {
            let mut ports: Vec<u16> = Ports::within((61000, 61007), hash, None).collect();
            ports.sort_unstable();
            assert_eq!(ports, (61000..=61007).collect::<Vec<u16>>());
            let many: Vec<u16> = Ports::within((61000, 61999), hash, None).collect();
            assert!(many.len() as u32 == TRIES && many.iter().all(|p| (61000..=61999).contains(p)));
        }
    }
}
