//! Many verdicts at once.

use arrayvec::ArrayVec;
use heddle_ids::IdentityId;
use heddle_wire::Proto;

use crate::endpoint::Asked;
use crate::sift::{LOOK_AHEAD, Places};
use crate::{AddressInfo, Cell, Direction, Endpoint, PolicySide, PolicyVerdict};

/// A question to an endpoint's policy: see [`Endpoint::judge`].
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// Whose policy.
    pub endpoint: &'a Endpoint,
    /// Towards the endpoint, or from it.
    pub direction: Direction,
    /// The other side.
    pub peer: AddressInfo,
    /// The connection's protocol.
    pub proto: Proto,
    /// The port of the accepting side.
    pub dst_port: u16,
}

/// How far an answer has come.
struct Way<'a> {
    /// Whose cell it is; none where that holds for every endpoint.
    side: Option<&'a PolicySide>,
    cell: Cell,
    /// What holds where no rule speaks.
    default: Cell,
    peer: IdentityId,
    proto: Proto,
    dst_port: u16,
}

/// [`Endpoint::judge`] of many: what each one reads is fetched while the others are looked at, so that memory is waited for
/// once a step. As many verdicts as there are questions and places for verdicts.
#[inline]
pub fn judge_all<'a>(asks: impl IntoIterator<Item = Ask<'a>>, verdicts: &mut [PolicyVerdict]) {
    let mut asks = asks.into_iter();
    for verdicts in verdicts.chunks_mut(LOOK_AHEAD) {
        let mut ways = ArrayVec::<Way<'_>, LOOK_AHEAD>::new();
        for ask in asks.by_ref().take(verdicts.len()) {
            let (side, default) = match ask.endpoint.asked(ask.direction, ask.peer) {
                Asked::Settled(cell) => (None, cell),
                Asked::Policy(side) => {
                    side.prefetch_cell(ask.peer.identity);
                    (Some(side), side.default)
                }
            };
            ways.push(Way {
                side,
                cell: Cell::DEFAULT,
                default,
                peer: ask.peer.identity,
                proto: ask.proto,
                dst_port: ask.dst_port,
            });
        }
        let mut rows = Places::default();
        for (at, way) in ways.iter_mut().enumerate() {
            if let Some(side) = way.side {
                way.cell = side.cell(way.peer);
                rows.note(at, way.cell.is_row());
            }
        }
        for place in rows.iter() {
            let way = &ways[place];
            if let Some(side) = way.side {
                side.prefetch_row(way.cell);
            }
        }
        for place in rows.iter() {
            let way = &mut ways[place];
            if let Some(side) = way.side {
                way.cell = side.in_row(way.cell, way.proto, way.dst_port);
            }
        }
        for (way, verdict) in ways.iter().zip(verdicts) {
            *verdict = way.cell.or(way.default).verdict();
        }
    }
}

#[cfg(test)]
mod tests {
    use heddle_ids::{EndpointId, Generation, PortId, RuleId, WorkerId};
    use proptest::prelude::*;

    use super::*;
    use crate::{Answer, EndpointPolicy, Place, PolicySideBuilder, PortRange, PortSet, Row};
    use heddle_wire::MacAddr;
    use std::sync::Arc;

    fn endpoint(no: u16, policy: Option<EndpointPolicy>) -> Endpoint {
        Endpoint {
            no: EndpointId(no),
            generation: Generation(1),
            addresses: [].into_iter().collect(),
            mac: MacAddr([2; 6]),
            port: PortId(no),
            worker: WorkerId(0),
            mtu: 0,
            name: "".into(),
            policy: policy.map(Arc::new),
        }
    }

    /// Identities below 100 are allowed a port each, below 200 everything; of others nothing is said but for port 7.
    fn side() -> PolicySide {
        let mut side = PolicySideBuilder::isolated(RuleId(30));
        let tcp = |port, rule| {
            let cell = Cell::allow(RuleId(rule));
            let tcp = PortSet::new([PortRange {
                first: port,
                last: port,
                cell,
            }]);
            Answer::Ports(Box::new(Row { tcp, ..Row::default() }))
        };
        side.set_base(tcp(7, 40));
        for no in 1..100 {
            side.set(IdentityId(no), tcp(no as u16, 100 + no));
            side.set(IdentityId(100 + no), Answer::Every(Cell::allow(RuleId(500 + no))));
        }
        side.side().clone()
    }

    proptest! {
        #[test]
        fn many_are_judged_as_each_one_is(
            asked in prop::collection::vec((0usize..3, 0u32..250, 0u16..120, any::<bool>(), 0u8..4, any::<bool>()), 0..80),
        ) {
            let policy = EndpointPolicy::new(side(), PolicySide::open());
            let endpoints = [endpoint(0, None), endpoint(2, None), endpoint(3, Some(policy))];
            let asks: Vec<Ask<'_>> = asked.into_iter().map(|(of, identity, dst_port, ingress, place, tcp)| Ask {
                endpoint: &endpoints[of],
                direction: if ingress { Direction::Ingress } else { Direction::Egress },
                peer: AddressInfo {
                    identity: IdentityId(identity),
                    place: [Place::Outside, Place::Host, Place::Local(EndpointId(3)), Place::Local(EndpointId(4))][usize::from(place)],
                },
                proto: if tcp { Proto::TCP } else { Proto::ICMP },
                dst_port,
            }).collect();
            let mut verdicts = vec![PolicyVerdict::Deny(RuleId(0)); asks.len()];
            judge_all(asks.iter().copied(), &mut verdicts);
            let one_by_one: Vec<_> =
                asks.iter().map(|ask| ask.endpoint.judge(ask.direction, ask.peer, ask.proto, ask.dst_port)).collect();
            prop_assert_eq!(verdicts, one_by_one);
        }
    }
}
