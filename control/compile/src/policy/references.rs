//! Which names of pods' ports and which labels of nodes active policies speak of.
//!
//! Identities are made of these alone. (Of a pod's labels they are made by the selectors that select it: see `kinds`.)

use std::collections::HashMap;
use std::sync::Arc;

use heddle_model::{LabelSelector, Labels};

use crate::policy::groups::NamedPort;

/// The features in use.
#[derive(Debug, Default)]
pub(crate) struct Relevance {
    ports: HashMap<Arc<str>, u32>,
    touched: Vec<Arc<str>>,
    /// How many selectors of nodes there are, and which labels they speak of.
    node_selectors: u32,
    node_labels: HashMap<Arc<str>, u32>,
    nodes_touched: bool,
}

impl Relevance {
    /// One more policy speaks of ports of that name.
    pub(crate) fn acquire_port(&mut self, name: &Arc<str>) {
        let uses = self.ports.entry(Arc::clone(name)).or_default();
        *uses += 1;
        if *uses == 1 {
            self.touched.push(Arc::clone(name));
        }
    }

    /// One less policy speaks of ports of that name.
    pub(crate) fn release_port(&mut self, name: &Arc<str>) {
        if let Some(uses) = self.ports.get_mut(name) {
            *uses -= 1;
            if *uses == 0 {
                self.ports.remove(name);
                self.touched.push(Arc::clone(name));
            }
        }
    }

    /// The names of ports that came into use or out of it.
    pub(crate) fn take_touched(&mut self) -> Vec<Arc<str>> {
        std::mem::take(&mut self.touched)
    }

    /// Those of a kind's named ports that some policy speaks of.
    pub(crate) fn ports(&self, named: &[NamedPort]) -> Arc<[NamedPort]> {
        let used = named.iter().filter(|(name, ..)| self.ports.contains_key(name));
        used.cloned().collect()
    }

    /// One more selector of nodes is in use.
    pub(crate) fn acquire_nodes(&mut self, selector: &LabelSelector) {
        self.node_selectors += 1;
        for requirement in selector.requirements() {
            *self.node_labels.entry(Arc::clone(requirement.key())).or_default() += 1;
        }
        self.nodes_touched = true;
    }

    /// One less selector of nodes is in use.
    pub(crate) fn release_nodes(&mut self, selector: &LabelSelector) {
        self.node_selectors -= 1;
        for requirement in selector.requirements() {
            if let Some(uses) = self.node_labels.get_mut(requirement.key()) {
                *uses -= 1;
            }
        }
        self.node_labels.retain(|_, uses| *uses > 0);
        self.nodes_touched = true;
    }

    /// Whether nodes may have to be classified again.
    pub(crate) fn take_nodes_touched(&mut self) -> bool {
        std::mem::take(&mut self.nodes_touched)
    }

    /// The labels of a node that some policy speaks of; `None` while none speaks of nodes.
    pub(crate) fn node_labels(&self, labels: &Labels) -> Option<Labels> {
        let used = labels.iter().filter(|(key, _)| self.node_labels.contains_key(*key));
        // Labels of a valid set are valid.
        let used = || Labels::new(used.map(|(k, v)| (Arc::clone(k), Arc::clone(v)))).unwrap_or_default();
        (self.node_selectors > 0).then(used)
    }
}
