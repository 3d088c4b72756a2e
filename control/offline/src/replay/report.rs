//! The counters of a replay.

use std::collections::BTreeMap;

use heddle_engine::PortTotals;
use serde::Serialize;

/// What was counted at each port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// By the port's name.
    pub ports: BTreeMap<String, PortReport>,
}

/// What was counted at a port. `received = forwarded + answered + absorbed + all dropped`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PortReport {
    /// Frames that came in.
    pub received: u64,
    /// Those of them that left by any port.
    pub forwarded: u64,
    /// Those that heddle answered itself.
    pub answered: u64,
    /// Those that were meant for heddle.
    pub absorbed: u64,
    /// Those that were dropped, by reason.
    pub dropped: BTreeMap<&'static str, u64>,
    /// Frames that left by this port.
    pub sent: u64,
}

impl From<&PortTotals> for PortReport {
    fn from(totals: &PortTotals) -> Self {
        Self {
            received: totals.rx_packets,
            forwarded: totals.forwarded,
            answered: totals.answered.iter().sum(),
            absorbed: totals.absorbed.iter().sum(),
            dropped: totals.drops().map(|(reason, n)| (reason.as_str(), n)).collect(),
            sent: totals.tx_packets,
        }
    }
}
