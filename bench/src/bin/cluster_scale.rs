//! `heddle-cluster-scale`: measures the control plane with a large cluster that a server of this program plays.

use std::error::Error;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use heddle_bench::Machine;
use heddle_bench::cluster::process::LISTENS;
use heddle_bench::cluster::{Plan, agent, server, stages};

/// The allocator of `heddle`. The control plane makes and frees many small values on different threads, which glibc's allocator is slow at.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures heddle's control plane with a large cluster.
#[derive(Parser, Debug)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Times source, model and compiler in this process
    Stages {
        #[command(flatten)]
        plan: Plan,
        /// Changes a second
        #[arg(long, default_value_t = 1000)]
        rate: u64,
        /// Seconds without changes, and seconds with them
        #[arg(long, default_value_t = 20)]
        seconds: u64,
    },
    /// Measures a real agent on a node of the laboratory. Needs root, and heddle and heddle-cni beside this program
    Agent {
        #[command(flatten)]
        plan: Plan,
        /// Changes a second
        #[arg(long, default_value_t = 1000)]
        rate: u64,
        /// Seconds without changes, and seconds with them
        #[arg(long, default_value_t = 30)]
        seconds: u64,
    },
    /// Serves the cluster's lists and watches
    Serve {
        #[command(flatten)]
        plan: Plan,
        /// Address
        #[arg(long, default_value = "127.0.0.1:0")]
        listen: SocketAddr,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Standard error may be closed.
            let _ = writeln!(io::stderr(), "heddle-cluster-scale: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<(), Box<dyn Error>> {
    let mut out = io::stdout();
    match command {
        Command::Stages { plan, rate, seconds } => {
            writeln!(out, "{}\n{plan:?}", Machine::detect())?;
            stages::measure(&plan, rate, seconds, &mut out)?;
        }
        Command::Agent { plan, rate, seconds } => {
            writeln!(out, "{}\n{plan:?}", Machine::detect())?;
            agent::measure(&plan, rate, seconds, &mut out)?;
        }
        Command::Serve { plan, listen } => {
            let listener = TcpListener::bind(listen)?;
            writeln!(out, "{LISTENS}{}", listener.local_addr()?)?;
            out.flush()?;
            server::serve(plan, listener)?;
        }
    }
    Ok(())
}
