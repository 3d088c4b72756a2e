//! The scene of the suite: nodes in one network that know each other from their folders, and pods on them.

use std::net::{IpAddr, SocketAddr};

use heddle_lab::traffic::{self, ProbeOutcome, ServerBehavior, TcpServer};
use heddle_lab::{AddResult, Lab, LabError, NetNs, Node, NodePlan, Pod, manifests};
use serde_json::{Value, json};

use crate::common::{BOUND, binaries, wait_until};

/// The port at which pods and nodes tell their names and the address that a connection comes from.
pub const PORT: u16 = 8080;
/// The port of Services.
pub const SERVICE_PORT: u16 = 80;

/// Nodes with their pods. Every object is in the folder of every node.
pub struct Cluster {
    pub pods: Vec<Running>,
    pub nodes: Vec<Node>,
    _servers: Vec<TcpServer>,
    pub lab: Lab,
}

/// A pod that runs, with its server.
pub struct Running {
    /// The index of its node.
    pub node: usize,
    pub pod: Pod,
    pub attached: AddResult,
    _server: TcpServer,
}

impl Running {
    pub fn ns(&self) -> &NetNs {
        self.pod.ns()
    }

    pub fn ip(&self, v6: bool) -> Result<IpAddr, LabError> {
        self.attached.ip(v6)
    }
}

impl Cluster {
    /// Starts nodes with this configuration of the way between them.
    pub fn start(nodes: u8, config: &str) -> Result<Self, LabError> {
        let mut cluster = Self::prepare(nodes, config)?;
        for node in &mut cluster.nodes {
            node.start_agent()?;
        }
        cluster.wait_for_paths()?;
        Ok(cluster)
    }

    /// Makes nodes without running agents.
    pub fn prepare(count: u8, config: &str) -> Result<Self, LabError> {
        let lab = Lab::new(binaries()?)?;
        let file = lab.dir().join("config.yaml");
        std::fs::write(&file, config).map_err(LabError::io("writing config.yaml"))?;
        let mut nodes = Vec::new();
        let mut servers = Vec::new();
        for number in 1..=count {
            let mut plan = NodePlan::new(&format!("node-{number}"), number);
            plan.flags = vec!["--config".to_owned(), file.display().to_string()];
            let node = lab.node(plan)?;
            let tell = ServerBehavior::TellPeer(node.name().to_owned());
            servers.push(TcpServer::start(node.ns(), PORT, tell)?);
            nodes.push(node);
        }
        let cluster = Self {
            pods: Vec::new(),
            nodes,
            _servers: servers,
            lab,
        };
        for number in 1..=count {
            cluster.apply(&node_object(number))?;
        }
        cluster.apply(&manifests::service_cidr(&["10.96.0.0/16", "fd00:10:96::/112"]))?;
        cluster.apply(&manifests::namespace("shop"))?;
        Ok(cluster)
    }

    /// Writes an object to the folder of every node.
    pub fn apply(&self, object: &Value) -> Result<(), LabError> {
        self.nodes.iter().try_for_each(|node| node.apply(object))
    }

    /// Waits until each node has a path to every other one.
    pub fn wait_for_paths(&self) -> Result<(), LabError> {
        for node in &self.nodes {
            let others = self.nodes.len() as u64 - 1;
            wait_until("the node knows its ways to the others", || {
                let nodes = &node.status()?["nodes"];
                let reached = nodes.as_array().into_iter().flatten();
                Ok(reached
                    .filter(|other| other["problem"].is_null() && other["via"] == "uplink")
                    .count() as u64
                    == others)
            })?;
        }
        Ok(())
    }

    /// Starts a pod with a label `app` on a node.
    pub fn add_pod(&mut self, node: usize, name: &str, app: &str) -> Result<&Running, LabError> {
        let pod = self.lab.pod("shop", name, &[("app", app)])?;
        self.run_pod(node, pod)
    }

    /// Starts a pod on a node, and lets ports of the node lead to it.
    pub fn add_pod_with_ports(&mut self, node: usize, name: &str, mappings: Value) -> Result<&Running, LabError> {
        let mut pod = self.lab.pod("shop", name, &[("app", name)])?;
        pod.map_ports(mappings);
        self.run_pod(node, pod)
    }

