//! Compiles a decided connection into the two directions of its flow and puts both into the table.
//!
//! Where the answer's tuple is another connection's already (the same backend behind two Services and one client port),
//! or where the source is masqueraded, another source port is tried.

use heddle_flow::{Egress, FlowFlags, FlowKey, InsertError, NewFlow, Rewrite, SlotId};
use heddle_wire::rewrite::Tuple;

use super::forward::Plan;
use super::mtu::{self, Fit};
use super::revalidate::origin_of;
use crate::context::Context;
use crate::decide::{Allowed, Query, Source, connection_hash};
use crate::reason::DropReason;

/// One direction of a connection that was put into the table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Inserted {
    pub(crate) slot: SlotId,
    pub(crate) plan: Plan,
}

/// Both.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pair {
    pub(crate) forward: Inserted,
    pub(crate) reverse: Inserted,
}

/// Source ports that are tried for one connection.
const TRIES: u16 = 128;
/// Where another port is taken from when the source address stays: what is no system port (RFC 6335 section 6).
const UNRESERVED: (u16, u16) = (1024, 65535);

/// Puts a connection into the table.
///
/// # Errors
/// Why it is refused.
pub(crate) fn insert(cx: &Context<'_>, query: &Query, allowed: &Allowed, flags: FlowFlags) -> Result<Pair, DropReason> {
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
                    forward: inserted(a, &forward),
                    reverse: inserted(b, &reverse),
                });
            }
            // Another worker was faster; its translation is the connection's.
            Err(InsertError::Exists(winner)) => {
                let forward = Inserted {
                    slot: winner.slot,
                    plan: Plan::of(&winner.view),
                };
                let peer = cx.flows.view(winner.slot.peer()).ok_or(DropReason::FlowContended)?;
                return Ok(Pair {
                    forward,
                    reverse: Inserted {
                        slot: winner.slot.peer(),
                        plan: Plan::of(&peer),
                    },
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

fn inserted(slot: SlotId, flow: &NewFlow) -> Inserted {
    let plan = Plan {
        rewrite: flow.rewrite,
        nat: flow.flags.contains(FlowFlags::NAT),
        egress: flow.egress,
        fit: Fit::from_mss(flow.mss_clamp),
    };
    Inserted { slot, plan }
}

/// The two directions, if both ends are still there.
fn compile(
    cx: &Context<'_>,
    query: &Query,
    allowed: &Allowed,
    sport: u16,
    mut flags: FlowFlags,
) -> Option<(NewFlow, NewFlow)> {
    let Allowed {
        from,
        to,
        target,
        source,
        ..
    } = *allowed;
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
    flags.set(FlowFlags::NAT, sent != seen);
    flags.set(FlowFlags::SERVICE, target.service);
    flags.set(FlowFlags::HAIRPIN, matches!(source, Source::Hairpin(_)));
    flags.set(FlowFlags::MASQUERADED, matches!(source, Source::Masqueraded(_)));
    let generations = cx.generations([from, to])?;
    let fit = mtu::fit(cx.snapshot, [(from, seen.src), (to, sent.dst)]);
    let key = |tuple, origin| FlowKey {
        tuple,
        proto: query.proto,
        origin,
    };
    let there = key(seen, query.origin);
    let rewrite = if sent == seen {
        Rewrite::none(&there)
    } else {
        Rewrite::between(&there, sent)
    };
    let direction = |key: FlowKey, rewrite: Rewrite, [from, to]: [_; 2], generations, flags| NewFlow {
        key,
        rewrite,
        egress: Egress::Endpoint(to),
        endpoints: [from, to],
        generations,
        mss_clamp: fit.mss(),
        flags,
    };
    let [g, h] = generations;
    Some((
        direction(there, rewrite, [from, to], [g, h], flags),
        direction(
            key(sent.reversed(), origin_of(to)),
            rewrite.back(&seen),
            [to, from],
            [h, g],
            flags | FlowFlags::REPLY,
        ),
    ))
}

/// Source ports to be tried: the packet's own first, where it may stay, then some of a range, from a place that the
/// connection's hash says.
struct Ports {
    own: Option<u16>,
    first: u16,
    count: u32,
    next: u32,
    left: u16,
}

impl Ports {
    fn within((first, last): (u16, u16), q: &Query, own: Option<u16>) -> Self {
        // Port 0 is no port: a range that nobody configured.
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
