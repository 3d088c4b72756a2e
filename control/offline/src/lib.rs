//! `heddle simulate` and `heddle replay` as a library. It compiles the tables that an agent would compile and runs the
//! code that its workers run, but needs no agent, no socket and no privilege.
//!
//! - [`simulate`]: verdicts for connections, from the cluster's objects alone.
//! - [`replay`]: captured frames through the pipeline of one node, with ports in memory.
//!
//! `heddle-cli` and the conformance cases in `tests` use it. It parses no command line and prints nothing: `heddle-cli`
//! does that.

mod cluster_source;
pub mod replay;
pub mod simulate;

pub use cluster_source::{ClusterSource, ReadError};
