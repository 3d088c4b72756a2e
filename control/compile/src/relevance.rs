//! Which labels and which names of ports active policies speak of, and which pods have them.
//!
//! Identities are made of these alone, so that `pod-template-hash` and its like do not make every pod a class of its
//! own. When a key comes into use, or out of it, only the pods that have it are classified again.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use heddle_model::{LabelSelector, Labels, ObjectKey, Pod, Protocol};

/// Something of a pod that a policy can speak of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Feature {
    /// A label of that key.
    Label(Arc<str>),
    /// A container port of that name.
    Port(Arc<str>),
}

/// The features in use, and the pods that have them (whether in use or not).
#[derive(Debug, Default)]
pub(crate) struct Relevance {
    uses: HashMap<Feature, u32>,
    pods: HashMap<Feature, BTreeSet<ObjectKey>>,
    touched: Vec<Feature>,
    /// How many selectors of nodes there are, and which labels they speak of.
    node_selectors: u32,
    node_labels: HashMap<Arc<str>, u32>,
    nodes_touched: bool,
}

fn features(pod: &Pod) -> impl Iterator<Item = Feature> {
    let labels = pod.labels.iter().map(|(key, _)| Feature::Label(Arc::clone(key)));
    let ports = pod.ports.iter().filter_map(|port| port.name.clone()).map(Feature::Port);
    labels.chain(ports)
}

impl Relevance {
    /// One more policy speaks of it.
    pub(crate) fn acquire(&mut self, feature: Feature) {
        let uses = self.uses.entry(feature.clone()).or_default();
        *uses += 1;
        if *uses == 1 {
            self.touched.push(feature);
        }
    }

    /// One less policy speaks of it.
    pub(crate) fn release(&mut self, feature: Feature) {
        if let Some(uses) = self.uses.get_mut(&feature) {
            *uses -= 1;
            if *uses == 0 {
                self.uses.remove(&feature);
                self.touched.push(feature);
            }
        }
    }

    /// The pods that have a feature which came into use or out of it.
    pub(crate) fn take_touched(&mut self) -> BTreeSet<ObjectKey> {
        let touched = std::mem::take(&mut self.touched);
        touched
            .iter()
            .filter_map(|feature| self.pods.get(feature))
            .flatten()
            .cloned()
            .collect()
    }

    /// Notes what a pod has now, or that it is gone.
    pub(crate) fn update(&mut self, key: &ObjectKey, before: Option<&Pod>, after: Option<&Pod>) {
        for feature in before.into_iter().flat_map(features) {
            if let Some(pods) = self.pods.get_mut(&feature) {
                pods.remove(key);
                if pods.is_empty() {
                    self.pods.remove(&feature);
                }
            }
        }
        for feature in after.into_iter().flat_map(features) {
            self.pods.entry(feature).or_default().insert(key.clone());
        }
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

    fn is_used(&self, feature: &Feature) -> bool {
        self.uses.contains_key(feature)
    }

    /// The labels of a pod that some policy speaks of.
    pub(crate) fn labels(&self, pod: &Pod) -> Labels {
        let used = pod
            .labels
            .iter()
            .filter(|(key, _)| self.is_used(&Feature::Label(Arc::clone(key))));
        // Labels of a valid set are valid.
        Labels::new(used.map(|(k, v)| (Arc::clone(k), Arc::clone(v)))).unwrap_or_default()
    }

    /// The named ports of a pod that some policy speaks of, sorted.
    pub(crate) fn ports(&self, pod: &Pod) -> Vec<(Arc<str>, Protocol, u16)> {
        let named = pod
            .ports
            .iter()
            .filter_map(|p| Some((p.name.clone()?, p.protocol, p.number.get())));
        let used: BTreeSet<_> = named
            .filter(|(name, ..)| self.is_used(&Feature::Port(Arc::clone(name))))
            .collect();
        used.into_iter().collect()
    }
}
