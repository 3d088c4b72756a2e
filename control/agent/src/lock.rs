//! The exclusive lock of a directory: one agent for each run directory and state directory.
//!
//! The kernel holds the lock (flock(2)), so it ends with the process in any case. The file's text names the holder, for error
//! messages. The file is not removed at the end: otherwise one process could lock the removed file and another one a new
//! file.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// The lock file's name in the run and in the state directory.
pub const LOCK_FILE: &str = "agent.lock";

/// A held lock; dropping it releases the lock.
#[derive(Debug)]
pub struct DirLock {
    _file: Flock<File>,
}

/// A directory that cannot be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process holds the lock.
    #[error("{} is in use by {holder}: stop that process first, or use another directory", dir.display())]
    Held {
        /// The directory.
        dir: PathBuf,
        /// The holder, as the lock file names it.
        holder: String,
    },
    /// The directory or its lock file cannot be created, opened or written.
    #[error("cannot lock {}: {source}", path.display())]
    System {
        /// The file or directory.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
}

impl DirLock {
    /// Creates the directory if it is missing, locks it, and writes `holder` with the process id into the lock file. `run` and
    /// `cleanup` call it.
    ///
    /// # Errors
    /// Another process holds the lock, or the system refuses.
    pub fn acquire(dir: &Path, holder: &str) -> Result<Self, LockError> {
        let system = |path: &Path| {
            let path = path.to_owned();
            move |source| LockError::System { path, source }
        };
        fs::create_dir_all(dir).map_err(system(dir))?;
        let path = dir.join(LOCK_FILE);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            .open(&path)
            .map_err(system(&path))?;
        let mut locked = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(locked) => locked,
            Err((mut file, Errno::EWOULDBLOCK)) => {
                let mut holder = String::new();
                file.read_to_string(&mut holder).map_err(system(&path))?;
                let holder = holder.trim();
                let holder = if holder.is_empty() {
                    "another process".to_owned()
                } else {
                    holder.to_owned()
                };
                return Err(LockError::Held {
                    dir: dir.to_owned(),
                    holder,
                });
            }
            Err((_, e)) => return Err(system(&path)(e.into())),
        };
        locked.set_len(0).map_err(system(&path))?;
        writeln!(locked, "{holder} (pid {})", std::process::id()).map_err(system(&path))?;
        Ok(Self { _file: locked })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_of_a_second_lock_names_the_holder() {
        let dir = tempfile::tempdir().unwrap();
        let below = dir.path().join("a/b");
        let first = DirLock::acquire(&below, "the agent of node-1").unwrap();
        let error = DirLock::acquire(&below, "the agent of node-2").unwrap_err().to_string();
        assert!(
            error.contains("the agent of node-1 (pid ") && error.contains("a/b"),
            "{error}"
        );
        drop(first);
        DirLock::acquire(&below, "the agent of node-2").unwrap();
        let text = fs::read_to_string(below.join(LOCK_FILE)).unwrap();
        assert_eq!(text, format!("the agent of node-2 (pid {})\n", std::process::id()));
    }
}
