//! The record of installed files in the state directory, by which `heddle cleanup` finds them.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use heddle_host::state_file;

/// The name of the record in the state directory.
pub const FILE: &str = "cni-files.json";

/// The record cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The record cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The record.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The record has other contents than a list of paths.
    #[error("{} is no list of paths ({source}): delete it, and the CNI files of heddle by hand", path.display())]
    Parse {
        /// The record.
        path: PathBuf,
        /// The parser's error.
        source: serde_json::Error,
    },
    /// The record cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The record.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

/// Returns the files that agents with this state directory have installed; none without a record.
///
/// # Errors
/// The record cannot be read.
pub fn recorded(state_dir: &Path) -> Result<BTreeSet<PathBuf>, RecordError> {
    let path = state_dir.join(FILE);
    match fs::read(&path) {
        Ok(text) => serde_json::from_slice(&text).map_err(|source| RecordError::Parse { path, source }),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(BTreeSet::new()),
        Err(source) => Err(RecordError::Read { path, source }),
    }
}

/// Adds a file to the record, before it is installed: a crash in between leaves no file without a record.
pub(super) fn add(state_dir: &Path, file: &Path) -> Result<(), RecordError> {
    let mut files = recorded(state_dir)?;
    if !files.insert(file.to_owned()) {
        return Ok(());
    }
    let path = state_dir.join(FILE);
    let text = serde_json::to_vec(&files).map_err(|e| RecordError::Write {
        path: path.clone(),
        source: e.into(),
    })?;
    state_file::replace(&path, &text).map_err(|source| RecordError::Write { path, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_recorded_once_and_a_damaged_record_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        assert!(recorded(dir.path()).unwrap().is_empty());
        for file in ["/b", "/a", "/b"] {
            add(dir.path(), Path::new(file)).unwrap();
        }
        let files: Vec<PathBuf> = recorded(dir.path()).unwrap().into_iter().collect();
        assert_eq!(files, [Path::new("/a"), Path::new("/b")]);
        fs::write(dir.path().join(FILE), "[1]").unwrap();
        assert!(matches!(recorded(dir.path()), Err(RecordError::Parse { .. })));
    }
}
