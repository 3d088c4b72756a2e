//! This node: its object, its addresses and the ranges of Services.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use heddle_model::{Cluster, NodeFacts};
use heddle_tables::{EndpointId, HostPort, Masquerade, NodeTable, Prefix};
use heddle_wire::Ip;

use crate::config::NodeConfig;
use crate::node::addresses::AddressBook;
use crate::node::endpoints::write_node_endpoints;
use crate::node::nodes::{addresses, pod_ranges};
use crate::output::Output;
use crate::prefix::to_prefix;
use crate::underlay::Underlay;

/// The node on which the agent runs.
#[derive(Debug, Default)]
pub(crate) struct OwnNode {
    pub(crate) name: Arc<str>,
    /// Its object's last version, and the addresses that heddle keeps for itself.
    pub(crate) facts: NodeFacts,
    /// The Node object's addresses and the host port's, at which node ports are reached.
    pub(crate) addresses: BTreeSet<Ip>,
    /// All addresses that the node has: `addresses` and the ones that its interfaces have.
    claimed: BTreeSet<Ip>,
    /// The ranges of Services: the configured ones, else those in ServiceCIDR objects.
    service_cidrs: Vec<Prefix>,
}

impl OwnNode {
    pub(crate) fn new(config: &NodeConfig) -> Self {
        Self {
            name: Arc::clone(&config.name),
            service_cidrs: config.service_cidrs.clone(),
            ..Self::default()
        }
    }

    /// Updates the ranges of Services from the ServiceCIDR objects, unless the configuration has some.
    pub(crate) fn update_service_cidrs(&mut self, cluster: &Cluster, config: &NodeConfig) {
        self.service_cidrs = if config.service_cidrs.is_empty() {
            cluster
                .service_cidrs()
                .flat_map(|c| &c.cidrs)
                .filter_map(|net| to_prefix(*net))
                .collect()
        } else {
            config.service_cidrs.clone()
        };
    }

    /// Writes this node's own table, claims its addresses, and writes the endpoints of the host and the uplink.
    pub(crate) fn write(
        &mut self,
        book: &mut AddressBook,
        underlay: &Underlay,
        config: &NodeConfig,
        output: &mut Output,
    ) {
        let node = self.facts.node.as_deref();
        let reserved = |all: &[IpAddr]| -> Vec<Ip> { all.iter().map(|ip| Ip::from(*ip)).collect() };
        let host = HostPort {
            mac: config.host_mac,
            addresses: reserved(&self.facts.host_addresses).into_iter().take(4).collect(),
        };
        let mut listed: Vec<Ip> = node.into_iter().flat_map(addresses).collect();
        listed.extend(host.addresses.iter().copied());
        let pod_cidrs = node.into_iter().flat_map(pod_ranges).collect();
        let addresses = BTreeSet::from_iter(listed.iter().copied());
        let claimed: BTreeSet<Ip> = addresses.union(&config.local_addresses).copied().collect();
        for addr in self.claimed.difference(&claimed) {
            book.edit_claims(*addr, |claims| claims.set_host(false));
        }
        for addr in claimed.difference(&self.claimed) {
            book.edit_claims(*addr, |claims| claims.set_host(true));
        }
        if claimed != self.claimed {
            output.generations.raise(EndpointId::HOST);
        }
        output.tables.set_node(NodeTable {
            name: Arc::clone(&config.name),
            addresses: listed,
            pod_cidrs,
            service_cidrs: self.service_cidrs.clone(),
            unmasqueraded: config.unmasqueraded.clone(),
            host,
            masquerade: Masquerade {
                addresses: reserved(&self.facts.masquerade_addresses).into_iter().take(2).collect(),
                ports: config.masquerade_ports,
            },
            local_mtu: config.local_mtu,
            uplink_mtu: config.uplink.direct,
            uplink: underlay.uplink.clone(),
            tunnel: config.tunnel.network(),
            vtep: Some(config.vtep),
        });
        (self.addresses, self.claimed) = (addresses, claimed);
        write_node_endpoints(config, output);
    }
}
