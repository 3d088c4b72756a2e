//! The part of an endpoint that replaying a flow needs: its generation and its port, close together.

use heddle_ids::{Generation, PortId, WorkerId};
use heddle_wire::MacAddr;

use crate::Endpoint;

/// The port to an endpoint, and the generation that a current flow entry has. It copies fields of the endpoint: a cache
/// line has room for three of these, whereas a whole [`Endpoint`] takes several cache lines.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EgressPort {
    /// As [`Endpoint::generation`].
    pub generation: Generation,
    /// As [`Endpoint::mac`].
    pub mac: MacAddr,
    /// As [`Endpoint::port`].
    pub port: PortId,
    /// As [`Endpoint::worker`].
    pub worker: WorkerId,
}

const _: () = assert!(size_of::<Option<EgressPort>>() <= 20);

impl From<&Endpoint> for EgressPort {
    fn from(e: &Endpoint) -> Self {
        Self {
            generation: e.generation,
            mac: e.mac,
            port: e.port,
            worker: e.worker,
        }
    }
}
