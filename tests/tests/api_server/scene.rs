//! The scene of the suite: a control plane, nodes whose agents follow it with an account of their own, and pods.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use heddle_lab::control_plane::{Account, ControlPlane, Gate};
use heddle_lab::traffic::{self, ProbeOutcome, ServerBehavior, TcpServer};
use heddle_lab::{AddResult, Lab, LabError, NetNs, Node, NodePlan, Pod, manifests};
use serde_json::{Value, json};

use crate::common::{BOUND, binaries, wait_until};

/// The port at which pods answer with their names.
pub const PORT: u16 = 8080;
/// The port of the Services.
pub const SERVICE_PORT: u16 = 80;

/// The CustomResourceDefinition of ClusterNetworkPolicy.
const CLUSTER_NETWORK_POLICIES: &str = include_str!("../../kubernetes/clusternetworkpolicies.yaml");

/// The time after which a server counts as silent: pods of one node answer within a millisecond.
const NO_ANSWER: Duration = Duration::from_millis(500);
/// The longest until an agent has tried everything again after an outage: its pauses double up to 30 s, and vary.
pub const RETRY_BOUND: Duration = Duration::from_secs(60);

/// A control plane with its laboratory.
pub struct Cluster {
    // The processes end before the folder with their files is removed.
    pub plane: ControlPlane,
    pub lab: Lab,
}

impl Cluster {
    /// Starts a control plane of the caller's own.
    pub fn start() -> Result<Self, LabError> {
        let lab = Lab::new(binaries()?)?;
        Ok(Self {
            plane: ControlPlane::start(&lab)?,
            lab,
        })
    }

    /// Returns the control plane that tests share, which starts if no test uses it and ends with the last one that does.
    /// Each test has nodes, namespaces and accounts of its own in it, and leaves its processes alone.
    pub fn shared() -> Result<Arc<Self>, LabError> {
        static SHARED: Mutex<Weak<Cluster>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cluster) = shared.upgrade() {
            return Ok(cluster);
        }
        let cluster = Arc::new(Self::start()?);
        cluster.install_cluster_network_policies()?;
        *shared = Arc::downgrade(&cluster);
        Ok(cluster)
    }

    /// Installs the CustomResourceDefinition of ClusterNetworkPolicy, and waits until it is served.
    pub fn install_cluster_network_policies(&self) -> Result<(), LabError> {
        self.plane
            .kubectl_with(&["create", "-f", "-"], CLUSTER_NETWORK_POLICIES)?;
        let wait = ["wait", "--for=condition=Established", "--timeout=30s"];
        let crd = ["crd", "clusternetworkpolicies.policy.networking.k8s.io"];
        self.plane.kubectl(&[&wait[..], &crd].concat()).map(drop)
    }

    /// Registers a node whose agent has an account of its own and reaches the API server by a gate. No agent runs yet.
    pub fn node(&self, name: &str, number: u8) -> Result<Member, LabError> {
        self.node_with(name, number, Vec::new())
    }

    /// Registers a node whose agent gets further arguments of `heddle run`.
    pub fn node_with(&self, name: &str, number: u8, flags: Vec<String>) -> Result<Member, LabError> {
        let account = Account::create(&self.plane, &format!("heddle-{name}"))?;
        let gate = Gate::start(self.plane.ns(), self.plane.address())?;
        let mut plan = NodePlan::new(name, number);
        let kubeconfig = account.kubeconfig(&self.plane, gate.address())?;
        plan.kubeconfig = Some(kubeconfig.clone());
        plan.flags = flags;
        let node = self.lab.node(plan)?;
        self.plane.register(&node)?;
        Ok(Member {
            node,
            gate,
            account,
            kubeconfig,
        })
    }

    /// Registers a node and starts its agent.
    pub fn ready_node(&self, name: &str, number: u8) -> Result<Member, LabError> {
        let mut member = self.node(name, number)?;
        member.node.start_agent()?;
        Ok(member)
    }

    /// Starts a pod that answers with its name at [`PORT`].
    pub fn start_pod(
        &self,
        node: &Node,
        namespace: &str,
        name: &str,
        labels: &[(&str, &str)],
    ) -> Result<Running, LabError> {
        let mut pod = self.lab.pod(namespace, name, labels)?;
        let attached = self.plane.start_pod(node, &mut pod)?;
        let server = TcpServer::start(pod.ns(), PORT, ServerBehavior::Greet(name.to_owned()))?;
        Ok(Running {
            _server: server,
            attached,
            pod,
        })
    }

    /// Makes a dual-stack Service for the pods with label `app=NAME`, and returns its addresses.
    pub fn create_service(&self, namespace: &str, name: &str) -> Result<[IpAddr; 2], LabError> {
        let mut service = manifests::service(namespace, name, &[], SERVICE_PORT, PORT);
        service["spec"] = json!({
            "selector": {"app": name}, "ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv4", "IPv6"],
            "ports": [{"name": "main", "port": SERVICE_PORT, "targetPort": PORT}]
        });
        self.plane.apply(&[service])?;
        let made = self.plane.get(&["service", name, "--namespace", namespace])?;
        let address = |n: usize| {
            let text = made["spec"]["clusterIPs"][n].as_str().unwrap_or_default();
            text.parse().map_err(|_| LabError::Reply {
                what: format!("Service {namespace}/{name}"),
                detail: format!("it has no two addresses: {}", made["spec"]),
            })
        };
        Ok([address(0)?, address(1)?])
    }
}

