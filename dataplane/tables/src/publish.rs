//! Publication: from the control thread to the workers, without a lock or a wait on their side.
//!
//! Each reader has a mailbox: one pointer to the newest value that it has not taken. The publisher swaps a new value in. A value
//! that it swaps out was never taken and is dropped there. The reader checks the mailbox with one relaxed load, and swaps a new
//! value out. Then it drops the old value, and only afterwards acknowledges the new version.
//!
//! # Who frees
//!
//! The publisher keeps every value until each reader that may hold it has acknowledged a later version. So a reader's `Arc` is never
//! the last one, and memory is freed on the control thread, by [`Publisher::publish`] and [`Publisher::collect`].
//!
//! # Ordering
//!
//! - The contents of a value: the publisher's swap releases, and the reader's acquires. The reader's relaxed load only decides
//!   whether to swap.
//! - Dropping: the reader drops its old `Arc` and then stores the version with Release. The publisher loads it with Acquire before
//!   it drops its own. In the wrong order (acknowledge, then drop), the reader's could be the last one.
//! - Sleeping: [`Reader::wake`] clears the mark that [`Reader::sleep`] set, and only then swaps the mailbox, even if it seems empty.
//!   [`Publisher::publish`] swaps it before [`Publisher::acknowledged`] reads the marks. Both swaps are read-modify-writes of one
//!   word, so one of them is first, and the second acquires the first one's release. So either the reader takes the new value, or
//!   the publisher sees that the reader is awake, and waits for its acknowledgement. A reader that counts as current while it sleeps
//!   never runs with an older value afterwards. A load in `wake` would not suffice, because it could read the mailbox as it was
//!   before, empty.

use std::collections::VecDeque;
use std::sync::Arc;

#[cfg(not(loom))]
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};

#[cfg(loom)]
use loom::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};

/// A value that can be published: it has a version.
pub trait Versioned {
    /// Returns the version, which is greater than the version of every value published before.
    fn version(&self) -> u64;
}

impl Versioned for crate::Snapshot {
    fn version(&self) -> u64 {
        Self::version(self)
    }
}

/// The state that one reader and the publisher share.
struct Shared<T> {
    /// Null, or an `Arc` that the mailbox owns.
    mailbox: AtomicPtr<T>,
    /// The version that the reader has acknowledged: it holds no older value.
    taken: AtomicU64,
    asleep: AtomicBool,
}

impl<T> Shared<T> {
    /// Replaces the value in the mailbox and returns the previous one.
    fn swap(&self, new: Option<Arc<T>>) -> Option<Arc<T>> {
        let new = new.map_or(std::ptr::null_mut(), |v| Arc::into_raw(v).cast_mut());
        let old = self.mailbox.swap(new, Ordering::AcqRel);
        if old.is_null() {
            return None;
        }
        // SAFETY: this function stored every pointer that is not null, from `Arc::into_raw`. The swap removes it, so no other `Arc`
        // is made of it.
        Some(unsafe { Arc::from_raw(old) })
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        drop(self.swap(None));
    }
}

/// Returns a publisher and its readers. All readers start with `initial`.
#[must_use]
pub fn channel<T: Versioned>(initial: Arc<T>, readers: usize) -> (Publisher<T>, Vec<Reader<T>>) {
    let shared: Vec<_> = (0..readers)
        .map(|_| {
            Arc::new(Shared {
                mailbox: AtomicPtr::new(std::ptr::null_mut()),
                taken: AtomicU64::new(initial.version()),
                asleep: AtomicBool::new(false),
            })
        })
        .collect();
    let readers = shared
        .iter()
        .map(|s| Reader {
            shared: Arc::clone(s),
            current: Arc::clone(&initial),
        })
        .collect();
    (
        Publisher {
            readers: shared,
            kept: VecDeque::from([initial]),
        },
        readers,
    )
}

/// The publisher, for the control thread.
pub struct Publisher<T> {
    readers: Vec<Arc<Shared<T>>>,
    /// Every value that a reader may hold, oldest first; the last is the newest. Never empty.
    kept: VecDeque<Arc<T>>,
}

