//! The compiler's state and its interface.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use heddle_ids::PortId;
use heddle_model::{Labels, Node, ObjectKey, Pod};
use heddle_tables::{
    Backend, EndpointId, FrontendKey, HostPort, Masquerade, NodeId, Prefix, Snapshot, SnapshotBuilder, WorkerId,
};
use heddle_wire::Ip;

use crate::config::{NodeConfig, UplinkMtu};
use crate::generations::{Generations, Moves};
use crate::node::addresses::AddressBook;
use crate::node::attachment::{AddressDifference, Attached, Attachment};
use crate::node::nodes::Nodes;
use crate::policy::cidrs::Cidrs;
use crate::policy::groups::Groups;
use crate::policy::identities::Identities;
use crate::policy::pod_classes::{Divided, KindId, Kinds};
use crate::policy::policies::Policies;
use crate::policy::references::Relevance;
use crate::policy::rule_ids::Rules;
use crate::policy::selectors::Selectors;
use crate::service::frontends::Services;

/// Makes the tables of one node.
///
/// Changes are noted as they come and worked off by [`rebuild`](Self::rebuild), so many at once cost less than one by one.
#[derive(Debug)]
pub struct Compiler {
    pub(crate) config: NodeConfig,
    pub(crate) tables: SnapshotBuilder,
    /// The tables as they were last built: what live flows were judged by.
    pub(crate) last: Arc<Snapshot>,
    pub(crate) build_number: u64,

    pub(crate) pods: foldhash::HashMap<ObjectKey, KnownPod>,
    pub(crate) namespaces: foldhash::HashMap<Arc<str>, Labels>,
    pub(crate) policies: Policies,
    pub(crate) attached: BTreeMap<EndpointId, Attached>,
    pub(crate) attachments_of: HashMap<ObjectKey, BTreeSet<EndpointId>>,

    pub(crate) addresses: AddressBook,
    pub(crate) relevance: Relevance,
    pub(crate) cidrs: Cidrs,
    pub(crate) identities: Identities,
    pub(crate) kinds: Kinds,
    pub(crate) selectors: Selectors,
    pub(crate) rules: Rules,
    pub(crate) groups: Groups,
    pub(crate) generations: Generations,
    pub(crate) moves: Moves,

    pub(crate) nodes: Nodes,
    pub(crate) own_node: Option<Arc<Node>>,
    pub(crate) own_addresses: BTreeSet<Ip>,
    pub(crate) service_cidrs: Vec<Prefix>,

    pub(crate) services: Services,
    pub(crate) frontend_owner: BTreeMap<FrontendKey, ObjectKey>,
    pub(crate) aliases: BTreeMap<FrontendKey, FrontendKey>,
    pub(crate) removed_backends: Vec<RemovedBackend>,
    /// An address and port became a Service's.
    pub(crate) new_frontends: bool,

    /// What selectors that went did to parts.
    pub(crate) divided: Divided,
    /// Endpoints whose policies must be looked up anew.
    pub(crate) dirty_endpoints: BTreeSet<EndpointId>,
    /// Namespaces whose labels changed.
    pub(crate) dirty_namespaces: BTreeSet<Arc<str>>,
}

/// A pod of the cluster.
#[derive(Debug)]
pub(crate) struct KnownPod {
    pub(crate) pod: Arc<Pod>,
    pub(crate) kind: KindId,
}

/// A backend that a frontend does not have any more: the flow table's sweep looks for its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RemovedBackend {
    /// The frontend, which may be gone itself.
    pub frontend: FrontendKey,
    /// The backend.
    pub backend: Backend,
}

/// What a build made.
#[derive(Clone, Debug)]
pub struct BuildResult {
    /// The tables, to be published.
    pub snapshot: Arc<Snapshot>,
    /// Whether they differ from those of the build before. If not, there is nothing to publish.
    pub changed: bool,
    /// Pages that were copied for it.
    pub pages_copied: u64,
    /// The attachments whose policy is compiled in this snapshot.
    pub ready: Vec<EndpointId>,
    /// The endpoints whose generation was raised.
    pub raised: Vec<EndpointId>,
    /// Backends that frontends lost since the build before.
    pub removed_backends: Vec<RemovedBackend>,
    /// Whether an address and port became a Service's since the build before: connections to it from before go elsewhere.
    pub new_frontends: bool,
    /// Numbers that were given to nodes since the build before, to be kept in the state directory.
    pub node_ids: Vec<(Arc<str>, NodeId)>,
}

impl Compiler {
    /// A compiler for a node of which nothing but its configuration is known.
    #[must_use]
    pub fn new(config: NodeConfig) -> Self {
        let mut compiler = Self {
            nodes: Nodes::new(&config.node_ids),
            service_cidrs: config.service_cidrs.clone(),
            config,
            tables: SnapshotBuilder::new(),
            last: Arc::default(),
            build_number: 1,
            pods: foldhash::HashMap::default(),
            namespaces: foldhash::HashMap::default(),
            policies: Policies::default(),
            attached: BTreeMap::new(),
            attachments_of: HashMap::new(),
            addresses: AddressBook::default(),
            relevance: Relevance::default(),
            cidrs: Cidrs::default(),
            identities: Identities::default(),
            kinds: Kinds::default(),
            selectors: Selectors::default(),
            rules: Rules::default(),
            groups: Groups::default(),
            generations: Generations::default(),
            moves: Moves::default(),
            own_node: None,
            own_addresses: BTreeSet::new(),
            services: Services::new(),
            frontend_owner: BTreeMap::new(),
            aliases: BTreeMap::new(),
            removed_backends: Vec::new(),
            new_frontends: false,
            divided: Divided::default(),
            dirty_endpoints: BTreeSet::new(),
            dirty_namespaces: BTreeSet::new(),
        };
        compiler.settle_host();
        compiler
    }

