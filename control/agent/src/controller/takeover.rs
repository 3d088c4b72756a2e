//! Takeover: the attachments that an earlier agent left get their ports again.
//!
//! Their ids, addresses and MACs are those in the store, so the entries of the flow table mean the same as before; the
//! program on the interface is replaced, and with the first tables the pods go on. An attachment whose interface is gone
//! is reported and kept until DEL.

use super::Controller;
use super::attachments::{Stage, index_of};

impl Controller {
    /// Opens the ports of all attachments whose interface stood when the earlier agent ended.
    pub(super) fn take_over_ports(&mut self) {
        let records = self.attachments.store.all().to_vec();
        let mut taken = 0u32;
        for record in &records {
            let id = record.id;
            if self.attachments.stage(id) != Some(&Stage::Standing) {
                continue;
            }
            let Some(index) = index_of(record).filter(|index| Some(*index) == record.host_ifindex) else {
                let why = format!("its interface {} has gone", record.host_ifname);
                tracing::warn!(attachment = id, pod = record.name(), "{why}; it is kept until DEL");
                self.attachments.set_stage(id, Stage::Closed(why));
                continue;
            };
            match self.open_port(id, record.host_ifname.as_str(), index) {
                Ok(()) => taken += 1,
                Err(e) => {
                    tracing::error!(attachment = id, pod = record.name(), "its port cannot be opened: {e}");
                }
            }
        }
        let takeover = &self.takeover;
        match takeover.fresh {
            None => tracing::info!(
                pods = taken,
                connections = takeover.entries_kept,
                start = takeover.epoch.0,
                "took over from the earlier agent"
            ),
            Some(reason) => tracing::info!(pods = taken, "the flow table begins empty: {reason}"),
        }
    }
}
