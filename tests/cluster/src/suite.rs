//! Kubernetes' own e2e suite against the cluster, by its test binary and Ginkgo.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use heddle_lab::{LabError, Process, wait_until};
use serde_json::Value;

use crate::cluster::{Cluster, fault};

/// The longest that the suite may run.
const BOUND: Duration = Duration::from_secs(3600);
/// The processes that run tests side by side. They mostly wait.
const PROCESSES: &str = "6";

/// Tests that cannot run here: cloud load balancers, SCTP (not in every kernel), the Internet, nodes with ssh; and those that ask
/// kube-proxy itself, or that end nodes.
const NOT_HERE: &[&str] = &[
    r"\[Feature:LoadBalancer\]",
    r"\[Feature:SCTPConnectivity\]",
    r"\[Feature:Networking-IPv4\]",
    r"\[Feature:Networking-IPv6\]",
    r"\[Feature:Networking-DNS\]",
    r"\[Feature:Networking-Performance\]",
    r"\[Feature:KubeProxyDaemonSetMigration\]",
    r"\[Feature:PerformanceDNS\]",
    r"\[Feature:KubeProxyNFAcct\]",
    r"\[Provider:GCE\]",
    r"\[Disruptive\]",
    "should forward PTR records",
    "should check kube-proxy urls",
    "KubeProxy should set TCP CLOSE_WAIT timeout",
    "SCTP",
];

/// The tests of the network and of its policies.
const NETWORK: &str = r"\[sig-network\]";

/// The result of one test.
#[derive(Debug)]
pub struct TestResult {
    /// Its whole name.
    pub name: String,
    /// `passed`, `failed`, `skipped` (by itself) and others of Ginkgo.
    pub state: String,
    /// The first line of its failure.
    pub reason: String,
}

/// Runs the tests whose names match `focus`, or all of the network that can run here, and returns the results of the tests that ran.
/// Ginkgo's log and report are in `folder`.
///
/// # Errors
/// The suite was not built, does not end, or leaves no report.
pub fn run(cluster: &Cluster, focus: Option<&str>, folder: &Path) -> Result<Vec<TestResult>, LabError> {
    let programs = cluster.programs();
    let (ginkgo, suite) = (programs.kubernetes("ginkgo")?, programs.kubernetes("e2e.test")?);
    let kubeconfig = cluster.plane().dir().join("admin.kubeconfig");
    fs::create_dir_all(folder).map_err(LabError::io(format!("creating {}", folder.display())))?;
    let mut command = Command::new(ginkgo);
    command
        .arg(format!("--procs={PROCESSES}"))
        .arg(format!("--timeout={}s", BOUND.as_secs()))
        .arg(format!("--focus={}", focus.unwrap_or(NETWORK)))
        .arg(format!("--skip={}", NOT_HERE.join("|")))
        .args([
            "-v",
            "--no-color",
            "--poll-progress-after=0",
            "--json-report=report.json",
        ])
        .arg(format!("--output-dir={}", folder.display()))
        .arg(suite)
        .arg("--")
        .arg(format!("--kubeconfig={}", kubeconfig.display()))
        .args(["--provider=skeleton", "--minStartupPods=0"])
        .arg(format!("--num-nodes={}", cluster.nodes().len()))
        .arg(format!("--kubectl-path={}", programs.kubernetes("kubectl")?.display()))
        .current_dir(folder);
    let log = folder.join("log");
    let mut process = Process::start(cluster.plane().ns(), "ginkgo", &mut command, &log)?;
    wait_until("the end of the suite", BOUND + Duration::from_secs(60), || {
        cluster.check_stopped()?;
        Ok(process.exit_status()?.is_some())
    })?;
    read_report(&folder.join("report.json")).map_err(|e| fault(&e.to_string(), process.log_tail(20)))
}

fn read_report(path: &Path) -> Result<Vec<TestResult>, LabError> {
    let text = fs::read_to_string(path).map_err(LabError::io(format!("reading {}", path.display())))?;
    let report: Value = serde_json::from_str(&text).map_err(|e| fault("Ginkgo's report", e.to_string()))?;
    Ok(results_of(&report))
}

/// Returns the results of the tests in a report that ran, by name.
fn results_of(report: &Value) -> Vec<TestResult> {
    let suites = report.as_array().into_iter().flatten();
    let specs = suites.flat_map(|suite| suite["SpecReports"].as_array().into_iter().flatten());
    let ran = specs.filter(|spec| spec["LeafNodeType"] == "It" && spec["NumAttempts"].as_u64() > Some(0));
    let mut results: Vec<TestResult> = ran.map(read_result).collect();
    results.sort_by(|a, b| a.name.cmp(&b.name));
    results
}

fn read_result(spec: &Value) -> TestResult {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let containers = spec["ContainerHierarchyTexts"].as_array().into_iter().flatten();
    let mut name: Vec<String> = containers.map(text).collect();
    name.push(text(&spec["LeafNodeText"]));
    let message = text(&spec["Failure"]["Message"]);
    TestResult {
        name: name.join(" "),
        state: text(&spec["State"]),
        reason: message.lines().next().unwrap_or_default().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_tests_that_ran_are_results() {
        let spec = |kind: &str, name: &str, state: &str, attempts: u32| {
            json!({
                "LeafNodeType": kind, "ContainerHierarchyTexts": ["[sig-network]", "DNS"], "LeafNodeText": name, "State": state,
                "NumAttempts": attempts, "Failure": {"Message": "timed out\nlater"}
            })
        };
        let report = json!([{"SpecReports": [
            spec("It", "second", "failed", 1), spec("It", "first", "passed", 1), spec("It", "not chosen", "skipped", 0),
            spec("BeforeSuite", "", "passed", 1), spec("It", "third", "skipped", 1)
        ]}]);
        let results = results_of(&report);
        let seen: Vec<_> = results.iter().map(|r| (r.name.as_str(), r.state.as_str())).collect();
        assert_eq!(
            seen,
            [
                ("[sig-network] DNS first", "passed"),
                ("[sig-network] DNS second", "failed"),
                ("[sig-network] DNS third", "skipped")
            ]
        );
        assert_eq!(results[1].reason, "timed out");
        assert!(results_of(&json!({})).is_empty());
    }
}
