//! The parts of the container runtime and of kubelet: CNI calls, and the Pod objects around them.

use std::net::IpAddr;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::{LabError, Node, Output, Pod, run_with_input};

/// The result of a CNI ADD.
#[derive(Debug, Clone)]
pub struct AddResult {
    /// The pod's addresses, in the order of the result.
    pub ips: Vec<IpAddr>,
    /// The whole result.
    pub result: Value,
}

impl AddResult {
    /// Returns the first address of a family.
    ///
    /// # Errors
    /// The result has no address of the family.
    pub fn ip(&self, v6: bool) -> Result<IpAddr, LabError> {
        self.ips
            .iter()
            .copied()
            .find(|ip| ip.is_ipv6() == v6)
            .ok_or_else(|| LabError::Reply {
                what: "the CNI result".to_owned(),
                detail: format!("it has no IPv{} address: {}", if v6 { 6 } else { 4 }, self.result),
            })
    }

    fn parse(stdout: &str) -> Result<Self, LabError> {
        let bad = |detail: String| LabError::Reply {
            what: "the CNI result".to_owned(),
            detail,
        };
        let result: Value = serde_json::from_str(stdout).map_err(|e| bad(format!("{e}: {stdout}")))?;
        let ips = result["ips"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|ip| {
                let text = ip["address"].as_str().unwrap_or_default();
                let address = text.split('/').next().unwrap_or_default();
                address.parse().map_err(|e| bad(format!("address {text:?}: {e}")))
            })
            .collect::<Result<Vec<IpAddr>, LabError>>()?;
        Ok(Self { ips, result })
    }
}

impl Node {
    /// Calls the CNI plugin as a container runtime does.
    ///
    /// # Errors
    /// The plugin cannot be started.
    pub fn cni(&self, command: &str, pod: &Pod, prev_result: Option<&Value>) -> Result<Output, LabError> {
        let mut config =
            json!({"cniVersion": "1.1.0", "name": "heddle", "type": "heddle-cni", "runDir": self.run_dir()});
        if !pod.port_mappings().is_null() {
            config["capabilities"] = json!({"portMappings": true});
            config["runtimeConfig"] = json!({"portMappings": pod.port_mappings()});
        }
        if let Some(prev) = prev_result {
            config["prevResult"] = prev.clone();
        }
        let container_id = pod.container_id();
        let mut plugin = Command::new(self.cni_path());
        plugin
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", container_id)
            .env("CNI_NETNS", pod.ns().path())
            .env("CNI_IFNAME", "eth0")
            .env(
                "CNI_ARGS",
                format!(
                    "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={container_id};\
                     K8S_POD_UID={}",
                    pod.namespace,
                    pod.name,
                    pod.uid()
                ),
            )
            .env("CNI_PATH", self.cni_path().parent().unwrap_or(Path::new("/")));
        self.ns().enter(|| run_with_input(&mut plugin, &config.to_string()))
    }

    /// Starts a pod as kubelet does: writes its object without addresses, calls CNI ADD, writes its object with addresses.
    ///
    /// # Errors
    /// ADD failed. The error contains the plugin's message.
    pub fn start_pod(&self, pod: &Pod) -> Result<AddResult, LabError> {
        self.apply(&pod.object(self.name(), &[]))?;
        let added = self.attach(pod)?;
        self.apply(&pod.object(self.name(), &added.ips))?;
        Ok(added)
    }

    /// Calls CNI ADD alone.
    ///
    /// # Errors
    /// ADD failed. The error contains the plugin's message.
    pub fn attach(&self, pod: &Pod) -> Result<AddResult, LabError> {
        let out = self.cni("ADD", pod, None)?;
        if out.ok {
            return AddResult::parse(&out.stdout);
        }
        let log = self.agent().map(|agent| agent.log_tail(10)).unwrap_or_default();
        Err(LabError::Command {
            command: format!("heddle-cni ADD for {}/{}", pod.namespace, pod.name),
            status: out.status,
            stderr: format!(
                "{}{}\nthe end of the agent's log:\n{log}",
                out.stdout.trim(),
                out.stderr.trim()
            ),
        })
    }

    /// Ends a pod as kubelet does: calls CNI DEL, then removes its object.
    ///
    /// # Errors
    /// DEL failed, or the object does not exist.
    pub fn end_pod(&self, pod: &Pod) -> Result<(), LabError> {
        let out = self.cni("DEL", pod, None)?;
        if !out.ok {
            return Err(LabError::Command {
                command: format!("heddle-cni DEL for {}/{}", pod.namespace, pod.name),
                status: out.status,
                stderr: out.stdout,
            });
        }
        self.delete(&pod.object(self.name(), &[]))
    }
}
