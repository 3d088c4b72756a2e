//! `heddle simulate`: what would happen to these connections?
//!
//! The answer comes from the tables that the agents would compile from the same objects, and from the code that their
//! workers ask for the first packet of a connection ([`heddle_engine::decide`]). Nothing is sent, no agent is asked.
//!
//! - [`world`]: the objects, and the compiled tables of each node concerned ([`plane`]).
//! - [`probe`]: a question and its answer, as JSON has them; [`ends`]: its ends as addresses.
//! - [`way`]: the way of one connection through the nodes.
//! - [`named`] and [`explain`]: the same for people, with the policies that select either side.
//! - [`what_if`]: the pairs of pods that other objects would change.
//! - [`command`]: what the command line reads and prints.

pub mod command;
pub mod ends;
pub mod explain;
pub mod named;
pub mod plane;
pub mod probe;
mod selecting;
pub mod way;
pub mod what_if;
pub mod world;

pub use command::run;
pub use probe::{Answer, End, Probe, ProbeError, Verdict};
pub use world::{Rules, World};
