//! The file of last good versions in the state directory.
//!
//! While an object is refused and an earlier version of it serves, the file has that version, so that it serves after a
//! restart too: the source then has only the refused one. [`heddle_model::Cluster::kept`] decides which versions these are,
//! [`heddle_source::kept`] has the format.
//!
//! Nothing depends on the file: without it, an object that is refused at the start is absent, and a refused policy closes.
//! So a file that cannot be read is logged and ignored, and a write that fails is logged and repeated. But a version that is
//! no longer the last good one must not return, so the old file is removed if a new one cannot be written.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use heddle_host::state_file;
use heddle_model::Kept;
use heddle_source::kept::{self, Parsed};

/// The file's name.
pub const FILE: &str = "last-good.jsonl";
/// The most bytes of the file: about 60,000 pods of 500 bytes. Further versions are left out.
const MAX_BYTES: usize = 32 << 20;
/// The pause after which a failed write is repeated.
pub(crate) const RETRY: Duration = Duration::from_secs(1);

/// The file, and its contents as far as the controller knows.
#[derive(Debug)]
pub struct KeptFile {
    path: PathBuf,
    /// The versions in the file, or on their way to it; `None` if the file has anything else.
    contents: Option<Kept>,
}

/// New contents of the file.
#[derive(Debug)]
pub(crate) struct KeptWrite {
    path: PathBuf,
    kept: Kept,
}

/// The writer's side: the newest contents that are not on disk.
#[derive(Debug, Default)]
pub(crate) struct Unwritten {
    newest: Option<KeptWrite>,
    is_failing: bool,
}

impl KeptFile {
    /// Reads the file of a state directory. Returns it with the versions that it has; without a file, or with one that
    /// cannot be read, there are none.
    #[must_use]
    pub fn open(state_dir: &Path) -> (Self, Kept) {
        let path = state_dir.join(FILE);
        let Parsed { kept, first_fault } = read(&path).unwrap_or_else(|fault| Parsed {
            first_fault: Some(fault),
            ..Parsed::default()
        });
        if let Some(fault) = &first_fault {
            tracing::warn!(
                "{} of the last good versions in {} are used, the others are ignored: {fault}. Refused objects without one are \
                 treated as if they never were good, until they are repaired",
                kept.versions.len(),
                path.display()
            );
        }
        let contents = first_fault.is_none().then(|| kept.clone());
        (Self { path, contents }, kept)
    }

    /// Returns the write that the file needs to have these contents; `None` if it has them.
    pub(crate) fn set(&mut self, kept: Kept) -> Option<KeptWrite> {
        if self.contents.as_ref() == Some(&kept) {
            return None;
        }
        self.contents = Some(kept.clone());
        let path = self.path.clone();
        Some(KeptWrite { path, kept })
    }
}

impl KeptWrite {
    /// Writes the file and syncs it, or removes it if nothing is kept. The call blocks for as long as the disk needs.
    fn perform(&self) -> io::Result<()> {
        if self.kept.is_empty() {
            return remove(&self.path);
        }
        let (text, left_out) = kept::encode(&self.kept, MAX_BYTES);
        if left_out > 0 {
            tracing::warn!(
                "{left_out} last good versions of refused objects are left out of {}, which has room for {MAX_BYTES} bytes: \
                 after a restart their objects are treated as if they never were good",
                self.path.display()
            );
        }
        state_file::replace(&self.path, &text).inspect_err(|_| {
            // The first error is the one to report.
            let _ = remove(&self.path);
        })
    }
}

impl Unwritten {
    /// Takes new contents. They replace contents that could not be written.
    pub(crate) fn push(&mut self, write: KeptWrite) {
        self.newest = Some(write);
    }

    /// Returns `true` if contents wait to be written, for the first time or again.
    pub(crate) const fn is_waiting(&self) -> bool {
        self.newest.is_some()
    }

    /// Writes contents that wait. Logs the first failure and the end of failures.
    pub(crate) fn write(&mut self) {
        let Some(write) = &self.newest else { return };
        let result = write.perform();
        let path = write.path.display();
        match &result {
            Err(e) if !self.is_failing => tracing::error!(
                "last good versions of refused objects are not kept: cannot write {path}: {e}. It is tried again every second; \
                 after a restart before that, these objects are treated as if they never were good"
            ),
            Ok(()) if self.is_failing => {
                tracing::info!("last good versions of refused objects are kept again in {path}");
            }
            _ => {}
        }
        self.is_failing = result.is_err();
        if result.is_ok() {
            self.newest = None;
        }
    }
}

/// Reads a file. The error is the reason for which nothing of it is used.
fn read(path: &Path) -> Result<Parsed, String> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Parsed::default()),
        Err(e) => return Err(e.to_string()),
    };
    let mut text = Vec::new();
    let limit = MAX_BYTES as u64 + 1;
    file.take(limit).read_to_end(&mut text).map_err(|e| e.to_string())?;
    if text.len() > MAX_BYTES {
        return Err(format!("it has more than {MAX_BYTES} bytes"));
    }
    kept::parse(&text)
}

