//! Background processes that end with their guard.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{LabError, NetNs, wait_for_exit};

/// A running process whose output goes to a log file. Dropping it kills the process.
#[derive(Debug)]
pub struct Process {
    child: Child,
    leave: bool,
    name: String,
    log: PathBuf,
}

impl Process {
    /// Starts `command` inside `ns`. Its standard output and standard error are appended to `log`.
    ///
    /// # Errors
    /// The log cannot be opened, or the command cannot be started.
    pub fn start(ns: &NetNs, name: &str, command: &mut Command, log: &Path) -> Result<Self, LabError> {
        let file = File::options()
            .create(true)
            .append(true)
            .open(log)
            .map_err(LabError::io(format!("opening {}", log.display())))?;
        let stderr = file.try_clone().map_err(LabError::io("cloning a file descriptor"))?;
        command.stdin(Stdio::null()).stdout(file).stderr(stderr);
        let child = ns.enter(|| command.spawn().map_err(LabError::io(format!("starting {name}"))))?;
        Ok(Self {
            child,
            leave: false,
            name: name.to_owned(),
            log: log.to_owned(),
        })
    }

    /// Returns the process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Drops the guard without killing the process.
    pub fn leave_running(mut self) {
        self.leave = true;
    }

    /// Returns the last `lines` lines of its log.
    #[must_use]
    pub fn log_tail(&self, lines: usize) -> String {
        let Ok(file) = File::open(&self.log) else {
            return String::new();
        };
        let all: Vec<String> = BufReader::new(file).lines().map_while(Result::ok).collect();
        all.iter()
            .skip(all.len().saturating_sub(lines))
            .fold(String::new(), |mut text, line| {
                text.push_str(line);
                text.push('\n');
                text
            })
    }

    /// Returns its exit status, or `None` while it runs.
    ///
    /// # Errors
    /// The system call fails.
    pub fn exit_status(&mut self) -> Result<Option<ExitStatus>, LabError> {
        self.child
            .try_wait()
            .map_err(LabError::io(format!("waiting for {}", self.name)))
    }

    /// Sends `signal` and waits for the end of the process, at most for `bound`.
    ///
    /// # Errors
    /// The process does not end in time; then it is killed.
    pub fn stop(&mut self, signal: Signal, bound: Duration) -> Result<ExitStatus, LabError> {
        if let Some(status) = self.exit_status()? {
            return Ok(status);
        }
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap_or(i32::MAX));
        kill(pid, signal).map_err(LabError::nix(format!("sending {signal} to {}", self.name)))?;
        let ended = wait_for_exit(&mut self.child, bound);
        if let Some(status) = ended.map_err(LabError::io(format!("waiting for {}", self.name)))? {
            return Ok(status);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        Err(LabError::Timeout {
            what: format!("the end of {} after {signal}", self.name),
            seconds: bound.as_secs(),
            detail: format!("; it was killed. The end of its log:\n{}", self.log_tail(20)),
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.leave || matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
