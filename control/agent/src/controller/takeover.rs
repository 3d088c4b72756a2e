//! What an earlier agent left: attachments whose interface still stands get their ports again.
//!
//! Their id, addresses and MAC are those of the store, so the flow table's entries mean the same as before; the
//! program on the interface is replaced, and with the first tables the pods go on. One whose interface is gone is
//! reported and kept until DEL.

use super::Controller;
use super::attach::index_of;

impl Controller {
    /// Opens the ports of all attachments that had been ready.
    pub(super) fn take_over_ports(&mut self) {
        let records = self.store.all().to_vec();
        let mut taken = 0u32;
        for record in records.iter().filter(|record| record.ready) {
            let id = record.id;
            let Some(index) = index_of(record).filter(|index| Some(*index) == record.host_ifindex) else {
                let why = format!("its interface {} has gone", record.host_ifname);
                tracing::warn!(attachment = id, pod = record.name(), "{why}; it is kept until DEL");
                self.closed.insert(id, why);
                continue;
            };
            match self.open_port(id, record.host_ifname.as_str(), index) {
                Ok(()) => taken += 1,
                Err(e) => {
                    tracing::error!(attachment = id, pod = record.name(), "its port cannot be opened: {e}");
                    self.closed.insert(id, format!("its port cannot be opened: {e}"));
                }
            }
        }
        let takeover = &self.takeover;
        match takeover.fresh {
            None => tracing::info!(
                pods = taken,
                connections = takeover.entries_kept,
                start = takeover.epoch.0,
                "took over what the agent before left"
            ),
            Some(reason) => tracing::info!(pods = taken, "the flow table begins empty: {reason}"),
        }
    }
}