/// Removes a file, durably. A missing one is no error.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Ok(()) => File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::sync::Arc;

    use heddle_model::{KeptVersion, Namespace, NetworkPolicy, Object, ObjectKey};

    use super::*;

    fn kept(names: &[&str]) -> Kept {
        let version = |name: &&str| {
            let policy = NetworkPolicy {
                key: ObjectKey::new("shop", *name),
                selector: heddle_model::LabelSelector::everything(),
                ingress: Some(Vec::new()),
                egress: None,
                refused: false,
            };
            let object = Object::from(policy);
            let origin = "a.yaml".into();
            (object.object_ref(), KeptVersion { origin, object })
        };
        Kept {
            versions: names.iter().map(version).collect(),
            files: ["a.yaml".into()].into(),
        }
    }

    fn set(file: &mut KeptFile, kept: &Kept) -> bool {
        let mut unwritten = Unwritten::default();
        let write = file.set(kept.clone());
        let changes = write.is_some();
        write.into_iter().for_each(|write| unwritten.push(write));
        assert_eq!(unwritten.is_waiting(), changes);
        unwritten.write();
        assert!(!unwritten.is_waiting());
        changes
    }

    #[test]
    fn versions_come_back_and_the_file_goes_with_the_last_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let (mut file, before) = KeptFile::open(dir.path());
        assert!(before.is_empty() && !set(&mut file, &before), "nothing to write");
        assert!(set(&mut file, &kept(&["a", "b"])));
        assert!(!set(&mut file, &kept(&["a", "b"])), "only changes are written");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let (mut file, before) = KeptFile::open(dir.path());
        assert_eq!(before, kept(&["a", "b"]));
        assert!(!set(&mut file, &before), "the file has them");
        assert!(set(&mut file, &Kept::default()) && !path.exists());
    }

    #[test]
    fn a_file_that_cannot_be_read_is_ignored_and_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let (text, _) = kept::encode(&kept(&["a", "b"]), usize::MAX);
        for (damaged, used) in [(&b"no JSON"[..], 0), (&text[..text.len() - 9], 1)] {
            fs::write(&path, damaged).unwrap();
            let (mut file, before) = KeptFile::open(dir.path());
            assert_eq!((before.versions.len(), before.files.len()), (used, 0));
            assert!(set(&mut file, &before));
            assert_eq!(KeptFile::open(dir.path()).1, before);
        }
        fs::remove_file(&path).unwrap();
        // A directory, and a file without an end.
        fs::create_dir(&path).unwrap();
        assert!(KeptFile::open(dir.path()).1.is_empty());
        fs::remove_dir(&path).unwrap();
        File::create(&path).unwrap().set_len(MAX_BYTES as u64 + 1).unwrap();
        assert!(read(&path).is_err() && KeptFile::open(dir.path()).1.is_empty());
    }

    #[test]
    fn a_failed_write_removes_the_old_versions_and_is_repeated_with_the_newest() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let (mut file, _) = KeptFile::open(dir.path());
        set(&mut file, &kept(&["a"]));
        // A directory in the draft's place: the new file cannot be made.
        let draft = state_file::draft(&path);
        fs::create_dir(&draft).unwrap();
        let mut unwritten = Unwritten::default();
        for names in [&["b"][..], &["b", "c"]] {
            file.set(kept(names))
                .into_iter()
                .for_each(|write| unwritten.push(write));
            unwritten.write();
            assert!(unwritten.is_waiting() && !path.exists(), "{names:?}");
        }
        fs::remove_dir(&draft).unwrap();
        unwritten.write();
        assert!(!unwritten.is_waiting());
        assert_eq!(KeptFile::open(dir.path()).1, kept(&["b", "c"]));
    }

    #[test]
    fn versions_without_room_are_left_out_and_then_no_file_counts_as_whole() {
        let mut all = kept(&["a", "b"]);
        let (text, left_out) = kept::encode(&all, usize::MAX);
        assert_eq!(left_out, 0);
        assert_eq!(kept::encode(&all, text.len()), (text.clone(), 0));
        let (less, left_out) = kept::encode(&all, text.len() - 1);
        let parsed = kept::parse(&less).unwrap();
        assert_eq!((left_out, parsed.kept.versions.len(), parsed.first_fault), (1, 1, None));
        assert!(parsed.kept.files.is_empty() && less.len() < text.len());
        // The order is that of kinds: later ones refer to earlier ones.
        let namespace = Object::from(Namespace {
            name: "shop".into(),
            labels: heddle_model::Labels::default(),
        });
        let origin: Arc<str> = "b.yaml".into();
        let subject = namespace.object_ref();
        all.versions.insert(
            subject.clone(),
            KeptVersion {
                origin,
                object: namespace,
            },
        );
        let (less, left_out) = kept::encode(&all, text.len());
        assert!(left_out >= 1 && kept::parse(&less).unwrap().kept.versions.contains_key(&subject));
    }
}
