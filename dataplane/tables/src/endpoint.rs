//! Local endpoints: the host, the uplink, and the attachments of pods.

use std::sync::Arc;

use arrayvec::ArrayVec;
use heddle_ids::{EndpointId, Generation, PortId, RuleId, WorkerId};
use heddle_wire::{Ip, MacAddr, Proto};

use crate::{AddressInfo, Cell, Direction, EndpointPolicy, Place, PolicySide, PolicyVerdict};

/// One local endpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// Its number.
    pub id: EndpointId,
    /// Raised by each change that reaches it; flow entries remember it. A reused number goes on counting.
    pub generation: Generation,
    /// Its addresses: what anti-spoof lets it send from. Empty for the uplink.
    pub addresses: ArrayVec<Ip, 4>,
    /// Where frames to it are sent: the MAC of the pod's end, or of `heddle0`.
    pub mac: MacAddr,
    /// Its port. The host has one a worker: this is its first one.
    pub port: PortId,
    /// The worker that owns the port.
    pub worker: WorkerId,
    /// The largest packet that it sends and receives, from the network header on; 0: not known, and not bounded.
    pub mtu: u16,
    /// `namespace/name` of the pod, for drops and status; `host`, `uplink`, or empty for an attachment without a pod.
    pub name: Arc<str>,
    /// Its policy. `None` on a pod: not compiled yet, it forwards nothing. Host and uplink have none and need none.
    pub policy: Option<Arc<EndpointPolicy>>,
}

impl Endpoint {
    /// Whether traffic may be judged for it at all: a pod without a policy is closed.
    #[must_use]
    pub const fn is_ready(&self) -> bool {
        !self.id.is_pod() || self.policy.is_some()
    }

    /// Whether `addr` is its own.
    #[inline]
    #[must_use]
    pub fn has_address(&self, addr: Ip) -> bool {
        self.addresses.contains(&addr)
    }

    /// The verdict of this endpoint on a connection in `direction` (towards or from it) with `peer`, to `dst_port` of
    /// the accepting side. Where the endpoint is a pod: closed until its policy is compiled; its own node and itself
    /// always allowed; else what its policy says.
    #[inline]
    #[must_use]
    pub fn judge(&self, direction: Direction, peer: AddressInfo, proto: Proto, dst_port: u16) -> PolicyVerdict {
        match self.asked(direction, peer) {
            PolicySource::Settled(cell) => cell.verdict(),
            PolicySource::Policy(side) => side.verdict(peer.identity, proto, dst_port),
        }
    }

    /// Who settles a connection in `direction` with `peer`.
    #[inline]
    pub(crate) fn asked(&self, direction: Direction, peer: AddressInfo) -> PolicySource<'_> {
        if !self.id.is_pod() {
            return PolicySource::Settled(Cell::allow(RuleId::NO_POLICY));
        }
        let Some(policy) = &self.policy else {
            return PolicySource::Settled(Cell::deny(RuleId::NOT_READY));
        };
        match peer.place {
            Place::Host => PolicySource::Settled(Cell::allow(RuleId::OWN_NODE)),
            Place::Local(id) if id == self.id => PolicySource::Settled(Cell::allow(RuleId::SELF)),
            _ => PolicySource::Policy(policy.side(direction)),
        }
    }
}

/// Who settles a connection.
pub(crate) enum PolicySource<'a> {
    /// What holds for every endpoint.
    Settled(Cell),
    /// The endpoint's policy.
    Policy(&'a PolicySide),
}
