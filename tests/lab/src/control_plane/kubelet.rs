//! Nodes and pods at the API server, as kubelet and the container runtime make them.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::ControlPlane;
use crate::{AddResult, LabError, Node, Pod, manifests};

impl ControlPlane {
    /// Makes what the kubelet of a node needs: `NAME.kubeconfig` of the user `system:node:NAME`, and the certificate of its server for
    /// these addresses, `NAME-server.crt` and `NAME-server.key`. They are in [`ControlPlane::dir`].
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn issue_node_credentials(&self, name: &str, addresses: &[IpAddr]) -> Result<(), LabError> {
        let user = format!("system:node:{name}");
        self.authority()
            .client(name, &user, Some("system:nodes"), &self.url())?;
        self.authority().serve(&format!("{name}-server"), addresses)
    }

    /// Registers a node, as kubelet does, and waits until the controllers have given it its pod ranges.
    ///
    /// # Errors
    /// The API server refuses, or the node has no ranges after a minute.
    pub fn register(&self, node: &Node) -> Result<(), LabError> {
        let mut object = manifests::node(node.name(), &node.internal_ips(), &[]);
        // The controllers choose the ranges.
        object["spec"] = json!({});
        self.kubectl_with(&["create", "-f", "-"], &object.to_string())?;
        let condition = "--for=jsonpath={.spec.podCIDRs[1]}";
        self.kubectl(&["wait", "node", node.name(), condition, "--timeout=60s"])
            .map(drop)
    }

    /// Makes a namespace and waits until pods can be made in it.
    ///
    /// # Errors
    /// The API server refuses, or the namespace has no service account after a minute.
    pub fn create_namespace(&self, name: &str, labels: &[(&str, &str)]) -> Result<(), LabError> {
        let mut object = manifests::namespace(name);
        for (key, value) in labels {
            object["metadata"]["labels"][*key] = json!(value);
        }
        self.apply(&[object])?;
        let account = ["serviceaccount", "default", "--namespace", name];
        self.kubectl(&[&["wait", "--for=create", "--timeout=60s"], &account[..]].concat())
            .map(drop)
    }

    /// Starts a pod: makes its object, calls CNI ADD, and writes its addresses and that it is ready.
    ///
    /// # Errors
    /// The API server refuses, or ADD failed.
    pub fn start_pod(&self, node: &Node, pod: &mut Pod) -> Result<AddResult, LabError> {
        self.create_pod(node, pod)?;
        let added = node.attach(pod)?;
        self.set_status(pod, &added.ips)?;
        Ok(added)
    }

    /// Makes a pod's object alone, and gives the pod the uid that the API server chose.
    ///
    /// # Errors
    /// The API server refuses.
    pub fn create_pod(&self, node: &Node, pod: &mut Pod) -> Result<(), LabError> {
        let mut object = pod.object(node.name(), &[]);
        if let Some(fields) = object.as_object_mut() {
            fields.remove("status");
        }
        if let Some(meta) = object["metadata"].as_object_mut() {
            meta.remove("uid");
        }
        let uid = ["create", "-f", "-", "--output=jsonpath={.metadata.uid}"];
        let uid = self.kubectl_with(&uid, &object.to_string())?;
        pod.set_uid(uid.trim());
        Ok(())
    }

    /// Writes a pod's status: it runs, has these addresses and is ready.
    ///
    /// # Errors
    /// The API server refuses.
    pub fn set_status(&self, pod: &Pod, ips: &[IpAddr]) -> Result<(), LabError> {
        let status: &Value = &pod.object("", ips)["status"];
        let patch = json!({"status": status}).to_string();
        let of = ["patch", "pod", &pod.name, "--namespace", &pod.namespace];
        self.kubectl(&[&of[..], &["--subresource=status", "--type=merge", "--patch", &patch]].concat())
            .map(drop)
    }

    /// Ends a pod: calls CNI DEL, then deletes its object.
    ///
    /// # Errors
    /// DEL failed, or the API server refuses.
    pub fn end_pod(&self, node: &Node, pod: &Pod) -> Result<(), LabError> {
        let out = node.cni("DEL", pod, None)?;
        if !out.ok {
            return Err(LabError::Command {
                command: format!("heddle-cni DEL for {}/{}", pod.namespace, pod.name),
                status: out.status,
                stderr: out.stdout,
            });
        }
        let of = ["delete", "pod", &pod.name, "--namespace", &pod.namespace];
        self.kubectl(&[&of[..], &["--force", "--grace-period=0"]].concat())
            .map(drop)
    }
}
