//! The marker file of the AF_XDP test, which shows after a reboot that the test may have crashed the machine.
//!
//! The file is in the state directory while the test runs, and contains the kernel's release and the id of the boot. A file
//! that is found at a start shows how an earlier test ended. If it is from this boot, the process was interrupted. If it is
//! from another boot of the same kernel, the machine went down during the test, and the test is not repeated until somebody
//! deletes the file.
//!
//! The test begins only when the whole marker is on disk. An incomplete marker, as a full disk left it in earlier versions,
//! therefore says that its test never began.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use heddle_host::state_file;

/// The file's name in the state directory.
pub const FILE: &str = "afxdp-test";

/// The marker forbids the test, or cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum MarkerError {
    /// The machine went down during an earlier test.
    #[error(
        "this machine was restarted during an earlier test of AF_XDP, so the test may have crashed it \
         (kernel {kernel}): use another kernel, or delete {} to try again",
        path.display()
    )]
    TookDown {
        /// The marker.
        path: PathBuf,
        /// The kernel's release.
        kernel: String,
    },
    /// The marker cannot be read or removed.
    #[error("cannot access the marker {} of the AF_XDP test: {source}", path.display())]
    System {
        /// The marker, or its directory.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

/// The end of the earlier test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EarlierTest {
    /// The test ended normally, or there was none, or it ran with another kernel.
    Ended,
    /// Its process ended during this boot. The test is repeated.
    Interrupted,
    /// The machine went down.
    TookDown,
}

/// Returns the end of the earlier test by the marker's text. The test of an incomplete marker never began.
#[must_use]
pub fn earlier_test(text: &str, kernel: &str, boot: &str) -> EarlierTest {
    if !text.ends_with('\n') {
        return EarlierTest::Ended;
    }
    let mut lines = text.lines();
    match (lines.next(), lines.next()) {
        (_, Some(its_boot)) if its_boot == boot => EarlierTest::Interrupted,
        (Some(its_kernel), Some(_)) if its_kernel == kernel => EarlierTest::TookDown,
        _ => EarlierTest::Ended,
    }
}

/// The marker while the test runs.
#[derive(Debug)]
pub struct Marker {
    path: PathBuf,
    /// The directories that were created for it, the deepest first.
    created: Vec<PathBuf>,
}

impl Marker {
    /// Reads the earlier marker and writes a new one, which is on disk when this returns. A marker that cannot be written is only
    /// logged.
    ///
    /// # Errors
    /// The earlier marker forbids the test, or cannot be read.
    pub fn create(state_dir: &Path, kernel: &str, boot: &str) -> Result<(Self, EarlierTest), MarkerError> {
        let path = state_dir.join(FILE);
        let system = |path: &Path| {
            let path = path.to_owned();
            move |source| MarkerError::System { path, source }
        };
        let before = match fs::read(&path) {
            Ok(text) => earlier_test(&String::from_utf8_lossy(&text), kernel, boot),
            Err(e) if e.kind() == io::ErrorKind::NotFound => EarlierTest::Ended,
            Err(e) => return Err(system(&path)(e)),
        };
        if before == EarlierTest::TookDown {
            let kernel = kernel.to_owned();
            return Err(MarkerError::TookDown { path, kernel });
        }
        let created: Vec<PathBuf> = state_dir
            .ancestors()
            .take_while(|dir| !dir.as_os_str().is_empty() && !dir.exists())
            .map(Path::to_owned)
            .collect();
        let marker = Self { path, created };
        // The directory's entry is on disk too, because a kernel that panics writes nothing back.
        // A full or read-only disk must not keep an agent away from its pods, so the test then runs without a marker.
        if let Err(e) = state_file::replace(&marker.path, format!("{kernel}\n{boot}\n").as_bytes()) {
            tracing::warn!(
                "cannot write the marker {} of the AF_XDP test: {e}. If the test brings the machine down, the next start \
                 repeats it",
                marker.path.display()
            );
        }
        Ok((marker, before))
    }

    /// Removes the marker after the test has ended, and the directories that were created for it.
    ///
    /// # Errors
    /// The file cannot be removed.
    pub fn remove(self) -> Result<(), MarkerError> {
        match fs::remove_file(&self.path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(MarkerError::System {
                    path: self.path,
                    source,
                });
            }
            _ => {}
        }
        for dir in &self.created {
            // Somebody else may have created something there meanwhile.
            let _ = fs::remove_dir(dir);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_the_earlier_test_follows_from_the_text() {
        for (text, expected) in [
            ("k1\nb1\n", EarlierTest::Interrupted),
            ("k0\nb1\n", EarlierTest::Interrupted),
            ("k1\nb0\n", EarlierTest::TookDown),
            ("k0\nb0\n", EarlierTest::Ended),
            ("", EarlierTest::Ended),
            ("k0", EarlierTest::Ended),
            ("k1", EarlierTest::Ended),
            ("k1\n", EarlierTest::Ended),
            ("k1\nb", EarlierTest::Ended),
        ] {
            assert_eq!(earlier_test(text, "k1", "b1"), expected, "{text:?}");
        }
    }

    #[test]
    fn created_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("a/b");
        let (marker, before) = Marker::create(&state, "k", "b").unwrap();
        assert_eq!(before, EarlierTest::Ended);
        assert_eq!(fs::read_to_string(state.join(FILE)).unwrap(), "k\nb\n");
        let (again, before) = Marker::create(&state, "k", "b").unwrap();
        assert_eq!(before, EarlierTest::Interrupted);
        again.remove().unwrap();
        marker.remove().unwrap();
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            0,
            "the directories are removed too"
        );
    }

    #[test]
    fn a_marker_that_cannot_be_written_leaves_nothing_and_forbids_nothing() {
        let dir = tempfile::tempdir().unwrap();
        // A directory in the draft's place, in the way of the new marker.
        let draft = state_file::draft(&dir.path().join(FILE));
        fs::create_dir(&draft).unwrap();
        for _ in 0..2 {
            let (marker, before) = Marker::create(dir.path(), "k", "b").unwrap();
            assert_eq!(before, EarlierTest::Ended);
            assert!(!dir.path().join(FILE).exists());
            marker.remove().unwrap();
        }
    }

    #[test]
    fn after_a_crash_it_refuses_until_the_file_is_deleted() {
        let dir = tempfile::tempdir().unwrap();
        drop(Marker::create(dir.path(), "k", "boot-1").unwrap());
        let error = Marker::create(dir.path(), "k", "boot-2").unwrap_err().to_string();
        assert!(
            error.contains(&dir.path().join(FILE).display().to_string()) && !error.contains('\n'),
            "{error}"
        );
        assert_eq!(
            Marker::create(dir.path(), "k2", "boot-2").unwrap().1,
            EarlierTest::Ended
        );
        fs::remove_file(dir.path().join(FILE)).unwrap();
        assert!(Marker::create(dir.path(), "k", "boot-2").is_ok());
    }
}
