//! The marker that outlives a machine which the AF_XDP test took down.
//!
//! It lies in the state directory while the test runs, with the kernel's release and the boot's id. One that is found at a
//! start tells how an earlier test ended: one of this boot was interrupted with its process; one of another boot and the
//! same kernel means that the machine went down with it, and the test is not repeated until somebody deletes the file.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The file's name in the state directory.
pub const FILE: &str = "afxdp-test";

/// The marker forbids the test, or cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum MarkerError {
    /// The machine went down during an earlier test.
    #[error(
        "an earlier test of AF_XDP did not end before this machine was started anew, so it may have taken it down \
         (kernel {kernel}): use another kernel, or delete {} to try again",
        path.display()
    )]
    TookDown {
        /// The marker.
        path: PathBuf,
        /// The kernel's release.
        kernel: String,
    },
    /// It cannot be read, written or removed.
    #[error("the marker {} of the AF_XDP test: {source}", path.display())]
    System {
        /// The marker, or its directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// How the test before this one ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Before {
    /// In order, or there was none, or it was another kernel's.
    Nothing,
    /// With its process, during this boot: it is repeated.
    Interrupted,
    /// With the machine.
    TookDown,
}

/// What a marker's text says to a kernel and a boot. A text that is no marker was being written when the machine stopped.
#[must_use]
pub fn judge(text: &str, kernel: &str, boot: &str) -> Before {
    let mut lines = text.lines();
    match (lines.next(), lines.next()) {
        (_, Some(its_boot)) if its_boot == boot => Before::Interrupted,
        (Some(its_kernel), Some(_)) if its_kernel != kernel => Before::Nothing,
        _ => Before::TookDown,
    }
}

/// The marker while the test runs.
#[derive(Debug)]
pub struct Marker {
    path: PathBuf,
    /// Directories that were made for it, the deepest first.
    made: Vec<PathBuf>,
}

impl Marker {
    /// Looks for an earlier one and puts down this one, on disk when it returns.
    ///
    /// # Errors
    /// The earlier one forbids it, or the state directory cannot be written.
    pub fn put(state_dir: &Path, kernel: &str, boot: &str) -> Result<(Self, Before), MarkerError> {
        let path = state_dir.join(FILE);
        let system = |path: &Path| {
            let path = path.to_owned();
            move |source| MarkerError::System { path, source }
        };
        let before = match fs::read(&path) {
            Ok(text) => judge(&String::from_utf8_lossy(&text), kernel, boot),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Before::Nothing,
            Err(e) => return Err(system(&path)(e)),
        };
        if before == Before::TookDown {
            let kernel = kernel.to_owned();
            return Err(MarkerError::TookDown { path, kernel });
        }
        let made: Vec<PathBuf> = state_dir
            .ancestors()
            .take_while(|dir| !dir.as_os_str().is_empty() && !dir.exists())
            .map(Path::to_owned)
            .collect();
        fs::create_dir_all(state_dir).map_err(system(state_dir))?;
        let mut file = File::create(&path).map_err(system(&path))?;
        let written = writeln!(file, "{kernel}\n{boot}").and_then(|()| file.sync_all());
        written.map_err(system(&path))?;
        // The directory's entry too; on the way to a panic nothing is written back any more.
        File::open(state_dir)
            .and_then(|dir| dir.sync_all())
            .map_err(system(state_dir))?;
        Ok((Self { path, made }, before))
    }

    /// The test has ended and the machine still runs.
    ///
    /// # Errors
    /// The file stays.
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
        for dir in &self.made {
            // Somebody else may have put something there meanwhile.
            let _ = fs::remove_dir(dir);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_marker_says() {
        for (text, expected) in [
            ("k1\nb1\n", Before::Interrupted),
            ("k0\nb1\n", Before::Interrupted),
            ("k1\nb0\n", Before::TookDown),
            ("k0\nb0\n", Before::Nothing),
            ("", Before::TookDown),
            ("k0", Before::TookDown),
        ] {
            assert_eq!(judge(text, "k1", "b1"), expected, "{text:?}");
        }
    }

    #[test]
    fn put_down_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("a/b");
        let (marker, before) = Marker::put(&state, "k", "b").unwrap();
        assert_eq!(before, Before::Nothing);
        assert_eq!(fs::read_to_string(state.join(FILE)).unwrap(), "k\nb\n");
        let (again, before) = Marker::put(&state, "k", "b").unwrap();
        assert_eq!(before, Before::Interrupted);
        again.remove().unwrap();
        marker.remove().unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nor the directories");
    }

    #[test]
    fn after_a_crash_it_refuses_until_the_file_is_deleted() {
        let dir = tempfile::tempdir().unwrap();
        drop(Marker::put(dir.path(), "k", "boot-1").unwrap());
        let said = Marker::put(dir.path(), "k", "boot-2").unwrap_err().to_string();
        assert!(
            said.contains(&dir.path().join(FILE).display().to_string()) && !said.contains('\n'),
            "{said}"
        );
        assert_eq!(Marker::put(dir.path(), "k2", "boot-2").unwrap().1, Before::Nothing);
        fs::remove_file(dir.path().join(FILE)).unwrap();
        assert!(Marker::put(dir.path(), "k", "boot-2").is_ok());
    }
}