impl<T: Versioned> Publisher<T> {
    /// Puts a new value into every mailbox, and frees old values that no reader holds any more.
    pub fn publish(&mut self, value: Arc<T>) {
        for reader in &self.readers {
            drop(reader.swap(Some(Arc::clone(&value))));
        }
        self.kept.push_back(value);
        self.collect();
    }

    /// Returns the newest value.
    #[must_use]
    pub fn newest(&self) -> Option<&Arc<T>> {
        self.kept.back()
    }

    /// Returns the version that every reader has acknowledged. A sleeping reader counts as having the newest, because it takes that
    /// one first when it wakes.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        let newest = self.kept.back().map_or(0, |v| v.version());
        let has = |r: &Arc<Shared<T>>| {
            if r.asleep.load(Ordering::Acquire) {
                newest
            } else {
                r.taken.load(Ordering::Acquire)
            }
        };
        self.readers.iter().map(has).min().unwrap_or(newest)
    }

    /// Frees the values that no reader holds any more. Returns the number of values that are left, including the newest.
    pub fn collect(&mut self) -> usize {
        // A value that a sleeping reader holds stays: the reader's `Arc` must not be the last.
        let oldest = self
            .readers
            .iter()
            .map(|r| r.taken.load(Ordering::Acquire))
            .min()
            .unwrap_or(u64::MAX);
        while self.kept.len() > 1 && self.kept.front().is_some_and(|v| v.version() < oldest) {
            self.kept.pop_front();
        }
        self.kept.len()
    }
}

/// A reader, for a worker.
pub struct Reader<T> {
    shared: Arc<Shared<T>>,
    current: Arc<T>,
}

impl<T: Versioned> Reader<T> {
    /// Takes the newest value if there is a newer one, and returns the current one. Call it between two bursts. Costs one relaxed
    /// load if there is no newer value. Never waits, allocates or frees.
    #[inline]
    pub fn refresh(&mut self) -> &T {
        if !self.shared.mailbox.load(Ordering::Relaxed).is_null() {
            self.take();
        }
        &self.current
    }

    /// Returns the value that the last [`refresh`](Self::refresh) took.
    #[inline]
    #[must_use]
    pub fn current(&self) -> &T {
        &self.current
    }

    #[cold]
    fn take(&mut self) {
        if let Some(new) = self.shared.swap(None) {
            let version = new.version();
            // The publisher has another `Arc` of the old value, so this frees nothing.
            drop(std::mem::replace(&mut self.current, new));
            self.shared.taken.store(version, Ordering::Release);
        }
    }

    /// Marks this reader as asleep. The caller must process no packet until [`wake`](Self::wake).
    pub fn sleep(&mut self) {
        self.shared.asleep.store(true, Ordering::Release);
    }

