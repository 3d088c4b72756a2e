//! Watches a folder by inotify.
//!
//! The thread receives the kernel's events, waits until none has arrived for a moment, reads the files concerned and reports
//! their changes in one batch. A file that is being written is left alone until its writer closes it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use heddle_model::{Event, Kind, Object};
use notify::event::{AccessKind, AccessMode, CreateKind, Flag, ModifyKind};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};

use super::error::FolderError;
use super::scan;
use super::state::{Content, State, unreadable};
use crate::manifest::{ParseError, is_manifest};
use crate::source::{Batch, FollowError, Followed, LONGEST_BATCH, QUIET, Sink, Source};

/// The interval of checks for a removed folder.
const GONE_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// A watched folder; dropping it ends the watch.
#[derive(Debug)]
pub struct Watch {
    signals: Sender<Signal>,
    thread: Option<JoinHandle<()>>,
    ignored: Arc<Mutex<BTreeMap<String, usize>>>,
}

impl Watch {
    /// Returns the number of present objects that heddle does not read, by version and kind (`apps/v1 Deployment`).
    #[must_use]
    pub fn ignored(&self) -> BTreeMap<String, usize> {
        self.ignored.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // The thread is gone already if its consumer did not want more.
        let _ = self.signals.send(Signal::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Followed for Watch {}

/// A source of objects that watches a folder.
#[derive(Debug)]
pub struct FolderSource {
    /// The folder.
    pub folder: PathBuf,
    /// The objects of files that did not parse any more, as [`watch_batches`] takes them.
    pub earlier: BTreeMap<Arc<str>, Vec<Object>>,
}

impl Source for FolderSource {
    fn follow(self: Box<Self>, mut sink: Sink) -> Result<Box<dyn Followed>, FollowError> {
        watch_batches(&self.folder, &self.earlier, move |events| sink(Batch::now(events)))
            .map(|watch| Box::new(watch) as Box<dyn Followed>)
            .map_err(|e| FollowError::new(e, false))
    }
}

/// Watches a folder: reports all its objects and [`Event::Synced`] first, then every change.
///
/// # Errors
/// Fails if the folder does not exist or cannot be watched.
pub fn watch(folder: &Path) -> Result<(Watch, Receiver<Event>), FolderError> {
    let (sender, receiver) = mpsc::channel();
    let watch = watch_batches(folder, &BTreeMap::new(), move |events| {
        let sent = events.into_iter().all(|event| sender.send(event).is_ok());
        if sent {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    })?;
    Ok((watch, receiver))
}

/// Watches a folder like [`watch`], and calls a function on the watch's thread with each batch of events that belong
/// together. When the function breaks, the watch ends. Dropping the [`Watch`] waits for the function to return.
///
/// `earlier` has the objects of files that an earlier process has read and that did not parse any more when it ended. If such
/// a file still does not parse, they are reported before its rejection; otherwise they are not used.
///
/// # Errors
/// Fails if the folder does not exist or cannot be watched.
pub fn watch_batches(
    folder: &Path,
    earlier: &BTreeMap<Arc<str>, Vec<Object>>,
    sink: impl FnMut(Vec<Event>) -> ControlFlow<()> + Send + 'static,
) -> Result<Watch, FolderError> {
    // The kernel's events carry absolute paths.
    let folder = std::path::absolute(folder).map_err(|source| FolderError::List {
        path: folder.to_owned(),
        source,
    })?;
    let folder = folder.as_path();
    let failed = |source| FolderError::Watch {
        path: folder.to_owned(),
        source,
    };
    // inotify starts before the first reading, so that no change is missed.
    let (signals, inbox) = mpsc::channel();
    let ignored = Arc::new(Mutex::new(BTreeMap::new()));
    let mut watcher_thread = WatchThread {
        folder: folder.to_owned(),
        sink,
        inbox,
        watcher: watcher(folder, signals.clone()).map_err(failed)?,
        is_gone: false,
        is_reported_gone: false,
        ignored: Arc::clone(&ignored),
        state: State::with_files(earlier),
        touched: BTreeSet::new(),
        writing: BTreeSet::new(),
        must_rescan: true,
    };
    watcher_thread
        .watcher
        .watch(folder, RecursiveMode::NonRecursive)
        .map_err(failed)?;
    let thread = thread::Builder::new().name("heddle-folder".to_owned()).spawn(move || {
        // The end is the consumer's wish, or the watch's.
        let _ = watcher_thread.run();
    });
    let thread = thread.map_err(|source| FolderError::Thread {
        path: folder.to_owned(),
        source,
    })?;
    Ok(Watch {
        signals,
        thread: Some(thread),
        ignored,
    })
}

/// A message to the watch's thread.
#[derive(Debug)]
enum Signal {
    /// This file must be read: it was closed after writing, moved, linked or removed.
    Touched(Arc<str>),
    /// This file's owner or mode changed: it may be readable now.
    Mode(Arc<str>),
    /// This file is being written.
    Writing(Arc<str>),
    /// Anything may have changed.
    All,
    /// The folder itself is gone.
    Lost,
    /// The watch was dropped.
    Stop,
}

/// Starts inotify; its events become signals.
fn watcher(folder: &Path, signals: Sender<Signal>) -> notify::Result<RecommendedWatcher> {
    let folder = folder.to_owned();
    notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let Ok(event) = event else {
            let _ = signals.send(Signal::All);
            return;
        };
        if event.flag() == Some(Flag::Rescan) {
            let _ = signals.send(Signal::All);
        }
        for path in &event.paths {
            if let Some(signal) = signal(&folder, path, event.kind) {
                let _ = signals.send(signal);
            }
        }
    })
}

/// Converts an inotify event of a path to a signal; `None` if the path is no manifest or the event changes nothing.
fn signal(folder: &Path, path: &Path, kind: EventKind) -> Option<Signal> {
    if path == folder {
        let gone = matches!(kind, EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)));
        return gone.then_some(Signal::Lost);
    }
    let name = path.file_name()?.to_str()?;
    if name == "..data" {
        return Some(Signal::All);
    }
    if !is_manifest(name) {
        return None;
    }
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write))
        | EventKind::Modify(ModifyKind::Name(_))
        | EventKind::Remove(_) => Some(Signal::Touched(name.into())),
        EventKind::Modify(ModifyKind::Metadata(_)) => Some(Signal::Mode(name.into())),
        EventKind::Modify(ModifyKind::Data(_)) => Some(Signal::Writing(name.into())),
        // A new file is closed by its writer later, a link is complete at once.
        EventKind::Create(CreateKind::File | CreateKind::Any | CreateKind::Other) => Some(if is_link(path) {
            Signal::Touched(name.into())
        } else {
            Signal::Writing(name.into())
        }),
        _ => None,
    }
}

