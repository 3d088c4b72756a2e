//! `heddle simulate` and `heddle replay` as a library: the tables that an agent would compile and the code that its workers
//! run, without an agent, a socket or a privilege.
//!
//! - [`simulate`]: verdicts for connections, from manifests alone.
//! - [`replay`]: captured frames through the pipeline of one node, with ports in memory.
//!
//! It parses no command line and prints nothing: `heddle-cli` does.

pub mod replay;
pub mod simulate;
