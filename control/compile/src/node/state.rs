//! The state of `node`: pods, attachments, addresses and nodes, and the tables that follow from them.

use std::borrow::Borrow;
use std::collections::BTreeSet;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use heddle_model::{Cluster, Delta, Labels, Node, NodeFacts, ObjectKey, Pod};
use heddle_tables::{AddressInfo, EndpointId, IdentityId, NodeId, Place, Prefix};
use heddle_wire::Ip;

use crate::config::NodeConfig;
use crate::node::addresses::{AddressBook, AddressClaims, ClaimingPod};
use crate::node::attachment::{AddressDifference, Attachment, AttachmentState, Attachments};
use crate::node::nodes::{Nodes, addresses, addresses_of_other, flannel_addresses, pod_ranges};
use crate::node::own_node::OwnNode;
use crate::node::paths::NextHops;
use crate::output::Output;
use crate::policy::group::GroupKey;
use crate::policy::ids::{GroupId, PodClassId};
use crate::policy::state::{GroupMove, PolicyState};
use crate::underlay::Underlay;

/// A pod of the cluster, found by the key inside it.
#[derive(Debug)]
struct KnownPod {
    pod: Arc<Pod>,
    class: PodClassId,
}

impl Borrow<ObjectKey> for KnownPod {
    fn borrow(&self) -> &ObjectKey {
        &self.pod.key
    }
}

impl Hash for KnownPod {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.pod.key.hash(state);
    }
}

impl PartialEq for KnownPod {
    fn eq(&self, other: &Self) -> bool {
        self.pod.key == other.pod.key
    }
}

impl Eq for KnownPod {}

/// The properties of an address's holder that policy and forwarding need.
struct Holder {
    pod_class: Option<PodClassId>,
    /// The labels that policies can select the node by.
    node: Option<Labels>,
    place: Place,
}

/// Pods, attachments, addresses and nodes.
#[derive(Debug)]
pub(crate) struct NodeState {
    pub(crate) attachments: Attachments,
    pods: foldhash::HashSet<KnownPod>,
    pub(super) addresses: AddressBook,
    pub(super) nodes: Nodes,
    pub(super) own: OwnNode,
    pub(super) underlay: Underlay,
    pub(super) next_hops: NextHops,
}

// Attachments.
impl NodeState {
    pub(crate) fn new(config: &NodeConfig) -> Self {
        Self {
            attachments: Attachments::default(),
            pods: foldhash::HashSet::default(),
            addresses: AddressBook::default(),
            nodes: Nodes::new(&config.node_ids),
            own: OwnNode::new(config),
            underlay: Underlay::default(),
            next_hops: NextHops::default(),
        }
    }

    /// Adds an attachment whose identifier is free.
    pub(crate) fn attach(&mut self, attachment: Attachment, policy: &mut PolicyState, output: &mut Output) {
        let id = attachment.id;
        for addr in &attachment.addresses {
            self.addresses
                .edit_claims(*addr, |claims| claims.set_attachment(Some(id)));
        }
        let known = attachment.pod.as_ref().and_then(|key| self.pods.get(key));
        let (pod, class) = known.map(|known| (Arc::clone(&known.pod), known.class)).unzip();
        let key = attachment.pod.clone();
        self.attachments.insert(AttachmentState {
            attachment,
            pod,
            pod_class: class.map(|class| policy.reuse_pod_class(class)),
            group: None,
        });
        if let Some(key) = &key {
            self.mark_pod(key);
        }
        output.generations.raise(id);
    }

    /// Removes an attachment, if there is one.
    pub(crate) fn detach(&mut self, id: EndpointId, policy: &mut PolicyState, output: &mut Output) {
        let Some(gone) = self.attachments.remove(id) else {
            return;
        };
        for addr in &gone.attachment.addresses {
            self.addresses.edit_claims(*addr, |claims| {
                if claims.attachment() == Some(id) {
                    claims.set_attachment(None);
                }
            });
        }
        if let Some(key) = &gone.attachment.pod {
            self.mark_pod(key);
        }
        if let Some(group) = gone.group {
            policy.release_group(group, &mut output.tables);
        }
        if let Some(class) = gone.pod_class {
            policy.release_pod_class(class);
        }
        output.tables.remove_endpoint(id);
        output.generations.raise(id);
    }

