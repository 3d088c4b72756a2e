//! A StatefulSet with a headless Service: each pod is found by its own name, also after it was replaced.

use heddle_lab::{LabError, wait_until};
use serde_json::json;

use crate::cluster::{Cluster, READY_BOUND, fault};
use crate::workload::{PORT, idle_container, pod, web_container};

const NAMESPACE: &str = "stateful-set";
const REPLICAS: u32 = 3;

pub(super) fn run(cluster: &mut Cluster) -> Result<String, LabError> {
    cluster.create_namespace(NAMESPACE)?;
    cluster.apply(&[
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"namespace": NAMESPACE, "name": "db"},
            "spec": {"clusterIP": "None", "selector": {"app": "db"}, "ports": [{"name": "http", "port": PORT}]}
        }),
        json!({
            "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"namespace": NAMESPACE, "name": "db"},
            "spec": {
                "serviceName": "db", "replicas": REPLICAS, "selector": {"matchLabels": {"app": "db"}},
                "template": {
                    "metadata": {"labels": {"app": "db"}},
                    "spec": {"containers": [web_container()], "terminationGracePeriodSeconds": 10}
                }
            }
        }),
        pod(NAMESPACE, "client", None, &idle_container()),
    ])?;
    cluster.wait_for_rollout(NAMESPACE, "statefulset/db")?;
    cluster.wait(NAMESPACE, &["--for=condition=Ready", "pod/client"])?;
    for n in 0..REPLICAS {
        found_by_name(cluster, n)?;
    }
    let all = cluster.exec(NAMESPACE, "client", &["dig", "+short", "+search", "db"])?;
    if all.lines().count() != REPLICAS as usize {
        return Err(fault("the headless Service", format!("DNS answers {all:?}")));
    }
    let uid = |cluster: &Cluster| {
        cluster.kubectl(&[
            "get",
            "pod",
            "db-1",
            "--namespace",
            NAMESPACE,
            "--output=jsonpath={.metadata.uid}",
        ])
    };
    let before = uid(cluster)?;
    cluster.kubectl(&["delete", "pod", "db-1", "--namespace", NAMESPACE])?;
    wait_until("db-1 is another pod", READY_BOUND, || {
        let out = [
            "get",
            "pod",
            "db-1",
            "--namespace",
            NAMESPACE,
            "--output=jsonpath={.metadata.uid}",
        ];
        let out = cluster.kubectl_output(&out)?;
        Ok(out.ok && out.stdout != before)
    })?;
    cluster.wait_for_rollout(NAMESPACE, "statefulset/db")?;
    found_by_name(cluster, 1)?;
    cluster.delete_namespace(NAMESPACE)?;
    Ok(format!("{REPLICAS} pods answer by their own names, a replaced one too"))
}

/// Waits until a pod answers by its name. DNS may keep an answer for five seconds.
fn found_by_name(cluster: &Cluster, n: u32) -> Result<(), LabError> {
    let url = format!("http://db-{n}.db:{PORT}/hostname");
    let expected = format!("db-{n}");
    wait_until(&format!("{expected} answers at {url}"), READY_BOUND, || {
        let curl = [
            "exec",
            "--namespace",
            NAMESPACE,
            "client",
            "--",
            "curl",
            "-sS",
            "-m",
            "2",
            &url,
        ];
        Ok(cluster.kubectl_output(&curl)?.stdout == expected)
    })
}
