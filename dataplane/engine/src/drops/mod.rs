//! A worker's memory of dropped packets: the newest ones ([`DropRing`]), and the number that each policy has
//! denied ([`PolicyCounters`]). Both are of fixed size, written by the worker alone and read by control at any time.
//!
//! Packets that go on cost nothing here. The worker knows numbers only; names are control's.

mod policy;
mod recent;
mod ring;
mod sync;

pub use policy::{PolicyCount, PolicyCounters};
pub use recent::{DropRecord, DropRing, Reading};

pub(crate) use recent::Dropped;
