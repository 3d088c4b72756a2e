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
    /// the accepting side. A pod denies everything until its policy is compiled, always allows its own node and
    /// itself, and otherwise follows its policy. The host and the uplink allow everything.
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
            Place::Local(id) if id == self.id => PolicyVerdict::Allow(RuleId::SELF),
            _ => policy.verdict(direction, peer.identity, proto, dst_port),
        }
    }
}
