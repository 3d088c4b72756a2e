//! Services: from Services and EndpointSlices to frontends and their backends.
//!
//! - `backends` chooses the endpoints of one port, by readiness, traffic policy and topology hints.
//! - `frontends` makes the frontends of one Service.
//! - `host_ports` makes the frontends of pods' host ports.
//! - `state` records which Service or pod owns each frontend, and the backends that were removed.

pub(crate) mod backends;
pub(crate) mod frontends;
pub(crate) mod host_ports;
pub(crate) mod state;
