//! The cluster: a control plane and nodes, with heddle installed by its own DaemonSet.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use heddle_lab::control_plane::{ControlPlane, Extent};
use heddle_lab::traffic::{self, ProbeOutcome};
use heddle_lab::{Binaries, Lab, LabError, NetNs, Output, run_with_input, wait_until};
use serde_json::Value;

use crate::node::ClusterNode;
use crate::programs::{Programs, project};

/// The namespace in which heddle and CoreDNS run.
pub const SYSTEM: &str = "kube-system";
/// The longest that a rollout or a pod may take to become ready.
pub const READY_BOUND: Duration = Duration::from_secs(180);
/// The numbers of the nodes' addresses begin here.
const FIRST_NUMBER: u8 = 11;

/// A control plane and nodes. Dropping it ends everything.
pub struct Cluster {
    // The nodes end before the control plane, and the folder of all files goes last.
    nodes: Vec<ClusterNode>,
    plane: ControlPlane,
    lab: Lab,
    programs: Programs,
    stopped: Arc<AtomicBool>,
}

impl Cluster {
    /// Starts a control plane and `count` nodes, n1, n2 and so on, in zones z1 to z3. They are not ready: there is no network yet.
    /// `stopped` becomes true when the user wants the end.
    ///
    /// # Errors
    /// A program is missing, or a process does not start.
    pub fn start(count: u8, stopped: Arc<AtomicBool>) -> Result<Self, LabError> {
        let programs = Programs::find()?;
        let lab = Lab::new(Binaries::beside_current_exe()?)?;
        let plane = ControlPlane::start_with(&lab, Extent::Complete)?;
        let started: Vec<Result<ClusterNode, LabError>> = thread::scope(|scope| {
            let (lab, plane, programs) = (&lab, &plane, &programs);
            let start = |n| move || ClusterNode::start(lab, plane, programs, &format!("n{}", n + 1), FIRST_NUMBER + n);
            let threads: Vec<_> = (0..count).map(|n| scope.spawn(start(n))).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect()
        });
        let nodes = started.into_iter().collect::<Result<Vec<_>, _>>()?;
        let cluster = Self {
            nodes,
            plane,
            lab,
            programs,
            stopped,
        };
        for (n, node) in cluster.nodes.iter().enumerate() {
            let zone = format!("topology.kubernetes.io/zone=z{}", n % 3 + 1);
            cluster.kubectl(&["label", "node", node.name(), &zone])?;
            cluster.route_to_pods(node)?;
        }
        Ok(cluster)
    }

    /// Gives the machine of the control plane, which has no agent, and the outside world a way to the node's pods. The API server
    /// reaches webhooks and aggregated APIs in pods by it.
    fn route_to_pods(&self, node: &ClusterNode) -> Result<(), LabError> {
        let object = self.get(&["node", node.name()])?;
        for range in object["spec"]["podCIDRs"].as_array().into_iter().flatten() {
            let range = range.as_str().unwrap_or_default();
            let [v4, v6] = node.addresses();
            let via = if range.contains(':') { v6 } else { v4 };
            let route = ["route", "replace", range, "via", &via.to_string()];
            self.plane.ns().run("ip", &route)?;
        }
        Ok(())
    }

    /// Returns the nodes.
    #[must_use]
    pub fn nodes(&self) -> &[ClusterNode] {
        &self.nodes
    }

    /// Returns a node by its name.
    ///
    /// # Errors
    /// There is no such node.
    pub fn node(&self, name: &str) -> Result<&ClusterNode, LabError> {
        let found = self.nodes.iter().find(|node| node.name() == name);
        found.ok_or_else(|| fault("a node", format!("there is no node {name:?}")))
    }

    /// Returns the control plane.
    pub const fn plane(&self) -> &ControlPlane {
        &self.plane
    }

    /// Returns the control plane, to end and start its processes.
    pub const fn plane_mut(&mut self) -> &mut ControlPlane {
        &mut self.plane
    }

    /// Returns the laboratory.
    pub const fn lab(&self) -> &Lab {
        &self.lab
    }

    /// Returns the world outside of all nodes.
    pub const fn outside(&self) -> &NetNs {
        self.lab.outside()
    }

    /// Returns the programs of the cluster.
    pub const fn programs(&self) -> &Programs {
        &self.programs
    }

    /// Returns an error if the user wants the end.
    ///
    /// # Errors
    /// A signal asked for the end.
    pub fn check_stopped(&self) -> Result<(), LabError> {
        if self.stopped.load(Ordering::Relaxed) {
            return Err(fault("the run", "it was stopped by a signal"));
        }
        Ok(())
    }

