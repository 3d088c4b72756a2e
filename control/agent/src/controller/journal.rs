//! The journal: writes the state file and the file of last good versions, with fsync, on a thread of its own.
//!
//! The controller hands over the newest state and continues. The journal reports the sequence number of the newest state
//! that is on disk; answers to the CNI plugin wait for it. Of the states that queue up while the disk is busy, only the
//! newest is written, because each contains everything.
//!
//! A write that fails (a full disk) is repeated every second. Meanwhile an ADD is refused, because an address must be on disk
//! before it is handed out. A DEL succeeds: its change has taken effect, and an eviction that waits for it may be what frees
//! the disk. `heddle status` then says that the state is not kept.
//!
//! Nothing waits for the file of last good versions (`crate::kept`), so the thread itself repeats its writes.

use std::io;
use std::thread::{self, JoinHandle};

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use heddle_model::Kept;

use crate::attachments::{StateWrite, Store, StoreError};
use crate::kept::{KeptFile, KeptWrite, RETRY, Unwritten};

/// The controller's end of the journal.
pub(super) struct Journal {
    writes: Option<Sender<Write>>,
    outcomes: Receiver<Outcome>,
    thread: Option<JoinHandle<()>>,
    /// The sequence number of the state that was handed over last.
    sent: u64,
    /// The sequence number of the newest state that was tried.
    answered: u64,
    /// The sequence number of the newest state on disk.
    durable: u64,
    /// The error, if the last write failed: then the next save writes again, even if nothing has changed.
    failed: Option<String>,
    kept_file: KeptFile,
}

/// A write for the thread.
enum Write {
    /// The state, with its sequence number.
    State(u64, StateWrite),
    /// The last good versions of refused objects.
    Kept(KeptWrite),
}

/// The outcome of a write of the state.
#[derive(Debug)]
pub(super) struct Outcome {
    /// The sequence number of the newest state that the write covers.
    pub(super) sequence: u64,
    /// The write's result.
    pub(super) result: Result<(), StoreError>,
}

impl Journal {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system refuses another thread.
    pub(super) fn start(kept_file: KeptFile) -> io::Result<Self> {
        let (writes_in, writes) = unbounded();
        let (outcomes_in, outcomes) = unbounded();
        let thread = thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || write_all(&writes, &outcomes_in))?;
        Ok(Self {
            writes: Some(writes_in),
            outcomes,
            thread: Some(thread),
            sent: 0,
            answered: 0,
            durable: 0,
            failed: None,
            kept_file,
        })
    }

    /// Returns the outcomes of writes, for the controller's select.
    pub(super) const fn outcomes(&self) -> &Receiver<Outcome> {
        &self.outcomes
    }

    /// Hands over the store's state if it has changed, and returns the sequence number that an answer has to wait for.
    pub(super) fn save(&mut self, store: &mut Store) -> u64 {
        // While a write is under way, its outcome decides whether the state has to be written again.
        let write = if self.failed.is_some() && self.answered == self.sent {
            Some(store.full_write())
        } else {
            store.unsaved_write()
        };
        if let Some(write) = write
            && let Some(writes) = &self.writes
        {
            self.sent += 1;
            // The thread ends only after this sender is gone.
            let _ = writes.send(Write::State(self.sent, write));
        }
        self.sent
    }

    /// Hands over the last good versions of refused objects if they have changed.
    pub(super) fn keep(&mut self, kept: Kept) {
        if let Some(write) = self.kept_file.set(kept)
            && let Some(writes) = &self.writes
        {
            let _ = writes.send(Write::Kept(write));
        }
    }

    /// Returns whether the state with this sequence number is on disk.
    pub(super) const fn is_durable(&self, sequence: u64) -> bool {
        sequence <= self.durable
    }

    /// Writes the state again if the last write has failed. The controller calls it once a second.
    pub(super) fn retry(&mut self, store: &mut Store) {
        if self.failed.is_some() {
            self.save(store);
        }
    }

    /// Returns the reason for which the state in memory is not on disk and will be lost if the machine fails; `None` while
    /// writes succeed.
    pub(super) fn why_not_kept(&self) -> Option<&str> {
        self.failed.as_deref()
    }

    /// Records an outcome, and logs the first failure and the end of failures. Returns `true` if [`Self::why_not_kept`] has
    /// changed.
    pub(super) fn record(&mut self, outcome: &Outcome) -> bool {
        self.answered = self.answered.max(outcome.sequence);
        let failed = match &outcome.result {
            Ok(()) => {
                self.durable = self.durable.max(outcome.sequence);
                None
            }
            Err(e) => Some(e.to_string()),
        };
        match (&self.failed, &failed) {
            (None, Some(e)) => tracing::error!(
                "the state is not kept: {e}. It is written again every second; new pods are refused until then"
            ),
            (Some(_), None) => tracing::info!("the state is kept again"),
            _ => {}
        }
        let changed = self.failed != failed;
        self.failed = failed;
        changed
    }

    /// Waits until every state that was handed over is written, and ends the thread.
    pub(super) fn finish(&mut self) {
        self.writes = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the journal's thread has panicked: the state file may lack the last changes");
        }
    }
}

