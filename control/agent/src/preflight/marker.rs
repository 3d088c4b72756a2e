//! The marker file of the AF_XDP test, which shows after a reboot that the test may have crashed the machine.
//!
//! The file is in the state directory while the test runs, and contains the kernel's release and the id of the boot. A file
//! that is found at a start shows how an earlier test ended. If it is from this boot, the process was interrupted. If it is
//! from another boot of the same kernel, the machine went down during the test, and the test is not repeated until somebody
//! deletes the file.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

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
    /// The marker cannot be read, written or removed.
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

/// Returns the end of the earlier test by the marker's text. A text that is no marker was being written when the machine
/// went down.
#[must_use]
pub fn earlier_test(text: &str, kernel: &str, boot: &str) -> EarlierTest {
    let mut lines = text.lines();
    match (lines.next(), lines.next()) {
        (_, Some(its_boot)) if its_boot == boot => EarlierTest::Interrupted,
        (Some(its_kernel), Some(_)) if its_kernel != kernel => EarlierTest::Ended,
        _ => EarlierTest::TookDown,
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
    /// Reads the earlier marker and writes a new one, which is on disk when this returns.
    ///
    /// # Errors
    /// The earlier marker forbids the test, or the state directory cannot be written.
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
        fs::create_dir_all(state_dir).map_err(system(state_dir))?;
        let mut file = File::create(&path).map_err(system(&path))?;
        let written = writeln!(file, "{kernel}\n{boot}").and_then(|()| file.sync_all());
        written.map_err(system(&path))?;
        // The directory's entry too, because a kernel that panics writes nothing back.
        File::open(state_dir)
            .and_then(|dir| dir.sync_all())
            .map_err(system(state_dir))?;
        Ok((Self { path, created }, before))
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
            ("", EarlierTest::TookDown),
            ("k0", EarlierTest::TookDown),
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
