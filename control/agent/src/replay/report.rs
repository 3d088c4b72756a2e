//! What a replay counted, for people and as JSON.

use std::collections::BTreeMap;
use std::fmt;

use comfy_table::{Table, presets};
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

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header([
            "PORT",
            "RECEIVED",
            "FORWARDED",
            "ANSWERED",
            "ABSORBED",
            "DROPPED",
            "SENT",
        ]);
        for (name, port) in &self.ports {
            let dropped: Vec<String> = port.dropped.iter().map(|(reason, n)| format!("{n} {reason}")).collect();
            table.add_row([
                name.clone(),
                port.received.to_string(),
                port.forwarded.to_string(),
                port.answered.to_string(),
                port.absorbed.to_string(),
                if dropped.is_empty() {
                    "0".to_owned()
                } else {
                    dropped.join(", ")
                },
                port.sent.to_string(),
            ]);
        }
        writeln!(f, "{}", table.trim_fmt())
    }
}
