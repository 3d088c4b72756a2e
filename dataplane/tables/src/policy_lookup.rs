//! The policy lookups of a burst, side by side.

use arrayvec::ArrayVec;
use heddle_ids::IdentityId;
use heddle_wire::Proto;

use crate::branchless::{LOOK_AHEAD, SelectedIndices};
use crate::endpoint::PolicySource;
use crate::{AddressInfo, Cell, Direction, Endpoint, PolicySide, PolicyVerdict};

/// The arguments of one [`Endpoint::judge`].
#[derive(Clone, Copy, Debug)]
pub struct PolicyQuery<'a> {
    /// The endpoint that has the policy.
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

/// One lookup under way.
struct VerdictLookup<'a> {
    /// The side that the cell belongs to; `None` for a verdict that holds for every endpoint.
    side: Option<&'a PolicySide>,
    cell: Cell,
    /// The verdict where no rule matches.
    default: Cell,
    peer: IdentityId,
    proto: Proto,
    dst_port: u16,
}

/// Writes the verdicts of [`Endpoint::judge`] for many queries. Each step prefetches what the next one reads for a whole
/// chunk, so that the lookups wait for memory together. Stops at the end of the queries or of `verdicts`.
#[inline]
pub fn policy_verdicts<'a>(asks: impl IntoIterator<Item = PolicyQuery<'a>>, verdicts: &mut [PolicyVerdict]) {
    let mut asks = asks.into_iter();
    for verdicts in verdicts.chunks_mut(LOOK_AHEAD) {
        let mut ways = ArrayVec::<VerdictLookup<'_>, LOOK_AHEAD>::new();
        for ask in asks.by_ref().take(verdicts.len()) {
            let (side, default) = match ask.endpoint.asked(ask.direction, ask.peer) {
                PolicySource::Settled(cell) => (None, cell),
                PolicySource::Policy(side) => {
                    side.prefetch_cell(ask.peer.identity);
                    (Some(side), side.default)
                }
            };
            ways.push(VerdictLookup {
                side,
                cell: Cell::DEFAULT,
                default,
                peer: ask.peer.identity,
                proto: ask.proto,
                dst_port: ask.dst_port,
            });
        }
        let mut rows = SelectedIndices::default();
        for (at, way) in ways.iter_mut().enumerate() {
            if let Some(side) = way.side {
                way.cell = side.cell(way.peer);
                rows.push_if(at, way.cell.is_row());
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
    use crate::{EndpointPolicy, PeerRules, Place, PolicySideBuilder, PortRange, PortRules, PortSet};
    use heddle_wire::MacAddr;
    use std::sync::Arc;

    fn endpoint(id: u16, policy: Option<EndpointPolicy>) -> Endpoint {
        Endpoint {
            id: EndpointId(id),
            generation: Generation(1),
            addresses: [].into_iter().collect(),
            mac: MacAddr([2; 6]),
            port: PortId(id),
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
            PeerRules::Ports(Box::new(PortRules {
                tcp,
                ..PortRules::default()
            }))
        };
        side.set_base(tcp(7, 40));
        for id in 1..100 {
            side.set(IdentityId(id), tcp(id as u16, 100 + id));
            side.set(IdentityId(100 + id), PeerRules::Every(Cell::allow(RuleId(500 + id))));
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
            let asks: Vec<PolicyQuery<'_>> = asked.into_iter().map(|(of, identity, dst_port, ingress, place, tcp)| PolicyQuery {
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
            policy_verdicts(asks.iter().copied(), &mut verdicts);
            let one_by_one: Vec<_> =
                asks.iter().map(|ask| ask.endpoint.judge(ask.direction, ask.peer, ask.proto, ask.dst_port)).collect();
            prop_assert_eq!(verdicts, one_by_one);
        }
    }
}
