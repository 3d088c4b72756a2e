//! Commands that run to their end, with their output.

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::{LabError, wait_for_exit};

/// The longest that a command may run. The slowest one, a CNI ADD during a takeover, is far below.
const BOUND: Duration = Duration::from_secs(120);

/// The output and the exit status of a command that ended.
#[derive(Debug, Clone)]
pub struct Output {
    /// True if the exit status was 0.
    pub ok: bool,
    /// The exit status, for people.
    pub status: String,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// Runs `program` with `args` in the calling thread's namespaces and returns its standard output.
///
/// # Errors
/// The command cannot be started, runs for more than two minutes, or ends with a status other than 0.
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

/// Runs `command` with `input` on its standard input; its exit status is part of the result.
///
/// # Errors
/// The command cannot be started, or runs for more than two minutes; then it is killed.
pub fn run_with_input(command: &mut Command, input: &str) -> Result<Output, LabError> {
    let program = command.get_program().display().to_string();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(LabError::io(format!("starting {program}")))?;
    // A thread for each pipe: a command that fills one pipe while another is not served would block for ever.
    if let Some(mut stdin) = child.stdin.take() {
        let input = input.to_owned();
        // A command may end without reading its input. Its exit status shows whether that is an error.
        thread::spawn(move || stdin.write_all(input.as_bytes()));
    }
    let stdout = child.stdout.take().map(read_in_thread);
    let stderr = child.stderr.take().map(read_in_thread);
    let status = wait_for_exit(&mut child, BOUND).map_err(LabError::io(format!("waiting for {program}")));
    let hangs = |child: &mut Child| {
        let _ = child.kill();
        let _ = child.wait();
        LabError::Timeout {
            what: format!("the end of `{program}`"),
            seconds: BOUND.as_secs(),
            detail: "; it was killed".to_owned(),
        }
    };
    let status = match status {
        Ok(Some(status)) => status,
        Ok(None) => return Err(hangs(&mut child)),
        Err(e) => {
            hangs(&mut child);
            return Err(e);
        }
    };
    let text = |pipe: Option<mpsc::Receiver<Vec<u8>>>| {
        let bytes = pipe.and_then(|pipe| pipe.recv_timeout(BOUND).ok()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    Ok(Output {
        ok: status.success(),
        status: status.to_string(),
        stdout: text(stdout),
        stderr: text(stderr),
    })
}

/// Reads a pipe to its end on a thread of its own.
fn read_in_thread(mut pipe: impl Read + Send + 'static) -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // Bytes that came before a failure still belong to the output.
        let _ = pipe.read_to_end(&mut bytes);
        let _ = sender.send(bytes);
    });
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_and_output_larger_than_a_pipe_pass_through_a_command() {
        let input = "0123456789abcdef".repeat(64 * 1024);
        let out = run_with_input(&mut Command::new("cat"), &input).unwrap();
        assert!(out.ok && out.stdout == input && out.stderr.is_empty(), "{}", out.status);
    }

    #[test]
    fn a_failed_command_reports_its_status_and_its_standard_error() {
        let error = run("sh", &["-c", "echo wrong >&2; exit 3"]).unwrap_err().to_string();
        assert_eq!(error, "`sh -c echo wrong >&2; exit 3` failed (exit status: 3): wrong");
    }

    #[test]
    fn a_wait_for_a_running_process_ends_at_its_bound_and_then_sees_the_end() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        assert_eq!(wait_for_exit(&mut child, Duration::from_millis(1)).unwrap(), None);
        child.kill().unwrap();
        assert!(!wait_for_exit(&mut child, BOUND).unwrap().unwrap().success());
        assert!(!wait_for_exit(&mut child, Duration::ZERO).unwrap().unwrap().success());
    }
}
