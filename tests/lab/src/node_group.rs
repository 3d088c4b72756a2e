//! Nodes in one network that know each other from their folders, and pods on them.
//!
//! A group writes every object to the folder of every node, so that all agents see one cluster. Each node and each pod has a
//! server that tells its name and the address that a connection comes from.

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::traffic::{ServerBehavior, TcpServer};
use crate::{AddResult, Binaries, Lab, LabError, NetNs, Node, NodePlan, Pod, manifests, wait_until};

/// The port at which pods and nodes tell their names and the address that a connection comes from.
pub const TELL_PORT: u16 = 8080;
/// The port of Services that [`NodeGroup::add_service`] makes.
pub const SERVICE_PORT: u16 = 80;

/// The bound of an event that needs several steps of the agent, also on a busy machine.
const BOUND: Duration = Duration::from_secs(15);

/// Nodes with their pods. Its fields are dropped in their order: pods and nodes before the laboratory, which holds their folders.
#[derive(Debug)]
pub struct NodeGroup {
    /// The pods, in the order of their start.
    pub pods: Vec<RunningPod>,
    /// The nodes.
    pub nodes: Vec<Node>,
    _servers: Vec<TcpServer>,
    /// The configuration file of all agents.
    config: PathBuf,
    /// The laboratory.
    pub lab: Lab,
}

/// A pod that runs, with its server at [`TELL_PORT`].
#[derive(Debug)]
pub struct RunningPod {
    /// The index of its node.
    pub node: usize,
    /// The pod.
    pub pod: Pod,
    /// The result of ADD.
    pub attached: AddResult,
    _server: TcpServer,
}

impl RunningPod {
    /// Returns its network namespace.
    #[must_use]
    pub const fn ns(&self) -> &NetNs {
        self.pod.ns()
    }

    /// Returns its address of a family.
    ///
    /// # Errors
    /// The pod has no address of the family.
    pub fn ip(&self, v6: bool) -> Result<IpAddr, LabError> {
        self.attached.ip(v6)
    }
}

impl NodeGroup {
    /// Starts `node-1` and so on, with this configuration file.
    ///
    /// # Errors
    /// A step of the laboratory failed, or a node has no path to another one within 15 s.
    pub fn start(count: u8, config: &str) -> Result<Self, LabError> {
        let mut group = Self::prepare(count, config)?;
        group.start_agents()?;
        Ok(group)
    }

    /// Makes `node-1` and so on, without running agents.
    ///
    /// # Errors
    /// A step of the laboratory failed.
    pub fn prepare(count: u8, config: &str) -> Result<Self, LabError> {
        let plans = (1..=count).map(|number| NodePlan::new(&format!("node-{number}"), number));
        Self::prepare_plans(plans.collect(), config)
    }

    /// Makes nodes as planned, without running agents.
    ///
    /// # Errors
    /// A step of the laboratory failed.
    pub fn prepare_plans(plans: Vec<NodePlan>, config: &str) -> Result<Self, LabError> {
        let lab = Lab::new(Binaries::beside_current_exe()?)?;
        let file = lab.dir().join("config.yaml");
        let mut nodes = Vec::new();
        let mut servers = Vec::new();
        for mut plan in plans {
            plan.flags = vec!["--config".to_owned(), file.display().to_string()];
            let node = lab.node(plan)?;
            let tell = ServerBehavior::TellPeer(node.name().to_owned());
            servers.push(TcpServer::start(node.ns(), TELL_PORT, tell)?);
            nodes.push(node);
        }
        let group = Self {
            pods: Vec::new(),
            nodes,
            _servers: servers,
            config: file,
            lab,
        };
        group.write_config(config)?;
        for node in &group.nodes {
            group.apply(&with_vtep(node.object()))?;
        }
        group.apply(&manifests::service_cidr(&["10.96.0.0/16", "fd00:10:96::/112"]))?;
        group.apply(&manifests::namespace("shop"))?;
        Ok(group)
    }

    /// Starts the agents, and waits until each node has a path to every other one.
    ///
    /// # Errors
    /// An agent does not start, or a node has no path to another one within 15 s.
    pub fn start_agents(&mut self) -> Result<(), LabError> {
        self.nodes.iter_mut().try_for_each(Node::start_agent)?;
        self.wait_for_paths()
    }

