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
}

impl PortRole {
    /// Returns the endpoint behind the port.
    #[must_use]
    pub const fn endpoint(self) -> EndpointId {
        match self {
            Self::Pod(id) => id,
            Self::Host => EndpointId::HOST,
        }
    }
}

/// The port where a burst came in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ingress {
    /// The port.
    pub port: PortId,
    /// Its role.
    pub role: PortRole,
    /// Its capabilities. The stages depend on these and not on the kind of port.
    pub capabilities: Capabilities,
}

impl Ingress {
    /// Returns the origin in the flow keys of its packets.
    #[must_use]
    pub const fn origin(&self) -> Origin {
        match self.role {
            PortRole::Pod(id) => Origin::pod(id),
            PortRole::Host => Origin::HOST,
        }
    }
}