    /// Returns the local pods whose status contains other addresses than their attachments have, by name.
    pub(crate) fn address_differences(&self) -> Vec<AddressDifference> {
        let difference = |key: &ObjectKey| {
            let pod = &self.pods.get(key)?.pod;
            let status: BTreeSet<Ip> = pod.own_ips().iter().map(|ip| Ip::from(*ip)).collect();
            let attached: BTreeSet<Ip> = self.attachments.addresses_of(key).collect();
            // A status without addresses is not written yet.
            (!status.is_empty() && status != attached).then(|| AddressDifference {
                pod: key.clone(),
                attached,
                status,
            })
        };
        let mut all: Vec<_> = self.attachments.pods().filter_map(difference).collect();
        all.sort_by(|a, b| a.pod.cmp(&b.pod));
        all
    }
}

// Objects.
impl NodeState {
    /// Applies the change of a pod.
    pub(crate) fn apply_pod(&mut self, delta: &Delta<Pod>, policy: &mut PolicyState) {
        let key = &delta.key;
        for ip in delta.before.as_deref().into_iter().flat_map(Pod::own_ips) {
            self.addresses
                .edit_claims(Ip::from(*ip), |claims| claims.remove_pod(key));
        }
        let gone = match &delta.after {
            Some(pod) => {
                let class = policy.acquire_pod_class(pod);
                for ip in pod.own_ips() {
                    self.addresses
                        .edit_claims(Ip::from(*ip), |claims| claims.add_pod(pod, class));
                }
                for id in self.attachments.of_pod(key) {
                    if let Some(attached) = self.attachments.get_mut(id) {
                        attached.pod = Some(Arc::clone(pod));
                        let before = attached.pod_class.replace(policy.reuse_pod_class(class));
                        before.into_iter().for_each(|class| policy.release_pod_class(class));
                        self.attachments.mark(id);
                    }
                }
                let known = KnownPod {
                    pod: Arc::clone(pod),
                    class,
                };
                self.pods.replace(known)
            }
            None => self.pods.take(key),
        };
        if let Some(gone) = gone {
            policy.release_pod_class(gone.class);
        }
        self.mark_pod(key);
    }

    /// Marks the addresses of a pod, in its status and of its attachments: they may have another holder or class now.
    fn mark_pod(&mut self, key: &ObjectKey) {
        let known = self.pods.get(key).into_iter();
        let status = known.flat_map(|known| known.pod.own_ips().iter().map(|ip| Ip::from(*ip)));
        let addresses: Vec<Ip> = status.chain(self.attachments.addresses_of(key)).collect();
        for addr in addresses {
            self.addresses.mark(addr);
        }
    }

    /// Applies the change of a node. This node's own object comes by [`Self::set_own_node`].
    pub(crate) fn apply_node(
        &mut self,
        cluster: &Cluster,
        delta: &Delta<Node>,
        config: &NodeConfig,
        output: &mut Output,
    ) {
        if delta.key.name == config.name {
            return;
        }
        let name = Arc::clone(&delta.key.name);
        // Assign the identifier first: the places of ranges and addresses refer to it.
        if let Some(after) = &delta.after {
            self.nodes.insert(after);
        }
        let (before, after) = (delta.before.as_deref(), delta.after.as_deref());
        let own = |node| addresses_of_other(node, config);
        for addr in before.into_iter().flat_map(own) {
            self.addresses.edit_claims(addr, |claims| claims.remove_node(&name));
        }
        for addr in after.into_iter().flat_map(own) {
            self.addresses.edit_claims(addr, |claims| claims.add_node(&name));
        }
        self.replace_pod_ranges(&name, before, after, config, output);
        if after.is_none() {
            if let Some(id) = self.nodes.id(&name) {
                self.remove_remote_node(id, output);
            }
            self.nodes.remove(&name);
        }
        let both = before.into_iter().chain(after);
        let at: BTreeSet<Ip> = both
            .flat_map(|node| {
                let internal = node.internal_ips.iter().map(|ip| Ip::from(*ip));
                internal.chain(flannel_addresses(node, config))
            })
            .collect();
        self.write_remote_nodes_at(&at, config, output);
        self.write_remote_node(&name, config, output);
        if delta.is_added() || delta.is_removed() {
            // The place of its pods is known now, or unknown again.
            for pod in cluster.pods_on(&name) {
                for ip in pod.own_ips() {
                    self.addresses.mark(Ip::from(*ip));
                }
            }
        }
    }

