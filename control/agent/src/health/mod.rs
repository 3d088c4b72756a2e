//! The health checks of Services (`spec.healthCheckNodePort`), as kube-proxy serves them. A load balancer asks each node by
//! HTTP for its endpoints of a Service with `externalTrafficPolicy: Local`, and sends nothing to a node that has none.
//!
//! The answer has status 200 if the node has at least one ready endpoint, and 503 otherwise. The number of endpoints is in the
//! body and in the header `X-Load-Balancing-Endpoint-Weight`. Terminating endpoints do not count, so that the load balancer
//! drains the node while they still serve. A node that is about to be removed (a taint of the autoscaler, a deletion) is
//! reported only at kube-proxy's own health port, not here. When the agent ends, the ports are closed, so that load balancers
//! see a node without endpoints.
//!
//! `crate::http` serves the ports, and bounds what clients can take from the agent.

mod answer;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use heddle_host::HostStatus;
use heddle_model::{Change, Cluster, Service, ServiceType, TrafficPolicy};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub use answer::Health;
use answer::Sources;

use crate::http::connections::{Connections, Limits};
use crate::http::listener::{self, Shared};

/// The most connections. The descriptors that the agent needs contain them (`crate::descriptors`).
const LIMITS: Limits = Limits {
    total: 256,
    per_port: 96,
    per_source: 32,
};

/// The most descriptors that the connections of all health checks take.
pub const MOST_CONNECTIONS: usize = LIMITS.total;

/// Returns the answer of each health-check port of a node. If two Services have the same port, the first one by name gets
/// it.
#[must_use]
pub fn checks_of_node(cluster: &Cluster, node: &str) -> BTreeMap<u16, Health> {
    let mut checks = BTreeMap::new();
    for service in cluster.services() {
        let Some(port) = service.health_check_node_port else {
            continue;
        };
        if !service.is_proxied()
            || service.service_type != ServiceType::LoadBalancer
            || service.external_policy != TrafficPolicy::Local
        {
            continue;
        }
        let endpoints = cluster.slices_of(&service.key).filter(|slice| slice.is_proxied());
        let local: BTreeSet<IpAddr> = endpoints
            .flat_map(|slice| &slice.endpoints)
            .filter(|e| e.ready && !e.terminating && e.node.as_deref() == Some(node))
            .map(|e| e.address)
            .collect();
        let health = Health {
            service: service.key.clone(),
            local: local.len(),
        };
        checks.entry(port.get()).or_insert(health);
    }
    checks
}

/// Returns `true` if a change can affect the answer of a port. Few Services have a health check, and endpoints change often,
/// so most changes cost nothing more. `cluster` is the state after the change.
#[must_use]
pub fn concerns(cluster: &Cluster, change: &Change) -> bool {
    let has_check = |service: &Arc<Service>| service.health_check_node_port.is_some();
    match change {
        Change::Service(delta) => delta.before.iter().chain(&delta.after).any(has_check),
        Change::EndpointSlice(delta) => {
            let mut services = delta
                .before
                .iter()
                .chain(&delta.after)
                .filter_map(|slice| slice.service.as_ref());
            services.any(|key| cluster.service(key).is_some_and(has_check))
        }
        _ => false,
    }
}

/// A port that is served; dropping it closes the port and its connections.
#[derive(Debug)]
struct Served {
    port: u16,
    health: watch::Sender<Health>,
    task: JoinHandle<()>,
    connections: Shared,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
        let open = listener::lock(&self.connections).remove_port(self.port);
        for task in open {
            task.abort();
        }
    }
}

/// The ports that are served; dropping this closes them.
#[derive(Debug)]
pub struct HealthChecks {
    runtime: Handle,
    /// The state of the node's kernel state: without it working, no port is healthy.
    host: watch::Receiver<HostStatus>,
    served: BTreeMap<u16, Served>,
    connections: Shared,
}

impl HealthChecks {
    /// Starts without ports. `runtime` will run the servers. While `host` has a problem, every port answers that this node does
    /// not serve, as kube-proxy does while its rules are not in the kernel.
    #[must_use]
    pub fn new(runtime: Handle, host: watch::Receiver<HostStatus>) -> Self {
        Self {
            runtime,
            host,
            served: BTreeMap::new(),
            connections: Arc::new(Mutex::new(Connections::new(LIMITS))),
        }
    }

