//! A laboratory of real network namespaces: nodes, pods and an outside world on one machine.
//!
//! It acts as the parts of a cluster that a node agent deals with: the container runtime that calls the CNI plugin, the
//! kubelet that writes Pod objects, the controller that writes EndpointSlices. `heddle demo`, the benches, the CNI
//! plugin's tests and the end-to-end suites use it. It makes namespaces, runs traffic and reports the outcome. It
//! asserts nothing: its callers do. It needs root.
//!
//! - [`Lab`], [`Node`], [`Pod`]: the parts of the laboratory; [`shop`] is the scenario that the demo and most suites
//!   use, [`node_group`] the one with several nodes.
//! - [`traffic`] and [`udp`]: servers, clients and long-lived connections inside namespaces.
//! - [`WireCounter`]: packets between nodes, in tunnels and without.
//! - [`manifests`]: Kubernetes objects. [`usage`]: the processor time and memory of a process.
//! - `control_plane` (a feature): a real API server for the agents, where objects otherwise come from a folder.
//! - [`NetNs`], [`Process`], [`run`]: namespaces, background processes and commands, each with a guard or a bound.
//!
//! Every namespace and folder carries the process id in its name and is removed by its guard, also when a test panics.
//! [`Lab::new`] removes what killed processes left behind.

mod binaries;
mod cgroup;
mod command;
#[cfg(feature = "control-plane")]
pub mod control_plane;
mod error;
mod kubelet;
mod lab;
mod leftovers;
pub mod manifests;
mod netns;
mod node;
pub mod node_group;
mod pod;
mod process;
pub mod shop;
pub mod traffic;
pub mod udp;
mod uplink;
pub mod usage;
mod wait;
mod wire_count;

pub use binaries::Binaries;
pub use cgroup::remove_cgroups;
pub use command::{Output, run, run_with_input};
pub use error::LabError;
pub use kubelet::AddResult;
pub use lab::Lab;
pub use leftovers::{Leftovers, remove_leftovers};
pub use netns::NetNs;
pub use node::{Node, NodePlan};
pub use pod::Pod;
pub use process::Process;
pub use wait::{bind_when_free, wait_for_exit, wait_until};
pub use wire_count::{WireCount, WireCounter};
