//! The stages, one in each file. A stage returns a [`next::Next`] and calls no other stage: the driver
//! ([`process`](crate::process())) calls them.

pub(crate) mod classify;
pub(crate) mod flow_hit;
pub(crate) mod forward;
pub(crate) mod fragment_in;
pub(crate) mod fragment_out;
pub(crate) mod icmp_error;
pub(crate) mod local_reply;
pub(crate) mod neighbor;
pub(crate) mod new_flow;
pub(crate) mod revalidate;
pub(crate) mod segment_out;
pub(crate) mod tunnel;

// Shared by several stages.
pub(crate) mod mtu;
pub(crate) mod next;
mod parts;