    /// Serves these ports and closes all others. Returns the ports that cannot be opened, with the errors. The controller calls
    /// it from its own thread, outside of the runtime.
    pub fn serve(&mut self, checks: BTreeMap<u16, Health>) -> Vec<(u16, io::Error)> {
        self.served.retain(|port, _| checks.contains_key(port));
        let mut failed = Vec::new();
        for (port, health) in checks {
            if let Some(served) = self.served.get(&port) {
                served.health.send_if_modified(|now| {
                    let changed = *now != health;
                    *now = health;
                    changed
                });
                continue;
            }
            match self.runtime.block_on(listener::listen(port)) {
                Ok(socket) => {
                    let (health, seen) = watch::channel(health);
                    let sources = Sources {
                        health: seen,
                        host: self.host.clone(),
                    };
                    let connections = Arc::clone(&self.connections);
                    let answer = move |_path: &str| sources.answer();
                    let shared = Arc::clone(&connections);
                    let serving = listener::serve(socket, port, "a health check", answer, shared);
                    let task = self.runtime.spawn(serving);
                    let served = Served {
                        port,
                        health,
                        task,
                        connections,
                    };
                    self.served.insert(port, served);
                }
                Err(e) => failed.push((port, e)),
            }
        }
        failed
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, Ipv6Addr, TcpStream};

    use heddle_model::ObjectKey;
    use heddle_source::decode::{Decoded, decode};
    use serde_json::{Value, json};

    use super::*;

    fn cluster(objects: &[Value]) -> Cluster {
        let mut cluster = Cluster::new();
        for object in objects {
            let Decoded::Object(object) = decode(object).unwrap() else {
                panic!("a kind that is not read");
            };
            cluster.apply(heddle_model::Event::Upsert {
                origin: "test".into(),
                object,
            });
        }
        cluster
    }

