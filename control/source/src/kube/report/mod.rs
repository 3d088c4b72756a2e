//! Writes to the API server about the agent's node and about refused objects.
//!
//! The agent annotates its own Node and sets the Node's condition `NetworkUnavailable` ([`node`]). Each refused policy and
//! Service gets a Kubernetes Event, so that its author sees the reason with `kubectl describe` ([`refusals`]). Nothing else is
//! written. [`Observed`] has the followers' view of these objects.

mod client;
mod faults;
mod node;
mod observed;
mod refusals;

use std::collections::BTreeMap;
use std::sync::Arc;

use heddle_model::Rejection;
use tokio::sync::watch;

use super::connect::Connected;
use super::health::Health;
use faults::Faults;

pub use node::{NodeReport, VERSION_ANNOTATION, VTEP_ADDRESS_ANNOTATION};
pub(super) use observed::Observed;

/// The agent's way to report. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Reporter {
    node: watch::Sender<Option<NodeReport>>,
    refusals: watch::Sender<Arc<[Rejection]>>,
    faults: Faults,
}

impl Reporter {
    pub(super) fn new() -> Self {
        Self {
            node: watch::Sender::new(None),
            refusals: watch::Sender::new(Arc::new([])),
            faults: Faults::default(),
        }
    }

    /// Sets the annotations that the agent's Node has from now on, also after someone else has changed it.
    pub fn set_node(&self, report: NodeReport) {
        self.node.send_if_modified(|before| {
            let is_changed = before.as_ref() != Some(&report);
            *before = Some(report);
            is_changed
        });
    }

    /// Sets the present rejections. The ones of policies and Services are reported.
    pub fn set_refusals<'a>(&self, rejections: impl Iterator<Item = &'a Rejection>) {
        let reported: Arc<[Rejection]> = rejections
            .filter(|rejection| refusals::is_reported(rejection))
            .cloned()
            .collect();
        self.refusals.send_if_modified(|before| {
            let is_changed = **before != *reported;
            *before = reported;
            is_changed
        });
    }

    /// Returns the writes that fail, by resource as RBAC rules name it, with the reason and the remedy.
    #[must_use]
    pub fn faults(&self) -> BTreeMap<&'static str, String> {
        self.faults.all()
    }

    /// Writes until the sender of the clients is gone.
    pub(super) async fn run(&self, observed: &Observed, health: &Health, clients: &watch::Receiver<Option<Connected>>) {
        tokio::join!(
            node::keep_reported(self.node.subscribe(), observed, clients.clone(), &self.faults),
            refusals::keep_reported(
                self.refusals.subscribe(),
                observed,
                health,
                clients.clone(),
                &self.faults
            ),
        );
    }
}