    /// Stops the agents, and starts new ones with this configuration file. Pods stay attached.
    ///
    /// # Errors
    /// An agent does not end or does not start, or a node has no path to another one within 15 s.
    pub fn restart_agents(&mut self, config: &str) -> Result<(), LabError> {
        for node in &mut self.nodes {
            node.stop_agent(Signal::SIGTERM)?;
        }
        self.write_config(config)?;
        self.start_agents()
    }

    fn write_config(&self, config: &str) -> Result<(), LabError> {
        fs::write(&self.config, config).map_err(LabError::io(format!("writing {}", self.config.display())))
    }

    /// Writes an object to the folder of every node.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn apply(&self, object: &Value) -> Result<(), LabError> {
        self.nodes.iter().try_for_each(|node| node.apply(object))
    }

    /// Waits until each node has a path to every other one.
    ///
    /// # Errors
    /// A node has no such path within 15 s.
    pub fn wait_for_paths(&self) -> Result<(), LabError> {
        for node in &self.nodes {
            let others = self.nodes.len() as u64 - 1;
            wait_until("the node knows its ways to the others", BOUND, || {
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
    ///
    /// # Errors
    /// A step of the laboratory failed, or another node does not know the pod within 15 s.
    pub fn add_pod(&mut self, node: usize, name: &str, app: &str) -> Result<&RunningPod, LabError> {
        let pod = self.lab.pod("shop", name, &[("app", app)])?;
        self.run_pod(node, pod)
    }

    /// Starts a pod on a node, and lets ports of the node lead to it.
    ///
    /// # Errors
    /// A step of the laboratory failed, or another node does not know the pod within 15 s.
    pub fn add_pod_with_ports(&mut self, node: usize, name: &str, mappings: Value) -> Result<&RunningPod, LabError> {
        let mut pod = self.lab.pod("shop", name, &[("app", name)])?;
        pod.map_ports(mappings);
        self.run_pod(node, pod)
    }

    fn run_pod(&mut self, node: usize, pod: Pod) -> Result<&RunningPod, LabError> {
        let home = self.nodes[node].name().to_owned();
        self.apply(&pod.object(&home, &[]))?;
        let attached = self.nodes[node].attach(&pod)?;
        self.apply(&pod.object(&home, &attached.ips))?;
        let server = TcpServer::start(pod.ns(), TELL_PORT, ServerBehavior::TellPeer(pod.name.clone()))?;
        let known = attached.ips.clone();
        self.pods.push(RunningPod {
            node,
            pod,
            attached,
            _server: server,
        });
        // Every node knows the pod's addresses, by which policies select it.
        for other in &self.nodes {
            wait_until("the other nodes know the pod", BOUND, || {
                let sizes = other.status()?["tables"]["addresses"].as_u64().unwrap_or_default();
                Ok(sizes >= (known.len() * self.pods.len()) as u64)
            })?;
        }
        Ok(&self.pods[self.pods.len() - 1])
    }

    /// Makes a Service with these pods (indices of [`Self::pods`]) as its backends, of the type and traffic policy in `spec`. Its keys
    /// `annotations`, `nodePort` and `targetPort` (default [`TELL_PORT`]) go where the API has them. The agents read it later.
    ///
    /// # Errors
    /// A pod lacks an address, or a file cannot be written.
    pub fn add_service(&self, name: &str, addresses: &[IpAddr], app: &[usize], spec: &Value) -> Result<(), LabError> {
        let target = spec["targetPort"].as_u64().and_then(|port| u16::try_from(port).ok());
        let target = target.unwrap_or(TELL_PORT);
        let mut service = manifests::service("shop", name, addresses, SERVICE_PORT, target);
        for (key, value) in spec.as_object().into_iter().flatten() {
            match key.as_str() {
                "nodePort" => service["spec"]["ports"][0]["nodePort"] = value.clone(),
                "annotations" => service["metadata"]["annotations"] = value.clone(),
                "targetPort" => {}
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
            let mut slice = manifests::endpoint_slice("shop", name, v6, target, &backends);
            for (endpoint, index) in slice["endpoints"].as_array_mut().into_iter().flatten().zip(app) {
                endpoint["nodeName"] = json!(self.nodes[self.pods[*index].node].name());
            }
            self.apply(&slice)?;
        }
        Ok(())
    }
}

/// Returns a Node object with the annotation by which a node says that its dataplane is up.
#[must_use]
pub fn with_vtep(mut node: Value) -> Value {
    node["metadata"]["annotations"] = json!({"heddle.io/vtep": "02:68:65:64:64:6c"});
    node
}