/// Writes until the controller's end of the channel is closed. The thread runs it.
fn write_all(writes: &Receiver<Write>, outcomes: &Sender<Outcome>) {
    let mut kept = Unwritten::default();
    let mut is_open = true;
    while is_open {
        // Wait for a write, or for the next try of one that failed. When the channel closes, that one has its last try.
        let first = match kept.is_waiting() {
            true => writes.recv_timeout(RETRY),
            false => writes.recv().map_err(RecvTimeoutError::from),
        };
        is_open = !matches!(first, Err(RecvTimeoutError::Disconnected));
        // Of each file, only the newest contents count.
        let mut state = None;
        for write in first.into_iter().chain(writes.try_iter()) {
            match write {
                Write::State(sequence, newest) => state = Some((sequence, newest)),
                Write::Kept(newest) => kept.push(newest),
            }
        }
        // The state first, because answers wait for it.
        if let Some((sequence, newest)) = state {
            let result = newest.perform();
            if outcomes.send(Outcome { sequence, result }).is_err() {
                return;
            }
        }
        kept.write();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attachments::FILE;

    fn wait(journal: &mut Journal) -> Outcome {
        let outcome = journal.outcomes().recv().unwrap();
        journal.record(&outcome);
        outcome
    }

    #[test]
    fn a_state_is_durable_only_after_its_write_and_a_failed_write_is_repeated() {
        let dir = tempfile::tempdir().unwrap();
        let state_dir = dir.path().join("state");
        let mut store = Store::open(&state_dir).unwrap();
        let mut journal = Journal::start(KeptFile::open(&state_dir).0).unwrap();
        assert_eq!(journal.save(&mut store), 0, "an unchanged state is not written");

        // A file in the directory's place: the write fails.
        std::fs::write(&state_dir, "in the way").unwrap();
        store.add_node_ids([("n2".to_owned(), 1)]);
        let sequence = journal.save(&mut store);
        assert!(wait(&mut journal).result.is_err() && !journal.is_durable(sequence));
        assert!(journal.why_not_kept().is_some());
        journal.retry(&mut store);
        journal.retry(&mut store);
        assert!(wait(&mut journal).result.is_err());
        assert!(
            journal.outcomes().try_recv().is_err(),
            "one write at a time is tried again"
        );

        std::fs::remove_file(&state_dir).unwrap();
        let sequence = journal.save(&mut store);
        assert!(!journal.is_durable(sequence));
        assert!(wait(&mut journal).result.is_ok() && journal.is_durable(sequence));
        assert_eq!(journal.why_not_kept(), None);
        assert_eq!(journal.save(&mut store), sequence, "nothing is left to write");

        store.add_node_ids([("n3".to_owned(), 2)]);
        journal.save(&mut store);
        journal.finish();
        let text = std::fs::read_to_string(state_dir.join(FILE)).unwrap();
        assert!(text.contains("n3"), "finishing writes what was handed over: {text}");
    }

    #[test]
    fn last_good_versions_are_written_again_until_they_are_on_disk() {
        let dir = tempfile::tempdir().unwrap();
        let state_dir = dir.path().join("state");
        let (file, _) = KeptFile::open(&state_dir);
        let mut journal = Journal::start(file).unwrap();
        std::fs::write(&state_dir, "in the way").unwrap();
        let mut cluster = heddle_model::Cluster::new();
        let object = heddle_model::Object::from(heddle_model::Namespace {
            name: "shop".into(),
            labels: heddle_model::Labels::default(),
        });
        let subject = object.object_ref();
        cluster.apply(heddle_model::Event::Upsert {
            origin: "a.yaml".into(),
            object,
        });
        cluster.apply(heddle_model::Event::Rejected(heddle_model::Rejection {
            origin: "a.yaml".into(),
            line: None,
            subject: heddle_model::Subject::Object(subject.clone()),
            cause: heddle_model::Cause::Invalid,
            field: String::new(),
            value: String::new(),
            message: String::new(),
            closes: None,
        }));
        journal.keep(cluster.kept());
        // The failed write delays no state, and no outcome reports it.
        let mut store = Store::open(&dir.path().join("other")).unwrap();
        store.add_node_ids([("n2".to_owned(), 1)]);
        let sequence = journal.save(&mut store);
        assert!(wait(&mut journal).result.is_ok() && journal.is_durable(sequence));
        std::fs::remove_file(&state_dir).unwrap();
        let deadline = std::time::Instant::now() + 20 * RETRY;
        while KeptFile::open(&state_dir).1.is_empty() {
            assert!(std::time::Instant::now() < deadline, "it is not written again");
            thread::sleep(RETRY / 20);
        }
        assert!(KeptFile::open(&state_dir).1.versions.contains_key(&subject));
        journal.keep(Kept::default());
        journal.finish();
        assert!(
            KeptFile::open(&state_dir).1.is_empty(),
            "finishing writes what was handed over"
        );
    }
}
