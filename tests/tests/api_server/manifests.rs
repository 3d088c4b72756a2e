//! The API server accepts the manifests to which the Helm chart renders, and the Job that cleans a node.

use std::path::Path;

use heddle_lab::LabError;

use crate::scene::Cluster;

#[test]
fn the_server_accepts_every_object_of_the_manifests() -> Result<(), LabError> {
    let cluster = Cluster::shared()?;
    let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs");
    let [manifests, cleanup] = ["kubernetes.yaml", "cleanup.yaml"].map(|file| configs.join(file).display().to_string());
    // Server-side, with strict validation: an unknown or misspelt field is an error.
    let apply = ["apply", "--server-side", "--dry-run=server", "--validate=strict"];
    let out = cluster
        .plane
        .kubectl(&[&apply[..], &["-f", &manifests, "-f", &cleanup]].concat())?;
    for object in [
        "serviceaccount/heddle",
        "configmap/heddle",
        "clusterrole.rbac.authorization.k8s.io/heddle",
        "clusterrolebinding.rbac.authorization.k8s.io/heddle",
        "daemonset.apps/heddle",
        "job.batch/heddle-cleanup",
    ] {
        assert!(out.lines().any(|line| line.starts_with(object)), "{object}: {out}");
    }
    Ok(())
}
