//! The ingress of a packet: the port where it came in, and the endpoint behind it.

use heddle_flow::Origin;
use heddle_port::{Capabilities, PortId};
use heddle_tables::EndpointId;

/// The role of a port: the endpoint behind it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PortRole {
    /// A pod's attachment.
    Pod(EndpointId),
    /// The node itself: this worker's queue of the host port.
    Host,
    /// A queue of the uplink: other nodes and the outside.
    Uplink,
}

impl PortRole {
    /// Returns the endpoint behind the port.
    #[must_use]
    pub const fn endpoint(self) -> EndpointId {
        match self {
            Self::Pod(id) => id,
            Self::Host => EndpointId::HOST,
            Self::Uplink => EndpointId::UPLINK,
        }
    }
}

/// The port where a packet came in, and its origin in the flow keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ingress {
    /// The port.
    pub port: PortId,
    /// Its role.
    pub role: PortRole,
    /// Its capabilities. The stages depend on these and not on the kind of port.
    pub capabilities: Capabilities,
    /// The origin. Packets of one port have the same one, except at the uplink: each tunnel has its own.
    pub origin: Origin,
}

impl Ingress {
    /// Returns the ingress of a port's packets. At the uplink, these are the ones outside of tunnels.
    #[must_use]
    pub const fn new(port: PortId, role: PortRole, capabilities: Capabilities) -> Self {
        let origin = match role {
            PortRole::Pod(id) => Origin::pod(id),
            PortRole::Host => Origin::HOST,
            PortRole::Uplink => Origin::UPLINK,
        };
        Self {
            port,
            role,
            capabilities,
            origin,
        }
    }
}
