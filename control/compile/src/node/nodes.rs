//! Other nodes: their identifiers, labels and pod ranges.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock};

use heddle_model::flannel::FlannelNode;
use heddle_model::{Labels, Node};
use heddle_tables::{NodeId, Prefix};
use heddle_wire::Ip;

use crate::config::NodeConfig;
use crate::prefix::to_prefix;

/// The nodes of the cluster by name.
#[derive(Debug, Default)]
pub(crate) struct Nodes {
    /// The identifiers of all other nodes, also of deleted ones: a node that returns has the same identifier.
    ids: BTreeMap<Arc<str>, NodeId>,
    taken: BTreeSet<NodeId>,
    /// All smaller identifiers are taken. Identifiers are not given back, so the search goes on from here.
    next: u16,
    /// The objects of the other nodes.
    present: BTreeMap<Arc<str>, Arc<Node>>,
    /// The nodes, this one included, that have each pod range.
    ranges: BTreeMap<Prefix, BTreeSet<Arc<str>>>,
    /// Identifiers that were assigned since the last rebuild.
    assigned: Vec<(Arc<str>, NodeId)>,
}

impl Nodes {
    pub(crate) fn new(ids: &BTreeMap<Arc<str>, NodeId>) -> Self {
        Self {
            ids: ids.clone(),
            taken: ids.values().copied().collect(),
            ..Self::default()
        }
    }

    /// Returns the identifier of another node that has an object.
    pub(crate) fn id(&self, name: &str) -> Option<NodeId> {
        let (name, _) = self.present.get_key_value(name)?;
        self.ids.get(name).copied()
    }

    /// Returns the labels of another node that has an object.
    pub(crate) fn labels(&self, name: &str) -> &Labels {
        static NONE: LazyLock<Labels> = LazyLock::new(Labels::default);
        self.present.get(name).map_or(&NONE, |node| &node.labels)
    }

    /// Adds another node, or a new version of it.
    pub(crate) fn insert(&mut self, node: &Arc<Node>) {
        self.assign_id(&node.name);
        self.present.insert(Arc::clone(&node.name), Arc::clone(node));
    }

    /// Iterates over the other nodes that have an object and an identifier.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (NodeId, &Arc<Node>)> {
        let identified = |(name, node)| Some((*self.ids.get::<Arc<str>>(name)?, node));
        self.present.iter().filter_map(identified)
    }

    /// Returns another node that has an object.
    pub(crate) fn get(&self, name: &str) -> Option<(NodeId, &Arc<Node>)> {
        Some((self.id(name)?, self.present.get(name)?))
    }

    /// Removes another node.
    pub(crate) fn remove(&mut self, name: &str) {
        self.present.remove(name);
    }

    /// Assigns an identifier. If all are taken, it reuses the identifier of a node without an object.
    fn assign_id(&mut self, name: &Arc<str>) {
        if self.ids.contains_key(name) {
            return;
        }
        let free = (self.next..=u16::MAX).map(NodeId).find(|id| !self.taken.contains(id));
        let gone = || {
            self.ids
                .iter()
                .find(|(name, _)| !self.present.contains_key(*name))
                .map(|(name, _)| Arc::clone(name))
        };
        let id = match free {
            Some(id) => Some(id),
            None => gone().and_then(|gone| self.ids.remove(&gone)),
        };
        if let Some(id) = id {
            self.next = free.map_or(u16::MAX, |free| free.0);
            self.taken.insert(id);
            self.ids.insert(Arc::clone(name), id);
            self.assigned.push((Arc::clone(name), id));
        }
    }

    /// Returns the identifiers that were assigned since the last call.
    pub(crate) fn take_assigned(&mut self) -> Vec<(Arc<str>, NodeId)> {
        std::mem::take(&mut self.assigned)
    }

    /// Adds a pod range of a node.
    pub(crate) fn add_range(&mut self, range: Prefix, name: &Arc<str>) {
        self.ranges.entry(range).or_default().insert(Arc::clone(name));
    }

    /// Removes a pod range of a node.
    pub(crate) fn remove_range(&mut self, range: Prefix, name: &str) {
        if let Some(names) = self.ranges.get_mut(&range) {
            names.remove(name);
            if names.is_empty() {
                self.ranges.remove(&range);
            }
        }
    }

    /// Returns the nodes that have a pod range, by name. Normally there is one.
    pub(crate) fn with_range(&self, range: Prefix) -> impl Iterator<Item = &Arc<str>> {
        self.ranges.get(&range).into_iter().flatten()
    }
}

/// Returns the internal and external addresses of a node.
pub(crate) fn addresses(node: &Node) -> impl Iterator<Item = Ip> {
    node.internal_ips
        .iter()
        .chain(&node.external_ips)
        .map(|ip| Ip::from(*ip))
}

/// Returns the addresses of another node: internal and external ones, and the ends of Flannel's tunnels if they count.
pub(crate) fn addresses_of_other<'a>(node: &'a Node, config: &NodeConfig) -> impl Iterator<Item = Ip> + use<'a> {
    addresses(node).chain(flannel_addresses(node, config))
}

/// Returns the addresses of the ends of Flannel's tunnels, if they count.
pub(crate) fn flannel_addresses<'a>(node: &'a Node, config: &NodeConfig) -> impl Iterator<Item = Ip> + use<'a> {
    let flannel = flannel_of(node, config).into_iter();
    flannel.flat_map(FlannelNode::addresses).map(Ip::from)
}

/// Returns Flannel's annotations of a node, if packets go there as they say: it does not run heddle, and tunnels are used.
pub(crate) fn flannel_of<'a>(node: &'a Node, config: &NodeConfig) -> Option<&'a FlannelNode> {
    let counts = config.flannel && config.tunnel.network().is_some();
    node.flannel_alone().filter(|_| counts)
}

/// Returns the pod ranges of a node.
pub(crate) fn pod_ranges(node: &Node) -> impl Iterator<Item = Prefix> {
    node.pod_cidrs.iter().filter_map(|net| to_prefix(*net))
}