/// Returns `true` for a symbolic link and for a file with more than one hard link: both are complete when they appear.
fn is_link(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink() || metadata.nlink() > 1)
}

/// The state of the watch's thread.
struct WatchThread<S> {
    folder: PathBuf,
    sink: S,
    inbox: Receiver<Signal>,
    watcher: RecommendedWatcher,
    /// `true` while the folder does not exist.
    is_gone: bool,
    /// `true` if a rejection reports that the folder is gone.
    is_reported_gone: bool,
    ignored: Arc<Mutex<BTreeMap<String, usize>>>,
    state: State,
    /// The files that must be read.
    touched: BTreeSet<Arc<str>>,
    /// The files that are being written.
    writing: BTreeSet<Arc<str>>,
    /// `true` if the whole folder must be listed and read.
    must_rescan: bool,
}

impl<S: FnMut(Vec<Event>) -> ControlFlow<()>> WatchThread<S> {
    /// Reads and reports until the watch is dropped or the sink breaks.
    fn run(&mut self) -> ControlFlow<()> {
        let mut first = true;
        loop {
            self.watch_again()?;
            let contents = self.read()?;
            let mut events = self.state.update(contents);
            *self.ignored.lock().unwrap_or_else(PoisonError::into_inner) = self.state.ignored();
            // As long as a file of the first reading is being written, the state is not complete.
            if first && !self.is_gone && self.touched.is_empty() {
                events.extend(Kind::ALL.map(Event::Synced));
                first = false;
            }
            self.report(events)?;
            self.wait()?;
        }
    }

    /// Hands events to the sink, if there are any.
    fn report(&mut self, events: Vec<Event>) -> ControlFlow<()> {
        if events.is_empty() {
            ControlFlow::Continue(())
        } else {
            (self.sink)(events)
        }
    }

