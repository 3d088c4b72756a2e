//! Local endpoints: the host, the uplink, and the attachments of pods.

use std::sync::Arc;

use arrayvec::ArrayVec;
use heddle_ids::{EndpointId, Generation, PortId, RuleId, WorkerId};
use heddle_wire::{Ip, MacAddr, Proto};

use crate::{AddressInfo, Direction, EndpointPolicy, Place, PolicyVerdict};

/// One local endpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// Its identifier.
    pub id: EndpointId,
    /// Raised by each change after which a connection that was allowed may be refused. Flow entries contain it. It continues if the
    /// id is reused.
    pub generation: Generation,
    /// Its addresses, the only sources that anti-spoof accepts from it. Empty for the uplink.
    pub addresses: ArrayVec<Ip, 4>,
    /// The destination MAC of frames to it: of the pod's end, or of `heddle0`.
    pub mac: MacAddr,
    /// Its port. The host has one for each worker: this is the first one.
    pub port: PortId,
    /// The worker that owns the port.
    pub worker: WorkerId,
    /// The MTU in octets; 0 means unknown, and no limit.
    pub mtu: u16,
    /// `namespace/name` of the pod, for drops and status; `host`, `uplink`, or empty for an attachment without a pod.
    pub name: Arc<str>,
    /// Its policy. A pod without one is not compiled yet and forwards nothing. The host and the uplink have none.
    pub policy: Option<Arc<EndpointPolicy>>,
}

impl Endpoint {
    /// Returns false for a pod without a compiled policy. Such a pod forwards nothing.
    #[must_use]
    pub const fn is_ready(&self) -> bool {
        !self.id.is_pod() || self.policy.is_some()
    }

    /// Returns true if `addr` is one of its addresses.
    #[inline]
    #[must_use]
    pub fn has_address(&self, addr: Ip) -> bool {
        self.addresses.contains(&addr)
    }

    /// Returns the verdict of this endpoint on a connection in `direction` (towards or from it) with `peer`, to `dst_port` of
    /// the accepting side. A pod denies everything until its policy is compiled, always allows its own node, and otherwise
    /// follows its policy. A NetworkPolicy never blocks a pod from itself; a rule of a ClusterNetworkPolicy of tier Admin does.
    /// The host and the uplink allow everything. Constant time.
    #[inline]
    #[must_use]
    pub fn judge(&self, direction: Direction, peer: AddressInfo, proto: Proto, dst_port: u16) -> PolicyVerdict {
        if !self.id.is_pod() {
            return PolicyVerdict::Allow(RuleId::NO_POLICY);
        }
        let Some(policy) = &self.policy else {
            return PolicyVerdict::Deny(RuleId::NOT_READY);
        };
        match peer.place {
            Place::Host => PolicyVerdict::Allow(RuleId::OWN_NODE),
            place => {
                let itself = place == Place::Local(self.id);
                policy
                    .side(direction)
                    .verdict_on(peer.identity, itself, proto, dst_port)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use heddle_ids::IdentityId;

    use super::*;
    use crate::{Cell, PeerRules, PolicySide, PolicySideBuilder, PortRange, PortRules, PortSet};

    const OWN: AddressInfo = AddressInfo {
        identity: IdentityId(5),
        place: Place::Local(EndpointId(2)),
    };
    /// Another pod of the same identity.
    const TWIN: AddressInfo = AddressInfo {
        identity: IdentityId(5),
        place: Place::Local(EndpointId(3)),
    };
    const NETWORK_POLICY: RuleId = RuleId(16);
    const RULE: RuleId = RuleId(17);

    /// Returns the verdicts of a pod with this policy in both directions, on TCP port 80.
    fn verdicts(side: Option<&PolicySide>, peer: AddressInfo) -> [PolicyVerdict; 2] {
        let policy = side.map(|side| Arc::new(EndpointPolicy::new(side.clone(), side.clone())));
        let pod = Endpoint {
            id: EndpointId(2),
            generation: Generation(0),
            addresses: ArrayVec::new(),
            mac: MacAddr::default(),
            port: PortId(1),
            worker: WorkerId(0),
            mtu: 0,
            name: "n/p".into(),
            policy,
        };
        Direction::BOTH.map(|direction| pod.judge(direction, peer, Proto::TCP, 80))
    }

    fn both(verdict: PolicyVerdict) -> [PolicyVerdict; 2] {
        [verdict; 2]
    }

    #[test]
    fn a_network_policy_never_blocks_a_pod_from_itself() {
        let isolated = PolicySide::isolated(NETWORK_POLICY);
        let itself = PolicyVerdict::Allow(RuleId::SELF);
        assert_eq!(verdicts(Some(&isolated), OWN), both(itself));
        assert_eq!(
            verdicts(Some(&isolated), TWIN),
            both(PolicyVerdict::Deny(NETWORK_POLICY))
        );
        assert_eq!(verdicts(Some(&PolicySide::open()), OWN), both(itself));
        assert_eq!(verdicts(None, OWN), both(PolicyVerdict::Deny(RuleId::NOT_READY)));
    }

    #[test]
    fn a_rule_of_the_baseline_tier_spares_the_pod_itself_and_nobody_else() {
        let mut side = PolicySideBuilder::open();
        side.set(OWN.identity, PeerRules::Every(Cell::deny_others(RULE)));
        let itself = PolicyVerdict::Allow(RuleId::SELF);
        assert_eq!(verdicts(Some(side.side()), OWN), both(itself));
        assert_eq!(verdicts(Some(side.side()), TWIN), both(PolicyVerdict::Deny(RULE)));
    }

    #[test]
    fn rules_that_match_a_pod_itself_decide_about_it() {
        for mut side in [PolicySideBuilder::open(), PolicySideBuilder::isolated(NETWORK_POLICY)] {
            for (cell, verdict) in [
                (Cell::deny(RULE), PolicyVerdict::Deny(RULE)),
                (Cell::allow(RULE), PolicyVerdict::Allow(RULE)),
            ] {
                side.set(OWN.identity, PeerRules::Every(cell));
                assert_eq!(verdicts(Some(side.side()), OWN), both(verdict));
            }
            // By port.
            for (port, verdict) in [
                (80, PolicyVerdict::Deny(RULE)),
                (81, PolicyVerdict::Allow(RuleId::SELF)),
            ] {
                let tcp = PortSet::new([PortRange {
                    first: port,
                    last: port,
                    cell: Cell::deny(RULE),
                }]);
                let rules = PortRules {
                    tcp,
                    ..PortRules::default()
                };
                side.set(OWN.identity, PeerRules::Ports(Box::new(rules)));
                assert_eq!(verdicts(Some(side.side()), OWN), both(verdict));
            }
            // By a rule for every peer.
            side.set(OWN.identity, PeerRules::Default);
            side.set_base(PeerRules::Every(Cell::deny(RULE)));
            assert_eq!(verdicts(Some(side.side()), OWN), both(PolicyVerdict::Deny(RULE)));
        }
    }
}
