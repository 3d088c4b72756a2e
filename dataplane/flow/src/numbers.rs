//! The durable numbers of other parts of heddle that an entry holds.

pub use heddle_tables::{EndpointId, Generation, NodeId};

/// The durable number of a next-hop record.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct NextHopId(pub u16);
