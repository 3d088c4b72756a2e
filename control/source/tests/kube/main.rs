//! Follows a scripted API server, which does what a real one cannot be made to do on demand: streams that break off anywhere,
//! versions that are gone, missing kinds and rights, answers that are none.
#![allow(clippy::unwrap_used, reason = "helpers of tests: a failure is to end the test")]

mod reads;
mod saved;
mod scripted;
mod writes;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use heddle_model::{Cluster, Kind};
use heddle_source::kube::{ApiServer, ApiServerSource, KindHealth};
use heddle_source::saved::SavedCluster;
use heddle_source::{Batch, Source as _};
use scripted::Server;
use serde_json::{Value, json};

/// The bound of an event that must happen. A pause after a fault is 0.8 s at first.
const BOUND: Duration = Duration::from_secs(20);
/// The name of the agent's node.
const NODE: &str = "n1";

/// A cluster that follows a server.
struct Followed {
    follower: Box<dyn heddle_source::Followed>,
    state: Arc<(Mutex<Cluster>, Condvar)>,
    _kubeconfig: tempfile::TempDir,
}

impl Followed {
    fn start(server: &Server) -> Self {
        Self::start_with(server, None)
    }

    /// Starts with the cluster that an earlier agent saved.
    fn start_with(server: &Server, saved: Option<SavedCluster>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kubeconfig");
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "k", "cluster": {"server": server.url()}}],
            "users": [{"name": "u", "user": {"token": "secret"}}],
            "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
        });
        std::fs::write(&path, kubeconfig.to_string()).unwrap();
        let state = Arc::new((Mutex::new(Cluster::new()), Condvar::new()));
        let source = ApiServerSource {
            server: ApiServer::of_kubeconfig(path, None),
            node: Some(NODE.into()),
            load_saved: Box::new(|| saved),
        };
        let follower = Box::new(source)
            .follow(Box::new({
                let state = Arc::clone(&state);
                move |batch: Batch| {
                    let mut cluster = state.0.lock().unwrap();
                    for event in batch.events {
                        cluster.apply(event);
                    }
                    state.1.notify_all();
                    ControlFlow::Continue(())
                }
            }))
            .unwrap();
        Self {
            follower,
            state,
            _kubeconfig: dir,
        }
    }

    /// Waits until the cluster is as described.
    fn wait(&self, what: &str, holds: impl Fn(&Cluster) -> bool) {
        let end = Instant::now() + BOUND;
        let mut cluster = self.state.0.lock().unwrap();
        while !holds(&cluster) {
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{what}: {:?}", self.health());
            // The health of a kind may change without an event.
            let step = left.min(Duration::from_millis(50));
            cluster = self.state.1.wait_timeout(cluster, step).unwrap().0;
        }
    }

    fn health(&self) -> BTreeMap<Kind, KindHealth> {
        self.follower.health().unwrap().all()
    }

    fn error(&self, kind: Kind) -> Option<String> {
        self.health()[&kind].error.clone()
    }

    fn pods(&self) -> Vec<String> {
        let cluster = self.state.0.lock().unwrap();
        let mut pods: Vec<String> = cluster
            .pods()
            .map(|pod| format!("{} {}", pod.key, pod.labels))
            .collect();
        pods.sort();
        pods
    }
}

fn pod(name: &str, version: &str) -> Value {
    json!({
        "metadata": {"namespace": "a", "name": name, "uid": name, "labels": {"v": version},
            "managedFields": [{"manager": "kubelet", "fieldsV1": {"f:metadata": {}}}]},
        "spec": {"nodeName": NODE, "containers": [{"name": "main", "image": "x"}]},
        "status": {"phase": "Running", "podIPs": [{"ip": "10.0.0.9"}]},
    })
}

fn has(cluster: &Cluster, name: &str, version: &str) -> bool {
    let key = heddle_model::ObjectKey::new("a", name);
    cluster
        .pod(&key)
        .is_some_and(|pod| pod.labels.get("v") == Some(version))
}