    fn service(name: &str, policy: &str, port: u16) -> Value {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "shop", "name": name}, "spec": {
            "type": "LoadBalancer", "clusterIPs": ["10.96.0.1"], "externalTrafficPolicy": policy,
            "healthCheckNodePort": port, "ports": [{"port": 80, "nodePort": 30080}]}})
    }

    fn slice(service: &str, endpoints: &Value) -> Value {
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"namespace": "shop", "name": service, "labels": {"kubernetes.io/service-name": service}},
            "ports": [{"port": 8080}], "endpoints": endpoints})
    }

    #[test]
    fn ready_endpoints_of_this_node_count_once_and_terminating_ones_do_not() {
        let endpoints = json!([
            {"addresses": ["10.0.1.1"], "nodeName": "n1"},
            {"addresses": ["10.0.1.1"], "nodeName": "n1"},
            {"addresses": ["10.0.1.2"], "nodeName": "n1", "conditions": {"ready": false, "serving": true, "terminating": true}},
            {"addresses": ["10.0.2.1"], "nodeName": "n2"},
        ]);
        let cluster = cluster(&[service("web", "Local", 32_000), slice("web", &endpoints)]);
        let local = |node| {
            checks_of_node(&cluster, node)
                .into_iter()
                .map(|(port, h)| (port, h.local))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            [local("n1"), local("n2"), local("n3")],
            [[(32_000, 1)], [(32_000, 1)], [(32_000, 0)]]
        );
    }

    #[test]
    fn a_node_that_is_being_drained_answers_by_its_endpoints() {
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}, "spec": {"unschedulable": true,
            "taints": [{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]}, "status": {}});
        let health = |conditions: Value| {
            let endpoints = json!([{"addresses": ["10.0.1.1"], "nodeName": "n1", "conditions": conditions}]);
            let cluster = cluster(&[node.clone(), service("web", "Local", 32_000), slice("web", &endpoints)]);
            assert!(cluster.node("n1").is_some_and(|node| node.draining));
            checks_of_node(&cluster, "n1")[&32_000].local
        };
        assert_eq!(health(json!({"ready": true})), 1);
        assert_eq!(health(json!({"ready": false, "serving": true, "terminating": true})), 0);
    }

    #[test]
    fn only_services_with_a_health_check_and_their_endpoints_concern_the_ports() {
        let mut plain = service("plain", "Cluster", 1);
        plain["spec"].as_object_mut().unwrap().remove("healthCheckNodePort");
        let mut cluster = cluster(&[service("web", "Local", 32_000), plain]);
        let mut concerns_checks = |object: &Value| {
            let Decoded::Object(object) = decode(object).unwrap() else {
                panic!("a kind that is not read");
            };
            let origin = "test".into();
            let changes = cluster.apply(heddle_model::Event::Upsert { origin, object });
            changes.objects.iter().any(|change| concerns(&cluster, change))
        };
        let endpoints = json!([{"addresses": ["10.0.1.1"], "nodeName": "n1"}]);
        assert!(concerns_checks(&slice("web", &endpoints)));
        assert!(!concerns_checks(&slice("plain", &endpoints)));
        // If a Service loses its check, a port is closed.
        assert!(concerns_checks(&service("web", "Cluster", 32_000)));
    }

    #[test]
    fn only_local_policy_has_a_health_check() {
        assert!(checks_of_node(&cluster(&[service("web", "Cluster", 32_000)]), "n1").is_empty());
    }

    fn get(port: u16) -> io::Result<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap()
    }

    #[test]
    fn clients_that_only_hold_connections_keep_nobody_from_an_answer() {
        let runtime = runtime();
        let taken = std::net::TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        drop(taken);
        let (_host, host) = watch::channel(HostStatus {
            differences: Some(Vec::new()),
            ..HostStatus::default()
        });
        let mut checks = HealthChecks::new(runtime.handle().clone(), host);
        let service = ObjectKey::new("shop", "web");
        assert!(
            checks
                .serve(BTreeMap::from([(port, Health { service, local: 1 })]))
                .is_empty()
        );
        // More than a source may have; some send the beginning of a request.
        let mut idle = Vec::new();
        for n in 0..2 * LIMITS.per_source {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
            if n % 2 == 0 {
                stream.write_all(b"GET / HTTP/1.1\r\nX: ").unwrap();
            }
            idle.push(stream);
        }
        assert!(get(port).unwrap().starts_with("HTTP/1.1 200 "));
        // The oldest connections were closed without an answer.
        let mut answer = Vec::new();
        let closed = idle[0].read_to_end(&mut answer);
        assert!(closed.is_err() || answer.is_empty(), "{answer:?}");
        // A request is answered once: the connection is closed although the client asks to keep it.
        let mut kept = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        kept.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\n\r\n")
            .unwrap();
        let mut answer = String::new();
        kept.read_to_string(&mut answer).unwrap();
        assert!(answer.to_lowercase().contains("connection: close"), "{answer}");
    }

    #[test]
    fn the_answer_follows_the_endpoints_and_the_port_closes() {
        let runtime = runtime();
        // A port that was free a moment ago.
        let taken = std::net::TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let health = |local| {
            let service = ObjectKey::new("shop", "web");
            BTreeMap::from([(port, Health { service, local })])
        };
        let (host_in, host) = watch::channel(HostStatus {
            differences: Some(Vec::new()),
            ..HostStatus::default()
        });
        let mut checks = HealthChecks::new(runtime.handle().clone(), host);
        let failed = checks.serve(health(1));
        assert_eq!(
            failed.first().map(|(port, e)| (*port, e.kind())),
            Some((port, io::ErrorKind::AddrInUse))
        );
        drop(taken);
        assert!(checks.serve(health(2)).is_empty());
        let answer = get(port).unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 200 ") && answer.contains("x-load-balancing-endpoint-weight: 2"),
            "{answer}"
        );
        assert!(
            answer.ends_with(
                r#"{"localEndpoints":2,"service":{"name":"web","namespace":"shop"},"serviceProxyHealthy":true}"#
            ),
            "{answer}"
        );
        let set_problem = |problem: &[&str]| {
            let differences = problem.iter().map(ToString::to_string).collect();
            host_in.send_modify(|host| host.differences = Some(differences));
        };
        set_problem(&["no route"]);
        let answer = get(port).unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 503 ") && answer.contains(r#""serviceProxyHealthy":false"#),
            "{answer}"
        );
        set_problem(&[]);
        checks.serve(health(0));
        assert!(get(port).unwrap().starts_with("HTTP/1.1 503 "));
        checks.serve(BTreeMap::new());
        // The task ends at its next step.
        while get(port).is_ok_and(|answer| !answer.is_empty()) {
            std::thread::yield_now();
        }
    }
}
