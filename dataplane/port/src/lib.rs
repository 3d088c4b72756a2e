//! Frames, packets, batches, frame pools and the port trait, with ports in memory behind the same trait.
//! No C and no system calls.

mod frame;

pub use frame::{AreaNo, Frame, Holder};
