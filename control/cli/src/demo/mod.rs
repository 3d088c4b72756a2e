//! `heddle demo`: a node and four pods in network namespaces of their own, attached by the real CNI plugin to a real
//! agent, with real traffic between them.
//!
//! The demo plays container runtime, kubelet and endpoint controller; heddle does not know that it is not a cluster.
//! It removes all it made, also on Ctrl-C.

mod cluster;
mod probes;

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use heddle_lab::{Binaries, LabError, Leftovers, remove_leftovers};

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

/// Why the demo did not end well.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// A step of the laboratory failed.
    #[error(transparent)]
    Lab(#[from] LabError),
    /// Ctrl-C or SIGTERM.
    #[error("interrupted; everything that the demo made is removed")]
    Interrupted,
    /// Something came to something else than expected.
    #[error("something differs from what was expected: see the rows marked `NO`")]
    Different,
    /// Signals cannot be listened for.
    #[error("listening for signals: {0}")]
    Signals(std::io::Error),
    /// Standard output is closed.
    #[error("standard output: {0}")]
    Output(#[from] std::io::Error),
}

/// The demo's output and the flag that a signal sets.
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

/// Runs the demo.
///
/// # Errors
/// A step failed, somebody interrupted it, or something differs from what was expected.
pub fn run(args: &DemoArgs) -> Result<(), DemoError> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&interrupted)).map_err(DemoError::Signals)?;
    }
    let mut stage = Stage {
        out: std::io::stdout(),
        interrupted,
        chapter: 0,
    };
    let played = if args.remove {
        remove(&mut stage)
    } else {
        play(&mut stage, args.keep)
    };
    // An interrupted step fails because Ctrl-C reaches its processes too: report the interruption instead.
    if stage.interrupted.load(Ordering::Acquire) {
        Err(DemoError::Interrupted)
    } else {
        played
    }
}

fn remove(stage: &mut Stage) -> Result<(), DemoError> {
    let swept = remove_leftovers(Leftovers::All)?;
    if swept.is_empty() {
        return stage.say("nothing was left standing");
    }
    for what in swept {
        stage.say(&format!("removed {what}"))?;
    }
    Ok(())
}

fn play(stage: &mut Stage, keep: bool) -> Result<(), DemoError> {
    stage.say("heddle is a userspace packet dataplane for Kubernetes nodes: every packet of a pod goes through AF_XDP sockets")?;
    stage.say("into one pipeline of policy, Service NAT and forwarding. This demo is one node of a cluster, with real traffic.")?;
    let shop = cluster::build(stage, Binaries::beside_current_exe()?)?;
    let fine = probes::run(stage, &shop)?;
    stage.chapter("The agent's counters (heddle status)")?;
    stage.say(&cluster::status(&shop)?)?;
    if keep {
        cluster::keep(shop, stage)?;
    } else {
        stage.chapter("Removing all of it")?;
        cluster::clean_up(shop, stage)?;
    }
    if fine {
        stage.say("\nAll as expected.")
    } else {
        Err(DemoError::Different)
    }
}
