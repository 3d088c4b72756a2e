//! The cluster's objects as this agent has read them, the changes that the tables do not have yet, and the values that
//! follow from the objects for this node: pod ranges, the plan of the host port, the routes of pods.

use std::collections::{BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use heddle_compile::UplinkMtu;
use heddle_host::external_aliases::ExternalAliases;
use heddle_host::frontends::Frontends;
use heddle_host::plan::{self, Inputs, Plan};
use heddle_host::uplink::Uplink;
use heddle_model::{Change, Changes, Cluster, Event, Kept, Node, NodeFacts};
use heddle_source::Batch;
use ipnet::IpNet;

use super::change_times::ChangeTimes;
use super::host::USUAL_MTU;
use super::host_ports::HostPorts;
use super::pod_routes::Ranges;
use crate::attachments::Store;
use crate::read_model::SharedCluster;
use heddle_config::Settings;

/// A batch of events that is not applied yet, or in part.
struct QueuedBatch {
    events: std::vec::IntoIter<Event>,
    received_at: Instant,
    /// `true` if one of its events has changed an object of the model.
    is_news: bool,
}

/// The objects that the compiler does not have yet.
pub(super) enum NewObjects {
    /// All objects, the first time. They are not collected as changes, which would take 10 MB in a large cluster.
    All,
    /// The objects that have changed since.
    Changed(Changes),
}

impl NewObjects {
    /// Returns `true` if there is nothing new.
    pub(super) const fn is_empty(&self) -> bool {
        match self {
            NewObjects::All => false,
            NewObjects::Changed(changes) => changes.is_empty(),
        }
    }

    /// Returns `true` if a change fulfils a condition; of all objects, that is assumed.
    pub(super) fn any(&self, condition: impl Fn(&Change) -> bool) -> bool {
        match self {
            NewObjects::All => true,
            NewObjects::Changed(changes) => changes.objects.iter().any(condition),
        }
    }

    /// Returns `true` if the list of rejections may have changed.
    pub(super) const fn may_change_rejections(&self) -> bool {
        match self {
            NewObjects::All => true,
            NewObjects::Changed(changes) => changes.rejections,
        }
    }
}

/// The cluster model and its pending changes.
pub(super) struct Objects {
    /// The cluster. Only the controller writes; the read model reads. A reader holds the lock for one look-up or one list.
    cluster: SharedCluster,
    /// This node's name.
    node: String,
    /// The node's facts, as [`Self::update_facts`] computed them last.
    facts: NodeFacts,
    /// The revision of the attachments that the facts follow from; `None` before the first time.
    facts_revision: Option<u64>,
    /// Changes that the compiler does not have yet. Until it gets its first ones, they are not collected: these are all objects.
    pending: Changes,
    /// `true` once the compiler has had its first changes.
    collects: bool,
    /// Batches of events that are not applied yet; the first one may be applied in part.
    batches: VecDeque<QueuedBatch>,
    /// `true` if the first batch is applied in part.
    is_in_batch: bool,
    /// The rejections that were logged, so that each is logged once.
    known_rejections: BTreeSet<String>,
    /// The way of each batch to the workers.
    pub(super) change_times: ChangeTimes,
}

impl Objects {
    /// Starts with an empty cluster, the last good versions that an earlier agent kept, and the last version of this node's
    /// object.
    pub(super) fn new(node: &str, kept: &Kept, own_node: Option<Arc<Node>>) -> Self {
        Self {
            cluster: Arc::new(RwLock::new(Cluster::with_kept(kept).for_node(node))),
            node: node.to_owned(),
            facts: NodeFacts::new(own_node, []),
            facts_revision: None,
            pending: Changes::default(),
            collects: false,
            batches: VecDeque::new(),
            is_in_batch: false,
            known_rejections: BTreeSet::new(),
            change_times: ChangeTimes::default(),
        }
    }

    /// Returns the cluster for the read model.
    pub(super) fn shared(&self) -> SharedCluster {
        Arc::clone(&self.cluster)
    }

    /// Returns the cluster for reading.
    pub(super) fn cluster(&self) -> RwLockReadGuard<'_, Cluster> {
        self.cluster.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a batch of the source's events. [`Self::apply_for`] applies it.
    pub(super) fn enqueue(&mut self, batch: Batch) {
        if !batch.events.is_empty() {
            self.batches.push_back(QueuedBatch {
                events: batch.events.into_iter(),
                received_at: batch.received_at,
                is_news: false,
            });
        }
    }

    /// Applies queued events to the model, in their order, and collects what they change; stops soon after a time, also in the
    /// middle of a batch, because a batch of a large folder takes seconds.
    pub(super) fn apply_for(&mut self, time: Duration) {
        let start = Instant::now();
        while let Some(batch) = self.batches.front_mut() {
            if let Some(event) = batch.events.next() {
                let changes = self
                    .cluster
                    .write()
                    .unwrap_or_else(PoisonError::into_inner)
                    .apply(event);
                batch.is_news |= !changes.objects.is_empty();
                if self.collects {
                    self.pending.extend(changes);
                } else {
                    self.pending.rejections |= changes.rejections;
                }
            }
            if batch.events.as_slice().is_empty() {
                // Nothing is compiled for a batch without news. It would count from here to some later change.
                if batch.is_news {
                    self.change_times.add_applied(batch.received_at);
                }
                self.batches.pop_front();
                self.is_in_batch = false;
            } else {
                self.is_in_batch = true;
            }
            if start.elapsed() >= time {
                return;
            }
        }
    }

    /// Returns `true` while events wait to be applied.
    pub(super) fn has_queued(&self) -> bool {
        !self.batches.is_empty()
    }

    /// Returns `true` if only a part of a batch was applied. What such a model contains is not published.
    pub(super) const fn is_in_batch(&self) -> bool {
        self.is_in_batch
    }

    /// Returns `true` if every kind of object has been listed once.
    pub(super) fn is_synced(&self) -> bool {
        self.cluster().is_synced()
    }

    /// Removes and returns the changes since the last call; the first time, all objects.
    pub(super) fn drain_changes(&mut self) -> NewObjects {
        let changes = std::mem::take(&mut self.pending);
        match std::mem::replace(&mut self.collects, true) {
            true => NewObjects::Changed(changes),
            false => NewObjects::All,
        }
    }

    /// Logs rejections that are new and rejections that are gone. Returns `true` if there may be any.
    pub(super) fn log_rejections(&mut self) -> bool {
        if !self.pending.rejections {
            return false;
        }
        let now: BTreeSet<String> = self.cluster().rejections().map(ToString::to_string).collect();
        for new in now.difference(&self.known_rejections) {
            tracing::warn!("refused an object or a part of it: {new}");
        }
        for gone in self.known_rejections.difference(&now) {
            tracing::info!("no longer refused: {gone}");
        }
        self.known_rejections = now;
        true
    }

    /// Computes the node's facts from its object, or from the last version of a deleted one, and from the addresses of the
    /// attachments, if one of them has changed. Returns `true` if the facts have changed.
    pub(super) fn update_facts(&mut self, store: &Store) -> bool {
        let object = self.cluster().node(&self.node).cloned();
        let node = object.or_else(|| self.facts.node.clone());
        if self.facts_revision == Some(store.revision()) && node == self.facts.node {
            return false;
        }
        self.facts_revision = Some(store.revision());
        let records = store.all().iter();
        let facts = NodeFacts::new(node, records.flat_map(|record| record.addresses.iter().copied()));
        let is_changed = facts != self.facts;
        self.facts = facts;
        is_changed
    }

    /// Returns `spec.podCIDRs` of this node's object; empty while the object is missing.
    pub(super) fn own_pod_cidrs(&self) -> Vec<IpNet> {
        self.cluster()
            .node(&self.node)
            .map(|node| node.pod_cidrs.clone())
            .unwrap_or_default()
    }

    /// Returns the node's facts.
    pub(super) const fn facts(&self) -> &NodeFacts {
        &self.facts
    }

    /// Returns the packet sizes that fit the uplink; Ethernet's MTU is assumed while the uplink is unknown.
    pub(super) fn uplink_mtu(&self, settings: &Settings, uplink: Option<&Uplink>) -> UplinkMtu {
        // Nodes reach each other over the family of the first address. A node with Flannel is reached over both families, and a pod
        // may be of either.
        let internal_ips = self.facts.internal_ips();
        let of_nodes = internal_ips.first().is_some_and(IpAddr::is_ipv6);
        let of_flannel = settings.flannel_annotations && internal_ips.iter().any(IpAddr::is_ipv6);
        let over_ipv6 = of_nodes || of_flannel;
        UplinkMtu::new(uplink.map_or(USUAL_MTU, |u| u.mtu), over_ipv6)
    }

    /// Computes the plan of the host port; `None` until there was an object of this node.
    pub(super) fn host_plan(
        &self,
        settings: &Settings,
        external_aliases: &ExternalAliases,
        host_ports: &HostPorts,
        uplink: Option<&Uplink>,
    ) -> Option<Plan> {
        self.facts.node.as_ref()?;
        let mtu = self.uplink_mtu(settings, uplink).direct;
        let cluster = self.cluster();
        let mut frontends = Frontends {
            host_ports: host_ports.everywhere.clone(),
            ..Frontends::default()
        };
        cluster
            .services()
            .for_each(|service| frontends.add(service, settings.external_ips));
        let node_addresses = cluster
            .nodes()
            .flat_map(|n| n.internal_ips.iter().chain(&n.external_ips).copied())
            .collect();
        Some(plan::compute(&Inputs {
            facts: &self.facts,
            node_ranges: &node_ranges(&cluster),
            flannel_ranges: &flannel_ranges(&cluster, &self.node, settings),
            cluster_cidrs: &settings.cluster_cidrs,
            service_cidrs: &settings.service_cidrs,
            non_masquerade_cidrs: &settings.non_masquerade_cidrs,
            service_objects: &service_cidr_ranges(&cluster),
            service_addresses: &service_addresses(&cluster),
            frontends: &frontends,
            external_aliases: external_aliases.all(),
            node_addresses: &node_addresses,
            mtu,
            reserved_ports: settings.reserved_ports.ports(),
        }))
    }

    /// Returns the ranges that a pod's routes are computed from.
    pub(super) fn route_ranges(&self, settings: &Settings) -> Ranges {
        let own = self.facts.pod_cidrs().iter().copied().collect();
        let cluster = self.cluster();
        Ranges {
            own,
            cluster: node_ranges(&cluster)
                .into_iter()
                .chain(settings.cluster_cidrs.iter().copied())
                .collect(),
            services: plan::service_ranges(
                &settings.service_cidrs,
                &service_cidr_ranges(&cluster),
                &service_addresses(&cluster),
            ),
        }
    }
}

/// Returns the pod ranges of all nodes.
fn node_ranges(cluster: &Cluster) -> BTreeSet<IpNet> {
    cluster
        .nodes()
        .flat_map(|node| node.pod_cidrs.iter().copied())
        .collect()
}

/// Returns the pod ranges of the other nodes that are reached as Flannel's annotations say.
fn flannel_ranges(cluster: &Cluster, own: &str, settings: &Settings) -> BTreeSet<IpNet> {
    let others = cluster.nodes().filter(|node| *node.name != *own);
    let by_flannel = others.filter(|node| settings.flannel_annotations && node.flannel_alone().is_some());
    by_flannel.flat_map(|node| node.pod_cidrs.iter().copied()).collect()
}

/// Returns the ranges of ServiceCIDR objects.
fn service_cidr_ranges(cluster: &Cluster) -> BTreeSet<IpNet> {
    let ranges = cluster.service_cidrs();
    ranges.flat_map(|range| range.cidrs.iter().copied()).collect()
}

/// Returns every Service's cluster addresses.
fn service_addresses(cluster: &Cluster) -> BTreeSet<IpAddr> {
    let services = cluster.services();
    services
        .flat_map(|service| service.cluster_ips.get().iter().copied())
        .collect()
}

/// Returns `true` if a change can affect the host port. Pods and policies, which change most often, cannot.
pub(super) const fn concerns_host(change: &Change) -> bool {
    matches!(change, Change::Node(_) | Change::Service(_) | Change::ServiceCidr(_))
}

#[cfg(test)]
mod tests {
    use heddle_model::{Kind, Labels, Namespace, Object};

    use super::*;

    #[test]
    fn a_batch_is_applied_in_parts_and_shows_when_it_is_whole() {
        let mut objects = Objects::new("n1", &Kept::default(), None);
        let batch = || Batch::now(Kind::ALL.iter().copied().map(Event::Synced).collect());
        objects.enqueue(Batch::now(Vec::new()));
        assert!(!objects.has_queued() && !objects.is_in_batch());
        objects.enqueue(batch());
        objects.enqueue(batch());
        // No time at all: one event a call, so that there is always progress.
        for applied in 1..=2 * Kind::ALL.len() {
            objects.apply_for(Duration::ZERO);
            let in_batch = applied % Kind::ALL.len() != 0;
            assert_eq!(objects.is_in_batch(), in_batch, "after {applied} events");
            assert_eq!(objects.is_synced(), applied >= Kind::ALL.len());
        }
        assert!(!objects.has_queued());
        objects.enqueue(batch());
        objects.apply_for(Duration::from_secs(60));
        assert!(!objects.has_queued() && !objects.is_in_batch());
    }

    #[test]
    fn only_a_batch_with_news_counts_until_its_tables_are_published() {
        let mut objects = Objects::new("n1", &Kept::default(), None);
        let namespace = || Event::Upsert {
            origin: "test".into(),
            object: Object::Namespace(Arc::new(Namespace {
                name: "shop".into(),
                labels: Labels::default(),
            })),
        };
        for (version, news) in [(1, 1), (2, 0)] {
            objects.enqueue(Batch::now(vec![namespace()]));
            objects.apply_for(Duration::from_secs(60));
            objects.change_times.set_published(version);
            let counted = objects.change_times.take_acknowledged(version, Instant::now()).count();
            assert_eq!(counted, news, "the same object a second time is no news");
        }
    }
}
