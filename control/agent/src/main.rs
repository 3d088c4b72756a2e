//! The `heddle` binary: the command line, and nothing else.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use heddle_agent::cli::{Cli, Command, OutputFormat, StatusArgs};
use heddle_agent::{check, cleanup, demo, drops, flows, replay, run, simulate, status, watch};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command {
        Command::Run(args) => run::run(args).map_err(|e| e.to_string()),
        Command::Check(args) => match check::run(&args) {
            Ok((text, fit)) => match print(&text) {
                Ok(()) if !fit => return ExitCode::FAILURE,
                other => other,
            },
            Err(e) => Err(e.to_string()),
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
        Command::Replay(args) => replay::run(&args, warn)
            .map_err(|e| e.to_string())
            .and_then(|text| print(&text)),
        Command::Simulate(args) => simulate::run(&args, warn)
            .map_err(|e| e.to_string())
            .and_then(|text| print(&text)),
        Command::Cleanup(args) => on_runtime(cleanup::run(&args.run_dir, &args.state_dir))
            .and_then(|removed| removed.map_err(|e| e.to_string()))
            .and_then(|removed| removed_text(&removed, args.output))
            .and_then(|text| print(&text)),
        Command::Demo(args) => demo::run(&args).map_err(|e| e.to_string()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            // Standard error may be closed; the exit status still tells.
            let _ = writeln!(io::stderr(), "heddle: {message}");
            ExitCode::FAILURE
        }
    }
}

/// Standard error may be closed; the answers still come.
fn warn(text: &str) {
    let _ = writeln!(io::stderr(), "heddle: {text}");
}

fn on_runtime<T>(work: impl Future<Output = T>) -> Result<T, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime
        .map(|runtime| runtime.block_on(work))
        .map_err(|e| format!("starting: {e}"))
}

fn removed_text(removed: &cleanup::Removed, format: OutputFormat) -> Result<String, String> {
    match format {
        OutputFormat::Json => serde_json::to_string_pretty(removed)
            .map(|text| text + "\n")
            .map_err(|e| e.to_string()),
        OutputFormat::Text if removed.removed.is_empty() => Ok("there was nothing to remove\n".to_owned()),
        OutputFormat::Text => Ok(removed.removed.iter().map(|what| format!("removed {what}\n")).collect()),
    }
}

fn print(text: &str) -> Result<(), String> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // Who reads it has seen enough (`heddle status | head`).
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|e| format!("standard output: {e}")),
    }
}
