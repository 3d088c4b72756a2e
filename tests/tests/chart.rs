//! The Helm chart: `helm lint` accepts it, it renders to the committed manifests, and its schema refuses values of the wrong type.
//! `control/config/tests/chart.rs` compares its values with the configuration's keys.

use std::path::{Path, PathBuf};
use std::process::Command;

use heddle_lab::{LabError, Output, run_with_input};

/// The variable that names Helm's folder. `make helm` builds it.
const FOLDER: &str = "HEDDLE_HELM";
/// The server's version for which the chart is rendered.
const KUBERNETES: &str = "1.36";

fn configs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs")
}

/// Runs `helm` on the chart.
fn helm(command: &[&str], flags: &[&str]) -> Result<Output, LabError> {
    let program = std::env::var_os(FOLDER).map(|folder| PathBuf::from(folder).join("helm"));
    let program = program
        .filter(|program| program.exists())
        .ok_or_else(|| LabError::Reply {
            what: format!("${FOLDER}"),
            detail: "it names no folder with helm; build it with `make helm`".to_owned(),
        })?;
    let mut helm = Command::new(program);
    helm.args(command).arg(configs().join("helm/heddle"));
    helm.args(["--namespace", "kube-system", "--kube-version", KUBERNETES]);
    run_with_input(helm.args(flags), "")
}

#[test]
fn the_chart_passes_lint_and_renders_to_the_committed_manifests() -> Result<(), LabError> {
    let out = helm(&["lint", "--strict"], &[])?;
    assert!(out.ok, "{}{}", out.stdout, out.stderr);
    let out = helm(&["template", "heddle"], &[])?;
    assert!(out.ok, "{}", out.stderr);
    let path = configs().join("kubernetes.yaml");
    let committed = std::fs::read_to_string(&path).map_err(LabError::io("reading the manifests"))?;
    let (_, committed) = committed.split_once("---\n").unwrap_or_default();
    assert!(
        out.stdout.strip_prefix("---\n") == Some(committed),
        "configs/kubernetes.yaml is not what the chart renders to: run `make manifests`"
    );
    Ok(())
}

#[test]
fn values_of_the_wrong_type_and_unknown_ones_are_refused_by_name() -> Result<(), LabError> {
    for (set, named) in [
        ("config.maxPods=many", "maxPods"),
        ("config.maxPods=2000", "maxPods"),
        ("config.maxPod=3", "maxPod"),
        ("config.apiServer=10.0.0.1:6443", "apiServer"),
        ("config.cni.configDir=etc/cni", "configDir"),
        ("config.timeouts.tcp=3", "tcp"),
        ("config.clusterCIDRs={10.0.0.0}", "clusterCIDRs"),
        ("image.pullPolicy=Sometimes", "pullPolicy"),
        ("maxUnavailable=0", "maxUnavailable"),
    ] {
        let out = helm(&["template", "heddle"], &["--set", set])?;
        assert!(!out.ok && out.stderr.contains(named), "{set}: {}", out.stderr);
    }
    Ok(())
}

#[test]
fn values_reach_the_manifests() -> Result<(), LabError> {
    let flags = [
        "--set",
        "config.apiServer=https://192.0.2.1:6443,config.runDir=/run/other,config.connections=67108864",
        "--set",
        "config.probePort=null,config.cni.configDir=null,maxUnavailable=10%",
    ];
    let out = helm(&["template", "heddle"], &flags)?;
    assert!(out.ok, "{}", out.stderr);
    for line in [
        "    apiServer: https://192.0.2.1:6443",
        "    connections: 67108864",
        "          mountPath: /run/other",
        "      maxUnavailable: 10%",
    ] {
        assert!(out.stdout.lines().any(|found| found == line), "{line}: {}", out.stdout);
    }
    for absent in ["livez", "/etc/cni/net.d", "cni-config"] {
        assert!(!out.stdout.contains(absent), "{absent}: {}", out.stdout);
    }
    Ok(())
}
