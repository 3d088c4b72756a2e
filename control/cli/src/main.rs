//! The binary `heddle`: parses the command line, calls the crate that does the work, and prints the result for people
//! or as JSON.
//!
//! `run`, `check` and `cleanup` call `heddle-agent`; `simulate` and `replay` call `heddle-offline`; `status`, `drops`
//! and `flows` ask a running agent with the client of `heddle-proto`; `demo` uses `heddle-lab`. No command changes a
//! running agent.

mod args;
mod check;
mod cleanup;
mod demo;
mod drops;
mod flows;
mod polling;
mod replay;
mod simulate;
mod status;
mod table;
mod watch;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Command, RunArgs, StatusArgs};
use heddle_agent::signals::Signals;

/// The exit status of an agent that cannot start until someone changes the configuration or the machine (sysexits.h). A
/// supervisor can give up: `RestartPreventExitStatus=78` of systemd.
const EX_CONFIG: u8 = 78;

/// The control plane makes and frees many small values on different threads, which glibc's allocator is slow at.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Process 1 of a container never receives a signal without a handler, not even while it reads its arguments.
    let signals = (std::process::id() == 1).then(Signals::handle);
    let cli = Cli::parse();
    let done = match cli.command {
        Command::Run(args) => match run_agent(&args, signals) {
            Ok(()) => Ok(()),
            Err((message, lasts)) => {
                let _ = writeln!(io::stderr(), "heddle: {message}");
                return if lasts {
                    ExitCode::from(EX_CONFIG)
                } else {
                    ExitCode::FAILURE
                };
            }
        },
        Command::Check(args) => match check::run(&args) {
            Ok((text, fit)) => match print(&text) {
                Ok(()) if !fit => return ExitCode::FAILURE,
                other => other,
            },
            Err(e) => Err(check::terminated(&args, e.to_string())),
        },
        Command::Status(StatusArgs {
            run_dir,
            output,
            watch: Some(every),
        }) => on_runtime(watch::run(&run_dir, output, every, &mut io::stdout()))
            .and_then(|ended| ended.map_err(|e| e.to_string())),
        Command::Status(args) => on_runtime(status::report(&args.run_dir, args.output))
            .and_then(|report| report.map_err(|e| e.to_string()))
            .and_then(|text| print(&text)),
        Command::Drops(args) => {
            on_runtime(drops::run(&args, &mut io::stdout())).and_then(|ended| ended.map_err(|e| e.to_string()))
        }
        Command::Flows(args) => {
            on_runtime(flows::run(&args, &mut io::stdout())).and_then(|ended| ended.map_err(|e| e.to_string()))
        }
        Command::Replay(args) => replay::run(args, warn)
            .map_err(|e| e.to_string())
            .and_then(|text| print(&text)),
        Command::Simulate(args) => simulate::run(args, warn)
            .map_err(|e| e.to_string())
            .and_then(|text| print(&text)),
        Command::Cleanup(args) => on_runtime(cleanup::run(&args))
            .and_then(|removed| removed.map_err(|e| e.to_string()))
            .and_then(|text| print(&text)),
        Command::Demo(args) => demo::run(&args).map_err(|e| e.to_string()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            // Standard error may be closed; the exit status remains.
            let _ = writeln!(io::stderr(), "heddle: {message}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the agent. The error has its message, and whether another start fails too.
fn run_agent(args: &RunArgs, signals: Option<io::Result<Signals>>) -> Result<(), (String, bool)> {
    let signals = signals.unwrap_or_else(Signals::handle);
    let signals = signals.map_err(|e| (format!("cannot handle signals: {e}"), false))?;
    let config = args.configuration().map_err(|e| (e.to_string(), true))?;
    heddle_agent::run::run(config, signals).map_err(|e| (e.to_string(), e.lasts()))
}

/// Prints a warning. Standard error may be closed; then only the warning is lost.
fn warn(text: &str) {
    let _ = writeln!(io::stderr(), "heddle: {text}");
}

/// Runs a future on a runtime of this thread.
fn on_runtime<T>(work: impl Future<Output = T>) -> Result<T, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime
        .map(|runtime| runtime.block_on(work))
        .map_err(|e| format!("cannot start the runtime: {e}"))
}

/// Prints a text to standard output.
fn print(text: &str) -> Result<(), String> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // The reader has closed the pipe (`heddle status | head`).
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|e| format!("cannot write to standard output: {e}")),
    }
}
