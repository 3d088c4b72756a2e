//! Follows a folder by inotify.
//!
//! The thread receives the kernel's events, waits until none has come for a moment, reads the files concerned and reports
//! their changes in one batch. A file that is being written is left alone until its writer closes it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use heddle_model::{Event, Kind};
use notify::event::{AccessKind, AccessMode, CreateKind, Flag, ModifyKind};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};

use super::error::FolderError;
use super::scan;
use super::state::{Content, State, unreadable};
use crate::manifest::{ParseError, is_manifest};

/// Changes that come closer together than this are one batch; a change alone waits for as long.
const QUIET: Duration = Duration::from_millis(2);
/// A batch waits no longer than this.
const PATIENCE: Duration = Duration::from_millis(100);
/// The interval of checks for a removed folder.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Follows a folder until it is dropped.
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

/// Follows a folder: reports all its objects and [`Event::Synced`] first, then every change.
///
/// # Errors
/// Fails if the folder does not exist or cannot be watched.
pub fn watch(folder: &Path) -> Result<(Watch, Receiver<Event>), FolderError> {
    let (sender, receiver) = mpsc::channel();
    let watch = follow(folder, move |events| {
        let sent = events.into_iter().all(|event| sender.send(event).is_ok());
        if sent {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    })?;
    Ok((watch, receiver))
}

/// The same as [`watch`], with a function that takes what changed together as one batch, on the following thread.
/// Dropping the [`Watch`] waits for the function to return; when it breaks, the folder is no longer followed.
///
/// # Errors
/// Fails if the folder does not exist or cannot be watched.
pub fn follow(
    folder: &Path,
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
    let (signals, inbox) = mpsc::channel();
    let ignored = Arc::new(Mutex::new(BTreeMap::new()));
    let mut follower = Follower {
        folder: folder.to_owned(),
        sink,
        inbox,
        watcher: watcher(folder, signals.clone()).map_err(failed)?,
        lost: false,
        told: false,
        ignored: Arc::clone(&ignored),
        state: State::default(),
        touched: BTreeSet::new(),
        writing: BTreeSet::new(),
        all: true,
    };
    follower
        .watcher
        .watch(folder, RecursiveMode::NonRecursive)
        .map_err(failed)?;
    let thread = thread::Builder::new().name("heddle-folder".to_owned()).spawn(move || {
        // The end is the consumer's wish, or the watch's.
        let _ = follower.run();
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
    Stop,
}

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

fn is_link(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink() || metadata.nlink() > 1)
}

struct Follower<S> {
    folder: PathBuf,
    sink: S,
    inbox: Receiver<Signal>,
    watcher: RecommendedWatcher,
    /// The folder is gone.
    lost: bool,
    /// The removal has been reported.
    told: bool,
    ignored: Arc<Mutex<BTreeMap<String, usize>>>,
    state: State,
    touched: BTreeSet<Arc<str>>,
    writing: BTreeSet<Arc<str>>,
    all: bool,
}

impl<S: FnMut(Vec<Event>) -> ControlFlow<()>> Follower<S> {
    fn run(&mut self) -> ControlFlow<()> {
        let mut first = true;
        loop {
            self.find_again()?;
            let contents = self.read()?;
            let mut events = self.state.update(contents);
            *self.ignored.lock().unwrap_or_else(PoisonError::into_inner) = self.state.ignored();
            // As long as a file of the first reading is being written, the state is not complete.
            if first && !self.lost && self.touched.is_empty() {
                events.extend(Kind::ALL.map(Event::Synced));
                first = false;
            }
            self.report(events)?;
            self.wait()?;
        }
    }

    fn report(&mut self, events: Vec<Event>) -> ControlFlow<()> {
        if events.is_empty() {
            ControlFlow::Continue(())
        } else {
            (self.sink)(events)
        }
    }

    /// Waits for an event, and then until no more come.
    fn wait(&mut self) -> ControlFlow<()> {
        let first = if self.lost {
            self.inbox.recv_timeout(LOOK_AGAIN)
        } else if self.touched.iter().any(|name| !self.writing.contains(name)) {
            // Touched while others were read, or changed while it was read itself.
            self.inbox.recv_timeout(QUIET)
        } else {
            self.inbox.recv().map_err(Into::into)
        };
        match first {
            Ok(signal) => self.absorb(signal)?,
            Err(RecvTimeoutError::Timeout) => return ControlFlow::Continue(()),
            Err(RecvTimeoutError::Disconnected) => return ControlFlow::Break(()),
        }
        let end = Instant::now() + PATIENCE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.inbox.recv_timeout(QUIET.min(left)) {
                Ok(signal) => self.absorb(signal)?,
                Err(RecvTimeoutError::Timeout) => return ControlFlow::Continue(()),
                Err(RecvTimeoutError::Disconnected) => return ControlFlow::Break(()),
            }
        }
    }

    fn absorb(&mut self, signal: Signal) -> ControlFlow<()> {
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
                self.all = true;
            }
            Signal::Lost => self.lost = true,
            Signal::Stop => return ControlFlow::Break(()),
        }
        ControlFlow::Continue(())
    }

    /// Reads the touched files that are not being written.
    fn read(&mut self) -> ControlFlow<(), BTreeMap<Arc<str>, Content>> {
        if self.all && !self.lost {
            match scan::list(&self.folder) {
                Ok(names) => {
                    self.touched.extend(names);
                    self.touched.extend(self.state.files().cloned());
                    self.all = false;
                }
                // It was removed after it was last watched: check for it from now on.
                Err(_) => self.lost = true,
            }
        }
        if self.lost {
            return ControlFlow::Continue(BTreeMap::new());
        }
        let ready = self.touched.difference(&self.writing).cloned().collect();
        let mut contents = scan::read_all(&self.folder, ready);
        self.touched.retain(|name| !contents.contains_key(name));
        // A writer may have begun to write a file that has just been read. Files touched from here on are read again.
        while let Ok(signal) = self.inbox.try_recv() {
            self.absorb(signal)?;
        }
        for name in &self.writing {
            if contents.remove(name).is_some() {
                self.touched.insert(Arc::clone(name));
            }
        }
        if self.lost {
            contents.clear();
        }
        ControlFlow::Continue(contents)
    }

    /// Watches a folder again after it was removed or moved away, as soon as its path exists.
    fn find_again(&mut self) -> ControlFlow<()> {
        if !self.lost {
            return ControlFlow::Continue(());
        }
        // If the kernel has dropped the watch by itself, there is nothing to unwatch.
        let _ = self.watcher.unwatch(&self.folder);
        let origin: Arc<str> = self.folder.to_string_lossy().into();
        let message = "the folder is gone".to_owned();
        let rejection = unreadable(&origin, &ParseError { line: None, message });
        match self.watcher.watch(&self.folder, RecursiveMode::NonRecursive) {
            Ok(()) => {
                (self.lost, self.all) = (false, true);
                self.writing.clear();
                if std::mem::take(&mut self.told) {
                    tracing::info!(folder = %origin, "the manifest folder is back");
                    return self.report(vec![Event::Restored(rejection.key())]);
                }
            }
            Err(_) if !std::mem::replace(&mut self.told, true) => {
                tracing::warn!(folder = %origin, "the manifest folder is gone");
                return self.report(vec![Event::Rejected(rejection)]);
            }
            Err(_) => {}
        }
        ControlFlow::Continue(())
    }
}
