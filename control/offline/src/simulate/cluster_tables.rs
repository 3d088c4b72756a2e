//! The objects of a cluster, and the compiled tables of each node that a connection enters.

use std::collections::BTreeMap;
use std::sync::Arc;

use heddle_compile::{Interfaces, NodeTables};
use heddle_model::{Changes, Cluster, Event, Object, ObjectRef, RejectionKey, Subject};
use heddle_source::decode::{Decoded, decode};
use serde_json::Value;

use super::node_tables::node_config;
use super::rules::Rules;

/// A cluster with the tables of its nodes. The tables of a node are compiled at their first use and then follow changes.
#[derive(Debug, Default)]
pub struct ClusterTables {
    rules: Rules,
    cluster: Cluster,
    nodes: BTreeMap<Arc<str>, NodeTables>,
    /// Changes that are not compiled yet.
    pending: Changes,
}

impl ClusterTables {
    /// Returns tables of an empty cluster, with the default rules.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns tables of an empty cluster, with these rules.
    #[must_use]
    pub fn with_rules(rules: Rules) -> Self {
        Self {
            rules,
            ..Self::default()
        }
    }

    /// Applies an event of a source.
    pub fn apply_event(&mut self, event: Event) {
        self.pending.extend(self.cluster.apply(event));
    }

    /// Adds or replaces an object in the form of the Kubernetes API. An object that is refused becomes a rejection of the
    /// cluster; kinds that heddle does not read are ignored.
    pub fn apply(&mut self, origin: &Arc<str>, object: &Value) {
        match decode(object) {
            Ok(Decoded::Object(object)) => self.put(origin, object),
            Ok(Decoded::Partial(object, ignored)) => {
                self.put(origin, object);
                self.apply_event(Event::Rejected(ignored.into_note(origin, None)));
            }
            Ok(Decoded::Other(_)) => {}
            Err(refusal) => self.apply_event(Event::Rejected(refusal.into_rejection(origin, 0, None))),
        }
    }

    fn put(&mut self, origin: &Arc<str>, object: Object) {
        // A note about an earlier version ends with it.
        let subject = Subject::Object(object.object_ref());
        let origin = Arc::clone(origin);
        self.apply_event(Event::Restored(RejectionKey {
            subject,
            origin: Arc::clone(&origin),
        }));
        self.apply_event(Event::Upsert { origin, object });
    }

    /// Removes an object.
    pub fn delete(&mut self, object: ObjectRef) {
        self.apply_event(Event::Delete(object));
    }

    /// Returns the objects.
    #[must_use]
    pub const fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Returns the tables of a node, as its agent would publish them.
    pub fn node_tables(&mut self, node: &str) -> &NodeTables {
        let changes = std::mem::take(&mut self.pending);
        if !changes.objects.is_empty() {
            for node_tables in self.nodes.values_mut() {
                node_tables.apply(&self.cluster, &changes);
            }
        }
        let (cluster, rules) = (&self.cluster, &self.rules);
        self.nodes
            .entry(node.into())
            .or_insert_with(|| NodeTables::new(cluster, node_config(node, rules), Interfaces::default()))
    }
}