    /// Sets this node's facts. Returns true if its zone or the addresses at which node ports are reached have changed: the
    /// frontends of all Services depend on them.
    pub(crate) fn set_own_node(&mut self, facts: &NodeFacts, config: &NodeConfig, output: &mut Output) -> bool {
        if self.own.facts == *facts {
            return false;
        }
        let before = std::mem::replace(&mut self.own.facts, facts.clone());
        let moved = before.internal_ips() != facts.internal_ips();
        let addresses_before = self.own.addresses.clone();
        self.replace_pod_ranges(
            &config.name,
            before.node.as_deref(),
            facts.node.as_deref(),
            config,
            output,
        );
        // Node selectors may match it by other labels.
        for addr in facts.node.iter().flat_map(|node| addresses(node)) {
            self.addresses.mark(addr);
        }
        self.write_own_node(config, output);
        if moved {
            self.write_all_remote_nodes(config, output);
        }
        let zone = |facts: &NodeFacts| facts.node.as_deref().and_then(Node::zone).map(str::to_owned);
        zone(&before) != zone(facts) || addresses_before != self.own.addresses
    }

    /// Updates the ranges of Services and writes the tables of this node.
    pub(crate) fn update_service_cidrs(&mut self, cluster: &Cluster, config: &NodeConfig, output: &mut Output) {
        self.own.update_service_cidrs(cluster, config);
        self.write_own_node(config, output);
    }

    /// Writes the tables of this node, and claims its addresses.
    pub(crate) fn write_own_node(&mut self, config: &NodeConfig, output: &mut Output) {
        self.own.write(&mut self.addresses, &self.underlay, config, output);
    }

    /// Returns the zone of this node.
    pub(crate) fn zone(&self) -> Option<&str> {
        self.own.facts.node.as_deref().and_then(Node::zone)
    }

    /// Returns the addresses of this node, the host port's included.
    pub(crate) const fn own_addresses(&self) -> &BTreeSet<Ip> {
        &self.own.addresses
    }

    /// Returns the identifiers that were assigned to nodes since the last call.
    pub(crate) fn take_assigned_ids(&mut self) -> Vec<(Arc<str>, NodeId)> {
        self.nodes.take_assigned()
    }
}

// Rebuild.
impl NodeState {
    /// Returns the endpoints that must move to another group.
    pub(crate) fn group_moves(&mut self, policy: &PolicyState) -> Vec<GroupMove> {
        let mut moves = Vec::new();
        for id in self.attachments.take_dirty() {
            let Some(attached) = self.attachments.get(id) else {
                continue;
            };
            let key = match (&attached.attachment.pod, &attached.pod) {
                (None, _) => GroupKey::default(),
                // Without the pod's object its policy is unknown: the endpoint is not ready.
                (Some(_), None) => continue,
                (Some(_), Some(pod)) => policy.group_key(pod),
            };
            let before = attached.group;
            let group = before.and_then(|group| policy.groups.get(group));
            if group.is_none_or(|group| group.key != key) {
                moves.push(GroupMove {
                    endpoint: id,
                    before,
                    key,
                });
            }
        }
        moves
    }

    /// Sets the groups of endpoints.
    pub(crate) fn set_groups(&mut self, moved: impl IntoIterator<Item = (EndpointId, GroupId)>) {
        for (id, group) in moved {
            if let Some(attached) = self.attachments.get_mut(id) {
                attached.group = Some(group);
            }
        }
    }

    /// Marks addresses that need another identity.
    pub(crate) fn mark_addresses(&mut self, addresses: impl IntoIterator<Item = Ip>) {
        for addr in addresses {
            self.addresses.mark(addr);
        }
    }

    /// Marks the addresses in a prefix.
    pub(crate) fn mark_range(&mut self, prefix: Prefix) {
        self.addresses.mark_range(prefix);
    }

    /// Marks the addresses of nodes.
    pub(crate) fn mark_nodes(&mut self) {
        self.addresses.mark_nodes();
    }

    /// Gives the marked addresses their identities and places. Returns the addresses.
    pub(crate) fn assign_identities(&mut self, policy: &mut PolicyState, output: &mut Output) -> BTreeSet<Ip> {
        let dirty = self.addresses.take_dirty();
        for addr in &dirty {
            self.assign_identity(*addr, policy, output);
        }
        dirty
    }

