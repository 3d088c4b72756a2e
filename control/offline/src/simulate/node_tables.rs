//! One node's compiled tables, kept up to date as objects change: what its agent would have published.
//!
//! Each pod of the node with addresses of its own is taken as attached, with the addresses that its status names.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use heddle_compile::{Attachment, Compiler, NodeConfig, UplinkMtu};
use heddle_model::{Change, Changes, Cluster, Delta, ObjectKey, pod_range};
use heddle_port::PortId;
use heddle_tables::{EndpointId, HostPort, Masquerade, Prefix, Snapshot, WorkerId};
use heddle_wire::{Ip, MacAddr};
use ipnet::IpNet;

use heddle_config::Config;

use super::cluster_tables::Rules;

/// What manifests do not say of a node's interfaces.
#[derive(Clone, Debug, Default)]
pub struct Interfaces {
    /// MAC addresses of pods; those of others are made from their addresses.
    pub macs: BTreeMap<ObjectKey, MacAddr>,
    /// The MAC address of the host port, if it is known.
    pub host: Option<MacAddr>,
    /// What pods' interfaces take; 0: anything, where sizes decide nothing.
    pub mtu: u16,
    /// The same of the uplink.
    pub uplink: UplinkMtu,
}

/// The tables of one node.
#[derive(Debug)]
pub struct NodeTables {
    node: Arc<str>,
    interfaces: Interfaces,
    compiler: Compiler,
    attached: BTreeMap<ObjectKey, (EndpointId, Vec<IpAddr>)>,
    snapshot: Arc<Snapshot>,
}

impl NodeTables {
    /// The tables of a node for a cluster as it is now, by the rules of its agent's configuration.
    #[must_use]
    pub fn new(cluster: &Cluster, node: &str, rules: &Rules) -> Self {
        Self::with(cluster, node, rules, Interfaces::default())
    }

    /// The same, with interfaces of which more is known.
    #[must_use]
    pub fn with(cluster: &Cluster, node: &str, rules: &Rules, interfaces: Interfaces) -> Self {
        let config = NodeConfig {
            local_mtu: interfaces.mtu,
            uplink: interfaces.uplink,
            external_ips: rules.external_ips,
            service_cidrs: rules.service_cidrs.iter().copied().map(prefix).collect(),
            ..NodeConfig::named(node)
        };
        let mut node_tables = Self {
            node: node.into(),
            interfaces,
            compiler: Compiler::new(config),
            attached: BTreeMap::new(),
            snapshot: Arc::default(),
        };
        node_tables.follow(cluster, &everything(cluster));
        node_tables
    }

    /// Takes in what changed; `cluster` is the state afterwards.
    pub fn follow(&mut self, cluster: &Cluster, changes: &Changes) {
        self.compiler.apply_changes(cluster, changes);
        self.configure(cluster);
        self.attach(cluster);
        self.snapshot = self.compiler.rebuild().snapshot;
    }

    /// The tables.
    #[must_use]
    pub const fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// The pods taken as attached, with their numbers.
    pub fn attached(&self) -> impl Iterator<Item = (&ObjectKey, EndpointId)> {
        self.attached.iter().map(|(key, (no, _))| (key, *no))
    }

    /// The host port and the masquerade addresses, as the agent takes them from the node's pod ranges. Pods of manifests
    /// may have those addresses already, and nodes may have no ranges: then the node's own address does, so that it can
    /// be asked at all.
    fn configure(&mut self, cluster: &Cluster) {
        let Some(node) = cluster.node(&self.node) else { return };
        let of = |choose: fn(ipnet::IpNet) -> Option<IpAddr>| -> Vec<IpAddr> {
            let chosen = node.pod_cidrs.iter().filter_map(|&range| choose(range));
            chosen.filter(|ip| cluster.pod_at(*ip).is_none()).collect()
        };
        let mut masquerade = of(pod_range::masquerade_address);
        masquerade.extend(&node.internal_ips);
        masquerade.sort_by_key(IpAddr::is_ipv6);
        masquerade.dedup_by_key(|ip| ip.is_ipv6());
        self.compiler.set_host_port(HostPort {
            mac: self.interfaces.host.unwrap_or(HOST_MAC),
            addresses: of(pod_range::host_address).into_iter().take(4).map(Ip::from).collect(),
        });
        let ports = Config::default().reserved_ports;
        self.compiler.set_masquerade(Masquerade {
            addresses: masquerade.into_iter().take(2).map(Ip::from).collect(),
            ports: (ports.first, ports.last),
        });
    }

