//! heddle and CoreDNS, installed as a user installs them.

use std::path::PathBuf;
use std::process::Command;

use heddle_lab::LabError;
use serde_json::Value;

use crate::cluster::{Cluster, SYSTEM, fault};
use crate::node::ClusterNode;
use crate::programs::project;

/// The environment variable that names the folder of Helm.
const HELM: &str = "HEDDLE_HELM";

impl Cluster {
    /// Installs heddle by its chart, and waits until all nodes are ready. All values are the defaults, except that external addresses
    /// of Services are served, because Kubernetes' e2e suite asks for them.
    ///
    /// # Errors
    /// Helm fails, or a node is not ready in time.
    pub fn install_heddle(&self) -> Result<(), LabError> {
        let install = ["install", "heddle", "configs/helm/heddle", "--namespace", SYSTEM];
        self.helm(&[&install[..], &["--set", "config.externalIPs=true"]].concat())?;
        self.wait_for_rollout(SYSTEM, "daemonset/heddle")?;
        self.wait(SYSTEM, &["--for=condition=Ready", "node", "--all"])
    }

    /// Installs CoreDNS, and waits until it serves.
    ///
    /// # Errors
    /// It is not ready in time.
    pub fn install_dns(&self) -> Result<(), LabError> {
        self.apply_file("tests/cluster/coredns.yaml")?;
        self.wait_for_rollout(SYSTEM, "deployment/coredns")
    }

    /// Runs `helm` in the project's folder and returns what it prints.
    ///
    /// # Errors
    /// It fails.
    pub fn helm(&self, args: &[&str]) -> Result<String, LabError> {
        self.check_stopped()?;
        let folder = std::env::var_os(HELM).ok_or_else(|| fault(HELM, "it is not set: run `make e2e-cluster`"))?;
        let mut helm = Command::new(PathBuf::from(folder).join("helm"));
        helm.args(args).current_dir(project());
        let out = self.at_workstation(&mut helm)?;
        if out.ok {
            return Ok(out.stdout);
        }
        Err(fault(&format!("helm {}", args.join(" ")), out.stderr))
    }

    /// Returns the status of a node's agent, `heddle status --output json` in its container.
    ///
    /// # Errors
    /// The agent does not answer.
    pub fn agent_status(&self, node: &ClusterNode) -> Result<Value, LabError> {
        let text = self.heddle(node, &["status", "--output", "json"])?;
        serde_json::from_str(&text).map_err(|e| fault("heddle status", format!("{e}: {text}")))
    }

    /// Runs `heddle` in the container of a node's agent and returns what it prints.
    ///
    /// # Errors
    /// There is no agent, or the command fails.
    pub fn heddle(&self, node: &ClusterNode, args: &[&str]) -> Result<String, LabError> {
        let agent = self.agent(node)?;
        self.exec(SYSTEM, &agent, &[&["heddle"], args].concat())
    }

    /// Returns the name of the pod of a node's agent.
    ///
    /// # Errors
    /// There is none.
    pub fn agent(&self, node: &ClusterNode) -> Result<String, LabError> {
        let agents = self.pods(SYSTEM, "app.kubernetes.io/name=heddle")?;
        let found = agents.into_iter().find(|pod| pod.node == node.name());
        found
            .map(|pod| pod.name)
            .ok_or_else(|| fault("the agent", format!("none runs on {}", node.name())))
    }
}
