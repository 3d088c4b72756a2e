//! Kubernetes objects in the form of `kubectl get -o json`, with the fields that a node agent reads.

use std::net::IpAddr;

use serde_json::{Value, json};

/// Returns a Node with its internal addresses and pod ranges.
#[must_use]
pub fn node(name: &str, internal_ips: &[IpAddr], pod_cidrs: &[String]) -> Value {
    let addresses: Vec<Value> = internal_ips
        .iter()
        .map(|ip| json!({"type": "InternalIP", "address": ip.to_string()}))
        .collect();
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": {"podCIDR": pod_cidrs.first(), "podCIDRs": pod_cidrs},
        "status": {"addresses": addresses}
    })
}

/// Returns a Namespace with the label that the API server adds.
#[must_use]
pub fn namespace(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}}
    })
}

/// Returns a Pod on a node. Without addresses it is pending: its sandbox does not exist yet.
#[must_use]
pub fn pod(namespace: &str, name: &str, labels: &[(&str, &str)], node: &str, ips: &[IpAddr]) -> Value {
    let labels: serde_json::Map<String, Value> = labels.iter().map(|(k, v)| ((*k).to_owned(), json!(v))).collect();
    let pod_ips: Vec<Value> = ips.iter().map(|ip| json!({"ip": ip.to_string()})).collect();
    let mut status = json!({"phase": if ips.is_empty() { "Pending" } else { "Running" }});
    if let Some(first) = ips.first() {
        status["podIP"] = json!(first.to_string());
        status["podIPs"] = json!(pod_ips);
        status["conditions"] = json!([{"type": "Ready", "status": "True"}]);
    }
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": namespace, "name": name, "uid": format!("uid-{namespace}-{name}"), "labels": labels},
        "spec": {"nodeName": node, "containers": [{"name": "main", "image": "example.com/main"}]},
        "status": status
    })
}

/// Returns a ClusterIP Service with one TCP port. Two addresses make it dual stack.
#[must_use]
pub fn service(namespace: &str, name: &str, cluster_ips: &[IpAddr], port: u16, target_port: u16) -> Value {
    let ips: Vec<String> = cluster_ips.iter().map(ToString::to_string).collect();
    let families: Vec<&str> = cluster_ips
        .iter()
        .map(|ip| if ip.is_ipv4() { "IPv4" } else { "IPv6" })
        .collect();
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": namespace, "name": name},
        "spec": {
            "type": "ClusterIP", "clusterIP": ips.first(), "clusterIPs": ips, "ipFamilies": families,
            "selector": {"app": name},
            "ports": [{"name": "main", "protocol": "TCP", "port": port, "targetPort": target_port}]
        }
    })
}

/// Returns the EndpointSlice of one family for a Service made by [`service`]. Every endpoint is ready.
#[must_use]
pub fn endpoint_slice(
    namespace: &str,
    service: &str,
    v6: bool,
    target_port: u16,
    endpoints: &[(IpAddr, &str)],
) -> Value {
    let endpoints: Vec<Value> = endpoints
        .iter()
        .map(|(ip, pod)| {
            json!({
                "addresses": [ip.to_string()],
                "conditions": {"ready": true, "serving": true, "terminating": false},
                "targetRef": {"kind": "Pod", "namespace": namespace, "name": pod}
            })
        })
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "namespace": namespace, "name": format!("{service}-{}", if v6 { "v6" } else { "v4" }),
            "labels": {"kubernetes.io/service-name": service}
        },
        "addressType": if v6 { "IPv6" } else { "IPv4" },
        "endpoints": endpoints,
        "ports": [{"name": "main", "protocol": "TCP", "port": target_port}]
    })
}

/// Returns a NetworkPolicy under which only pods with label `from` reach the pods with label `to`, at one TCP port.
#[must_use]
pub fn allow_only(namespace: &str, name: &str, to: (&str, &str), from: (&str, &str), port: u16) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": namespace, "name": name},
        "spec": {
            "podSelector": {"matchLabels": {to.0: to.1}},
            "policyTypes": ["Ingress"],
            "ingress": [{
                "from": [{"podSelector": {"matchLabels": {from.0: from.1}}}],
                "ports": [{"protocol": "TCP", "port": port}]
            }]
        }
    })
}

/// Returns the ServiceCIDR object: the ranges of ClusterIPs.
#[must_use]
pub fn service_cidr(cidrs: &[&str]) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
        "metadata": {"name": "kubernetes"},
        "spec": {"cidrs": cidrs}
    })
}
