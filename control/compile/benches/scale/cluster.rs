//! Clusters of any size, the same at every call. Each namespace has ten pods in two deployments. This node has 110 of
//! the pods, or a twentieth if that is less. There is one policy for two namespaces, and a fifth of the policies are in
//! the namespaces of local pods.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use heddle_compile::{Attachment, Compiler, NodeConfig};
use heddle_ids::PortId;
use heddle_model::{
    Changes, Cluster, ContainerPort, Event, IpBlock, LabelSelector, Labels, NAMESPACE_NAME_LABEL, Namespace,
    NetworkPolicy, Node, NodeFacts, Object, ObjectKey, Peer, Pod, PodPhase, PolicyPort, PolicyPorts, PolicyRule,
    PortNumber, PortRange, Protocol, Requirement,
};
use heddle_tables::{EndpointId, WorkerId};
use heddle_wire::{Ip, MacAddr};

/// The maximum number of pods of this node.
pub const LOCAL: u32 = 110;
/// The number of pods of a namespace.
const EACH: u32 = 10;

/// The size of a cluster.
#[derive(Clone, Copy)]
pub struct Size {
    pub pods: u32,
    pub policies: u32,
}

impl Size {
    pub const fn namespaces(self) -> u32 {
        self.pods / EACH
    }

    const fn local(self) -> u32 {
        if self.pods / 20 < LOCAL { self.pods / 20 } else { LOCAL }
    }

    const fn stride(self) -> u32 {
        self.pods / self.local()
    }

    /// Returns true if a pod runs on this node.
    pub const fn is_local(self, pod: u32) -> bool {
        pod.is_multiple_of(self.stride()) && pod / self.stride() < self.local()
    }

    /// Returns the namespace of the `n`th local pod.
    pub const fn local_namespace(self, n: u32) -> u32 {
        (n % self.local()) * self.stride() / EACH
    }
}

pub fn port(number: u16) -> PortNumber {
    PortNumber::new(number).expect("not zero")
}

pub fn matching(pairs: &[(&str, &str)]) -> LabelSelector {
    LabelSelector::new(
        pairs
            .iter()
            .map(|(k, v)| Requirement::label(*k, *v).expect("a legal label")),
    )
}

pub fn labels(pairs: &[(&str, &str)]) -> Labels {
    Labels::new(pairs.iter().copied()).expect("legal labels")
}

pub fn key(namespace: u32, name: &str) -> ObjectKey {
    ObjectKey::new(format!("ns{namespace}"), name)
}

pub fn address(pod: u32) -> IpAddr {
    Ipv4Addr::from(0x0a80_0000 + pod).into()
}

pub fn namespace(id: u32, team: u32) -> Namespace {
    let name = format!("ns{id}");
    Namespace {
        labels: labels(&[
            (NAMESPACE_NAME_LABEL, &name),
            ("team", &format!("t{team}")),
            ("env", ["prod", "test", "dev"][id as usize % 3]),
        ]),
        name: name.into(),
    }
}

/// Returns a pod of a Deployment as a source reports it, without values that are shared with other pods.
pub fn pod(size: Size, id: u32, app: &str) -> Pod {
    let (namespace, deployment) = (id / EACH, id / 5);
    let hash = format!("{:010x}", (u64::from(deployment) * 0x9e37_79b9) & 0xff_ffff_ffff);
    let node = if size.is_local(id) {
        "here".to_owned()
    } else {
        format!("node-{:04}", id % 908)
    };
    Pod {
        key: key(namespace, &format!("{app}-{hash}-{id:05x}")),
        uid: format!("{id:08x}-0000-4000-8000-000000000000").into(),
        static_uid: None,
        labels: labels(&[
            ("app", app),
            ("tier", ["web", "db", "batch"][deployment as usize % 3]),
            ("app.kubernetes.io/managed-by", "helm"),
            ("pod-template-hash", &hash),
        ]),
        node: Some(node.into()),
        ips: [address(id)].into(),
        host_network: false,
        phase: PodPhase::Running,
        ports: [ContainerPort {
            name: Some("http".into()),
            number: port(8080),
            protocol: Protocol::Tcp,
            host: None,
        }]
        .into(),
        ready: true,
        terminating: false,
        created: 0,
    }
}

pub fn app(pod: u32) -> String {
    format!("a{}", pod / 5 % 50)
}

pub fn tcp(first: u16, last: u16) -> PolicyPort {
    PolicyPort {
        protocol: Protocol::Tcp,
        ports: PolicyPorts::Range(PortRange::new(port(first), port(last)).expect("in order")),
    }
}

