//! The parameters of the comparison on one node.

use std::time::Duration;

/// The parameters of a measurement.
#[derive(Clone, Debug)]
pub struct NodePathsPlan {
    /// The core of the worker.
    pub core: usize,
    /// The configuration of the agent, in its file's format.
    pub config: String,
    /// Rounds; every path has a turn in each.
    pub rounds: u32,
    /// The duration of each run.
    pub time: Duration,
    /// The numbers of streams side by side.
    pub streams: Vec<usize>,
}
