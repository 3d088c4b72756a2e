//! Writes small files of the state directory so that a crash or a full disk never leaves half of one.
//!
//! The contents go to a new file beside the old one, which then takes the old one's place. If a step fails, the new file is
//! removed, and the old one stays as it was. Every file of the state directory is written by this function, here and in
//! the agent.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Returns the path at which the new contents of a file are written before they take its place.
#[must_use]
pub fn draft(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    path.with_file_name(name)
}

/// Replaces the contents of a file, or creates it, readable for its owner only. The contents and the directory's entry are
/// on disk when this returns. A missing directory is created.
///
/// # Errors
/// The system refuses. The old file stays as it was.
pub fn replace(path: &Path, contents: &[u8]) -> io::Result<()> {
    replace_with(path, |file| file.write_all(contents))
}

/// Replaces a file as [`replace`] does, by contents that a function writes.
///
/// # Errors
/// The system or the function refuses. The old file stays as it was.
pub fn replace_with(path: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(dir)?;
    let draft = draft(path);
    let written = write_new(&draft, write).and_then(|()| fs::rename(&draft, path));
    if let Err(e) = written {
        // An incomplete draft would keep space on a full disk. The first error is the one to report.
        let _ = fs::remove_file(&draft);
        return Err(e);
    }
    File::open(dir)?.sync_all()
}

/// Writes a new file and syncs it. A file that a crash left in its place is removed first, and a link is never followed.
fn write_new(path: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    write(&mut file)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn the_file_has_the_new_contents_and_no_draft_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/file.json");
        for contents in ["one", "two and more", ""] {
            replace(&path, contents.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), contents);
            assert!(!draft(&path).exists());
        }
        assert_eq!(draft(&path).file_name().unwrap(), "file.json.new");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_link_in_the_drafts_place_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("file"), dir.path().join("other"));
        fs::write(&other, "precious").unwrap();
        symlink(&other, draft(&path)).unwrap();
        replace(&path, b"new").unwrap();
        assert_eq!(fs::read_to_string(&other).unwrap(), "precious");
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
    }

    #[test]
    fn a_failed_write_leaves_the_old_contents_and_no_draft() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        replace(&path, b"old").unwrap();
        // A directory in the draft's place: the new file cannot be made.
        fs::create_dir(draft(&path)).unwrap();
        replace(&path, b"new").unwrap_err();
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
    }
}
