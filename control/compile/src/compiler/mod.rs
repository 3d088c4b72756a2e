//! The compiler's interface. `apply` records changes, `rebuild` makes new tables from them.

mod apply;
mod rebuild;

use std::collections::BTreeSet;
use std::sync::Arc;

use heddle_ids::PortId;
use heddle_model::{Cluster, ObjectKey};
use heddle_tables::{EndpointId, FrontendKey, NodeId, Snapshot, WorkerId};
use heddle_wire::{Ip, MacAddr};

use crate::config::{NodeConfig, UplinkMtu};
use crate::node::attachment::{AddressDifference, Attachment};
use crate::node::state::NodeState;
use crate::output::Output;
use crate::policy::state::PolicyState;
use crate::service::frontends::NodeScope;
use crate::service::state::{RemovedBackend, ServiceState};
use crate::underlay::Underlay;

/// Makes the tables of one node.
///
/// Changes are recorded when they arrive and compiled by [`rebuild`](Self::rebuild), so a batch costs less than the
/// same changes with a rebuild after each.
#[derive(Debug)]
pub struct Compiler {
    config: NodeConfig,
    policy: PolicyState,
    services: ServiceState,
    node: NodeState,
    output: Output,
}

/// The result of a rebuild.
#[derive(Clone, Debug)]
pub struct BuildResult {
    /// The tables to publish.
    pub snapshot: Arc<Snapshot>,
    /// True if the tables differ from the tables of the previous rebuild. If not, there is nothing to publish.
    pub changed: bool,
    /// The number of pages that were copied for the tables.
    pub pages_copied: u64,
    /// The attachments whose policy is compiled in this snapshot.
    pub ready: Vec<EndpointId>,
    /// The endpoints whose generation was raised.
    pub raised: Vec<EndpointId>,
    /// The backends that frontends lost since the previous rebuild.
    pub removed_backends: Vec<RemovedBackend>,
    /// True if an address and port became a frontend since the previous rebuild. Connections that were opened to it
    /// before still go to another destination.
    pub new_frontends: bool,
    /// The identifiers that were assigned to nodes since the previous rebuild. The agent keeps them in its state
    /// directory.
    pub node_ids: Vec<(Arc<str>, NodeId)>,
}

impl Compiler {
    /// Makes a compiler for a node, without any object.
    #[must_use]
    pub fn new(config: NodeConfig) -> Self {
        let mut compiler = Self {
            policy: PolicyState::default(),
            services: ServiceState::default(),
            node: NodeState::new(&config),
            output: Output::new(),
            config,
        };
        compiler.node.write_own_node(&compiler.config, &mut compiler.output);
        compiler.node.write_next_hops(&compiler.config, &mut compiler.output);
        compiler
    }

    /// Adds an attachment, or replaces the one that has the same identifier. The new one continues the generation of
    /// the replaced one.
    pub fn attach(&mut self, attachment: Attachment) {
        self.detach(attachment.id);
        self.services.attach(&attachment, &mut self.output.tables);
        self.node.attach(attachment, &mut self.policy, &mut self.output);
    }

    /// Removes an attachment.
    pub fn detach(&mut self, id: EndpointId) {
        self.services.detach(id, &mut self.output.tables);
        self.node.detach(id, &mut self.policy, &mut self.output);
    }

    /// Sets the port and the worker of an attachment. Live flows stay: they name the endpoint, not the port.
    pub fn set_attachment_port(&mut self, id: EndpointId, port: PortId, worker: WorkerId) {
        if let Some(attached) = self.node.attachments.get_mut(id) {
            attached.attachment.port = port;
            attached.attachment.worker = worker;
            self.node.attachments.mark(id);
        }
    }

    /// Sets the MAC address of the host port.
    pub fn set_host_mac(&mut self, mac: MacAddr) {
        if self.config.host_mac != mac {
            self.config.host_mac = mac;
            self.node.write_own_node(&self.config, &mut self.output);
            self.node.write_all_remote_nodes(&self.config, &mut self.output);
            self.node.write_next_hops(&self.config, &mut self.output);
        }
    }

    /// Sets the addresses that the node's interfaces have. Returns true if they changed.
    pub fn set_local_addresses(&mut self, addresses: BTreeSet<Ip>) -> bool {
        if self.config.local_addresses == addresses {
            return false;
        }
        self.config.local_addresses = addresses;
        self.node.write_own_node(&self.config, &mut self.output);
        true
    }

    /// Sets the MTU of the uplink. Returns true if it changed. Live connections that leave by the uplink are then
    /// revalidated, because their segment size was clamped to the earlier MTU.
    pub fn set_uplink_mtu(&mut self, uplink: UplinkMtu) -> bool {
        if self.config.uplink == uplink {
            return false;
        }
        self.config.uplink = uplink;
        self.output.generations.raise(EndpointId::HOST);
        self.output.generations.raise(EndpointId::UPLINK);
        self.node.write_own_node(&self.config, &mut self.output);
        self.node.write_all_remote_nodes(&self.config, &mut self.output);
        true
    }

    /// Sets the network between the nodes.
    pub fn set_underlay(&mut self, underlay: Underlay) {
        self.node.set_underlay(underlay, &self.config, &mut self.output);
    }

    /// Sets the aliases of frontends; `None` removes an alias. An alias is another address and port that is treated as
    /// the frontend itself. The Services of these frontends are compiled again, each once.
    pub fn set_aliases(
        &mut self,
        cluster: &Cluster,
        aliases: impl IntoIterator<Item = (FrontendKey, Option<FrontendKey>)>,
    ) {
        let mut affected: BTreeSet<ObjectKey> = BTreeSet::new();
        for (frontend, alias) in aliases {
            if self.services.set_alias(frontend, alias, &mut self.output.tables) {
                let services = cluster.services_at(frontend.ip.to_std());
                affected.extend(services.map(|service| service.key.clone()));
            }
        }
        self.compile_services(cluster, &affected);
    }

    fn compile_services(&mut self, cluster: &Cluster, keys: &BTreeSet<ObjectKey>) {
        let scope = NodeScope {
            name: &self.config.name,
            zone: self.node.zone(),
            addresses: self.node.own_addresses(),
            external_ips: self.config.external_ips,
            external_forwarding: self.config.external_forwarding,
        };
        for key in keys {
            self.services.compile(cluster, key, &scope, &mut self.output.tables);
        }
    }

    /// Returns the tables as the last rebuild made them.
    #[must_use]
    pub const fn snapshot(&self) -> &Arc<Snapshot> {
        &self.output.last
    }

    /// Returns the attachments, by identifier.
    pub fn attachments(&self) -> impl Iterator<Item = &Attachment> {
        self.node.attachments.iter().map(|(_, attached)| &attached.attachment)
    }

    /// Returns the local pods whose status contains other addresses than their attachments have.
    #[must_use]
    pub fn address_differences(&self) -> Vec<AddressDifference> {
        self.node.address_differences()
    }

    /// Returns the number of identities, for status.
    #[must_use]
    pub fn identity_count(&self) -> usize {
        self.policy.identity_count()
    }

    /// Returns the number of different policies that endpoints have, for status.
    #[must_use]
    pub fn policy_count(&self) -> usize {
        self.policy.groups.len()
    }

    /// Returns true if no policy is active.
    #[cfg(test)]
    pub(crate) fn is_policy_idle(&self) -> bool {
        self.policy.is_idle()
    }
}
