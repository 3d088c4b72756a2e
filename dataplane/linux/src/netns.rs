//! Network namespaces: opened by path, entered by a thread.
//!
//! A namespace is entered by setns(2) on a thread created for it. The calling thread never changes its namespace, and no mounts are
//! changed.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};

/// The reason for which a path is no network namespace that can be entered.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// There is no file at the path, or only the empty file that a namespace was mounted on.
    #[error("there is no network namespace at {path}: the container is gone, or was never there")]
    Gone {
        /// The path.
        path: String,
    },
    /// The caller may not enter it.
    #[error("the network namespace {path} may not be entered: this needs CAP_SYS_ADMIN, run it as root")]
    Forbidden {
        /// The path.
        path: String,
    },
    /// The namespace could not be opened or entered.
    #[error("the network namespace {path} cannot be entered: {source}")]
    Unusable {
        /// The path.
        path: String,
        /// The system's error. EINVAL means a namespace of another kind.
        source: io::Error,
    },
}

/// An open network namespace.
#[derive(Debug)]
pub struct Netns {
    path: String,
    file: File,
}

impl Netns {
    /// Opens the namespace at a path.
    ///
    /// # Errors
    /// See [`NetnsError`].
    pub fn open(path: &str) -> Result<Self, NetnsError> {
        let path = path.to_owned();
        let unusable = |source: io::Error| NetnsError::Unusable {
            path: path.clone(),
            source,
        };
        // Check the type before opening the file: to open a FIFO would wait, and to open a device can have effects.
        let file = match fs::metadata(&path) {
            Ok(found) if found.is_file() => File::open(&path),
            Ok(_) => {
                return Err(unusable(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "it is no network namespace",
                )));
            }
            Err(e) => Err(e),
        };
        let file = match file {
            Ok(file) => file,
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Err(NetnsError::Gone { path });
            }
            Err(e) => return Err(unusable(e)),
        };
        if fstatfs(&file).map_err(|e| unusable(e.into()))?.filesystem_type() != NSFS_MAGIC {
            return Err(NetnsError::Gone { path });
        }
        Ok(Self { path, file })
    }

    /// Returns `true` if this is the calling thread's namespace.
    ///
    /// # Errors
    /// The system could not be asked.
    pub fn is_current(&self) -> Result<bool, NetnsError> {
        let identity = || {
            let current = fs::metadata(Path::new("/proc/thread-self/ns/net"))?;
            let this = self.file.metadata()?;
            Ok((current.dev(), current.ino()) == (this.dev(), this.ino()))
        };
        identity().map_err(|source| NetnsError::Unusable {
            path: self.path.clone(),
            source,
        })
    }

    /// Runs `f` to its end on a thread inside the namespace.
    ///
    /// # Errors
    /// The namespace cannot be entered, or `f` fails.
    pub fn enter<T: Send, E: From<NetnsError> + Send>(&self, f: impl FnOnce() -> Result<T, E> + Send) -> Result<T, E> {
        let inside = || {
            setns(&self.file, CloneFlags::CLONE_NEWNET).map_err(|e| {
                let path = self.path.clone();
                match e {
                    Errno::EPERM => NetnsError::Forbidden { path },
                    _ => NetnsError::Unusable { path, source: e.into() },
                }
            })?;
            f()
        };
        std::thread::scope(|scope| match scope.spawn(inside).join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Moves the calling thread into a new network namespace, which is removed when the thread and its sockets are gone.
///
/// # Errors
/// The caller lacks CAP_SYS_ADMIN, or the kernel gives no more namespaces.
pub fn unshare_thread() -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(io::Error::from)
}
