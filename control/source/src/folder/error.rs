//! The errors of reading or watching a folder.

use std::io;
use std::path::PathBuf;

/// A folder that cannot be read or watched.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// The folder cannot be listed.
    #[error("cannot read the manifest folder {path:?}: {source}")]
    List {
        /// The folder.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The kernel does not report the folder's changes.
    #[error(
        "cannot watch the manifest folder {path:?}: {source} (if a limit was hit, raise fs.inotify.max_user_watches \
         or fs.inotify.max_user_instances)"
    )]
    Watch {
        /// The folder.
        path: PathBuf,
        /// The cause.
        source: notify::Error,
    },
    /// No thread could be started.
    #[error("cannot start the thread that watches {path:?}: {source}")]
    Thread {
        /// The folder.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}
