//! A laboratory of real network namespaces: nodes, pods and an outside world on one machine, with the parts of
//! kubelet and of the endpoint controller that a node agent sees of them.
//!
//! `heddle demo` and the end-to-end suites use it. Everything that it makes carries the process id in its name and goes
//! away with its guard, also when a test panics; what a killed run left behind is removed by the next one.
//!
//! It does not judge: it makes things, runs traffic and reports what it saw.

mod command;
mod error;
mod lab;
pub mod manifests;
mod netns;
mod process;
pub mod shop;
pub mod traffic;
pub mod udp;
pub mod usage;

pub use command::{Output, run, run_with_input};
pub use error::LabError;
pub use lab::{AddResult, Binaries, Lab, Leftovers, Node, NodePlan, Pod, remove_leftovers};
pub use netns::NetNs;
pub use process::Process;