    fn run_pod(&mut self, node: usize, pod: Pod) -> Result<&Running, LabError> {
        let home = self.nodes[node].name().to_owned();
        self.apply(&pod.object(&home, &[]))?;
        let attached = self.nodes[node].attach(&pod)?;
        self.apply(&pod.object(&home, &attached.ips))?;
        let server = TcpServer::start(pod.ns(), PORT, ServerBehavior::TellPeer(pod.name.clone()))?;
        let known = attached.ips.clone();
        self.pods.push(Running {
            node,
            pod,
            attached,
            _server: server,
        });
        // Every node knows the pod's addresses, by which policies select it.
        for other in &self.nodes {
            wait_until("the other nodes know the pod", || {
                let sizes = other.status()?["tables"]["addresses"].as_u64().unwrap_or_default();
                Ok(sizes >= (known.len() * self.pods.len()) as u64)
            })?;
        }
        Ok(&self.pods[self.pods.len() - 1])
    }

    /// Makes a Service for all pods with this label, of the type and traffic policy in `spec`, and waits for its backends.
    pub fn add_service(&self, name: &str, addresses: &[IpAddr], app: &[usize], spec: &Value) -> Result<(), LabError> {
        let mut service = manifests::service("shop", name, addresses, SERVICE_PORT, PORT);
        for (key, value) in spec.as_object().into_iter().flatten() {
            match key.as_str() {
                "nodePort" => service["spec"]["ports"][0]["nodePort"] = value.clone(),
                _ => service["spec"][key] = value.clone(),
            }
        }
        self.apply(&service)?;
        for v6 in [false, true] {
            let backends = app.iter().map(|index| {
                let pod = &self.pods[*index];
                Ok((pod.ip(v6)?, pod.pod.name.as_str()))
            });
            let backends = backends.collect::<Result<Vec<_>, LabError>>()?;
            let mut slice = manifests::endpoint_slice("shop", name, v6, PORT, &backends);
            for (endpoint, index) in slice["endpoints"].as_array_mut().into_iter().flatten().zip(app) {
                endpoint["nodeName"] = json!(self.nodes[self.pods[*index].node].name());
            }
            self.apply(&slice)?;
        }
        Ok(())
    }
}

/// Returns the Node object of a node whose agent has said that its dataplane is up.
pub fn node_object(number: u8) -> Value {
    node_object_with(number, &node_addresses(number))
}

/// Returns the Node object of a node with these addresses of type InternalIP.
pub fn node_object_with(number: u8, internal_ips: &[IpAddr]) -> Value {
    let plan = NodePlan::new(&format!("node-{number}"), number);
    let mut object = manifests::node(&plan.name, internal_ips, &plan.pod_cidrs);
    object["metadata"]["annotations"] = json!({"heddle.io/vtep": "02:68:65:64:64:6c"});
    object
}

/// Returns the addresses of a node.
pub fn node_addresses(number: u8) -> [IpAddr; 2] {
    [
        IpAddr::from([192, 0, 2, number]),
        IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(number)]),
    ]
}

/// Runs `ip` in a namespace and returns its output.
pub fn ip(ns: &NetNs, arguments: &str) -> Result<String, LabError> {
    let arguments: Vec<&str> = arguments.split(' ').collect();
    ns.run("ip", &arguments)
}

/// Returns the status of another node, as this node sees it; null if it does not know the node.
pub fn seen(node: &Node, other: &str) -> Result<Value, LabError> {
    let status = node.status()?;
    let mut nodes = status["nodes"].as_array().into_iter().flatten();
    Ok(nodes.find(|seen| seen["name"] == other).cloned().unwrap_or_default())
}

/// Asks a server, and returns what it tells: its name, and the address that it sees.
pub fn ask(from: &NetNs, to: IpAddr, port: u16) -> Result<ProbeOutcome, LabError> {
    traffic::tcp_request(from, SocketAddr::new(to, port), "", BOUND)
}

/// Asserts that a server answers with its name and the address that it sees.
#[track_caller]
pub fn tells(outcome: &ProbeOutcome, name: &str, peer: IpAddr) {
    assert_eq!(*outcome, ProbeOutcome::Answered(format!("{name} {peer}")));
}
