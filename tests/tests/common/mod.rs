//! What the end-to-end suites share.
#![allow(dead_code, reason = "each suite is a crate of its own and uses its part")]

pub mod call;

use std::io::BufReader;
use std::process::{Child, ChildStdout, Stdio};
use std::time::{Duration, Instant};

use heddle_lab::{Binaries, LabError, Node, run_with_input};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// For what must happen.
pub const BOUND: Duration = Duration::from_secs(5);
/// For what must not happen: long enough for a handshake and its first retry.
pub const SILENCE: Duration = Duration::from_millis(1200);

pub fn binaries() -> Result<Binaries, LabError> {
    Binaries::beside_current_exe()
}

/// Tries until it holds, at most 15 s.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> Result<bool, LabError>) -> Result<(), LabError> {
    let start = Instant::now();
    while !holds()? {
        if start.elapsed() > Duration::from_secs(15) {
            return Err(LabError::Timeout {
                what: what.to_owned(),
                seconds: 15,
                detail: String::new(),
            });
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// What a command of `heddle` answers as JSON.
pub fn ask_json(node: &Node, command: &str, flags: &[&str]) -> Result<Value, LabError> {
    let mut asked = node.heddle(command);
    asked.args(["--output", "json"]).args(flags);
    let out = node.ns().enter(|| run_with_input(&mut asked, ""))?;
    serde_json::from_str(&out.stdout).map_err(|e| LabError::Reply {
        what: format!("heddle {command}"),
        detail: format!("{e}: {}{}", out.stdout, out.stderr),
    })
}

/// Starts a command of `heddle` that goes on until it is interrupted, on a node, and gives what it prints.
pub fn follow(node: &Node, command: &str, flags: &[&str]) -> Result<(Child, BufReader<ChildStdout>), LabError> {
    let mut heddle = node.heddle(command);
    heddle.args(flags).stdout(Stdio::piped());
    let what = format!("heddle {command}");
    let start = || heddle.spawn().map_err(LabError::io(format!("starting {what}")));
    let mut child = node.ns().enter(start)?;
    match child.stdout.take() {
        Some(out) => Ok((child, BufReader::new(out))),
        None => Err(LabError::Reply {
            what,
            detail: "it has no standard output".to_owned(),
        }),
    }
}

/// Ctrl-C.
pub fn interrupt(child: &Child) -> Result<(), LabError> {
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX));
    kill(pid, Signal::SIGINT).map_err(LabError::nix("Ctrl-C"))
}

/// Waits for the end of `what`; one that does not end is killed, and it is an error.
pub fn exits_successfully(mut child: Child, what: &str) -> Result<(), LabError> {
    let start = Instant::now();
    while start.elapsed() < BOUND {
        if let Some(status) = child.try_wait().map_err(LabError::io(format!("waiting for {what}")))? {
            assert!(status.success(), "{what}: {status}");
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let _ = child.kill();
    let _ = child.wait();
    Err(LabError::Timeout {
        what: format!("the end of {what}"),
        seconds: BOUND.as_secs(),
        detail: String::new(),
    })
}

/// The port of that name in a status.
pub fn port<'a>(status: &'a Value, name: &str) -> &'a Value {
    let ports = status["ports"].as_array().map_or(&[][..], Vec::as_slice);
    ports.iter().find(|port| port["name"] == name).unwrap_or(&Value::Null)
}

/// Drops at a port whose reason contains `reason`.
pub fn drops(status: &Value, name: &str, reason: &str) -> u64 {
    let dropped = port(status, name)["dropped"].as_object();
    dropped
        .into_iter()
        .flatten()
        .filter(|(key, _)| key.contains(reason))
        .filter_map(|(_, n)| n.as_u64())
        .sum()
}