/// A node with the agent's account, and the gate between the agent and the API server.
pub struct Member {
    pub node: Node,
    pub gate: Gate,
    pub account: Account,
    /// The agent's kubeconfig.
    pub kubeconfig: PathBuf,
}

impl Member {
    /// Returns the status of a kind of objects.
    pub fn kind(&self, kind: &str) -> Result<Value, LabError> {
        Ok(self.node.status()?["source"]["kinds"][kind].take())
    }

    /// Returns true if the agent has seen this version of an object of a kind, or a newer one. etcd counts the changes of all
    /// objects, so its versions can be compared.
    pub fn has_seen(&self, kind: &str, version: u64) -> Result<bool, LabError> {
        let seen = self.kind(kind)?["resource_version"].as_str().map(str::parse::<u64>);
        Ok(matches!(seen, Some(Ok(seen)) if seen >= version))
    }

    /// Returns the kinds that have a fault.
    pub fn faulty_kinds(&self) -> Result<Vec<String>, LabError> {
        let status = self.node.status()?;
        let kinds = status["source"]["kinds"].as_object();
        let faulty = kinds.into_iter().flatten().filter(|(_, kind)| !kind["error"].is_null());
        Ok(faulty.map(|(name, _)| name.clone()).collect())
    }

    /// Waits until no kind has a fault.
    pub fn wait_until_healthy(&self) -> Result<(), LabError> {
        heddle_lab::wait_until("no kind has a fault", RETRY_BOUND, || {
            Ok(self.faulty_kinds()?.is_empty())
        })
    }
}

/// A pod with a server in it.
pub struct Running {
    _server: TcpServer,
    pub attached: AddResult,
    pub pod: Pod,
}

impl Running {
    /// Returns the pod's namespace.
    pub const fn ns(&self) -> &NetNs {
        self.pod.ns()
    }

    /// Returns the outcome of a request to another pod's server, which should answer.
    pub fn asks(&self, other: &Self, v6: bool) -> Result<ProbeOutcome, LabError> {
        let to = SocketAddr::new(other.attached.ip(v6)?, PORT);
        traffic::tcp_request(self.ns(), to, "", BOUND)
    }

    /// Returns true if another pod's server answers over IPv4. A policy may silence it, so the wait is short.
    pub fn reaches(&self, other: &Self) -> Result<bool, LabError> {
        let to = SocketAddr::new(other.attached.ip(false)?, PORT);
        Ok(traffic::tcp_request(self.ns(), to, "", NO_ANSWER)?.is_answered())
    }

    /// Waits until another pod's server answers, or no longer does.
    pub fn waits_until_it_reaches(&self, other: &Self, expected: bool) -> Result<(), LabError> {
        let what = format!(
            "{} {} {}",
            self.pod.name,
            if expected { "reaches" } else { "no longer reaches" },
            other.pod.name
        );
        wait_until(&what, || Ok(self.reaches(other)? == expected))
    }
}

/// Returns a NetworkPolicy under which only pods with one label reach the server of the pods with another one.
pub fn allow_only(namespace: &str, name: &str, to: (&str, &str), from: (&str, &str)) -> Value {
    manifests::allow_only(namespace, name, to, from, PORT)
}
