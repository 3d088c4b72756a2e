//! The counters of a replay.

use std::collections::BTreeMap;

use heddle_engine::PortTotals;
use serde::Serialize;

/// The counters of each port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The counters by port name.
    pub ports: BTreeMap<String, PortReport>,
}

/// The counters of a port. `received` is the sum of `forwarded`, `answered`, `absorbed` and all of `dropped`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PortReport {
    /// Received frames.
    pub received: u64,
    /// Received frames that left by any port.
    pub forwarded: u64,
    /// Received frames that heddle answered itself (local replies).
    pub answered: u64,
    /// Received frames that need no answer.
    pub absorbed: u64,
    /// Dropped frames by reason.
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
