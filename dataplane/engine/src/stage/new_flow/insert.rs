//! Compiles an allowed connection into the two directions of its flow and inserts both into the table.
//!
//! Tries another source port if the reply's tuple already belongs to another connection, as with one client port and the same
//! backend behind two Services. A masqueraded connection always gets a source port of the masquerade range.

use heddle_flow::{Egress, FlowFlags, FlowKey, InsertError, NewFlow, Rewrite};
use heddle_wire::rewrite::Tuple;

use super::super::mtu;
use super::super::next::Replay;
use crate::context::Context;
use crate::decide::{Allowed, Query, Source, connection_hash, origin_of};
use crate::reason::DropReason;

/// Both directions of a connection in the table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pair {
    pub(super) forward: Replay,
    pub(super) reverse: Replay,
}

/// The most source ports that are tried for one connection.
const TRIES: u16 = 128;
/// The range of another source port if the source address stays: no system ports (RFC 6335 section 6).
const UNRESERVED: (u16, u16) = (1024, 65535);

/// Inserts a connection into the table.
///
/// Plan: try source ports in turn, compile both directions for each, insert them together. The table refuses a pair whose
/// reverse tuple belongs to another connection; then the next port is tried.
///
/// # Errors
/// The reason for which the table refuses the connection.
pub(super) fn insert(cx: &Context<'_>, query: &Query, allowed: &Allowed, flags: FlowFlags) -> Result<Pair, DropReason> {
    let own = query.tuple.sport;
    let ports = match allowed.source {
        Source::Masqueraded(_) => Ports::within(cx.snapshot.node().masquerade.ports, query, None),
        Source::Kept | Source::Hairpin(_) => Ports::within(UNRESERVED, query, Some(own)),
    };
    for sport in ports {
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
            Err(InsertError::OtherOrigin(_) | InsertError::NotAPair) => return Err(DropReason::FlowContended),
        }
    }
    Err(DropReason::FlowPortsUsedUp)
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
        ..
    } = *allowed;
    let to = allowed.to();
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
    flags.set(FlowFlags::SERVICE, target.service);
    flags.set(FlowFlags::HAIRPIN, matches!(source, Source::Hairpin(_)));
    flags.set(FlowFlags::MASQUERADED, matches!(source, Source::Masqueraded(_)));
    // Generations and MTU are stored in the entry, so that a hit does not look them up.
    let generations = cx.generations([from, to])?;
    let fit = mtu::fit(cx.snapshot, [(from, seen.src), (to, sent.dst)]);
    let there = FlowKey::opening(seen, query.proto, query.origin);
    let rewrite = if sent == seen {
        Rewrite::none(&there)
    } else {
        Rewrite::between(&there, sent)
    };
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
        direction(there, rewrite, egress, [from, to], [g, h], flags),
        direction(
            FlowKey::replying(sent, query.proto, origin_of(to)),
            rewrite.back(&seen),
            Egress::Endpoint(from),
            [to, from],
            [h, g],
            flags | FlowFlags::REPLY,
        ),
    ))
}

/// The source ports to try: first the packet's own, if it may stay, then the ports of a range, starting at one that the
/// connection's hash selects.
struct Ports {
    own: Option<u16>,
    first: u16,
    count: u32,
    next: u32,
    left: u16,
}

impl Ports {
    /// Makes the list for a range of ports and a connection. `own` is the packet's own port.
    fn within((first, last): (u16, u16), q: &Query, own: Option<u16>) -> Self {
        // Port 0 means that no range is configured.
        let (first, last) = if first == 0 { UNRESERVED } else { (first, last) };
        let count = u32::from(last.saturating_sub(first)) + 1;
        let start = (u128::from(connection_hash(&q.tuple, q.proto)) * u128::from(count)) >> 64;
        Self {
            own,
            first,
            count,
            next: start as u32,
            left: TRIES.min(count.min(u32::from(TRIES)) as u16),
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
        self.next += 1;
        Some(port)
    }
}

#[cfg(test)]
mod tests {
    use heddle_flow::Origin;
    use heddle_wire::{Ip, Proto};

    use super::*;

    fn query() -> Query {
        let (src, dst) = (Ip::from_v4([10, 0, 0, 1]), Ip::from_v4([10, 0, 0, 2]));
        Query {
            origin: Origin::HOST,
            tuple: Tuple {
                src,
                dst,
                sport: 5,
                dport: 80,
            },
            proto: Proto::TCP,
        }
    }

    #[test]
    fn the_own_port_is_tried_first_and_then_others_of_the_range() {
        let ports: Vec<u16> = Ports::within(UNRESERVED, &query(), Some(5)).collect();
        assert_eq!(ports.len(), usize::from(TRIES) + 1);
        assert_eq!(ports[0], 5);
        assert!(ports[1..].iter().all(|p| *p >= 1024));
    }

    #[test]
    fn a_masquerade_stays_in_its_range_and_tries_each_port_once() {
        let mut ports: Vec<u16> = Ports::within((61000, 61009), &query(), None).collect();
        ports.sort_unstable();
        assert_eq!(ports, (61000..=61009).collect::<Vec<u16>>());
    }
}