/// Returns a policy that allows traffic to a port.
pub fn policy(size: Size, id: u32, to: u16) -> NetworkPolicy {
    let namespace = if id.is_multiple_of(5) {
        size.local_namespace(id / 5)
    } else {
        (id * 2 + 1) % size.namespaces()
    };
    let peer = |namespaces: Option<&[(&str, &str)]>, pods: &[(&str, &str)]| Peer::Pods {
        namespaces: namespaces.map(matching),
        pods: matching(pods),
    };
    let block = |second: u8| {
        let net = |text: String| text.parse().expect("a network");
        Peer::Block(
            IpBlock::new(
                net(format!("172.{second}.0.0/16")),
                [net(format!("172.{second}.{}.0/24", id % 256))],
            )
            .expect("a hole in its block"),
        )
    };
    let rule = |peers, ports| PolicyRule { peers, ports };
    let (team, app) = (format!("t{}", id % 100), format!("a{}", id % 50));
    NetworkPolicy {
        key: key(namespace, &format!("p{id}")),
        selector: if id.is_multiple_of(3) {
            LabelSelector::everything()
        } else {
            matching(&[("tier", ["web", "db"][id as usize % 2])])
        },
        ingress: Some(vec![
            rule(vec![peer(None, &[("app", &app)])], vec![tcp(to, to)]),
            rule(
                vec![peer(Some(&[("team", &team)]), &[("app", &app)])],
                vec![tcp(8000, 8000 + (id % 100) as u16)],
            ),
            rule(vec![block((id % 200) as u8)], vec![]),
        ]),
        egress: id.is_multiple_of(2).then(|| {
            vec![
                rule(
                    vec![peer(Some(&[(NAMESPACE_NAME_LABEL, "ns1")]), &[("tier", "db")])],
                    vec![tcp(53, 53)],
                ),
                rule(vec![block((id % 100) as u8)], vec![tcp(443, 443)]),
            ]
        }),
        refused: false,
    }
}

/// Returns the endpoint, MAC address and worker of the `n`th local pod. Two workers alternate.
pub const fn attached_as(n: u16) -> (EndpointId, MacAddr, WorkerId) {
    (
        EndpointId(EndpointId::FIRST_POD.0 + n),
        MacAddr([2, 0, 0, 0, 0, n as u8]),
        WorkerId(n as u8 % 2),
    )
}

/// Returns all objects of the cluster.
pub fn objects(size: Size) -> impl Iterator<Item = Object> {
    let nodes = (0..908u32)
        .map(|n| (format!("node-{n:04}"), Ipv4Addr::from(0x0a00_1000 + n)))
        .chain([("here".to_owned(), Ipv4Addr::from(0x0a00_0001))])
        .map(|(name, addr)| Node {
            name: name.into(),
            labels: Labels::default(),
            internal_ips: vec![addr.into()],
            external_ips: Vec::new(),
            vtep: None,
            flannel: None,
            pod_cidrs: Vec::new(),
            ready: true,
            draining: false,
        });
    nodes
        .map(Object::from)
        .chain((0..size.namespaces()).map(|n| namespace(n, n % 100).into()))
        .chain((0..size.pods).map(move |n| pod(size, n, &app(n)).into()))
        .chain((0..size.policies).map(move |n| policy(size, n, 80).into()))
}

/// A cluster and the compiler of its node.
pub struct World {
    pub cluster: Cluster,
    pub compiler: Compiler,
}

impl World {
    pub fn new() -> Self {
        Self {
            cluster: Cluster::new(),
            compiler: Compiler::new(NodeConfig::named("here")),
        }
    }

    /// Hands the compiler changes.
    pub fn record(&mut self, changes: &Changes) {
        let facts = NodeFacts::new(self.cluster.node("here").cloned(), []);
        self.compiler.apply_changes(&self.cluster, changes, &facts);
    }

    /// Applies objects to the model, and returns the changes.
    pub fn apply(&mut self, objects: impl IntoIterator<Item = Object>) -> Changes {
        let mut all = Changes::default();
        let origin: Arc<str> = "api".into();
        for object in objects {
            let origin = Arc::clone(&origin);
            all.extend(self.cluster.apply(Event::Upsert { origin, object }));
        }
        all
    }

    /// Attaches the local pods.
    pub fn attach(&mut self, size: Size) {
        let local = (0..size.pods).filter(|n| size.is_local(*n));
        for (n, pod) in (0..).zip(local) {
            let (id, mac, worker) = attached_as(n);
            let key = self.cluster.pod_at(address(pod)).map(|pod| pod.key.clone());
            self.compiler.attach(Attachment {
                id,
                pod: key,
                addresses: [Ip::from(address(pod))].into_iter().collect(),
                mac,
                port: PortId(id.0),
                worker,
                mtu: 0,
                host_ports: Box::default(),
            });
        }
    }

    /// Returns a world with compiled tables.
    pub fn of(size: Size) -> Self {
        let mut world = Self::new();
        let changes = world.apply(objects(size));
        world.record(&changes);
        world.attach(size);
        world.compiler.rebuild();
        world
    }
}
