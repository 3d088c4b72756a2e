//! Services: from Services and EndpointSlices to frontends and their backends.

pub(crate) mod aliases;
pub(crate) mod backends;
pub(crate) mod frontends;