    fn assign_identity(&mut self, addr: Ip, policy: &mut PolicyState, output: &mut Output) {
        let Some(known) = self.addresses.get(addr) else {
            return;
        };
        let before = (known.identity, known.pod_class);
        let mut after: (Option<IdentityId>, Option<PodClassId>) = (None, None);
        if known.claims.is_empty() {
            self.addresses.remove(addr);
            output.tables.remove_address(addr);
        } else {
            match self.holder(addr, &known.claims, policy) {
                Some(Holder { pod_class, node, place }) => {
                    let identity = policy.acquire_identity(addr, pod_class, node);
                    output.tables.set_address(addr, AddressInfo { identity, place });
                    after = (Some(identity), pod_class);
                }
                None => output.tables.remove_address(addr),
            }
            if before != after {
                self.addresses.set_identity(addr, after.0, after.1);
            }
        }
        policy.replace_identity(addr, before, after.1);
    }

    /// Returns the holder of an address; `None` if no claim counts.
    fn holder(&self, addr: Ip, claims: &AddressClaims, policy: &PolicyState) -> Option<Holder> {
        if let Some(id) = claims.attachment() {
            let attached = self.attachments.get(id);
            let runs = attached
                .and_then(|a| a.pod.as_ref())
                .is_some_and(|pod| !pod.is_terminated());
            return Some(Holder {
                pod_class: attached.and_then(|a| a.pod_class).filter(|_| runs),
                node: None,
                place: Place::Local(id),
            });
        }
        if claims.is_host() {
            // Node selectors match the addresses in the node's status, not the host port's.
            let own = self.own.facts.node.as_ref();
            let own = own.filter(|node| node.has_address(addr.to_std()));
            return Some(Holder {
                pod_class: None,
                node: own.and_then(|node| policy.references.node_labels(&node.labels)),
                place: Place::Host,
            });
        }
        // The status of a pod with attachments does not count: the attachments' addresses do.
        let unattached = |claim: &&ClaimingPod| !self.attachments.has_pod(&claim.pod.key);
        let own = |claim: &ClaimingPod| claim.pod.node.as_deref() == Some(&*self.own.name);
        // A pod of this node has no address without an attachment, so a pod of another node comes before it.
        let first = |a: &&ClaimingPod, b: &&ClaimingPod| own(a).cmp(&own(b)).then_with(|| a.pod.cmp_as_holder(&b.pod));
        if let Some(claim) = claims.pods().filter(unattached).min_by(first) {
            let node = claim.pod.node.as_ref().and_then(|name| self.nodes.id(name));
            return Some(Holder {
                pod_class: Some(claim.class),
                node: None,
                place: node.map_or(Place::Unreachable, Place::Node),
            });
        }
        let identified = |name: &Arc<str>| Some((self.nodes.id(name)?, self.nodes.labels(name)));
        let (node, labels) = claims.nodes().iter().find_map(identified)?;
        Some(Holder {
            pod_class: None,
            node: policy.references.node_labels(labels),
            place: Place::RemoteHost(node),
        })
    }
}

// Tables.
impl NodeState {
    /// Removes the pod ranges that a node no longer has, and adds its new ones. The others stay as they are, so that connections
    /// with their addresses are not revalidated.
    fn replace_pod_ranges(
        &mut self,
        name: &Arc<str>,
        before: Option<&Node>,
        after: Option<&Node>,
        config: &NodeConfig,
        output: &mut Output,
    ) {
        let ranges = |node: Option<&Node>| node.into_iter().flat_map(pod_ranges).collect::<BTreeSet<_>>();
        let (before, after) = (ranges(before), ranges(after));
        for &range in before.difference(&after) {
            self.nodes.remove_range(range, name);
            self.write_pod_range(range, config, output);
        }
        for &range in after.difference(&before) {
            self.nodes.add_range(range, name);
            self.write_pod_range(range, config, output);
        }
    }

    /// Writes the place of a pod range: it applies to the addresses in the range that belong to no known pod.
    fn write_pod_range(&self, range: Prefix, config: &NodeConfig, output: &mut Output) {
        let place = |name: &Arc<str>| {
            if *name == config.name {
                // A local pod without an attachment cannot be reached.
                Some(Place::Unreachable)
            } else {
                self.nodes.id(name).map(Place::Node)
            }
        };
        let place = self.nodes.with_range(range).find_map(place);
        let before = output.tables.current().range(range);
        match place {
            Some(place) => output.tables.set_range(range, place),
            None => output.tables.remove_range(range),
        }
        if before != output.tables.current().range(range) {
            output.generations.raise_for_place(before.unwrap_or_default());
        }
    }
}
