//! `heddle demo`: nodes and pods in network namespaces of their own, attached by the real CNI plugin to real agents, with real
//! traffic between them. The first part is one node with four pods ([`cluster`], [`probes`]), the second part two nodes with
//! three pods each and a client outside of the cluster ([`nodes`]).
//!
//! The demo acts as container runtime, kubelet and endpoint controller; to heddle it looks like a cluster. It removes
//! everything that it created, on Ctrl-C too.

mod cluster;
mod error;
mod matrix;
mod nodes;
mod probes;
mod stage;

use heddle_lab::{Binaries, Leftovers, remove_leftovers};

use error::DemoError;
use stage::Stage;

/// The arguments of `heddle demo`.
#[derive(Debug, clap::Args)]
pub struct DemoArgs {
    /// Keep the first part's node and pods at the end, and print commands to explore them
    #[arg(long, conflicts_with = "remove")]
    keep: bool,
    /// Only remove what an earlier demo left (after --keep, or a kill -9)
    #[arg(long)]
    remove: bool,
}

/// Runs the demo.
///
/// # Errors
/// A step failed, a signal interrupted the demo, or a result differs from the expected one.
pub fn run(args: &DemoArgs) -> Result<(), DemoError> {
    let mut stage = Stage::new()?;
    let result = if args.remove {
        remove(&mut stage)
    } else {
        show(&mut stage, args.keep)
    };
    // Ctrl-C reaches the processes of a step too, so the step fails. The interruption is reported instead.
    if stage.is_interrupted() {
        Err(DemoError::Interrupted)
    } else {
        result
    }
}

/// Removes what earlier demos left.
fn remove(stage: &mut Stage) -> Result<(), DemoError> {
    let swept = remove_leftovers(Leftovers::All)?;
    if swept.is_empty() {
        return stage.print("there is nothing to remove");
    }
    for what in swept {
        stage.print(&format!("removed {what}"))?;
    }
    Ok(())
}

/// Runs the demo's chapters: one node with its probes and status, two nodes, removal.
fn show(stage: &mut Stage, keep: bool) -> Result<(), DemoError> {
    stage.print("heddle is a userspace packet dataplane for Kubernetes nodes: every packet of a pod passes through AF_XDP sockets")?;
    stage.print("and one pipeline of policy, Service NAT and forwarding. This demo is one node of a cluster, then two, with real traffic.")?;
    let shop = cluster::build(stage, Binaries::beside_current_exe()?)?;
    let mut as_expected = probes::run(stage, &shop)?;
    stage.chapter("The agent's counters (heddle status)")?;
    stage.print(&cluster::status(&shop)?)?;
    as_expected &= nodes::run(stage)?;
    if keep {
        cluster::keep(shop, stage)?;
    } else {
        stage.chapter("Removing everything")?;
        cluster::clean_up(shop, stage)?;
    }
    if as_expected {
        stage.print("\nAll results are as expected.")
    } else {
        Err(DemoError::Different)
    }
}
