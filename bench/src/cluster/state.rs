//! The changes of the cluster since its start.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use heddle_model::Kind;

use super::plan::Plan;

/// The stage of a pod's life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stage {
    /// Its containers run.
    #[default]
    Running,
    /// It has a `deletionTimestamp`.
    Terminating,
    /// Its object is gone.
    Gone,
    /// It has no node yet.
    Unscheduled,
    /// It has a node and no address.
    Scheduled,
}

/// The number of changes of an object, by the part that they concern.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Revision {
    /// The pods that had this pod's place before it.
    pub life: u32,
    /// The stage of its life.
    pub stage: Stage,
    /// Changes of the status.
    pub status: u32,
    /// Changes of the labels or of the specification.
    pub content: u32,
    /// `metadata.resourceVersion`
    pub version: u64,
}

/// The cluster: its plan, and what has changed.
#[derive(Debug)]
pub struct State {
    /// The plan.
    pub plan: Arc<Plan>,
    /// The Service and the number of its part for each slice.
    pub slices: Arc<[(u32, u32)]>,
    changed: HashMap<(Kind, u32), Revision>,
    /// The endpoints of the bench's own Service.
    pub probe: Vec<IpAddr>,
    /// The version of the last change.
    pub version: u64,
}

impl State {
    /// Returns the cluster before any change.
    #[must_use]
    pub fn new(plan: Plan) -> Self {
        let parts = |service| (0..plan.slices_of(service)).map(move |part| (service, part));
        let slices = (0..plan.services).flat_map(parts).chain([(plan.services, 0)]).collect();
        Self {
            plan: Arc::new(plan),
            slices,
            changed: HashMap::new(),
            probe: Vec::new(),
            version: 1_000_000,
        }
    }

    /// Returns the revision of an object.
    #[must_use]
    pub fn revision(&self, kind: Kind, index: u32) -> Revision {
        let first = Revision {
            version: 1000 + u64::from(index),
            ..Revision::default()
        };
        self.changed.get(&(kind, index)).copied().unwrap_or(first)
    }

    /// Changes an object, and returns its new revision.
    pub fn change(&mut self, kind: Kind, index: u32, edit: impl FnOnce(&mut Revision)) -> Revision {
        self.version += 1;
        let mut revision = self.revision(kind, index);
        edit(&mut revision);
        revision.version = self.version;
        self.changed.insert((kind, index), revision);
        revision
    }
}
