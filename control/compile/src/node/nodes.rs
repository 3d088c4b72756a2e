//! Nodes: their numbers, addresses and pod ranges; this node's own table.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use heddle_model::{Cluster, Delta, Labels, Node};
use heddle_tables::{EndpointId, NodeId, NodeTable, Place, Prefix};
use heddle_wire::Ip;

use crate::compiler::Compiler;
use crate::policy::cidrs::prefix;

/// The numbers of other nodes, and who has which pod ranges.
#[derive(Debug, Default)]
pub(crate) struct Nodes {
    numbers: BTreeMap<Arc<str>, NodeId>,
    taken: BTreeSet<NodeId>,
    /// The other nodes whose objects there are, with their labels.
    present: BTreeMap<Arc<str>, Labels>,
    ranges: BTreeMap<Prefix, BTreeSet<Arc<str>>>,
    /// Numbers that were given out since the last build.
    pub(crate) assigned: Vec<(Arc<str>, NodeId)>,
}

impl Nodes {
    pub(crate) fn new(numbers: &BTreeMap<Arc<str>, NodeId>) -> Self {
        Self {
            numbers: numbers.clone(),
            taken: numbers.values().copied().collect(),
            ..Self::default()
        }
    }

    /// The number of another node whose object there is.
    pub(crate) fn number(&self, name: &str) -> Option<NodeId> {
        let (name, _) = self.present.get_key_value(name)?;
        self.numbers.get(name).copied()
    }

    /// The labels of another node whose object there is.
    pub(crate) fn labels(&self, name: &str) -> &Labels {
        static NONE: std::sync::LazyLock<Labels> = std::sync::LazyLock::new(Labels::default);
        self.present.get(name).unwrap_or(&NONE)
    }

    /// Gives a number to a node; when all are used up, that of one whose object is gone.
    fn assign(&mut self, name: &Arc<str>) {
        if self.numbers.contains_key(name) {
            return;
        }
        let free = (0..=u16::MAX).map(NodeId).find(|id| !self.taken.contains(id));
        let gone = || {
            self.numbers
                .iter()
                .find(|(name, _)| !self.present.contains_key(*name))
                .map(|(n, _)| Arc::clone(n))
        };
        let number = match free {
            Some(number) => Some(number),
            None => gone().and_then(|gone| self.numbers.remove(&gone)),
        };
        if let Some(number) = number {
            self.taken.insert(number);
            self.numbers.insert(Arc::clone(name), number);
            self.assigned.push((Arc::clone(name), number));
        }
    }
}

fn addresses(node: &Node) -> impl Iterator<Item = Ip> {
    node.internal_ips
        .iter()
        .chain(&node.external_ips)
        .map(|ip| Ip::from(*ip))
}

fn ranges(node: &Node) -> impl Iterator<Item = Prefix> {
    node.pod_cidrs.iter().filter_map(|net| prefix(*net))
}

impl Compiler {
    pub(crate) fn apply_node(&mut self, cluster: &Cluster, delta: &Delta<Node>) {
        let own = delta.key.name == self.config.name;
        let name = Arc::clone(&delta.key.name);
        if own && delta.after.is_none() {
            // The node that runs this keeps what it had, with its object or without.
            return;
        }
        if let Some(after) = delta.after.as_ref().filter(|_| !own) {
            self.nodes.assign(&name);
            self.nodes.present.insert(Arc::clone(&name), after.labels.clone());
        }
        if let Some(before) = &delta.before {
            if !own {
                for addr in addresses(before) {
                    self.addresses.claim(addr, |claims| claims.remove_node(&name));
                }
            }
            for range in ranges(before) {
                if let Some(names) = self.nodes.ranges.get_mut(&range) {
                    names.remove(&name);
                }
                self.settle_range(range);
            }
        }
        if !own && delta.after.is_none() {
            self.nodes.present.remove(&name);
        }
        if let Some(after) = &delta.after {
            if !own {
                for addr in addresses(after) {
                    self.addresses.claim(addr, |claims| claims.add_node(&name));
                }
            }
            for range in ranges(after) {
                self.nodes.ranges.entry(range).or_default().insert(Arc::clone(&name));
                self.settle_range(range);
            }
        }
        if own {
            self.own_node.clone_from(&delta.after);
            for addr in delta.after.iter().flat_map(|node| addresses(node)) {
                self.addresses.touch(addr);
            }
            self.settle_own_node(cluster);
        } else if delta.is_added() || delta.is_removed() {
            // Its pods have a place now, or none any more.
            for pod in cluster.pods_on(&name) {
                for ip in pod.own_ips() {
                    self.addresses.touch(Ip::from(*ip));
                }
            }
        }
    }

    /// Where addresses of a pod range are that no pod is known to have.
    fn settle_range(&mut self, range: Prefix) {
        let names = self.nodes.ranges.get(&range).into_iter().flatten();
        let place = |name: &Arc<str>| {
            if *name == self.config.name {
                Some(Place::Unreachable)
            } else {
                self.nodes.number(name).map(Place::Node)
            }
        };
        let places: Vec<Place> = names.filter_map(place).collect();
        let before = self.tables.current().range(range);
        match places.first() {
            Some(place) => self.tables.set_range(range, *place),
            None => {
                self.nodes.ranges.remove(&range);
                self.tables.remove_range(range);
            }
        }
        let after = self.tables.current().range(range);
        if before != after {
            self.generations.rerouted(before.unwrap_or_default());
        }
    }

    /// This node's own addresses, and what the tables say of it.
    pub(crate) fn settle_own_node(&mut self, cluster: &Cluster) {
        let configured = self.config.service_cidrs.clone();
        self.service_cidrs = if configured.is_empty() {
            cluster
                .service_cidrs()
                .flat_map(|c| &c.cidrs)
                .filter_map(|net| prefix(*net))
                .collect()
        } else {
            configured
        };
        self.settle_host();
    }

    pub(crate) fn settle_host(&mut self) {
        let node = self.own_node.clone();
        let own: BTreeSet<Ip> = node
            .iter()
            .flat_map(|n| addresses(n))
            .chain(self.config.host.addresses.clone())
            .collect();
        for addr in self.own_addresses.difference(&own) {
            self.addresses.claim(*addr, |claims| claims.host = false);
        }
        for addr in own.difference(&self.own_addresses) {
            self.addresses.claim(*addr, |claims| claims.host = true);
        }
        if own != self.own_addresses {
            self.generations.raise(EndpointId::HOST);
        }
        let config = &self.config;
        self.tables.set_node(NodeTable {
            name: Arc::clone(&config.name),
            addresses: own.iter().copied().collect(),
            pod_cidrs: node.iter().flat_map(|n| ranges(n)).collect(),
            service_cidrs: self.service_cidrs.clone(),
            host: config.host.clone(),
            masquerade: config.masquerade.clone(),
            local_mtu: config.local_mtu,
            uplink_mtu: config.uplink.direct,
            overlay_mtu: config.uplink.overlay,
        });
        self.own_addresses = own;
        self.settle_node_endpoints();
    }
}
