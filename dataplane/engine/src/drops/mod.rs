//! A worker's records of dropped packets: the newest drops ([`DropRing`]), and the number of packets that each policy rule has
//! denied ([`PolicyCounters`]). Both have a fixed size. The worker alone writes them, and control reads them at any time.
//!
//! Forwarded packets cost nothing here. Records contain numbers only; control resolves the names of pods and policies when it
//! answers a request.

mod policy;
mod recent;
mod ring;
mod sync;

pub use policy::{PolicyCount, PolicyCounters};
pub use recent::{DropRecord, DropRing, Reading};

pub(crate) use recent::Dropped;
