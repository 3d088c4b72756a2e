//! The generation of each endpoint: a flow entry with an older one is revalidated.

use std::collections::{BTreeMap, BTreeSet};

use heddle_tables::{EndpointId, Generation, Place};

/// The generations by endpoint. They outlive the endpoint, so that flow entries of a removed endpoint never count as
/// current for a later endpoint with the same id.
#[derive(Debug, Default)]
pub(crate) struct Generations {
    current: BTreeMap<EndpointId, Generation>,
    raised: BTreeSet<EndpointId>,
}

impl Generations {
    /// Returns the generation of an endpoint.
    pub(crate) fn get(&self, id: EndpointId) -> Generation {
        self.current.get(&id).copied().unwrap_or_default()
    }

    /// Raises the generation of an endpoint, at most once per rebuild.
    pub(crate) fn raise(&mut self, id: EndpointId) {
        if self.raised.insert(id) {
            let generation = self.current.entry(id).or_default();
            *generation = generation.next();
        }
    }

    /// Raises the generation that flows to a place depend on, because an address is no longer at that place.
    pub(crate) fn raise_for_place(&mut self, from: Place) {
        match from {
            Place::Host => self.raise(EndpointId::HOST),
            // Reached by the kernel, and by the uplink's next hops.
            Place::Outside => {
                self.raise(EndpointId::HOST);
                self.raise(EndpointId::UPLINK);
            }
            Place::Node(_) | Place::RemoteHost(_) => self.raise(EndpointId::UPLINK),
            // A local endpoint's own generation is raised when it is detached; nothing flows to nowhere.
            Place::Local(_) | Place::Unreachable => {}
        }
    }

    /// Returns the endpoints whose generation was raised since the last call.
    pub(crate) fn take_raised(&mut self) -> BTreeSet<EndpointId> {
        std::mem::take(&mut self.raised)
    }
}
