//! The open ports: which number leads to which endpoint, and which worker owns it.

use std::collections::BTreeMap;

use heddle_engine::{PortRole, PortTotals};
use heddle_io::XdpMode;
use heddle_port::PortId;
use heddle_tables::WorkerId;

/// An open port.
#[derive(Debug, Clone)]
pub struct PortInfo {
    /// The endpoint behind it: the host, a pod or the uplink.
    pub role: PortRole,
    /// The worker that owns it.
    pub worker: WorkerId,
    /// The name of its interface.
    pub ifname: String,
    /// The index of its interface.
    pub ifindex: u32,
    /// The interface's queue.
    pub queue: u32,
    /// The mode of its XDP program.
    pub mode: XdpMode,
    /// The counters of the port number when this port was opened. Workers never reset them.
    pub(super) before: PortTotals,
}

impl PortInfo {
    /// Returns the counts since the port was opened. `now` has the counters of its number.
    #[must_use]
    pub fn since_opened(&self, mut now: PortTotals) -> PortTotals {
        let before = &self.before;
        for (n, b) in [
            (&mut now.rx_packets, before.rx_packets),
            (&mut now.rx_bytes, before.rx_bytes),
            (&mut now.tx_packets, before.tx_packets),
            (&mut now.tx_bytes, before.tx_bytes),
            (&mut now.forwarded, before.forwarded),
            (&mut now.fragments, before.fragments),
            (&mut now.fragments_lost, before.fragments_lost),
        ] {
            *n = n.saturating_sub(b);
        }
        subtract(&mut now.answered, &before.answered);
        subtract(&mut now.absorbed, &before.absorbed);
        subtract(&mut now.dropped, &before.dropped);
        now
    }
}

/// Subtracts each counter of `before`.
fn subtract(now: &mut [u64], before: &[u64]) {
    for (n, b) in now.iter_mut().zip(before) {
        *n = n.saturating_sub(*b);
    }
}

/// The open ports by number.
#[derive(Debug, Default)]
pub(super) struct PortTable(BTreeMap<PortId, PortInfo>);

impl PortTable {
    /// Returns the ports in the order of their numbers.
    pub(super) fn iter(&self) -> impl Iterator<Item = (PortId, &PortInfo)> {
        self.0.iter().map(|(number, info)| (*number, info))
    }

    /// Returns a port.
    pub(super) fn get(&self, port: PortId) -> Option<&PortInfo> {
        self.0.get(&port)
    }

    /// Adds a port.
    pub(super) fn insert(&mut self, port: PortId, info: PortInfo) {
        self.0.insert(port, info);
    }

    /// Removes and returns a port.
    pub(super) fn remove(&mut self, port: PortId) -> Option<PortInfo> {
        self.0.remove(&port)
    }

    /// Returns the index of the worker with the fewest pods; of several, the first.
    pub(super) fn least_loaded(&self, workers: usize) -> usize {
        let mut load = vec![0usize; workers];
        for info in self.0.values().filter(|info| matches!(info.role, PortRole::Pod(_))) {
            if let Some(n) = load.get_mut(info.worker.index()) {
                *n += 1;
            }
        }
        (0..workers)
            .min_by_key(|&w| load.get(w).copied().unwrap_or(0))
            .unwrap_or(0)
    }
}

/// A pod's open port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PodPort {
    /// Its number.
    pub port: PortId,
    /// The worker that owns it.
    pub worker: WorkerId,
}
