//! The objects that the scenarios make: pods of Kubernetes' test image, Deployments and Services.

use serde_json::{Value, json};

/// Kubernetes' own test image. Its `netexec` is an HTTP server that tells its name and the client's address.
pub const AGNHOST: &str = "registry.k8s.io/e2e-test-images/agnhost:2.63.0";
/// The port of the HTTP servers.
pub const PORT: u16 = 8080;
/// The port of the Services.
pub const SERVICE_PORT: u16 = 80;

/// Returns a container with an HTTP server at [`PORT`]. It is ready when it answers. When its pod ends, it goes on for five seconds,
/// as users write it: until then every node knows that the endpoint has gone.
#[must_use]
pub fn web_container() -> Value {
    json!({
        "name": "web", "image": AGNHOST, "args": ["netexec", format!("--http-port={PORT}"), "--udp-port=8081"],
        "ports": [{"containerPort": PORT}],
        "readinessProbe": {"httpGet": {"path": "/hostname", "port": PORT}, "periodSeconds": 1},
        "lifecycle": {"preStop": {"sleep": {"seconds": 5}}}
    })
}

/// Returns a container that does nothing.
#[must_use]
pub fn idle_container() -> Value {
    json!({"name": "idle", "image": AGNHOST, "args": ["pause"]})
}

/// Returns a Deployment with label `app=NAME`, whose pods are spread over the nodes.
#[must_use]
pub fn deployment(namespace: &str, name: &str, replicas: u32, container: &Value) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"namespace": namespace, "name": name},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {
                    "containers": [container], "terminationGracePeriodSeconds": 10,
                    "topologySpreadConstraints": [{
                        "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway",
                        "labelSelector": {"matchLabels": {"app": name}}
                    }]
                }
            }
        }
    })
}

/// Returns a pod on a node with label `app=NAME`.
#[must_use]
pub fn pod(namespace: &str, name: &str, node: Option<&str>, container: &Value) -> Value {
    let mut object = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": namespace, "name": name, "labels": {"app": name}},
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 10}
    });
    if let Some(node) = node {
        object["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": node});
    }
    object
}

/// Returns a dual-stack Service of this type for the pods with label `app=APP`.
#[must_use]
pub fn service(namespace: &str, name: &str, app: &str, kind: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"namespace": namespace, "name": name},
        "spec": {
            "type": kind, "selector": {"app": app}, "ipFamilyPolicy": "RequireDualStack",
            "ports": [{"name": "http", "port": SERVICE_PORT, "targetPort": PORT}]
        }
    })
}
