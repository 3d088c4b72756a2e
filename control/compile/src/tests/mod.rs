//! From model objects to verdicts, Services, generations and pages.

mod evaluator;
mod external_forwarding;
mod flannel;
mod frontends;
mod generations;
mod host_ports;
mod nodes;
mod oracle;
mod pages;
mod policy;
mod services;
mod together;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use heddle_ids::PortId;
use heddle_model::{
    Changes, Cluster, ContainerPort, Event, IpBlock, Kind, LabelSelector, Labels, NAMESPACE_NAME_LABEL, Namespace,
    NetworkPolicy, Node, NodeFacts, Object, ObjectKey, ObjectRef, Peer, Pod, PodPhase, PolicyPort, PolicyPorts,
    PolicyRule, PortNumber, PortRange, Protocol, Requirement,
};
use heddle_tables::{Direction, EndpointId, FrontendKey, PolicyVerdict, Provenance, Snapshot, WorkerId};
use heddle_wire::{Ip, MacAddr, Proto};

use crate::{Attachment, BuildResult, Compiler, NodeConfig};

/// A cluster and the compiler of its node `here`.
struct World {
    cluster: Cluster,
    compiler: Compiler,
    /// The node's facts, with the last version of its object.
    facts: NodeFacts,
    /// The addresses of the node's interfaces.
    local_addresses: BTreeSet<IpAddr>,
}

impl World {
    fn new() -> Self {
        Self::with(|_| ())
    }

    /// Makes a world whose node has another configuration.
    fn with(change: impl FnOnce(&mut NodeConfig)) -> Self {
        let mut config = NodeConfig::named("here");
        change(&mut config);
        Self {
            cluster: Cluster::new(),
            compiler: Compiler::new(config),
            facts: NodeFacts::default(),
            local_addresses: BTreeSet::new(),
        }
    }

    /// Sets the addresses of the node's interfaces.
    fn hold(&mut self, addresses: impl IntoIterator<Item = IpAddr>) -> &mut Self {
        self.local_addresses = addresses.into_iter().collect();
        let addresses = self.local_addresses.iter().map(|ip| Ip::from(*ip)).collect();
        self.compiler.set_local_addresses(addresses);
        self
    }

    /// Hands the compiler changes, with the node's facts after them.
    fn record(&mut self, changes: &Changes) -> &mut Self {
        if let Some(node) = self.cluster.node("here") {
            let attached = self.compiler.attachments().flat_map(|a| a.addresses.clone());
            self.facts = NodeFacts::new(Some(Arc::clone(node)), attached.map(Ip::to_std));
        }
        self.compiler.apply_changes(&self.cluster, changes, &self.facts);
        self
    }

    fn put(&mut self, object: impl Into<Object>) -> &mut Self {
        let changes = self.cluster.apply(Event::Upsert {
            origin: "test".into(),
            object: object.into(),
        });
        self.record(&changes)
    }

    fn delete(&mut self, kind: Kind, namespace: &str, name: &str) -> &mut Self {
        let object = ObjectRef::new(kind, ObjectKey::new(namespace, name));
        let changes = self.cluster.apply(Event::Delete(object));
        self.record(&changes)
    }

    /// Adds a pod of this node, and attaches it.
    fn local(&mut self, id: u16, pod: &Pod) -> &mut Self {
        self.put(pod.clone());
        self.compiler.attach(attachment(id, Some(&pod.key), &pod.ips));
        self
    }

