//! Helpers of the end-to-end suites: bounds, waits, `heddle` commands, and readings of `heddle status`.
#![allow(dead_code, reason = "each suite is a crate of its own and uses its part")]

pub mod call;

use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use heddle_lab::udp::UdpServer;
use heddle_lab::{Binaries, LabError, Node, run_with_input, wait_for_exit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// The bound of an event that must happen.
pub const BOUND: Duration = Duration::from_secs(5);
/// The time for which an event must not happen: long enough for a handshake and its first retry.
pub const SILENCE: Duration = Duration::from_millis(1200);

/// The bound of an event that needs several steps of the agent, also on a busy machine.
const SLOW_BOUND: Duration = Duration::from_secs(15);

pub fn binaries() -> Result<Binaries, LabError> {
    Binaries::beside_current_exe()
}

/// Polls `condition` until it holds, at most for 15 s.
pub fn wait_until(what: &str, condition: impl FnMut() -> Result<bool, LabError>) -> Result<(), LabError> {
    heddle_lab::wait_until(what, SLOW_BOUND, condition)
}

/// Shows a figure beside the test's outcome.
pub fn report(line: &str) {
    // Nobody may read the output.
    let _ = writeln!(io::stdout(), "{line}");
}

/// Sends, waits until every datagram has arrived at a sink or none has for 100 ms, and returns the numbers sent and received.
pub fn delivered(send: impl FnOnce() -> Result<u64, LabError>, sink: &UdpServer) -> Result<(u64, u64), LabError> {
    const QUIET: Duration = Duration::from_millis(100);
    let before = sink.received();
    let sent = send()?;
    let (mut last, mut since) = (sink.received(), Instant::now());
    wait_until("the sink is quiet", || {
        let now = sink.received();
        if now != last {
            (last, since) = (now, Instant::now());
        }
        Ok(now - before >= sent || since.elapsed() >= QUIET)
    })?;
    Ok((sent, sink.received() - before))
}

/// Runs a command of `heddle` on a node and returns its JSON output.
pub fn ask_json(node: &Node, command: &str, flags: &[&str]) -> Result<Value, LabError> {
    let mut asked = node.heddle(command);
    asked.args(["--output", "json"]).args(flags);
    let out = node.ns().enter(|| run_with_input(&mut asked, ""))?;
    serde_json::from_str(&out.stdout).map_err(|e| LabError::Reply {
        what: format!("heddle {command}"),
        detail: format!("{e}: {}{}", out.stdout, out.stderr),
    })
}

/// A command of `heddle` that runs until it is interrupted. Dropping it kills the command.
pub struct Following {
    child: Child,
    lines: Option<Receiver<io::Result<String>>>,
    what: String,
}

/// Starts a command of `heddle` on a node that runs until it is interrupted.
pub fn follow(node: &Node, command: &str, flags: &[&str]) -> Result<Following, LabError> {
    let mut heddle = node.heddle(command);
    heddle.args(flags).stdout(Stdio::piped());
    let what = format!("heddle {command}");
    let start = || heddle.spawn().map_err(LabError::io(format!("starting {what}")));
    let mut child = node.ns().enter(start)?;
    // A thread reads the lines, because a read from a pipe has no bound.
    let (sender, lines) = mpsc::channel();
    if let Some(stdout) = child.stdout.take() {
        thread::spawn(move || {
            BufReader::new(stdout)
                .lines()
                .try_for_each(|line| sender.send(line).map_err(drop))
        });
    }
    Ok(Following {
        child,
        lines: Some(lines),
        what,
    })
}

impl Following {
    /// Waits for the next line and returns it without its end.
    pub fn next_line(&self) -> Result<String, LabError> {
        let line = self.lines.as_ref().map(|lines| lines.recv_timeout(SLOW_BOUND));
        match line {
            Some(Ok(line)) => line.map_err(LabError::io(format!("reading {}", self.what))),
            Some(Err(mpsc::RecvTimeoutError::Timeout)) => Err(LabError::Timeout {
                what: format!("a line of {}", self.what),
                seconds: SLOW_BOUND.as_secs(),
                detail: String::new(),
            }),
            Some(Err(mpsc::RecvTimeoutError::Disconnected)) | None => Err(LabError::Reply {
                what: self.what.clone(),
                detail: "its output has ended".to_owned(),
            }),
        }
    }

    /// Stops reading. The pipe closes when the command writes the next line.
    pub fn stop_reading(&mut self) {
        self.lines = None;
    }

    /// Sends Ctrl-C.
    pub fn interrupt(&self) -> Result<(), LabError> {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap_or(i32::MAX));
        kill(pid, Signal::SIGINT).map_err(LabError::nix("Ctrl-C"))
    }

    /// Waits for the command's end and asserts that it succeeded.
    pub fn exits_successfully(mut self) -> Result<(), LabError> {
        let ended = wait_for_exit(&mut self.child, BOUND);
        match ended.map_err(LabError::io(format!("waiting for {}", self.what)))? {
            Some(status) => {
                assert!(status.success(), "{}: {status}", self.what);
                Ok(())
            }
            None => Err(LabError::Timeout {
                what: format!("the end of {}", self.what),
                seconds: BOUND.as_secs(),
                detail: String::new(),
            }),
        }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns the port of this name in a status.
pub fn port<'a>(status: &'a Value, name: &str) -> &'a Value {
    let ports = status["ports"].as_array().map_or(&[][..], Vec::as_slice);
    ports.iter().find(|port| port["name"] == name).unwrap_or(&Value::Null)
}

/// Returns the number of drops at a port whose reason contains `reason`.
pub fn drops(status: &Value, name: &str, reason: &str) -> u64 {
    let dropped = port(status, name)["dropped"].as_object();
    dropped
        .into_iter()
        .flatten()
        .filter(|(key, _)| key.contains(reason))
        .filter_map(|(_, n)| n.as_u64())
        .sum()
}
