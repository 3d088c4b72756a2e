//! Compiles the tables of a node from the cluster's objects alone, without an agent.
//!
//! Like an agent, [`NodeTables`] hands the [`Compiler`] the objects and the [`NodeFacts`]. Where an agent attaches the pods that
//! the CNI plugin has set up, it attaches each pod with the addresses in its status, and where an agent follows the kernel's
//! routes, it takes every other node for a neighbor of the uplink.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use heddle_ids::PortId;
use heddle_model::{Changes, Cluster, NodeFacts, ObjectKey, Pod};
use heddle_tables::{EndpointId, Snapshot, Uplink, UplinkPort, WorkerId};
use heddle_wire::{Ip, MacAddr, Proto};

use crate::compiler::Compiler;
use crate::config::NodeConfig;
use crate::node::attachment::Attachment;
use crate::node::pod_host_port::PodHostPort;
use crate::underlay::{Underlay, UnderlayRoute};

/// The properties of a node's interfaces, which manifests do not contain.
#[derive(Clone, Debug, Default)]
pub struct Interfaces {
    /// The MAC addresses of pods. Other pods get one that is derived from their addresses.
    pub macs: BTreeMap<ObjectKey, MacAddr>,
    /// The MAC address of the host port, if it is known.
    pub host: Option<MacAddr>,
    /// The MAC address of the uplink. Unless it is known, it is derived from the node's InternalIP.
    pub uplink: Option<MacAddr>,
    /// The MAC addresses of neighbors of the uplink. Other nodes are neighbors too, and get one that is derived from their
    /// InternalIP.
    pub neighbors: BTreeMap<IpAddr, MacAddr>,
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
    facts: NodeFacts,
    snapshot: Arc<Snapshot>,
}

impl NodeTables {
    /// Compiles the tables of a node for a cluster.
    #[must_use]
    pub fn new(cluster: &Cluster, mut config: NodeConfig, interfaces: Interfaces) -> Self {
        config.host_mac = interfaces.host.unwrap_or(UNKNOWN_MAC);
        let mut tables = Self {
            node: Arc::clone(&config.name),
            interfaces,
            attached: BTreeMap::new(),
            pod_mtu: config.local_mtu,
            facts: NodeFacts::default(),
            compiler: Compiler::new(config),
            snapshot: Arc::default(),
        };
        tables.update_facts(cluster);
        let underlay = tables.underlay(cluster);
        tables.compiler.set_underlay(underlay);
        tables.compiler.apply_all(cluster, &tables.facts);
        tables.rebuild(cluster);
        tables
    }

    /// Applies changes. `cluster` is the state after them.
    pub fn apply(&mut self, cluster: &Cluster, changes: &Changes) {
        self.update_facts(cluster);
        let underlay = self.underlay(cluster);
        self.compiler.set_underlay(underlay);
        self.compiler.apply_changes(cluster, changes, &self.facts);
        self.rebuild(cluster);
    }

    fn rebuild(&mut self, cluster: &Cluster) {
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

    /// Updates the node's facts. As with an agent, a deleted Node object leaves them as they are.
    ///
    /// A pod of the manifests may have a reserved address, and the node may have no pod ranges. Then the node's own address is
    /// masqueraded to, so that a verdict can still be computed.
    fn update_facts(&mut self, cluster: &Cluster) {
        let Some(node) = cluster.node(&self.node) else { return };
        let pods = cluster
            .pods_on(&self.node)
            .flat_map(|pod| pod.own_ips().iter().copied());
        let mut facts = NodeFacts::new(Some(Arc::clone(node)), pods);
        let masquerade = &mut facts.masquerade_addresses;
        masquerade.extend(&node.internal_ips);
        masquerade.sort_by_key(IpAddr::is_ipv6);
        masquerade.dedup_by_key(|ip| ip.is_ipv6());
        self.facts = facts;
    }

    /// Returns the network between the nodes: every node is a neighbor of the uplink.
    ///
    /// Agents write to the Node objects of an API server that they run heddle. If none of the objects says so, they are manifests
    /// that no agent has seen, and every node is taken to run heddle.
    fn underlay(&self, cluster: &Cluster) -> Underlay {
        let others = || cluster.nodes().filter(|node| node.name != self.node);
        let addresses = others().flat_map(|node| &node.internal_ips);
        let neighbor = |ip: &IpAddr| match self.interfaces.neighbors.get(ip) {
            Some(mac) => *mac,
            None => derived_mac(&[*ip]),
        };
        Underlay {
            uplink: Uplink {
                mac: self
                    .interfaces
                    .uplink
                    .unwrap_or_else(|| derived_mac(self.facts.internal_ips())),
                ports: vec![UplinkPort {
                    port: PortId(EndpointId::UPLINK.0),
                    worker: WorkerId(0),
                }],
            },
            routes: addresses
                .map(|ip| {
                    let route = UnderlayRoute {
                        neighbor: Some(neighbor(ip)),
                        on_link: true,
                        mtu: None,
                    };
                    (*ip, route)
                })
                .collect(),
            neighbors: self.interfaces.neighbors.clone(),
            every_node_runs_heddle: cluster.nodes().all(|node| node.vtep.is_none()),
        }
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
                host_ports: cluster.pod(key).map(|pod| host_ports(pod)).unwrap_or_default(),
            });
            self.attached.insert(key.clone(), (id, ips.to_vec()));
        }
    }
}

/// Returns the host ports of a pod, as the CNI plugin gets them from the container runtime.
fn host_ports(pod: &Pod) -> Box<[PodHostPort]> {
    let mapped = pod.ports.iter().filter_map(|port| Some((port, port.host?)));
    let all = mapped.flat_map(|(port, host)| {
        let proto = Proto(port.protocol.number());
        PodHostPort::of(host.ip, proto, host.number.get(), port.number.get())
    });
    all.collect()
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