    fn build(&mut self) -> BuildResult {
        self.compiler.rebuild()
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn port(number: u16) -> PortNumber {
    PortNumber::new(number).unwrap()
}

fn labels(text: &str) -> Labels {
    let pairs = text
        .split(',')
        .filter(|p| !p.is_empty())
        .map(|p| p.split_once('=').unwrap());
    Labels::new(pairs).unwrap()
}

/// Returns `a=1,b=2` as `matchLabels`; empty: everything.
fn matching(text: &str) -> LabelSelector {
    let pairs = text
        .split(',')
        .filter(|p| !p.is_empty())
        .map(|p| p.split_once('=').unwrap());
    LabelSelector::new(pairs.map(|(k, v)| Requirement::label(k, v).unwrap()))
}

fn namespace(name: &str, more: &str) -> Namespace {
    let own = (NAMESPACE_NAME_LABEL.to_owned(), name.to_owned());
    let more = labels(more);
    let pairs = more.iter().map(|(k, v)| (k.to_string(), v.to_string())).chain([own]);
    Namespace {
        name: name.into(),
        labels: Labels::new(pairs).unwrap(),
    }
}

/// Parses `ns/name`.
fn key(text: &str) -> ObjectKey {
    let (namespace, name) = text.split_once('/').unwrap();
    ObjectKey::new(namespace, name)
}

fn pod(name: &str, node: &str, ips: &[&str], its_labels: &str) -> Pod {
    Pod {
        key: key(name),
        uid: "".into(),
        static_uid: None,
        labels: labels(its_labels),
        node: Some(node.into()),
        ips: ips.iter().map(|i| ip(i)).collect(),
        host_network: false,
        phase: PodPhase::Running,
        ports: Arc::default(),
        ready: true,
        terminating: false,
        created: 0,
    }
}

fn container_port(name: &str, number: u16, protocol: Protocol) -> ContainerPort {
    ContainerPort {
        name: Some(name.into()),
        number: port(number),
        protocol,
        host: None,
    }
}

fn node(name: &str, address: &str, pod_cidr: &str) -> Node {
    Node {
        name: name.into(),
        labels: Labels::default(),
        internal_ips: vec![ip(address)],
        external_ips: Vec::new(),
        vtep: None,
        flannel: None,
        pod_cidrs: vec![pod_cidr.parse().unwrap()],
        ready: true,
        draining: false,
    }
}

fn attachment(id: u16, pod: Option<&ObjectKey>, ips: &[IpAddr]) -> Attachment {
    Attachment {
        id: EndpointId(id),
        pod: pod.cloned(),
        addresses: ips.iter().map(|i| Ip::from(*i)).collect(),
        mac: MacAddr([2, 0, 0, 0, 0, id as u8]),
        port: PortId(id),
        worker: WorkerId(0),
        mtu: 0,
        host_ports: Box::default(),
    }
}

fn policy(
    name: &str,
    selector: &str,
    ingress: Option<Vec<PolicyRule>>,
    egress: Option<Vec<PolicyRule>>,
) -> NetworkPolicy {
    NetworkPolicy {
        key: key(name),
        selector: matching(selector),
        ingress,
        egress,
        refused: false,
    }
}

fn rule(peers: Vec<Peer>, ports: Vec<PolicyPort>) -> PolicyRule {
    PolicyRule { peers, ports }
}

fn pods(selector: &str) -> Peer {
    Peer::Pods {
        namespaces: None,
        pods: matching(selector),
    }
}

fn pods_in(namespaces: &str, selector: &str) -> Peer {
    Peer::Pods {
        namespaces: Some(matching(namespaces)),
        pods: matching(selector),
    }
}

fn block(cidr: &str, except: &[&str]) -> Peer {
    Peer::Block(IpBlock::new(cidr.parse().unwrap(), except.iter().map(|e| e.parse().unwrap())).unwrap())
}

fn tcp(number: u16) -> PolicyPort {
    PolicyPort {
        protocol: Protocol::Tcp,
        ports: PolicyPorts::Range(port(number).into()),
    }
}

fn tcp_range(first: u16, last: u16) -> PolicyPort {
    let range = PortRange::new(port(first), port(last)).unwrap();
    PolicyPort {
        protocol: Protocol::Tcp,
        ports: PolicyPorts::Range(range),
    }
}

fn named(name: &str) -> PolicyPort {
    PolicyPort {
        protocol: Protocol::Tcp,
        ports: PolicyPorts::Name(name.into()),
    }
}

/// Returns the verdict of a local endpoint, and its provenance.
fn verdict_of(
    snapshot: &Snapshot,
    id: u16,
    direction: Direction,
    peer: &str,
    proto: Proto,
    port: u16,
) -> (bool, Arc<Provenance>) {
    let endpoint = snapshot.endpoint(EndpointId(id)).unwrap();
    let peer = snapshot.address(Ip::from(ip(peer)));
    let verdict: PolicyVerdict = endpoint.judge(direction, peer, proto, port);
    (verdict.is_allowed(), snapshot.provenance(verdict.rule()).unwrap())
}

/// Returns true if a local endpoint allows a TCP connection in.
fn admits(snapshot: &Snapshot, id: u16, peer: &str, port: u16) -> bool {
    verdict_of(snapshot, id, Direction::Ingress, peer, Proto::TCP, port).0
}

/// Returns true if a local endpoint allows a TCP connection out.
fn lets_out(snapshot: &Snapshot, id: u16, peer: &str, port: u16) -> bool {
    verdict_of(snapshot, id, Direction::Egress, peer, Proto::TCP, port).0
}
