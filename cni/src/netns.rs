//! A pod's network namespace: opened, recognised, entered.
//!
//! It is entered by setns(2) alone, on a thread made for it: the calling thread never changes its namespace, and nobody's
//! mounts are touched.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use heddle_proto::NetnsPath;
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};

/// Why a path does not lead to a pod's network namespace.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// Nothing is there (any more): no such path, or only the empty file that a namespace had been mounted on.
    #[error("there is no network namespace at {path}: the container is gone, or was never there")]
    Gone {
        /// `CNI_NETNS`.
        path: String,
    },
    /// The path leads to the namespace that the plugin runs in.
    #[error("{path} is the node's own network namespace: heddle-cni gives interfaces to containers only")]
    Own {
        /// `CNI_NETNS`.
        path: String,
    },
    /// The plugin may not enter it.
    #[error("the network namespace {path} may not be entered: heddle-cni needs CAP_SYS_ADMIN, run it as root")]
    Forbidden {
        /// `CNI_NETNS`.
        path: String,
    },
    /// It could not be opened or entered.
    #[error("the network namespace {path} cannot be entered: {source}")]
    Unusable {
        /// `CNI_NETNS`.
        path: String,
        /// What the system said; EINVAL: a namespace of another kind.
        source: io::Error,
    },
}

/// An open network namespace, not the plugin's own.
#[derive(Debug)]
pub struct Netns {
    path: String,
    file: File,
}

impl Netns {
    /// Opens a namespace.
    ///
    /// # Errors
    /// See [`NetnsError`].
    pub fn open(path: &NetnsPath) -> Result<Self, NetnsError> {
        let path = path.as_str().to_owned();
        let unusable = |source: io::Error| NetnsError::Unusable {
            path: path.clone(),
            source,
        };
        // The type is looked at before the file is opened: opening a FIFO would wait, a device might act.
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
        let own = fs::metadata(Path::new("/proc/thread-self/ns/net")).map_err(unusable)?;
        let it = file.metadata().map_err(unusable)?;
        if (own.dev(), own.ino()) == (it.dev(), it.ino()) {
            return Err(NetnsError::Own { path });
        }
        Ok(Self { path, file })
    }

    /// The descriptor, for `IFLA_NET_NS_FD`.
    #[must_use]
    pub fn fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// Runs `f` to its end on a thread inside the namespace.
    ///
    /// # Errors
    /// [`NetnsError::Unusable`] as an error of the caller's kind, or what `f` returns.
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
