//! The state of each kind that is followed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use heddle_model::Kind;

/// The state of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KindHealth {
    /// All objects have been listed once.
    pub synced: bool,
    /// Objects that the server has.
    pub objects: usize,
    /// The server does not know the kind: its CustomResourceDefinition is not installed, or its API is older.
    pub absent: bool,
    /// The last fault, while it lasts: what was asked, and how it failed.
    pub error: Option<String>,
    /// How often a connection was made again after a fault.
    pub reconnects: u64,
    /// `metadata.resourceVersion` of the last object or list.
    pub resource_version: String,
    /// The time of the last answer of the server about this kind.
    pub answered_at: Option<Instant>,
    /// The time at which an earlier agent saved the objects that are served, until the server has listed its own.
    pub saved_at: Option<SystemTime>,
    /// The fault is one of the connection or of the credentials, and another server or newer credentials may help.
    pub(super) unreachable_since: Option<Instant>,
    /// The fault that was logged last, until the kind works again.
    pub(super) reported: Option<String>,
}

/// The state of all kinds, shared by the tasks and their readers.
#[derive(Clone, Debug)]
pub struct Health(Arc<Mutex<Shared>>);

#[derive(Debug)]
struct Shared {
    kinds: BTreeMap<Kind, KindHealth>,
    /// The reason for which no server answers, while none does.
    connection_fault: Option<String>,
}

impl Health {
    pub(super) fn new() -> Self {
        let all = Kind::ALL.map(|kind| (kind, KindHealth::default()));
        Self(Arc::new(Mutex::new(Shared {
            kinds: all.into(),
            connection_fault: None,
        })))
    }

    /// Returns the state of every kind.
    #[must_use]
    pub fn all(&self) -> BTreeMap<Kind, KindHealth> {
        self.lock().kinds.clone()
    }

    /// Returns the time up to which the objects are known to be the server's: the present while every kind works.
    #[must_use]
    pub fn current_as_of(&self) -> SystemTime {
        let now = SystemTime::now();
        let as_of = |kind: &KindHealth| match (kind.saved_at, &kind.error, kind.answered_at) {
            (Some(saved_at), ..) => saved_at,
            (None, Some(_), Some(at)) => now.checked_sub(at.elapsed()).unwrap_or(now),
            _ => now,
        };
        self.lock().kinds.values().map(as_of).min().unwrap_or(now)
    }

    /// Returns true if the server has listed a kind.
    pub(super) fn is_kind_synced(&self, kind: Kind) -> bool {
        self.lock().kinds.get(&kind).is_some_and(|health| health.synced)
    }

    /// Returns true if the server has listed every kind.
    pub(super) fn is_synced(&self) -> bool {
        self.lock().kinds.values().all(|health| health.synced)
    }

    /// Returns the number of objects of a kind.
    pub(super) fn objects(&self, kind: Kind) -> usize {
        self.lock().kinds.get(&kind).map_or(0, |health| health.objects)
    }

    /// Changes the state of one kind.
    pub(super) fn edit(&self, kind: Kind, edit: impl FnOnce(&mut KindHealth)) {
        if let Some(health) = self.lock().kinds.get_mut(&kind) {
            edit(health);
        }
    }

    /// Records an answer that grants what was asked: the fault is over.
    pub(super) fn answered(&self, kind: Kind) {
        let mut was_reported = false;
        self.edit(kind, |health| {
            health.answered_at = Some(Instant::now());
            health.unreachable_since = None;
            health.error = None;
            was_reported = health.reported.take().is_some();
        });
        if was_reported {
            tracing::info!(%kind, "is read from the API server again");
        }
    }

    /// Returns the time since which no kind has had an answer; `None` if one has. A kind that the server does not have is asked
    /// too rarely to count.
    pub(super) fn unreachable_since(&self) -> Option<Instant> {
        let all = self.lock();
        let present = all.kinds.values().filter(|kind| !kind.absent);
        let since: Option<Vec<Instant>> = present.map(|kind| kind.unreachable_since).collect();
        since?.into_iter().max()
    }

    /// Forgets the faults of the connection, because another one is tried.
    pub(super) fn retry(&self) {
        let mut state = self.lock();
        state.kinds.values_mut().for_each(|kind| kind.unreachable_since = None);
        state.connection_fault = None;
    }

    /// Returns the reason for which no server answers; `None` while one does.
    #[must_use]
    pub fn connection_fault(&self) -> Option<String> {
        self.lock().connection_fault.clone()
    }

    /// Records that no server answers.
    pub(super) fn set_connection_fault(&self, fault: &str) {
        self.lock().connection_fault = Some(fault.to_owned());
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_is_unreachable_when_no_kind_that_it_has_gets_an_answer() {
        let health = Health::new();
        assert_eq!(health.unreachable_since(), None);
        let now = Instant::now();
        for kind in Kind::ALL {
            assert_eq!(health.unreachable_since(), None, "before {kind}");
            health.edit(kind, |health| {
                health.absent = kind == Kind::ClusterNetworkPolicy;
                health.unreachable_since = (!health.absent).then_some(now);
            });
        }
        assert_eq!(health.unreachable_since(), Some(now));
        health.answered(Kind::Pod);
        assert_eq!(health.unreachable_since(), None);
    }
}
