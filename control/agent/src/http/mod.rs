//! The HTTP server of ports that anyone on the node or outside may ask: health checks of Services, and the probes of the agent's pod.
//!
//! `listener` serves a port, and `connections` bounds what clients can take from the agent.

pub(crate) mod connections;
pub(crate) mod listener;
