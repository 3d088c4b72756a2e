//! Policy: the egress rules of the source and the ingress rules of a destination on this node. Both see the pods' own
//! addresses: after DNAT and before any SNAT.

use heddle_flow::Origin;
use heddle_tables::{AddressInfo, Direction, Endpoint, EndpointId, Place, PolicyVerdict, RuleId, Snapshot};
use heddle_wire::{Ip, Proto};

use super::route::{self, Opener};
use super::types::{Allowed, Denial, Target};
use crate::reason::DropReason;

/// A connection whose two ends are known.
#[derive(Clone, Copy)]
pub(super) struct PolicyCheck {
    /// The endpoint that sends.
    pub(super) from: EndpointId,
    /// Where its packets come in.
    pub(super) origin: Origin,
    /// The address that it sends from.
    pub(super) src_address: Ip,
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
        let opener = Opener {
            origin: self.origin,
            endpoint: self.from,
            address: self.src_address,
            place: self.src.place,
        };
        let path = route::route(snapshot, opener, self.target, self.dst.place)?;
        Ok(Allowed {
            from: self.from,
            egress: path.egress,
            back: path.back,
            reply_origin: path.reply_origin,
            target: self.target,
            source: path.source,
            other_host: matches!(self.dst.place, Place::RemoteHost(_)),
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