    fn attach(&mut self, cluster: &Cluster) {
        let wanted: BTreeMap<&ObjectKey, &[IpAddr]> = cluster
            .pods_on(&self.node)
            .map(|pod| (&pod.key, pod.own_ips()))
            .filter(|(_, ips)| !ips.is_empty())
            .collect();
        let (compiler, interfaces) = (&mut self.compiler, &self.interfaces);
        self.attached.retain(|key, (no, ips)| {
            let stays = wanted.get(key).is_some_and(|now| *now == ips.as_slice());
            if !stays {
                compiler.detach(*no);
            }
            stays
        });
        let taken: BTreeSet<EndpointId> = self.attached.values().map(|(no, _)| *no).collect();
        let mut free = (EndpointId::FIRST_POD.0..=u16::MAX)
            .map(EndpointId)
            .filter(|no| !taken.contains(no));
        for (key, ips) in wanted {
            if self.attached.contains_key(key) {
                continue;
            }
            let Some(no) = free.next() else { return };
            compiler.attach(Attachment {
                id: no,
                pod: Some(key.clone()),
                addresses: ips.iter().take(4).map(|ip| Ip::from(*ip)).collect(),
                mac: interfaces.macs.get(key).copied().unwrap_or_else(|| mac_of(ips)),
                port: PortId(no.0),
                worker: WorkerId(0),
                mtu: if interfaces.mtu == 0 { ANY_MTU } else { interfaces.mtu },
            });
            self.attached.insert(key.clone(), (no, ips.to_vec()));
        }
    }
}

fn prefix(range: IpNet) -> Prefix {
    Prefix::new(Ip::from(range.network()), range.prefix_len())
}

/// The host port's, where it is not known.
const HOST_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 0]);

/// A locally administered address that ends in the last octets of the pod's first address.
fn mac_of(ips: &[IpAddr]) -> MacAddr {
    match ips.first() {
        Some(IpAddr::V4(ip)) => {
            let [a, b, c, d] = ip.octets();
            MacAddr([2, 0, a, b, c, d])
        }
        Some(IpAddr::V6(ip)) => {
            let [.., a, b, c, d] = ip.octets();
            MacAddr([2, 6, a, b, c, d])
        }
        None => HOST_MAC,
    }
}

/// What a simulated pod's interface takes: sizes decide nothing about a connection.
const ANY_MTU: u16 = u16::MAX;

/// A cluster as the changes that lead to it from an empty one.
fn everything(cluster: &Cluster) -> Changes {
    fn added<T>(key: ObjectKey, object: &Arc<T>) -> Delta<T> {
        Delta {
            key,
            before: None,
            after: Some(Arc::clone(object)),
        }
    }
    let cluster_key = |name: &Arc<str>| ObjectKey::cluster(Arc::clone(name));
    let mut objects = Vec::new();
    objects.extend(cluster.nodes().map(|n| Change::Node(added(cluster_key(&n.name), n))));
    objects.extend(
        cluster
            .service_cidrs()
            .map(|c| Change::ServiceCidr(added(cluster_key(&c.name), c))),
    );
    objects.extend(
        cluster
            .namespaces()
            .map(|n| Change::Namespace(added(cluster_key(&n.name), n))),
    );
    objects.extend(cluster.pods().map(|p| Change::Pod(added(p.key.clone(), p))));
    objects.extend(cluster.services().map(|s| Change::Service(added(s.key.clone(), s))));
    objects.extend(cluster.slices().map(|s| Change::EndpointSlice(added(s.key.clone(), s))));
    objects.extend(
        cluster
            .policies()
            .map(|p| Change::NetworkPolicy(added(p.key.clone(), p))),
    );
    let cluster_policies = cluster.cluster_policies();
    objects.extend(cluster_policies.map(|p| Change::ClusterNetworkPolicy(added(cluster_key(&p.name), p))));
    Changes {
        objects,
        ..Changes::default()
    }
}
