//! The shared pool: frames that no worker has, exchanged in batches without a lock.
//!
//! A stack of batches. A batch is a chain of frames; its head links to the next batch. One compare-and-swap moves a whole
//! batch. The head word carries a tag that every change raises, so that a batch which was taken and put back in between
//! is noticed (the ABA problem); the links are atomics in memory that is never freed, so that reading a stale one is
//! harmless.
//!
//! Ordering: a put releases, a take acquires, so whoever takes a frame sees all that its former holder wrote, the links
//! included. A reader of the head that loses the race uses nothing of what it read.
//!
//! `free` counts tokens: a put adds them after its batch is on the stack, a take subtracts first and then takes the batch.
//! So the stack never has fewer frames than tokens, but for those in the hands of a take that splits a batch.

use std::sync::Arc;

use crate::budget::{FillBudget, FillShare, PortRefused};
use crate::frame::{Frame, Holder};
use crate::port::PortNo;
use crate::store::{FrameStore, NIL};
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// Frames that a worker's pool and the shared one exchange at once.
pub const BATCH: usize = 64;

struct Inner {
    store: Arc<FrameStore>,
    /// Tag in the upper half, index of the first batch's head in the lower.
    head: AtomicU64,
    free: AtomicU32,
    budget: Arc<FillBudget>,
}

/// The pool that all workers of one memory area share. Cloning it gives another handle to the same pool.
#[derive(Clone)]
pub struct SharedPool(Arc<Inner>);

impl SharedPool {
    /// A pool with `frames` in it, of which `budget` says how many are set aside for ports.
    #[must_use]
    pub fn new(store: Arc<FrameStore>, frames: Vec<Frame>, budget: FillBudget) -> Self {
        let pool = Self(Arc::new(Inner {
            store,
            head: AtomicU64::new(u64::from(NIL)),
            free: AtomicU32::new(0),
            budget: Arc::new(budget),
        }));
        pool.put(frames);
        pool
    }

    /// A store in memory and its pool, with nothing set aside for ports: for tests, benches and replays.
    #[must_use]
    pub fn heap(frames: u32, frame_size: u32) -> Self {
        let (store, frames) = FrameStore::heap(crate::AreaNo(0), frames, frame_size);
        Self::new(store, frames, FillBudget::none())
    }

    /// The frames' memory.
    #[must_use]
    pub fn store(&self) -> &Arc<FrameStore> {
        &self.0.store
    }

    /// What is set aside for ports.
    #[must_use]
    pub fn budget(&self) -> &FillBudget {
        &self.0.budget
    }

    /// Frames in the pool.
    #[must_use]
    pub fn free(&self) -> u32 {
        self.0.free.load(Ordering::Relaxed)
    }

    /// Puts frames into the pool.
    pub fn put(&self, frames: impl IntoIterator<Item = Frame>) {
        let store = &*self.0.store;
        let (mut head, mut count) = (NIL, 0u32);
        for frame in frames {
            store.set_holder(&frame, Holder::Shared);
            let index = store.link(frame);
            store.set_next_of(index, head);
            head = index;
            count += 1;
            if count as usize == BATCH {
                self.push(head);
                self.0.free.fetch_add(count, Ordering::Release);
                (head, count) = (NIL, 0);
            }
        }
        if count > 0 {
            self.push(head);
            self.0.free.fetch_add(count, Ordering::Release);
        }
    }

    /// Takes up to `count` frames for packets under way, never those that are set aside for ports. Fewer come when there
    /// are fewer, or, seldom, when another thread is just splitting a batch.
    pub fn take(&self, count: u32, holder: Holder, out: &mut impl Extend<Frame>) -> u32 {
        self.take_above(self.0.budget.set_aside(), count, holder, out)
    }

    fn take_above(&self, keep: u32, count: u32, holder: Holder, out: &mut impl Extend<Frame>) -> u32 {
        let claim = self.0.free.fetch_update(Ordering::Acquire, Ordering::Relaxed, |free| {
            let take = count.min(free.saturating_sub(keep));
            (take > 0).then(|| free - take)
        });
        let Ok(before) = claim else { return 0 };
        let claimed = count.min(before.saturating_sub(keep));
        let store = &*self.0.store;
        let mut taken = 0;
        while taken < claimed {
            let Some(mut index) = self.pop() else {
                // The frames are in the hands of a thread that splits a batch: give the tokens back, ask again later.
                self.0.free.fetch_add(claimed - taken, Ordering::Release);
                break;
            };
            while index != NIL && taken < claimed {
                let next = store.next_of(index);
                store.set_next_of(index, NIL);
                store.set_holder_of(index, holder);
                // `put` consumed the handle for this batch, and this thread alone has taken the batch off the stack.
                out.extend(std::iter::once(store.unlink(index)));
                taken += 1;
                index = next;
            }
            if index != NIL {
                self.push(index);
            }
        }
        taken
    }

    /// Admits a port: its share of the budget, and the frames for its fill ring, as many of the floor as there are.
    pub fn open_port(&self, port: PortNo, out: &mut Vec<Frame>) -> Result<FillShare, PortRefused> {
        let floor = self.0.budget.floor();
        self.0.budget.check(port)?;
        // Frames first, admission second: while the port is not counted, its frames are set aside for it.
        let keep = self.0.budget.set_aside().saturating_sub(floor);
        self.take_above(keep, floor, Holder::Control, out);
        FillBudget::open(&self.0.budget, port)
    }

    fn push(&self, batch: u32) {
        let store = &*self.0.store;
        let mut head = self.0.head.load(Ordering::Relaxed);
        loop {
            store.set_link_of(batch, head as u32);
            let new = tagged(head, batch);
            match self
                .0
                .head
                .compare_exchange_weak(head, new, Ordering::Release, Ordering::Relaxed)
            {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }

    fn pop(&self) -> Option<u32> {
        let mut head = self.0.head.load(Ordering::Acquire);
        loop {
            let batch = head as u32;
            if batch == NIL {
                return None;
            }
            let new = tagged(head, self.0.store.link_of(batch));
            match self
                .0
                .head
                .compare_exchange_weak(head, new, Ordering::Acquire, Ordering::Acquire)
            {
                Ok(_) => return Some(batch),
                Err(now) => head = now,
            }
        }
    }
}

/// The head word that follows `old`, pointing to `batch`.
const fn tagged(old: u64, batch: u32) -> u64 {
    ((old >> 32).wrapping_add(1) << 32) | batch as u64
}

impl std::fmt::Debug for SharedPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SharedPool")
            .field("store", &self.0.store)
            .field("free", &self.free())
            .finish_non_exhaustive()
    }
}
