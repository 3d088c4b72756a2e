//! `heddle simulate`: verdicts for connections, from manifests alone.
//!
//! Answers come from the tables that the agents would compile from the same objects, and from the code that their workers
//! run for the first packet of a connection ([`heddle_engine::decide`]). Nothing is sent, and no agent is needed.
//!
//! - [`cluster_tables`]: the objects, and the compiled tables ([`node_tables`]) of each node that a connection enters.
//! - [`probe`]: a question and its answer, as JSON; [`resolve`]: its ends as addresses.
//! - [`path`]: the path of one connection through the nodes.
//! - [`end_syntax`]: ends as people write them; [`explain`]: one connection explained, with the policies that select either
//!   side.
//! - [`what_if`]: the pairs of pods whose traffic other objects would change.
//! - [`request`]: a request and its outcome, from files.

pub mod cluster_tables;
pub mod end_syntax;
pub mod explain;
mod explain_error;
mod named_object;
pub mod node_tables;
pub mod path;
mod policy_selection;
pub mod probe;
pub mod request;
pub mod resolve;
mod rules;
pub mod what_if;

pub use cluster_tables::ClusterTables;
pub use explain::Explanation;
pub use explain_error::ExplainError;
pub use probe::{Answer, End, Probe, ProbeError, Verdict};
pub use request::{Outcome, Question, SimulateError, SimulateRequest, run};
pub use rules::Rules;
