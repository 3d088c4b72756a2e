//! What a replay needs of an endpoint: a flow entry's freshness and the way out, close together.

use heddle_ids::{Generation, PortId, WorkerId};
use heddle_wire::MacAddr;

use crate::Endpoint;

/// The way out to an endpoint, and the generation that tells whether a flow entry is newer than its last change. A copy of
/// the endpoint's own: four lie in a cache line, where a whole [`Endpoint`] takes several.
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
