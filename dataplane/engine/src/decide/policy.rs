//! NetworkPolicy for one connection: egress of the source, then ingress of the destination if that is a pod of this
//! node. Both see the pods' own addresses: after DNAT and before any SNAT.

use heddle_tables::{AddressInfo, Direction, EndpointNo, Place, PolicyVerdict, RuleNo, Snapshot};

use super::{Denial, Query, Target};
use crate::reason::DropReason;

/// What allowed the connection.
pub(super) struct Rules {
    pub(super) egress: RuleNo,
    pub(super) ingress: RuleNo,
}

pub(super) fn judge(
    snapshot: &Snapshot,
    q: &Query,
    from: EndpointNo,
    target: Target,
    src: AddressInfo,
    dst: AddressInfo,
) -> Result<Rules, Denial> {
    let ask = |endpoint, direction, peer| ask(snapshot, endpoint, direction, peer, q, target);
    Ok(Rules {
        egress: ask(from, Direction::Egress, dst)?,
        ingress: match dst.place {
            Place::Local(pod) => ask(pod, Direction::Ingress, src)?,
            _ => RuleNo::NO_POLICY,
        },
    })
}

fn ask(
    snapshot: &Snapshot,
    endpoint: EndpointNo,
    direction: Direction,
    peer: AddressInfo,
    q: &Query,
    target: Target,
) -> Result<RuleNo, Denial> {
    let Some(endpoint) = snapshot.endpoint(endpoint) else {
        return Err(Denial::new(DropReason::UnknownDestination));
    };
    match endpoint.judge(direction, peer, q.proto, target.dport) {
        PolicyVerdict::Allow(rule) => Ok(rule),
        PolicyVerdict::Deny(rule) => Err(Denial {
            reason: match direction {
                _ if rule == RuleNo::NOT_READY => DropReason::PolicyNotReady,
                Direction::Egress => DropReason::PolicyDeniedEgress,
                Direction::Ingress => DropReason::PolicyDeniedIngress,
            },
            rule,
            pod: endpoint.no,
        }),
    }
}
