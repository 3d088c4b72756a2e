//! `heddle simulate`: verdicts for connections, from manifests alone.
//!
//! Answers come from the tables that the agents would compile from the same objects, and from the code that their workers
//! run for the first packet of a connection ([`heddle_engine::decide`]). Nothing is sent, and no agent is asked.
//!
//! - [`cluster_tables`]: the objects, and the compiled tables ([`node_tables`]) of each node that a connection enters.
//! - [`probe`]: a question and its answer, as JSON; [`resolve`]: its ends as addresses.
//! - [`path`]: the path of one connection through the nodes.
//! - [`end_syntax`] and [`explain`]: the same for people, with the policies that select either side.
//! - [`what_if`]: the pairs of pods that other objects would change.
//! - [`request`]: a request and its outcome, from files.

pub mod cluster_tables;
pub mod end_syntax;
pub mod explain;
pub mod node_tables;
pub mod path;
mod policy_selection;
pub mod probe;
pub mod request;
pub mod resolve;
pub mod what_if;

pub use cluster_tables::{ClusterTables, Rules};
pub use probe::{Answer, End, Probe, ProbeError, Verdict};
pub use request::{Outcome, Question, Request, SimulateError, run};
