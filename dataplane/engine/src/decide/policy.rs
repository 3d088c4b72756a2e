//! NetworkPolicy for one connection: egress of the source, then ingress of the destination if that is a pod of this
//! node. Both see the pods' own addresses: after DNAT and before any SNAT.

use heddle_tables::{AddressInfo, Direction, EndpointNo, IdentityNo, Place, PolicyVerdict, RuleNo, Snapshot};
use heddle_wire::Proto;

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
    let to_self = dst.place == Place::Local(from);
    let egress = if !from.is_pod() {
        RuleNo::NO_POLICY
    } else if to_self {
        ready(snapshot, from, RuleNo::SELF)?
    } else if dst.place == Place::Host {
        ready(snapshot, from, RuleNo::OWN_NODE)?
    } else {
        ask(snapshot, from, Direction::Egress, dst.identity, q.proto, target.dport)?
    };
    let ingress = match dst.place {
        Place::Local(pod) if to_self => ready(snapshot, pod, RuleNo::SELF)?,
        Place::Local(pod) if from == EndpointNo::HOST && src.place == Place::Host => {
            ready(snapshot, pod, RuleNo::OWN_NODE)?
        }
        Place::Local(pod) => ask(snapshot, pod, Direction::Ingress, src.identity, q.proto, target.dport)?,
        _ => RuleNo::NO_POLICY,
    };
    Ok(Rules { egress, ingress })
}

/// What needs no policy still needs a pod that is open: one whose policy is not compiled forwards nothing.
fn ready(snapshot: &Snapshot, pod: EndpointNo, rule: RuleNo) -> Result<RuleNo, Denial> {
    match snapshot.endpoint(pod) {
        Some(e) if e.is_ready() => Ok(rule),
        Some(_) => Err(Denial {
            reason: DropReason::PolicyNotReady,
            rule: RuleNo::NOT_READY,
        }),
        None => Err(Denial::new(DropReason::UnknownDestination)),
    }
}

fn ask(
    snapshot: &Snapshot,
    pod: EndpointNo,
    direction: Direction,
    peer: IdentityNo,
    proto: Proto,
    dport: u16,
) -> Result<RuleNo, Denial> {
    let Some(endpoint) = snapshot.endpoint(pod) else {
        return Err(Denial::new(DropReason::UnknownDestination));
    };
    let Some(policy) = &endpoint.policy else {
        return Err(Denial {
            reason: DropReason::PolicyNotReady,
            rule: RuleNo::NOT_READY,
        });
    };
    match policy.verdict(direction, peer, proto, dport) {
        PolicyVerdict::Allow(rule) => Ok(rule),
        PolicyVerdict::Deny(rule) => Err(Denial {
            reason: match direction {
                Direction::Egress => DropReason::PolicyDeniedEgress,
                Direction::Ingress => DropReason::PolicyDeniedIngress,
            },
            rule,
        }),
    }
}
