//! Running a command to its end and keeping what it said.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::LabError;

/// What a command that ended said.
#[derive(Debug, Clone)]
pub struct Output {
    /// Whether its exit status was 0.
    pub ok: bool,
    /// Its exit status, for people.
    pub status: String,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// Runs `program` with `args` in the calling thread's namespaces; an exit status other than 0 is an error.
///
/// # Errors
/// The command could not be started, or failed.
pub fn run(program: &str, args: &[&str]) -> Result<String, LabError> {
    let out = run_with_input(Command::new(program).args(args), "")?;
    if out.ok {
        return Ok(out.stdout);
    }
    let stderr = if out.stderr.trim().is_empty() {
        out.stdout
    } else {
        out.stderr
    };
    Err(LabError::Command {
        command: format!("{program} {}", args.join(" ")),
        status: out.status,
        stderr: stderr.trim().to_owned(),
    })
}

/// Runs `command` with `input` on its standard input, whatever its exit status.
///
/// # Errors
/// The command could not be started.
pub fn run_with_input(command: &mut Command, input: &str) -> Result<Output, LabError> {
    let name = format!("starting {}", command.get_program().display());
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(LabError::io(name.clone()))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A command that ends without reading its input is no fault of the caller's: its status tells.
        let _ = stdin.write_all(input.as_bytes());
    }
    let out = child.wait_with_output().map_err(LabError::io(name))?;
    Ok(Output {
        ok: out.status.success(),
        status: out.status.to_string(),
        stdout: String::from_utf8_lossy(&out.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&out.stderr).into_owned(),
    })
}
