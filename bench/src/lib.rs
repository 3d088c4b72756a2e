//! What heddle costs, measured so that the figures can be repeated.
//!
//! - [`memory`]: the pipeline without a system call, for the criterion bench `pipeline`, the instruction counts
//!   `instructions` and the proof that a packet costs no allocation.
//! - [`veth`] and [`forwarder`]: two pods in real network namespaces with a bare AF_XDP forwarder, the pipeline or the kernel
//!   between them, compared by `heddle-compare` under the packet generator ([`load`]), one TCP stream ([`tcp`]) and a
//!   ping-pong ([`latency`]); [`report`] says what came out.
//!
//! A number without machine, kernel, driver mode, frame size and batch size is no result: every report begins with
//! [`Machine`].

pub mod error;
pub mod forwarder;
pub mod frames;
pub mod latency;
pub mod load;
pub mod machine;
pub mod memory;
pub mod node;
pub mod report;
pub mod stats;
pub mod tcp;
pub mod ticks;
pub mod veth;

pub use error::BenchError;
pub use machine::Machine;
