//! heddle's measurements, each one repeatable.
//!
//! - [`memory`]: the pipeline without system calls. The criterion bench `pipeline`, the instruction counts of `instructions`
//!   and the test that no packet costs an allocation use it.
//! - [`veth`] and [`forwarder`]: two pods in real network namespaces with a bare AF_XDP forwarder, the pipeline or the kernel
//!   between them. `heddle-compare` compares these under the packet generator ([`load`]), with one TCP stream ([`tcp`]) and
//!   with a ping-pong ([`latency`]). [`report`] prints the results.
//!
//! - [`two_nodes`]: pods of two nodes, with VXLAN by heddle's agents and by the kernel; also a part of `heddle-compare`.
//!   [`datagrams`] sends by sockets, and [`cpu`] reads the processor time.
//!
//! - [`cluster`]: a large cluster from a seed and a server that plays its API, for `heddle-cluster-scale`.
//!
//! Every report begins with the [`Machine`], because a number without machine, kernel, driver mode, frame size and batch size
//! is not a result.

#[cfg(feature = "cluster")]
pub mod cluster;
pub mod cpu;
pub mod datagrams;
pub mod error;
pub mod forwarder;
pub mod frames;
pub mod latency;
pub mod load;
pub mod machine;
pub mod memory;
pub mod modes;
pub mod node;
pub mod one_node;
pub mod report;
pub mod retransmissions;
pub mod stats;
pub mod tcp;
pub mod ticks;
pub mod two_nodes;
pub mod veth;

pub use error::BenchError;
pub use machine::Machine;