    /// Runs `kubectl` as an administrator and returns what it prints.
    ///
    /// # Errors
    /// It fails.
    pub fn kubectl(&self, args: &[&str]) -> Result<String, LabError> {
        self.check_stopped()?;
        self.plane.kubectl(args)
    }

    /// Runs `kubectl`; its exit status is part of the result.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn kubectl_output(&self, args: &[&str]) -> Result<Output, LabError> {
        self.check_stopped()?;
        self.plane.kubectl_output(args, "")
    }

    /// Applies objects.
    ///
    /// # Errors
    /// The API server refuses one.
    pub fn apply(&self, objects: &[Value]) -> Result<(), LabError> {
        self.check_stopped()?;
        self.plane.apply(objects)
    }

    /// Returns an object.
    ///
    /// # Errors
    /// It does not exist.
    pub fn get(&self, what: &[&str]) -> Result<Value, LabError> {
        self.plane.get(what)
    }

    /// Waits until a rollout is complete, for example `deployment/web`. The error describes the pods that are not ready.
    ///
    /// # Errors
    /// It is not complete in time.
    pub fn wait_for_rollout(&self, namespace: &str, what: &str) -> Result<(), LabError> {
        let timeout = format!("--timeout={}s", READY_BOUND.as_secs());
        let out = self.kubectl_bounded(&["rollout", "status", what, "--namespace", namespace, &timeout])?;
        self.explain(namespace, what, &out)
    }

    /// Waits for a condition, as `kubectl wait`: `--for=condition=Ready`, `pod`, `--selector=app=web`.
    ///
    /// # Errors
    /// It does not hold in time.
    pub fn wait(&self, namespace: &str, what: &[&str]) -> Result<(), LabError> {
        let timeout = format!("--timeout={}s", READY_BOUND.as_secs());
        let wait = ["wait", "--namespace", namespace, &timeout];
        let out = self.kubectl_bounded(&[&wait, what].concat())?;
        self.explain(namespace, &what.join(" "), &out)
    }

    /// Runs a `kubectl` that may wait for longer than other commands.
    fn kubectl_bounded(&self, args: &[&str]) -> Result<Output, LabError> {
        self.check_stopped()?;
        // kubectl bounds itself; two of them, because a command of the laboratory may run for two minutes.
        let first = self.plane.kubectl_output(args, "");
        match first {
            Err(LabError::Timeout { .. }) => self.plane.kubectl_output(args, ""),
            other => other,
        }
    }

    fn explain(&self, namespace: &str, what: &str, out: &Output) -> Result<(), LabError> {
        if out.ok {
            return Ok(());
        }
        let pods = self.kubectl(&["get", "pods", "--namespace", namespace, "--output=wide"])?;
        let events = ["get", "events", "--namespace", namespace, "--sort-by=.lastTimestamp"];
        let events = self.kubectl(&events)?;
        let lines: Vec<&str> = events.lines().collect();
        let tail = lines[lines.len().saturating_sub(12)..].join("\n");
        Err(fault(
            &format!("waiting for {what} in {namespace}"),
            format!("{}{}\n{pods}\n{tail}", out.stdout, out.stderr),
        ))
    }

    /// Runs a command in a container and returns what it prints.
    ///
    /// # Errors
    /// It fails.
    pub fn exec(&self, namespace: &str, pod: &str, command: &[&str]) -> Result<String, LabError> {
        let exec = ["exec", "--namespace", namespace, pod, "--"];
        self.kubectl(&[&exec, command].concat())
    }

    /// Returns the names and nodes of the running pods that a selector selects, in the order of their names.
    ///
    /// # Errors
    /// The API server refuses.
    pub fn pods(&self, namespace: &str, selector: &str) -> Result<Vec<PodInfo>, LabError> {
        let list = self.get(&["pods", "--namespace", namespace, "--selector", selector])?;
        let pods = list["items"].as_array().into_iter().flatten();
        let mut found: Vec<PodInfo> = pods
            .filter(|pod| pod["metadata"]["deletionTimestamp"].is_null() && pod["status"]["phase"] == "Running")
            .filter_map(PodInfo::read)
            .collect();
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    /// Returns the network namespace of a running pod, for traffic of the laboratory in it. The pod's first container needs `readlink`.
    ///
    /// # Errors
    /// The pod does not run.
    pub fn netns_of(&self, namespace: &str, pod: &PodInfo) -> Result<NetNs, LabError> {
        let link = self.exec(namespace, &pod.name, &["readlink", "/proc/self/ns/net"])?;
        let inode = link.trim().trim_start_matches("net:[").trim_end_matches(']');
        let inode = inode
            .parse()
            .map_err(|_| fault("a pod's network namespace", link.clone()))?;
        self.node(&pod.node)?.pod_netns(inode, &pod.name)
    }

    /// Makes a namespace and waits until pods can be made in it.
    ///
    /// # Errors
    /// The API server refuses.
    pub fn create_namespace(&self, name: &str) -> Result<(), LabError> {
        self.check_stopped()?;
        self.plane.create_namespace(name, &[])
    }

    /// Deletes a namespace with everything in it, and waits for its end.
    ///
    /// # Errors
    /// It has not ended in time.
    pub fn delete_namespace(&self, name: &str) -> Result<(), LabError> {
        let delete = ["delete", "namespace", name, "--timeout=180s"];
        let out = self.kubectl_bounded(&delete)?;
        // The second of two attempts may find it gone.
        if out.ok || out.stderr.contains("not found") {
            return Ok(());
        }
        Err(fault(&format!("deleting namespace {name}"), out.stderr))
    }

    /// Sends HTTP GET requests until one is answered with this text in its body, each on a connection of its own.
    ///
    /// # Errors
    /// No such answer comes in time.
    pub fn wait_for_answer(&self, from: &NetNs, to: SocketAddr, path: &str, text: &str) -> Result<(), LabError> {
        let what = format!("{} gets {text:?} from http://{to}{path}", from.name());
        let mut last = String::new();
        wait_until(&what, Duration::from_secs(60), || {
            self.check_stopped()?;
            last = match http_get(from, to, path, Duration::from_secs(2))? {
                ProbeOutcome::Answered(body) => body,
                other => other.to_string(),
            };
            Ok(last.contains(text))
        })
        .map_err(|e| fault(&e.to_string(), format!("the last answer: {last}")))
    }

    /// Applies a file of the project.
    ///
    /// # Errors
    /// It cannot be read, or the API server refuses an object in it.
    pub fn apply_file(&self, file: &str) -> Result<(), LabError> {
        let path = project().join(file);
        let text = fs::read_to_string(&path).map_err(LabError::io(format!("reading {}", path.display())))?;
        self.apply_text(&text)
    }

    /// Applies manifests.
    ///
    /// # Errors
    /// The API server refuses an object.
    pub fn apply_text(&self, text: &str) -> Result<(), LabError> {
        let apply = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
        self.plane.kubectl_with(&apply, text).map(drop)
    }

    /// Runs a command on the machine of the control plane, as the user's workstation, with `$KUBECONFIG` set.
    ///
    /// # Errors
    /// It cannot be started, or does not end.
    pub fn at_workstation(&self, command: &mut Command) -> Result<Output, LabError> {
        command.env("KUBECONFIG", self.plane.dir().join("admin.kubeconfig"));
        self.plane.ns().enter(|| run_with_input(command, ""))
    }
}

