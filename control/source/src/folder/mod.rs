//! Reads a folder of manifests once, or watches it.
//!
//! Every file whose name ends in `.yaml`, `.yml` or `.json` counts, unless it is hidden or an editor's copy. Subfolders
//! are not entered. A symbolic link counts as a file. A change of its target is detected when the link itself is replaced,
//! or, if the folder is a mounted ConfigMap, when its `..data` is replaced.
//!
//! A file is read when its writer closes it or moves it into place, so half a file is never read as a whole one. A file
//! that does not parse keeps its objects. An object that is missing from a file that parses is deleted, and so are all
//! objects of a deleted file. If the folder itself is removed, everything stays as it was, with a rejection, until the
//! folder is back.

mod error;
mod scan;
mod state;
#[cfg(test)]
mod tests;
mod watch;

use std::path::Path;

use heddle_model::{Event, Kind};

pub use error::FolderError;
pub use watch::{FolderSource, Watch, watch, watch_batches};

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