    /// Waits for an event, and then until no more come.
    fn wait(&mut self) -> ControlFlow<()> {
        let first = if self.is_gone {
            self.inbox.recv_timeout(GONE_CHECK_INTERVAL)
        } else if self.touched.iter().any(|name| !self.writing.contains(name)) {
            // Touched while others were read, or changed while it was read itself.
            self.inbox.recv_timeout(QUIET)
        } else {
            self.inbox.recv().map_err(Into::into)
        };
        match first {
            Ok(signal) => self.record(signal)?,
            Err(RecvTimeoutError::Timeout) => return ControlFlow::Continue(()),
            Err(RecvTimeoutError::Disconnected) => return ControlFlow::Break(()),
        }
        let end = Instant::now() + LONGEST_BATCH;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.inbox.recv_timeout(QUIET.min(left)) {
                Ok(signal) => self.record(signal)?,
                Err(RecvTimeoutError::Timeout) => return ControlFlow::Continue(()),
                Err(RecvTimeoutError::Disconnected) => return ControlFlow::Break(()),
            }
        }
    }

    /// Records a signal. Breaks at [`Signal::Stop`].
    fn record(&mut self, signal: Signal) -> ControlFlow<()> {
        match signal {
            Signal::Touched(name) => {
                self.writing.remove(&name);
                self.touched.insert(name);
            }
            Signal::Mode(name) => {
                self.touched.insert(name);
            }
            Signal::Writing(name) => {
                self.writing.insert(name);
            }
            Signal::All => {
                // The end of a write may be among the lost events.
                self.writing.clear();
                self.must_rescan = true;
            }
            Signal::Lost => self.is_gone = true,
            Signal::Stop => return ControlFlow::Break(()),
        }
        ControlFlow::Continue(())
    }

    /// Reads the touched files that are not being written.
    fn read(&mut self) -> ControlFlow<(), BTreeMap<Arc<str>, Content>> {
        if self.must_rescan && !self.is_gone {
            match scan::list(&self.folder) {
                Ok(names) => {
                    self.touched.extend(names);
                    self.touched.extend(self.state.files().cloned());
                    self.must_rescan = false;
                }
                // It was removed after it was last watched: check for it from now on.
                Err(_) => self.is_gone = true,
            }
        }
        if self.is_gone {
            return ControlFlow::Continue(BTreeMap::new());
        }
        let ready = self.touched.difference(&self.writing).cloned().collect();
        let mut contents = scan::read_all(&self.folder, ready);
        self.touched.retain(|name| !contents.contains_key(name));
        // A writer may have begun to write a file that has just been read. Files touched from here on are read again.
        while let Ok(signal) = self.inbox.try_recv() {
            self.record(signal)?;
        }
        for name in &self.writing {
            if contents.remove(name).is_some() {
                self.touched.insert(Arc::clone(name));
            }
        }
        if self.is_gone {
            contents.clear();
        }
        ControlFlow::Continue(contents)
    }

    /// Watches a folder again after it was removed or moved away, as soon as its path exists.
    fn watch_again(&mut self) -> ControlFlow<()> {
        if !self.is_gone {
            return ControlFlow::Continue(());
        }
        // If the kernel has dropped the watch by itself, there is nothing to unwatch.
        let _ = self.watcher.unwatch(&self.folder);
        let origin: Arc<str> = self.folder.to_string_lossy().into();
        let message = "the folder is gone".to_owned();
        let rejection = unreadable(&origin, &ParseError { line: None, message });
        match self.watcher.watch(&self.folder, RecursiveMode::NonRecursive) {
            Ok(()) => {
                (self.is_gone, self.must_rescan) = (false, true);
                self.writing.clear();
                if std::mem::take(&mut self.is_reported_gone) {
                    tracing::info!(folder = %origin, "the manifest folder is back");
                    return self.report(vec![Event::Restored(rejection.key())]);
                }
            }
            Err(_) if !std::mem::replace(&mut self.is_reported_gone, true) => {
                tracing::warn!(folder = %origin, "the manifest folder is gone: its objects stay as they are, and heddle looks for it every second");
                return self.report(vec![Event::Rejected(rejection)]);
            }
            Err(_) => {}
        }
        ControlFlow::Continue(())
    }
}