/// A running pod.
#[derive(Debug, Clone)]
pub struct PodInfo {
    /// Its name.
    pub name: String,
    /// The name of its node.
    pub node: String,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
}

impl PodInfo {
    fn read(object: &Value) -> Option<Self> {
        let ips = object["status"]["podIPs"].as_array()?.iter();
        Some(Self {
            name: object["metadata"]["name"].as_str()?.to_owned(),
            node: object["spec"]["nodeName"].as_str()?.to_owned(),
            ips: ips.filter_map(|ip| ip["ip"].as_str()?.parse().ok()).collect(),
        })
    }

    /// Returns its first address of a family.
    ///
    /// # Errors
    /// It has none.
    pub fn ip(&self, v6: bool) -> Result<IpAddr, LabError> {
        let found = self.ips.iter().find(|ip| ip.is_ipv6() == v6);
        found
            .copied()
            .ok_or_else(|| fault(&self.name, format!("it has no such address: {:?}", self.ips)))
    }
}

/// Returns the error of an expectation that does not hold.
pub fn fault(what: &str, detail: impl Into<String>) -> LabError {
    LabError::Reply {
        what: what.to_owned(),
        detail: detail.into(),
    }
}

/// Sends an HTTP GET request on a connection of its own, and returns the whole answer's text.
///
/// # Errors
/// The attempt fails for a reason that no [`ProbeOutcome`] stands for.
pub fn http_get(from: &NetNs, to: SocketAddr, path: &str, bound: Duration) -> Result<ProbeOutcome, LabError> {
    let request = format!("GET {path} HTTP/1.0\r\nHost: {to}\r\nConnection: close\r\n\r\n");
    traffic::tcp_exchange(from, to, &request, bound)
}
