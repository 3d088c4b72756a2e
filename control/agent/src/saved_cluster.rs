//! The file of the whole cluster in the state directory.
//!
//! An agent that follows an API server writes the objects that its tables follow from, so that the next start can serve them
//! while the API server is away. [`heddle_source::saved`] has the format. A thread of its own writes: a large cluster takes a
//! second. It writes after a change, but spends at most a fiftieth of its time on it, and once more when the agent ends.
//!
//! Nothing depends on the file: without it, a start waits for the API server. So its faults are logged.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read as _, Write};
use std::path::Path;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, bounded, select};
use heddle_host::state_file;
use heddle_source::saved::SavedCluster;

/// The file's name.
pub const FILE: &str = "cluster.jsonl";
/// The most bytes of the file. A cluster of 150,000 pods and 10,000 Services takes about a fifth.
const MAX_BYTES: u64 = 512 << 20;
/// The least pause between two writes.
const LEAST_PAUSE: Duration = Duration::from_secs(1);
/// The pause between two writes, in units of the last write's duration.
const PAUSE_FACTOR: u32 = 50;

/// Reads the cluster that an earlier agent saved. A missing file, or one that cannot be used, gives `None`.
pub(crate) fn read(state_dir: &Path) -> Option<SavedCluster> {
    let path = state_dir.join(FILE);
    match read_file(&path) {
        Ok(Some(saved)) => {
            tracing::warn!(
                "the API server has not sent its objects: serving the {} objects in {}, {} old, until it does",
                saved.objects.len(),
                path.display(),
                age(&saved)
            );
            Some(saved)
        }
        Ok(None) => {
            tracing::warn!(
                "the API server has not sent its objects, and an earlier agent has not saved any in {}: waiting for the server",
                path.display()
            );
            None
        }
        Err(fault) => {
            tracing::error!(
                "the API server has not sent its objects, and the ones in {} cannot be used: {fault}. Waiting for the server",
                path.display()
            );
            None
        }
    }
}

/// Returns the age of a saved cluster; a clock that was set back makes it 0.
fn age(saved: &SavedCluster) -> String {
    let seconds = saved.saved_at.elapsed().unwrap_or_default().as_secs();
    match seconds {
        0..=299 => format!("{seconds} s"),
        300..=17_999 => format!("{} min", seconds / 60),
        _ => format!("{} h", seconds / 3600),
    }
}

fn read_file(path: &Path) -> Result<Option<SavedCluster>, String> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e.to_string()),
    };
    SavedCluster::read(BufReader::new(file.take(MAX_BYTES))).map(Some)
}

/// The thread that writes the file. Dropping it writes the last change and ends the thread.
#[derive(Debug)]
pub(crate) struct Saver {
    changes: Sender<()>,
    /// Its end ends the thread.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Saver {
    /// Starts the thread. `cluster` returns the cluster of the present.
    ///
    /// # Errors
    /// The system refuses another thread.
    pub(crate) fn start(state_dir: &Path, cluster: impl Fn() -> SavedCluster + Send + 'static) -> io::Result<Self> {
        // One message stands for all changes since the last write.
        let (changes_in, changes) = bounded(1);
        let (stop_in, stop) = bounded(0);
        let path = state_dir.join(FILE);
        let thread = thread::Builder::new()
            .name("save-cluster".to_owned())
            .spawn(move || write_changes(&path, &changes, &stop, cluster))?;
        Ok(Self {
            changes: changes_in,
            stop: Some(stop_in),
            thread: Some(thread),
        })
    }

    /// Has the cluster written soon. The call does not block.
    pub(crate) fn mark_changed(&self) {
        // A full channel means that a write is due already.
        let _ = self.changes.try_send(());
    }
}

impl Drop for Saver {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // It has ended only if it panicked, and then the file is an old one.
            let _ = thread.join();
        }
    }
}

