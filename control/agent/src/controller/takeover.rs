//! Takeover: opens the ports of the attachments that an earlier agent left, and tries closed ones again.
//!
//! Ids, addresses and MACs come from the store, so the entries of the flow table keep their meaning. The XDP program on the
//! interface is replaced, and the pods have network again with the first tables.
//!
//! A port that cannot be opened (its interface is down, its queue is busy, memory or descriptors are short) is tried again
//! with growing pauses. An attachment whose interface is gone is logged and kept until DEL; it is looked at again like the
//! others, because an interface can be moved out of the namespace and back.

use std::time::{Duration, Instant};

use heddle_host::PEER;

use super::attachments::{Closed, Stage, index_of};
use super::state::Controller;
use crate::attachments::Record;
use crate::workers::WorkersError;

/// The longest time that one call spends on tries, except for the try that exceeds it: a busy queue alone takes seconds.
const TRIES_WITHIN: Duration = Duration::from_millis(50);

impl Controller {
    /// Opens the port of every attachment whose interface was configured when the earlier agent ended.
    pub(super) fn take_over_ports(&mut self) {
        let records = self.attachments.store.all().to_vec();
        let mut taken = 0u32;
        for record in &records {
            if self.attachments.stage(record.id) == Some(&Stage::Standing) && self.try_to_open(record) {
                taken += 1;
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

    /// Tries again to open the closed ports whose next try is due. The controller calls it once a second.
    ///
    /// # Errors
    /// A worker of the host port has failed.
    pub(super) fn retry_closed_ports(&mut self) -> Result<(), WorkersError> {
        // Before the first tables, takeover is still to come.
        if self.publication.is_none() {
            return Ok(());
        }
        let start = Instant::now();
        if self.closed_host.as_ref().is_some_and(|closed| closed.next_try <= start) {
            self.open_host()?;
        }
        for record in self.attachments.due(start) {
            if self.try_to_open(&record) {
                self.view_is_stale = true;
                tracing::info!(attachment = record.id, pod = record.name(), "opened its port at last");
            }
            if start.elapsed() >= TRIES_WITHIN {
                break;
            }
        }
        Ok(())
    }

    /// Opens the queues of the host port that are not open. A failure is recorded and tried again, like a pod's port.
    ///
    /// # Errors
    /// A worker has failed.
    pub(super) fn open_host(&mut self) -> Result<(), WorkersError> {
        self.view_is_stale = true;
        match self.workers.open_host(PEER, self.host.link().peer_index) {
            Ok(_) => {
                if self.closed_host.take().is_some() {
                    tracing::info!("opened the host port at last");
                }
                Ok(())
            }
            Err(e) if e.is_of_worker() => Err(e),
            Err(e) => {
                let closed = Closed::after(self.closed_host.as_ref(), e.to_string(), Instant::now());
                if self.closed_host.as_ref().is_none_or(|before| before.why != closed.why) {
                    tracing::error!("the host port cannot be opened, and is tried again: {e}");
                }
                self.closed_host = Some(closed);
                Ok(())
            }
        }
    }

    /// Opens the port of an attachment if its interface is there. Otherwise records and logs the reason, once.
    fn try_to_open(&mut self, record: &Record) -> bool {
        let id = record.id;
        let (why, is_new) = match index_of(record) {
            Ok(Some(index)) if Some(index) == record.host_ifindex => {
                // Opening records a failure by itself; the reason before it tells whether it is new.
                let before = self.why_closed(id);
                match self.open_port(record, index) {
                    Ok(()) => return true,
                    Err(_) => {
                        let why = self.why_closed(id);
                        (why.clone().unwrap_or_default(), why != before)
                    }
                }
            }
            Ok(_) => {
                let why = format!("its interface {} is gone", record.host_ifname);
                let is_new = self.attachments.set_closed(id, why.clone());
                (format!("{why}; the attachment is kept until DEL"), is_new)
            }
            Err(e) => {
                let why = format!("its interface cannot be looked at: {e}");
                (why.clone(), self.attachments.set_closed(id, why))
            }
        };
        if is_new {
            tracing::warn!(attachment = id, pod = record.name(), "{why}");
        }
        false
    }

    /// Returns the reason for which an attachment is closed.
    fn why_closed(&self, id: u16) -> Option<String> {
        match self.attachments.stage(id) {
            Some(Stage::Closed(closed)) => Some(closed.why.clone()),
            _ => None,
        }
    }
}
