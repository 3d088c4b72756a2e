//! A folder of manifests, read once or followed.
//!
//! Every file whose name ends in `.yaml`, `.yml` or `.json` counts, unless it is hidden or an editor's copy. Subfolders
//! are not entered. A symbolic link counts as a file; a change of what it points to is noticed when the link itself is
//! replaced, or, where the folder is a mounted ConfigMap, when its `..data` is.
//!
//! A file counts when its writer closes it or moves it into place, so half a file is never taken for a whole one. A
//! file that does not parse keeps the objects that it had; an object that is missing from a file that parses is
//! deleted, and so are those of a file that is deleted. If the folder itself goes, everything stays as it was, with a
//! rejection, until it is back.

mod scan;
mod state;
#[cfg(test)]
mod tests;
mod watch;
use std::io;
use std::path::{Path, PathBuf};

use heddle_model::{Event, Kind};

pub use watch::{Watch, follow, watch};

/// A folder that cannot be read or watched.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// The folder cannot be listed.
    #[error("cannot read the manifest folder {path:?}: {source}")]
    List {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The kernel does not tell of its changes.
    #[error(
        "cannot watch the manifest folder {path:?}: {source} (if a limit was hit, raise fs.inotify.max_user_watches \
         or fs.inotify.max_user_instances)"
    )]
    Watch {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: notify::Error,
    },
    /// No thread could be started.
    #[error("cannot start the thread that follows {path:?}: {source}")]
    Thread {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Reads a folder once: all its objects and rejections, in the order of file names, then [`Event::Synced`] for every
/// kind.
///
/// # Errors
/// Fails if the folder cannot be listed. Files that cannot be read are reported as rejections.
pub fn read(folder: &Path) -> Result<Vec<Event>, FolderError> {
    let names = scan::list(folder)?;
    let mut events = state::State::default().update(scan::read_all(folder, names));
    events.extend(Kind::ALL.map(Event::Synced));
    Ok(events)
}
