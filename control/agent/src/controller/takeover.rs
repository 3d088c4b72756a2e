//! Takeover: opens the ports of the attachments that an earlier agent left.
//!
//! Ids, addresses and MACs come from the store, so the entries of the flow table keep their meaning. The XDP program on the
//! interface is replaced, and the pods have network again with the first tables. An attachment whose interface is gone is
//! logged and kept until DEL.

use super::attachments::{Stage, index_of};
use super::state::Controller;

impl Controller {
    /// Opens the port of every attachment whose interface was configured when the earlier agent ended.
    pub(super) fn take_over_ports(&mut self) {
        let records = self.attachments.store.all().to_vec();
        let mut taken = 0u32;
        for record in &records {
            let id = record.id;
            if self.attachments.stage(id) != Some(&Stage::Standing) {
                continue;
            }
            let Some(index) = index_of(record).filter(|index| Some(*index) == record.host_ifindex) else {
                let why = format!("its interface {} is gone", record.host_ifname);
                tracing::warn!(
                    attachment = id,
                    pod = record.name(),
                    "{why}; the attachment is kept until DEL"
                );
                self.attachments.set_stage(id, Stage::Closed(why));
                continue;
            };
            match self.open_port(id, record.host_ifname.as_str(), index) {
                Ok(()) => taken += 1,
                Err(e) => {
                    tracing::error!(attachment = id, pod = record.name(), "cannot open its port: {e}");
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
            Some(reason) => tracing::info!(pods = taken, "the flow table is empty: {reason}"),
        }
    }
}
