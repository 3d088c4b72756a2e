//! The endpoints of the fuzzers' node and their ports.

use heddle_port::PortId;
use heddle_tables::EndpointId;
use heddle_wire::testing::{ip, mac};
use heddle_wire::{Ip, MacAddr};

use crate::ingress::PortRole;

/// An endpoint of the node, which sends and receives packets at its port.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Party {
    pub(crate) endpoint: EndpointId,
    pub(crate) port: PortId,
    pub(crate) mac: MacAddr,
    pub(crate) v4: &'static str,
    pub(crate) v6: &'static str,
}

impl Party {
    /// Returns the party's address of a family.
    pub(crate) fn ip(&self, v4: bool) -> Ip {
        ip(if v4 { self.v4 } else { self.v6 })
    }

    pub(crate) fn role(&self) -> PortRole {
        match self.endpoint {
            EndpointId::HOST => PortRole::Host,
            EndpointId::UPLINK => PortRole::Uplink,
            pod => PortRole::Pod(pod),
        }
    }
}

const fn party(id: u16, port: u16, v4: &'static str, v6: &'static str) -> Party {
    Party {
        endpoint: EndpointId(id),
        port: PortId(port),
        mac: mac(port as u8),
        v4,
        v6,
    }
}

/// The host and two pods.
pub(crate) const PARTIES: [Party; 3] = [
    party(EndpointId::HOST.0, 0, "192.0.2.1", "2001:db8::1"),
    party(2, 10, "10.0.0.2", "fd00::2"),
    party(3, 11, "10.0.0.3", "fd00::3"),
];
/// The uplink. It has the host's addresses.
pub(crate) const UPLINK: Party = party(EndpointId::UPLINK.0, 14, "192.0.2.1", "2001:db8::1");
/// Everything that has a port.
pub(crate) const LINKS: [Party; 4] = [PARTIES[0], PARTIES[1], PARTIES[2], UPLINK];