    /// Adds an attachment, or replaces the one of its number, whose generation then goes on.
    pub fn attach(&mut self, attachment: Attachment) {
        self.detach(attachment.id);
        let id = attachment.id;
        for addr in &attachment.addresses {
            self.addresses.claim(*addr, |claims| claims.attachment = Some(id));
        }
        let known = attachment.pod.as_ref().and_then(|key| self.pods.get(key));
        let (pod, kind) = known.map(|known| (Arc::clone(&known.pod), known.kind)).unzip();
        let kind = kind.map(|kind| self.kinds.reuse(kind));
        if let Some(key) = &attachment.pod {
            self.attachments_of.entry(key.clone()).or_default().insert(id);
            self.touch_pod(&key.clone());
        }
        self.attached.insert(
            id,
            Attached {
                attachment,
                pod,
                kind,
                group: None,
            },
        );
        self.dirty_endpoints.insert(id);
        self.generations.raise(id);
    }

    /// Takes an attachment away.
    pub fn detach(&mut self, id: EndpointId) {
        let Some(gone) = self.attached.remove(&id) else { return };
        for addr in &gone.attachment.addresses {
            self.addresses.claim(*addr, |claims| {
                if claims.attachment == Some(id) {
                    claims.attachment = None;
                }
            });
        }
        if let Some(key) = &gone.attachment.pod {
            if let Some(set) = self.attachments_of.get_mut(key) {
                set.remove(&id);
                if set.is_empty() {
                    self.attachments_of.remove(key);
                }
            }
            self.touch_pod(key);
        }
        if let Some(group) = gone.group {
            self.release_group(group);
        }
        if let Some(kind) = gone.kind {
            self.kinds.release(kind);
        }
        self.tables.remove_endpoint(id);
        self.generations.raise(id);
    }

    /// Says which port and worker an attachment has now. Live flows stay: they name the endpoint, not the port.
    pub fn set_attachment_port(&mut self, id: EndpointId, port: PortId, worker: WorkerId) {
        if let Some(attached) = self.attached.get_mut(&id) {
            attached.attachment.port = port;
            attached.attachment.worker = worker;
            self.dirty_endpoints.insert(id);
        }
    }

    /// Says what `heddle0` has now.
    pub fn set_host_port(&mut self, host: HostPort) {
        self.config.host = host;
        self.settle_host();
    }

    /// Says what fits the way out of the node now; whether that is news. Live connections that take that way are judged
    /// again, and clamped anew.
    pub fn set_uplink_mtu(&mut self, uplink: UplinkMtu) -> bool {
        if self.config.uplink == uplink {
            return false;
        }
        self.config.uplink = uplink;
        self.generations.raise(EndpointId::HOST);
        self.settle_host();
        true
    }

    /// Says to what heddle masquerades now.
    pub fn set_masquerade(&mut self, masquerade: Masquerade) {
        self.config.masquerade = masquerade;
        self.settle_host();
    }

    /// The attachments, by number.
    pub fn attachments(&self) -> impl Iterator<Item = &Attachment> {
        self.attached.values().map(|a| &a.attachment)
    }

    /// The local pods whose status names other addresses than their attachments have.
    #[must_use]
    pub fn address_differences(&self) -> Vec<AddressDifference> {
        let difference = |(key, numbers): (&ObjectKey, &BTreeSet<EndpointId>)| {
            let pod = &self.pods.get(key)?.pod;
            let status: BTreeSet<Ip> = pod.own_ips().iter().map(|ip| Ip::from(*ip)).collect();
            let attachments = numbers.iter().filter_map(|id| self.attached.get(id));
            let attached: BTreeSet<Ip> = attachments
                .flat_map(|a| a.attachment.addresses.iter().copied())
                .collect();
            // A status that is not written yet says nothing.
            (!status.is_empty() && status != attached).then(|| AddressDifference {
                pod: key.clone(),
                attached,
                status,
            })
        };
        let mut all: Vec<_> = self.attachments_of.iter().filter_map(difference).collect();
        all.sort_by(|a, b| a.pod.cmp(&b.pod));
        all
    }

    /// How many identities addresses have: for status.
    #[must_use]
    pub fn identity_count(&self) -> usize {
        self.identities.len()
    }

    /// How many different policies endpoints have: for status.
    #[must_use]
    pub fn policy_count(&self) -> usize {
        self.groups.len()
    }

    /// The addresses that a pod's status names may have another holder or class now.
    pub(crate) fn touch_pod(&mut self, key: &ObjectKey) {
        let status = self
            .pods
            .get(key)
            .into_iter()
            .flat_map(|known| known.pod.own_ips().iter().map(|ip| Ip::from(*ip)));
        let attachments = self
            .attachments_of
            .get(key)
            .into_iter()
            .flatten()
            .filter_map(|id| self.attached.get(id));
        let attached = attachments.flat_map(|a| a.attachment.addresses.iter().copied());
        for addr in status.chain(attached).collect::<Vec<_>>() {
            self.addresses.touch(addr);
        }
    }
}
