//! Pods: a namespace and an object each.

use std::net::IpAddr;

use serde_json::Value;

use crate::{LabError, NetNs, manifests};

/// A pod: a network namespace and an object for the manifest folder.
#[derive(Debug)]
pub struct Pod {
    /// Its Kubernetes namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    labels: Vec<(String, String)>,
    uid: String,
    /// `runtimeConfig.portMappings`
    port_mappings: Value,
    ns: NetNs,
}

impl Pod {
    /// Makes the pod's network namespace; nothing attaches it yet.
    pub(crate) fn new(namespace: &str, name: &str, labels: &[(&str, &str)]) -> Result<Self, LabError> {
        Ok(Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            labels: owned(labels),
            uid: format!("uid-{namespace}-{name}"),
            port_mappings: Value::Null,
            ns: NetNs::create(name)?,
        })
    }

    /// Returns its network namespace.
    #[must_use]
    pub const fn ns(&self) -> &NetNs {
        &self.ns
    }

    /// Returns the container id that the CNI plugin gets: the network namespace's name.
    #[must_use]
    pub fn container_id(&self) -> &str {
        self.ns.name()
    }

    /// Returns its uid, which is in the object and in `CNI_ARGS`.
    #[must_use]
    pub fn uid(&self) -> &str {
        &self.uid
    }

    /// Sets its uid to the one that an API server gave it.
    pub fn set_uid(&mut self, uid: &str) {
        uid.clone_into(&mut self.uid);
    }

    /// Returns its port mappings as the container runtime passes them to the CNI plugin; null if it has none.
    #[must_use]
    pub const fn port_mappings(&self) -> &Value {
        &self.port_mappings
    }

    /// Sets its port mappings, in the form of the CNI capability `portMappings`.
    pub fn map_ports(&mut self, mappings: Value) {
        self.port_mappings = mappings;
    }

    /// Returns its Pod object on a node, with these addresses.
    #[must_use]
    pub fn object(&self, node: &str, ips: &[IpAddr]) -> Value {
        let labels: Vec<(&str, &str)> = self.labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        manifests::pod(&self.namespace, &self.name, &labels, node, ips)
    }

    /// Replaces its labels. The agent sees them once [`crate::Node::apply`] writes the object.
    pub fn relabel(&mut self, labels: &[(&str, &str)]) {
        self.labels = owned(labels);
    }
}

fn owned(labels: &[(&str, &str)]) -> Vec<(String, String)> {
    labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}
