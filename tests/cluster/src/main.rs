//! `make e2e-cluster`: a real Kubernetes cluster of one machine with heddle as its only network, and what users do with it.
//!
//! Nodes are network, mount and process namespaces, each with containerd and kubelet; heddle is installed by its own chart from its own
//! image. The scenarios run one after the other on one cluster, then Kubernetes' own e2e suite. README.md of this folder describes the
//! command.

mod cluster;
mod install;
mod load;
mod node;
mod programs;
mod scenarios;
mod suite;
mod workload;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use clap::Parser;
use heddle_lab::{LabError, wait_until};

use crate::cluster::{Cluster, READY_BOUND, fault};
use crate::scenarios::{ALL, Scenario};

/// A real Kubernetes cluster in namespaces of this machine, with heddle as its only network.
#[derive(Parser, Debug)]
struct Arguments {
    /// The scenarios to run, and `kubernetes` for Kubernetes' own e2e suite. Without one: all.
    names: Vec<String>,
    /// Runs the quick scenarios only.
    #[arg(long, conflicts_with = "names")]
    quick: bool,
    /// The number of nodes, 1 to 9. Scenarios need two.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=9))]
    nodes: u8,
    /// Leaves the cluster running after the scenarios until Ctrl-C, and prints how to use it.
    #[arg(long)]
    hold: bool,
    /// A regular expression: runs only the matching tests of Kubernetes' e2e suite.
    #[arg(long)]
    focus: Option<String>,
    /// The folder for the log and the report of Kubernetes' e2e suite.
    #[arg(long, default_value = "target/e2e-cluster")]
    results: PathBuf,
    /// Lists the scenarios and ends.
    #[arg(long)]
    list: bool,
}

/// The name of Kubernetes' own suite among the scenarios.
const KUBERNETES: &str = "kubernetes";

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            // Nobody may read the output.
            let _ = writeln!(io::stderr(), "e2e-cluster: {e}");
            ExitCode::FAILURE
        }
    }
}

/// Runs what was asked for. Returns true if all of it passed.
fn run(arguments: &Arguments) -> Result<bool, LabError> {
    if arguments.list {
        for scenario in ALL {
            say(&format!(
                "{}{}",
                scenario.name,
                if scenario.quick { " (quick)" } else { "" }
            ))?;
        }
        say(KUBERNETES)?;
        return Ok(true);
    }
    let chosen = choose(arguments)?;
    let with_suite =
        !arguments.quick && (arguments.names.is_empty() || arguments.names.iter().any(|n| n == KUBERNETES));
    let stopped = stop_on_signals()?;

    let start = Instant::now();
    let mut cluster = Cluster::start(arguments.nodes, stopped)?;
    say(&format!(
        "cluster: {} nodes after {} s",
        arguments.nodes,
        start.elapsed().as_secs()
    ))?;
    let installed = cluster.install_heddle().and_then(|()| cluster.install_dns());
    if let Err(e) = installed {
        let logs: String = cluster.nodes().iter().map(node::ClusterNode::log_tails).collect();
        hold(&cluster, arguments)?;
        return Err(fault(&e.to_string(), logs));
    }
    say(&format!(
        "heddle and CoreDNS: ready after {} s",
        start.elapsed().as_secs()
    ))?;

    let mut passed = true;
    // The suite before the scenario that removes heddle.
    let (last, others): (Vec<&Scenario>, Vec<&Scenario>) = chosen.into_iter().partition(|s| s.name == "uninstall");
    for scenario in others {
        passed &= run_one(&mut cluster, scenario)?;
    }
    if with_suite {
        passed &= run_suite(&cluster, arguments)?;
    }
    for scenario in last {
        passed &= run_one(&mut cluster, scenario)?;
    }
    hold(&cluster, arguments)?;
    Ok(passed)
}

fn choose(arguments: &Arguments) -> Result<Vec<&'static Scenario>, LabError> {
    for name in &arguments.names {
        if name != KUBERNETES && !ALL.iter().any(|scenario| scenario.name == name) {
            return Err(fault(
                &format!("the scenario {name:?}"),
                "there is none of this name: see --list",
            ));
        }
    }
    let named = |scenario: &Scenario| arguments.names.iter().any(|name| name == scenario.name);
    Ok(ALL
        .iter()
        .filter(|scenario| {
            if arguments.names.is_empty() {
                scenario.quick || !arguments.quick
            } else {
                named(scenario)
            }
        })
        .collect())
}

/// Runs a scenario and says how it ended. Its namespace is left for the inspection if it failed.
fn run_one(cluster: &mut Cluster, scenario: &Scenario) -> Result<bool, LabError> {
    let start = Instant::now();
    let result = (scenario.run)(cluster);
    cluster.check_stopped()?;
    let seconds = start.elapsed().as_secs();
    match &result {
        Ok(seen) => say(&format!("ok      {} ({seconds} s): {seen}", scenario.name))?,
        Err(e) => say(&format!("FAILED  {} ({seconds} s): {e}", scenario.name))?,
    }
    Ok(result.is_ok())
}

fn run_suite(cluster: &Cluster, arguments: &Arguments) -> Result<bool, LabError> {
    let start = Instant::now();
    let folder = std::path::absolute(&arguments.results).map_err(LabError::io("finding the folder of the results"))?;
    let results = suite::run(cluster, arguments.focus.as_deref(), &folder)?;
    let count = |state: &str| results.iter().filter(|result| result.state == state).count();
    let (passed, skipped) = (count("passed"), count("skipped"));
    let failed: Vec<_> = results
        .iter()
        .filter(|r| !matches!(r.state.as_str(), "passed" | "skipped"))
        .collect();
    let good = failed.is_empty() && passed > 0;
    say(&format!(
        "{} Kubernetes' e2e suite ({} s): {passed} passed, {} failed, {skipped} skipped themselves; {}",
        if good { "ok     " } else { "FAILED " },
        start.elapsed().as_secs(),
        failed.len(),
        folder.display()
    ))?;
    for result in failed {
        say(&format!("        {} {}: {}", result.state, result.name, result.reason))?;
    }
    for result in results.iter().filter(|result| result.state == "skipped") {
        say(&format!("        skipped {}: {}", result.name, result.reason))?;
    }
    Ok(good)
}

/// Waits for Ctrl-C, if it was asked for.
fn hold(cluster: &Cluster, arguments: &Arguments) -> Result<(), LabError> {
    if !arguments.hold {
        return Ok(());
    }
    say(&format!(
        "the cluster runs until Ctrl-C:\n  nsenter --net={} -- {} --kubeconfig={}/admin.kubeconfig get pods -A",
        cluster.plane().ns().path().display(),
        cluster.programs().kubernetes("kubectl")?.display(),
        cluster.plane().dir().display()
    ))?;
    // A month is as good as for ever.
    let ended = wait_until("Ctrl-C", 15_000 * READY_BOUND, || Ok(cluster.check_stopped().is_err()));
    ended.or(Ok(()))
}

/// Returns a flag that SIGINT and SIGTERM set. The guards then remove everything; a second signal ends the process at once.
fn stop_on_signals() -> Result<Arc<AtomicBool>, LabError> {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, 1, Arc::clone(&flag))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&flag)))
            .map_err(LabError::io("registering a signal handler"))?;
    }
    Ok(flag)
}

fn say(line: &str) -> Result<(), LabError> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .map_err(LabError::io("writing to standard output"))
}
