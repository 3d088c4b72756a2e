//! Policy: the egress rules of the source and the ingress rules of a destination on this node. Both see the pods' own
//! addresses: after DNAT and before any SNAT.

use heddle_tables::{AddressInfo, Direction, Endpoint, EndpointId, Place, PolicyVerdict, RuleId, Snapshot};
use heddle_wire::Proto;

use super::route;
use super::types::{Allowed, Denial, Target};
use crate::reason::DropReason;

/// A connection whose two ends are known.
#[derive(Clone, Copy)]
pub(super) struct PolicyCheck {
    /// The endpoint that sends.
    pub(super) from: EndpointId,
    pub(super) proto: Proto,
    pub(super) target: Target,
    /// The source address as the tables know it.
    pub(super) src: AddressInfo,
    /// The destination address, behind the Service, as the tables know it.
    pub(super) dst: AddressInfo,
}

impl PolicyCheck {
    /// Judges the connection by the policies of its ends, and finds its egress and its source address there.
    ///
    /// # Errors
    /// The denial of a policy, or the reason for which the destination cannot be reached.
    pub(super) fn evaluate(&self, snapshot: &Snapshot) -> Result<Allowed, Denial> {
        let endpoint = |id| {
            let gone = Denial::new(DropReason::UnknownDestination);
            snapshot.endpoint(id).ok_or(gone)
        };
        let source = endpoint(self.from)?;
        let destination = match self.dst.place {
            Place::Local(pod) => Some(endpoint(pod)?),
            _ => None,
        };
        let egress_rule = self.judge(source, Direction::Egress, self.dst)?;
        let ingress_rule = match destination {
            Some(pod) => self.judge(pod, Direction::Ingress, self.src)?,
            None => RuleId::NO_POLICY,
        };
        let (egress, source) = route::route(snapshot, self.from, self.target, self.src, self.dst)?;
        Ok(Allowed {
            from: self.from,
            egress,
            target: self.target,
            source,
            egress_rule,
            ingress_rule,
        })
    }

    /// Judges the connection by the policy of one end. Returns the rule that allows it.
    fn judge(&self, endpoint: &Endpoint, direction: Direction, peer: AddressInfo) -> Result<RuleId, Denial> {
        match endpoint.judge(direction, peer, self.proto, self.target.dport) {
            PolicyVerdict::Allow(rule) => Ok(rule),
            PolicyVerdict::Deny(rule) => Err(Denial {
                reason: match direction {
                    _ if rule == RuleId::NOT_READY => DropReason::PolicyNotReady,
                    Direction::Egress => DropReason::PolicyDeniedEgress,
                    Direction::Ingress => DropReason::PolicyDeniedIngress,
                },
                rule,
                pod: endpoint.id,
            }),
        }
    }
}
