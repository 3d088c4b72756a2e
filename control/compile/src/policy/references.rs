//! The port names and node labels that active policies refer to.
//!
//! Identities depend on these only: a port name that no policy uses makes no difference. (Labels of pods have an effect
//! through the selectors that match them: see `pod_classes`.)

use std::collections::HashMap;
use std::sync::Arc;

use heddle_model::{LabelSelector, Labels};

use crate::policy::ids::NamedPort;

/// Reference counts of port names and node labels.
#[derive(Debug, Default)]
pub(crate) struct References {
    ports: HashMap<Arc<str>, u32>,
    changed_ports: Vec<Arc<str>>,
    node_selectors: u32,
    node_labels: HashMap<Arc<str>, u32>,
    nodes_changed: bool,
}

impl References {
    /// Counts one more reference to a port name.
    pub(crate) fn acquire_port(&mut self, name: &Arc<str>) {
        let uses = self.ports.entry(Arc::clone(name)).or_default();
        *uses += 1;
        if *uses == 1 {
            self.changed_ports.push(Arc::clone(name));
        }
    }

    /// Counts one reference to a port name less.
    pub(crate) fn release_port(&mut self, name: &Arc<str>) {
        if let Some(uses) = self.ports.get_mut(name) {
            *uses -= 1;
            if *uses == 0 {
                self.ports.remove(name);
                self.changed_ports.push(Arc::clone(name));
            }
        }
    }

    /// Returns the port names that came into use or went out of use since the last call.
    pub(crate) fn take_changed_ports(&mut self) -> Vec<Arc<str>> {
        std::mem::take(&mut self.changed_ports)
    }

    /// Returns the named ports that some policy refers to.
    pub(crate) fn ports(&self, named: &[NamedPort]) -> Arc<[NamedPort]> {
        let used = named.iter().filter(|(name, ..)| self.ports.contains_key(name));
        used.cloned().collect()
    }

    /// Counts one more selector of nodes.
    pub(crate) fn acquire_nodes(&mut self, selector: &LabelSelector) {
        self.node_selectors += 1;
        for requirement in selector.requirements() {
            *self.node_labels.entry(Arc::clone(requirement.key())).or_default() += 1;
        }
        self.nodes_changed = true;
    }

    /// Counts one selector of nodes less.
    pub(crate) fn release_nodes(&mut self, selector: &LabelSelector) {
        self.node_selectors -= 1;
        for requirement in selector.requirements() {
            if let Some(uses) = self.node_labels.get_mut(requirement.key()) {
                *uses -= 1;
            }
        }
        self.node_labels.retain(|_, uses| *uses > 0);
        self.nodes_changed = true;
    }

    /// Returns true if selectors of nodes changed since the last call: every node must be classified again.
    pub(crate) fn take_nodes_changed(&mut self) -> bool {
        std::mem::take(&mut self.nodes_changed)
    }

    /// Returns the labels of a node that some policy refers to; `None` while no policy selects nodes.
    pub(crate) fn node_labels(&self, labels: &Labels) -> Option<Labels> {
        let used = labels.iter().filter(|(key, _)| self.node_labels.contains_key(*key));
        // A subset of valid labels is valid: this never falls back to none.
        let used = || Labels::new(used.map(|(k, v)| (Arc::clone(k), Arc::clone(v)))).unwrap_or_default();
        let used = || if labels.is_unreadable() { labels.clone() } else { used() };
        (self.node_selectors > 0).then(used)
    }
}
