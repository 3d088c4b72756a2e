//! Services: from Services and EndpointSlices to frontends and their backends.
//!
//! - `backends` chooses the endpoints of one port, by readiness, traffic policy and topology hints.
//! - `frontends` makes the frontends of one Service.
//! - `state` records which Service owns each frontend, and the backends that were removed.

pub(crate) mod backends;
pub(crate) mod frontends;
pub(crate) mod state;