    /// Ends a sleep and takes the newest value. Call it before the first packet.
    pub fn wake(&mut self) -> &T {
        self.shared.asleep.store(false, Ordering::Relaxed);
        self.take();
        &self.current
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use std::thread::{self, ThreadId};

    struct Value {
        version: u64,
        alive: Arc<AtomicUsize>,
        freed_by: ThreadId,
    }

    impl Versioned for Value {
        fn version(&self) -> u64 {
            self.version
        }
    }

    impl Drop for Value {
        fn drop(&mut self) {
            assert_eq!(thread::current().id(), self.freed_by, "freed by a reader");
            self.alive.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn values() -> (Arc<AtomicUsize>, impl FnMut() -> Arc<Value>) {
        let alive = Arc::new(AtomicUsize::new(0));
        let (count, mut version) = (Arc::clone(&alive), 0);
        let make = move || {
            count.fetch_add(1, Ordering::Relaxed);
            version += 1;
            Arc::new(Value {
                version,
                alive: Arc::clone(&count),
                freed_by: thread::current().id(),
            })
        };
        (alive, make)
    }

    #[test]
    fn a_reader_takes_the_newest_and_skips_the_rest() {
        let (alive, mut make) = values();
        let (mut publisher, mut readers) = channel(make(), 1);
        for _ in 0..3 {
            publisher.publish(make());
        }
        assert_eq!((publisher.acknowledged(), alive.load(Ordering::Relaxed)), (1, 4));
        assert_eq!(readers[0].current().version, 1);
        assert_eq!(readers[0].refresh().version, 4);
        assert_eq!((publisher.acknowledged(), publisher.collect()), (4, 1));
        assert_eq!(alive.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_sleeper_counts_as_current_but_keeps_what_it_holds() {
        let (alive, mut make) = values();
        let (mut publisher, mut readers) = channel(make(), 2);
        readers[1].sleep();
        publisher.publish(make());
        readers[0].refresh();
        assert_eq!(publisher.acknowledged(), 2);
        assert_eq!((publisher.collect(), alive.load(Ordering::Relaxed)), (2, 2));
        assert_eq!(readers[1].wake().version, 2);
        assert_eq!((publisher.collect(), alive.load(Ordering::Relaxed)), (1, 1));
    }

    #[test]
    fn nothing_leaks_when_either_end_goes_first() {
        let (alive, mut make) = values();
        let (mut publisher, readers) = channel(make(), 2);
        publisher.publish(make());
        drop(readers);
        publisher.publish(make());
        drop(publisher);
        assert_eq!(alive.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn versions_only_grow_and_only_the_publisher_frees() {
        let (alive, mut make) = values();
        let (mut publisher, readers) = channel(make(), 3);
        const LAST: u64 = 20_000;
        let threads: Vec<_> = readers
            .into_iter()
            .map(|mut reader| {
                thread::spawn(move || {
                    let mut seen = 0;
                    while seen < LAST {
                        let version = if seen % 7 == 0 {
                            reader.refresh().version
                        } else {
                            reader.sleep();
                            reader.wake().version
                        };
                        assert!(version >= seen);
                        seen = version;
                        thread::yield_now();
                    }
                    reader
                })
            })
            .collect();
        for _ in 1..LAST {
            publisher.publish(make());
        }
        let readers: Vec<_> = threads.into_iter().map(|t| t.join().unwrap()).collect();
        assert_eq!(publisher.acknowledged(), LAST);
        assert_eq!((publisher.collect(), alive.load(Ordering::Relaxed)), (1, 1));
        drop(readers);
        drop(publisher);
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use loom::thread;
    use std::sync::Mutex;

    /// A value that records its version when it is freed, which only the publisher may do.
    struct Value {
        version: u64,
        freed: Arc<Mutex<Vec<u64>>>,
        publisher: thread::ThreadId,
    }

    impl Versioned for Value {
        fn version(&self) -> u64 {
            self.version
        }
    }

    impl Drop for Value {
        fn drop(&mut self) {
            assert_eq!(thread::current().id(), self.publisher, "freed by a reader");
            self.freed.lock().unwrap().push(self.version);
        }
    }

    /// Runs two publications beside `reader`, in every order that the memory model allows.
    fn model(reader: impl Fn(&mut Reader<Value>) + Copy + Send + Sync + 'static) {
        loom::model(move || {
            let freed = Arc::new(Mutex::new(Vec::new()));
            let me = thread::current().id();
            let value = |version| {
                Arc::new(Value {
                    version,
                    freed: Arc::clone(&freed),
                    publisher: me,
                })
            };
            let (mut publisher, mut readers) = channel(value(0), 1);
            let mut r = readers.pop().unwrap();
            let thread = thread::spawn(move || {
                reader(&mut r);
                r
            });
            publisher.publish(value(1));
            let current = publisher.acknowledged() == 1;
            publisher.publish(value(2));
            let r = thread.join().unwrap();
            let has = r.current().version;
            assert!(!current || has >= 1, "counted as current, ran with an older value");
            assert!(
                freed.lock().unwrap().iter().all(|v| *v < has),
                "freed what a reader has or will take"
            );
            drop((r, publisher));
            assert_eq!(freed.lock().unwrap().len(), 3, "every value is freed once");
        });
    }

    #[test]
    fn refresh_against_publish() {
        model(|r| {
            let first = r.refresh().version;
            let second = r.refresh().version;
            assert!(second >= first);
        });
    }

    #[test]
    fn wake_against_publish() {
        model(|r| {
            r.sleep();
            r.wake();
        });
    }
}