/// Writes the file after changes, until `stop` closes.
fn write_changes(path: &Path, changes: &Receiver<()>, stop: &Receiver<()>, cluster: impl Fn() -> SavedCluster) {
    let mut is_failing = false;
    let mut is_stopping = false;
    while !is_stopping {
        select! {
            recv(changes) -> change => if change.is_err() {
                return;
            },
            recv(stop) -> _ => {
                is_stopping = true;
                if changes.try_recv().is_err() {
                    return;
                }
            }
        }
        let began = Instant::now();
        let result = write(path, &cluster());
        match &result {
            Err(e) if !is_failing => tracing::error!(
                "cannot save the cluster's objects for the next start in {}: {e}. It is tried again at the next change",
                path.display()
            ),
            Ok(()) if is_failing => tracing::info!("the cluster's objects are saved again in {}", path.display()),
            _ => {}
        }
        is_failing = result.is_err();
        // A change of the meantime waits in its channel.
        if !is_stopping {
            // A message never comes: the pause ends with the time or with the channel.
            let _ = stop.recv_timeout((began.elapsed() * PAUSE_FACTOR).max(LEAST_PAUSE));
        }
    }
}

/// Writes the file and syncs it.
fn write(path: &Path, cluster: &SavedCluster) -> io::Result<()> {
    state_file::replace_with(path, |file| {
        let mut bounded = Bounded {
            file: BufWriter::new(file),
            left: MAX_BYTES,
        };
        cluster.write(&mut bounded)?;
        bounded.flush()
    })
}

/// A writer that refuses more than a number of bytes.
struct Bounded<W> {
    file: W,
    left: u64,
}

impl<W: Write> Write for Bounded<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.left = self.left.checked_sub(written as u64).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("the objects take more than {MAX_BYTES} bytes"),
            )
        })?;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::{Arc, Mutex};
    use std::time::SystemTime;

    use heddle_model::{Labels, Namespace, Object};

    use super::*;

    fn cluster(names: &[&str]) -> SavedCluster {
        let namespace = |name: &&str| {
            Object::from(Namespace {
                name: (*name).into(),
                labels: Labels::default(),
            })
        };
        SavedCluster {
            // The file has seconds.
            saved_at: SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000),
            objects: names.iter().map(namespace).collect(),
            rejections: Vec::new(),
        }
    }

    #[test]
    fn the_last_change_is_written_at_the_end_and_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        assert!(read(dir.path()).is_none());
        let present = Arc::new(Mutex::new(cluster(&["a"])));
        let shared = Arc::clone(&present);
        let saver = Saver::start(dir.path(), move || shared.lock().unwrap().clone()).unwrap();
        saver.mark_changed();
        *present.lock().unwrap() = cluster(&["a", "b"]);
        saver.mark_changed();
        saver.mark_changed();
        drop(saver);
        assert_eq!(read(dir.path()), Some(cluster(&["a", "b"])));
    }

    #[test]
    fn nothing_is_written_without_a_change() {
        let dir = tempfile::tempdir().unwrap();
        drop(Saver::start(dir.path(), || cluster(&[])).unwrap());
        assert!(!dir.path().join(FILE).exists());
    }

    #[test]
    fn a_file_that_is_damaged_or_no_file_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        fs::create_dir(&path).unwrap();
        assert!(read_file(&path).is_err() && read(dir.path()).is_none());
        fs::remove_dir(&path).unwrap();
        write(&path, &cluster(&["a"])).unwrap();
        let text = fs::read(&path).unwrap();
        fs::write(&path, &text[..text.len() - 1]).unwrap();
        assert!(read_file(&path).unwrap_err().contains("line 2"));
    }

    #[test]
    fn more_than_the_bound_is_refused() {
        let mut bounded = Bounded {
            file: Vec::new(),
            left: 3,
        };
        bounded.write_all(b"abc").unwrap();
        assert_eq!(bounded.write_all(b"d").unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }
}
