//! Requests of the CNI plugin that wait: answers for the journal, *prepare* requests for the host task.

use heddle_host::HostError;
use heddle_proto::{PrepareRequest, Prepared, Released};

use crate::api::Reply;

/// An answer that waits for the journal.
pub(super) struct HeldAnswer {
    /// The sequence number of the state that the answer reports.
    pub(super) sequence: u64,
    pub(super) answer: Answer,
}

/// An answer to the plugin, with the channel on which it is sent.
pub(super) enum Answer {
    Prepared(Box<Prepared>, Reply<Prepared>),
    Released(Released, Reply<Released>),
}

/// A *prepare* whose earlier interface, left by an ADD of the same container, the host task has tried to delete.
pub(super) struct DeletedStale {
    pub(super) request: PrepareRequest,
    pub(super) reply: Reply<Prepared>,
    /// The id of the earlier attachment.
    pub(super) id: u16,
    /// The outcome of the deletion; `false` if there was no such interface.
    pub(super) result: Result<bool, HostError>,
}
