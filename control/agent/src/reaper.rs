//! Reaps the orphans of a container whose process 1 is the agent: processes whose parent has ended, such as an `nft` of a
//! `heddle check` that `kubectl exec` ran and that was killed.
//!
//! The agent's own children are waited for where they are started, within milliseconds of their end. Only a process that is a
//! zombie at two looks in a row is reaped here, so that no exit status is taken away from those who wait for it.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;
use std::process;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

/// The interval between two looks.
const INTERVAL: Duration = Duration::from_secs(5);

/// The running thread. Dropping it ends the thread.
#[derive(Debug)]
pub struct Reaper {
    _stop: Sender<()>,
}

impl Reaper {
    /// Starts the thread if this process is process 1 of its PID namespace, to which orphans fall.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start() -> io::Result<Option<Self>> {
        if process::id() != 1 {
            return Ok(None);
        }
        let (stop, stopped) = mpsc::channel();
        thread::Builder::new().name("reaper".to_owned()).spawn(move || {
            let mut earlier = BTreeSet::new();
            while stopped.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
                let now = zombies_of(Path::new("/proc"), 1);
                for pid in now.intersection(&earlier) {
                    if waitpid(Pid::from_raw(*pid), Some(WaitPidFlag::WNOHANG)).is_ok() {
                        tracing::debug!(pid, "reaped an orphan");
                    }
                }
                earlier = now;
            }
        })?;
        Ok(Some(Self { _stop: stop }))
    }
}

/// Returns the ids of a process's children that have ended and were not waited for.
fn zombies_of(proc: &Path, parent: i32) -> BTreeSet<i32> {
    let Ok(entries) = fs::read_dir(proc) else {
        return BTreeSet::new();
    };
    entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            (state_and_parent(&stat)? == ("Z", parent)).then_some(pid)
        })
        .collect()
}

/// Returns the state and the parent in the contents of /proc/PID/stat. The program's name before them may contain anything.
fn state_and_parent(stat: &str) -> Option<(&str, i32)> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    Some((fields.next()?, fields.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ended_children_are_found() {
        let dir = tempfile::tempdir().unwrap();
        for (pid, stat) in [
            ("7", "7 (nft) Z 1 7 7 0"),
            ("8", "8 (a) Z 3) Z 1 8 8 0"),
            ("9", "9 (heddle) S 1 9 9 0"),
            ("10", "10 (nft) Z 9 9 9 0"),
            ("self", "7 (nft) Z 1 7 7 0"),
            ("11", "not a stat"),
        ] {
            fs::create_dir(dir.path().join(pid)).unwrap();
            fs::write(dir.path().join(pid).join("stat"), stat).unwrap();
        }
        assert_eq!(zombies_of(dir.path(), 1), BTreeSet::from([7, 8]));
        assert!(zombies_of(&dir.path().join("absent"), 1).is_empty());
    }
}
