//! `heddle simulate`: what would happen to these connections?
//!
//! The answer comes from the tables that the agents would compile from the same objects, and from the code that their
//! workers ask for the first packet of a connection ([`heddle_engine::decide`]). Nothing is sent, no agent is asked.
//!
//! - [`world`]: the objects, and the compiled tables of each node concerned.
//! - [`probe`]: a question and its answer, as JSON has them.
//! - [`way`]: the way of one connection through the nodes.
//! - [`command`]: what the command line reads and prints.

pub mod command;
pub mod plane;
pub mod probe;
pub mod way;
pub mod world;

pub use command::run;
pub use probe::{Answer, End, Probe, ProbeError, Verdict};
pub use world::World;
