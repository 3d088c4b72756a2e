//! Compiles the tables of a node from the cluster's objects alone, without an agent: [`NodeTables`] attaches each pod
//! with the addresses in its status. [`ReservedAddresses`] is shared with the agent.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use arrayvec::ArrayVec;
use heddle_ids::PortId;
use heddle_model::{Changes, Cluster, Node, ObjectKey, pod_range};
use heddle_tables::{EndpointId, HostPort, Masquerade, Snapshot, WorkerId};
use heddle_wire::{Ip, MacAddr};
use ipnet::IpNet;

use crate::compiler::Compiler;
use crate::config::NodeConfig;
use crate::node::attachment::Attachment;

/// The addresses that heddle takes for itself from the pod ranges of a node.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ReservedAddresses {
    /// The addresses of the host port.
    pub host: ArrayVec<Ip, 4>,
    /// The addresses that host traffic to Services is masqueraded to, IPv4 first.
    pub masquerade: ArrayVec<Ip, 2>,
}

impl ReservedAddresses {
    /// Returns the addresses of a node with these pod ranges.
    #[must_use]
    pub fn of(ranges: &[IpNet]) -> Self {
        let host = ranges.iter().filter_map(|&range| pod_range::host_address(range));
        let masquerade = ranges.iter().filter_map(|&range| pod_range::masquerade_address(range));
        Self::new(host, masquerade.collect())
    }

    /// Returns the addresses of a node without an agent. A pod of the manifests may have a reserved address, and the
    /// node may have no pod ranges. Then the node's own address is used, so that a verdict can still be computed.
    fn assumed(cluster: &Cluster, node: &Node) -> Self {
        let free = |ip: &IpAddr| cluster.pod_at(*ip).is_none();
        let ranges = || node.pod_cidrs.iter().copied();
        let host = ranges().filter_map(pod_range::host_address).filter(free);
        let masquerade = ranges().filter_map(pod_range::masquerade_address).filter(free);
        let mut masquerade: Vec<IpAddr> = masquerade.chain(node.internal_ips.iter().copied()).collect();
        masquerade.sort_by_key(IpAddr::is_ipv6);
        masquerade.dedup_by_key(|ip| ip.is_ipv6());
        Self::new(host, masquerade)
    }

    fn new(host: impl Iterator<Item = IpAddr>, mut masquerade: Vec<IpAddr>) -> Self {
        masquerade.sort_by_key(IpAddr::is_ipv6);
        Self {
            host: host.take(4).map(Ip::from).collect(),
            masquerade: masquerade.into_iter().take(2).map(Ip::from).collect(),
        }
    }
}

/// The properties of a node's interfaces, which manifests do not contain.
#[derive(Clone, Debug, Default)]
pub struct Interfaces {
    /// The MAC addresses of pods. Other pods get one that is derived from their addresses.
    pub macs: BTreeMap<ObjectKey, MacAddr>,
    /// The MAC address of the host port, if it is known.
    pub host: Option<MacAddr>,
}

/// The tables of a node without an agent, kept up to date as objects change.
///
/// Each pod of the node that has its own addresses is attached with the addresses in its status. Everything else is
/// compiled as the node's agent compiles it.
#[derive(Debug)]
pub struct NodeTables {
    node: Arc<str>,
    interfaces: Interfaces,
    compiler: Compiler,
    attached: BTreeMap<ObjectKey, (EndpointId, Vec<IpAddr>)>,
    pod_mtu: u16,
    masquerade_ports: (u16, u16),
    snapshot: Arc<Snapshot>,
}

impl NodeTables {
    /// Compiles the tables of a node for a cluster. The host port and the addresses that heddle masquerades to follow
    /// from the cluster, not from `config`.
    #[must_use]
    pub fn new(cluster: &Cluster, config: NodeConfig, interfaces: Interfaces) -> Self {
        let mut tables = Self {
            node: Arc::clone(&config.name),
            interfaces,
            attached: BTreeMap::new(),
            pod_mtu: config.local_mtu,
            masquerade_ports: config.masquerade.ports,
            compiler: Compiler::new(config),
            snapshot: Arc::default(),
        };
        tables.apply(cluster, &cluster.to_changes());
        tables
    }

    /// Applies changes. `cluster` is the state after them.
    pub fn apply(&mut self, cluster: &Cluster, changes: &Changes) {
        self.compiler.apply_changes(cluster, changes);
        self.set_host(cluster);
        self.attach_pods(cluster);
        self.snapshot = self.compiler.rebuild().snapshot;
    }

    /// Returns the tables.
    #[must_use]
    pub const fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// Returns the attached pods with their endpoints.
    pub fn attached(&self) -> impl Iterator<Item = (&ObjectKey, EndpointId)> {
        self.attached.iter().map(|(key, (id, _))| (key, *id))
    }

    fn set_host(&mut self, cluster: &Cluster) {
        let Some(node) = cluster.node(&self.node) else { return };
        let reserved = ReservedAddresses::assumed(cluster, node);
        self.compiler.set_host_port(HostPort {
            mac: self.interfaces.host.unwrap_or(UNKNOWN_MAC),
            addresses: reserved.host,
        });
        self.compiler.set_masquerade(Masquerade {
            addresses: reserved.masquerade,
            ports: self.masquerade_ports,
        });
    }

    /// Detaches pods that are gone or have other addresses, and attaches the new ones.
    fn attach_pods(&mut self, cluster: &Cluster) {
        let wanted: BTreeMap<&ObjectKey, &[IpAddr]> = cluster
            .pods_on(&self.node)
            .map(|pod| (&pod.key, pod.own_ips()))
            .filter(|(_, ips)| !ips.is_empty())
            .collect();
        let compiler = &mut self.compiler;
        self.attached.retain(|key, (id, ips)| {
            let stays = wanted.get(key).is_some_and(|now| *now == ips.as_slice());
            if !stays {
                compiler.detach(*id);
            }
            stays
        });
        let taken: BTreeSet<EndpointId> = self.attached.values().map(|(id, _)| *id).collect();
        let mut free = (EndpointId::FIRST_POD.0..=u16::MAX)
            .map(EndpointId)
            .filter(|id| !taken.contains(id));
        for (key, ips) in wanted {
            if self.attached.contains_key(key) {
                continue;
            }
            let Some(id) = free.next() else { return };
            let mac = self.interfaces.macs.get(key).copied();
            compiler.attach(Attachment {
                id,
                pod: Some(key.clone()),
                addresses: ips.iter().take(4).map(|ip| Ip::from(*ip)).collect(),
                mac: mac.unwrap_or_else(|| derived_mac(ips)),
                port: PortId(id.0),
                worker: WorkerId(0),
                mtu: if self.pod_mtu == 0 { ANY_MTU } else { self.pod_mtu },
            });
            self.attached.insert(key.clone(), (id, ips.to_vec()));
        }
    }
}

/// The MAC address of the host port, if it is unknown.
const UNKNOWN_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 0]);

/// The MTU of a pod's interface, if it is unknown: large enough that no verdict depends on a packet's size.
const ANY_MTU: u16 = u16::MAX;

/// Returns a locally administered MAC address that ends in the last octets of the pod's first address.
fn derived_mac(ips: &[IpAddr]) -> MacAddr {
    match ips.first() {
        Some(IpAddr::V4(ip)) => {
            let [a, b, c, d] = ip.octets();
            MacAddr([2, 0, a, b, c, d])
        }
        Some(IpAddr::V6(ip)) => {
            let [.., a, b, c, d] = ip.octets();
            MacAddr([2, 6, a, b, c, d])
        }
        None => UNKNOWN_MAC,
    }
}
