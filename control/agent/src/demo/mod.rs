//! `heddle demo`: a node and four pods in network namespaces of their own, attached by the real CNI plugin to a real
//! agent, with real traffic between them.
//!
//! The demo plays container runtime, kubelet and endpoint controller; heddle does not know that it is not a cluster.
//! It removes all it made, also on Ctrl-C.

mod cluster;
mod probes;

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use heddle_tests::{Binaries, LabError, sweep};

/// The arguments of `heddle demo`.
#[derive(Debug, clap::Args)]
pub struct DemoArgs {
    /// Leave everything standing at the end, and print the commands to look around
    #[arg(long, conflicts_with = "remove")]
    keep: bool,
    /// Remove what an earlier demo left standing (--keep, or a kill -9), and do nothing else
    #[arg(long)]
    remove: bool,
}

/// Why the demo ended early.
#[derive(Debug, thiserror::Error)]
enum DemoError {
    /// A step of the laboratory failed.
    #[error(transparent)]
    Lab(#[from] LabError),
    /// Ctrl-C or SIGTERM.
    #[error("interrupted; everything that the demo made is removed")]
    Interrupted,
    /// Standard output is closed.
    #[error("standard output: {0}")]
    Output(#[from] std::io::Error),
}

/// Where the demo tells its story, and whether somebody wants it to end.
struct Stage {
    out: std::io::Stdout,
    interrupted: Arc<AtomicBool>,
    chapter: u32,
}

impl Stage {
    fn chapter(&mut self, title: &str) -> Result<(), DemoError> {
        self.chapter += 1;
        let chapter = self.chapter;
        self.say(&format!("\n{chapter}. {title}"))
    }

    fn say(&mut self, line: &str) -> Result<(), DemoError> {
        if self.interrupted.load(Ordering::Acquire) {
            return Err(DemoError::Interrupted);
        }
        writeln!(self.out, "{line}")?;
        self.out.flush()?;
        Ok(())
    }
}

/// Runs the demo; the exit status is 1 if anything differs from what was expected.
#[must_use]
pub fn run(args: &DemoArgs) -> ExitCode {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        if let Err(e) = signal_hook::flag::register(signal, Arc::clone(&interrupted)) {
            return fail(&format!("cannot listen for signal {signal}: {e}"));
        }
    }
    let mut stage = Stage { out: std::io::stdout(), interrupted, chapter: 0 };
    if args.remove {
        return match remove(&mut stage) {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => fail(&e.to_string()),
        };
    }
    match play(&mut stage, args.keep) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(_) if stage.interrupted.load(Ordering::Acquire) => fail(&DemoError::Interrupted.to_string()),
        Err(e) => fail(&e.to_string()),
    }
}

fn fail(message: &str) -> ExitCode {
    // Standard error may be closed; the exit status still tells.
    let _ = writeln!(std::io::stderr(), "heddle demo: {message}");
    ExitCode::FAILURE
}

fn remove(stage: &mut Stage) -> Result<(), DemoError> {
    let swept = sweep()?;
    if swept.is_empty() {
        return stage.say("nothing was left standing");
    }
    for what in swept {
        stage.say(&format!("removed {what}"))?;
    }
    Ok(())
}

/// Whether everything was as expected.
fn play(stage: &mut Stage, keep: bool) -> Result<bool, DemoError> {
    stage.say("heddle is a userspace packet dataplane for Kubernetes nodes: every packet of a pod goes through AF_XDP sockets")?;
    stage.say("into one pipeline of policy, Service NAT and forwarding. This demo is one node of a cluster, with real traffic.")?;
    let shop = cluster::build(stage, Binaries::beside_this()?)?;
    let fine = probes::run(stage, &shop)?;
    stage.chapter("What the agent counted (heddle status)")?;
    stage.say(&cluster::status(&shop)?)?;
    if keep {
        cluster::keep(shop, stage)?;
    } else {
        stage.chapter("Removing all of it")?;
        cluster::clean_up(shop, stage)?;
    }
    stage.say(if fine { "\nAll as expected." } else { "\nSomething differs from what was expected: see the rows marked `NO` above." })?;
    Ok(fine)
}
