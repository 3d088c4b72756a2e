//! Services: from Services and EndpointSlices to frontends and their backends.
//!
//! - `backends` chooses the endpoints of one port, by readiness, traffic policy and topology hints.
//! - `frontends` makes the frontends of one Service.
//! - `state` keeps which Service has which frontend, and which backends went away.

pub(crate) mod backends;
pub(crate) mod frontends;
pub(crate) mod state;
