//! Connections that stay open: between pods of one node and of two, by ClusterIP, from outside and to the outside, in both families.

use std::net::SocketAddr;

use heddle_lab::traffic::{Conversation, ServerBehavior, Speaker, TcpServer};
use heddle_lab::{LabError, NetNs};
use serde_json::json;

use super::rolling_update::addresses;
use crate::cluster::{Cluster, READY_BOUND, fault};
use crate::workload::{idle_container, pod, service};

/// The port of the servers, in pods and outside.
const PORT: u16 = 7000;

/// Open connections with data in both directions. Each is checked line by line.
pub(super) struct Connections {
    open: Vec<(String, Conversation)>,
    _servers: Vec<TcpServer>,
}

impl Connections {
    /// Makes a pod on each node in the namespace, with a server in it, and opens connections between all of them.
    pub(super) fn open(cluster: &Cluster, namespace: &str) -> Result<Self, LabError> {
        let mut objects = vec![service(namespace, "ends", "end", "NodePort")];
        objects[0]["spec"]["ports"] = json!([{"name": "echo", "port": PORT, "targetPort": PORT}]);
        for node in cluster.nodes() {
            let mut end = pod(
                namespace,
                &format!("end-{}", node.name()),
                Some(node.name()),
                &idle_container(),
            );
            end["metadata"]["labels"] = json!({"app": "end"});
            objects.push(end);
        }
        cluster.apply(&objects)?;
        cluster.wait(namespace, &["--for=condition=Ready", "pod", "--selector=app=end"])?;
        let pods = cluster.pods(namespace, "app=end")?;
        let mut servers = vec![TcpServer::start(cluster.outside(), PORT, ServerBehavior::Echo)?];
        let mut inside: Vec<NetNs> = Vec::new();
        for pod in &pods {
            let ns = cluster.netns_of(namespace, pod)?;
            servers.push(TcpServer::start(&ns, PORT, ServerBehavior::Echo)?);
            inside.push(ns);
        }
        let (cluster_ips, node_ports) = addresses(cluster, namespace, "ends")?;

        let mut open = Vec::new();
        let mut connect = |from: &NetNs, to: SocketAddr, speaker: Speaker| -> Result<(), LabError> {
            let name = format!("{} to {to}", from.name());
            open.push((name, Conversation::start(from, to, speaker)?));
            Ok(())
        };
        for ns in &inside {
            for pod in &pods {
                for ip in &pod.ips {
                    connect(ns, SocketAddr::new(*ip, PORT), Speaker::Client)?;
                }
            }
            for to in &cluster_ips {
                connect(ns, *to, Speaker::Client)?;
            }
            for ip in cluster.lab().outside_ips() {
                connect(ns, SocketAddr::new(ip, PORT), Speaker::Client)?;
            }
        }
        for to in &node_ports {
            connect(cluster.outside(), *to, Speaker::Client)?;
        }
        let connections = Self {
            open,
            _servers: servers,
        };
        connections.check()?;
        Ok(connections)
    }

    /// Waits until each connection has made progress.
    pub(super) fn check(&self) -> Result<(), LabError> {
        for (name, conversation) in &self.open {
            conversation
                .wait_for_rounds(3, READY_BOUND)
                .map_err(|e| fault(name, e.to_string()))?;
        }
        Ok(())
    }

    /// Closes all connections and returns their number.
    pub(super) fn finish(self) -> Result<usize, LabError> {
        let count = self.open.len();
        let mut broken = Vec::new();
        for (name, conversation) in self.open {
            if let Err(e) = conversation.finish() {
                broken.push(format!("{name}: {e}"));
            }
        }
        if broken.is_empty() {
            return Ok(count);
        }
        Err(fault(
            "open connections",
            format!("{} of {count} broke, first {:?}", broken.len(), broken.first()),
        ))
    }
}
