//! The shared pool: the free frames outside of the workers' pools, exchanged in batches without a lock.
//!
//! The pool is a stack of batches. A batch is a chain of frames, and its head links to the next batch. One compare-and-swap moves
//! a whole batch. The head word contains a tag that every change raises, so that a batch that was popped and pushed again in
//! between is detected (the ABA problem). The links are atomics in memory that is never freed, so that a stale link may be read.
//!
//! # Ordering
//!
//! A push releases and a pop acquires, so the new holder of a frame sees all writes of the previous holder, including the links. A
//! thread that loses the race for the head word uses no value that it read.
//!
//! `free` counts tokens: [`release`](SharedPool::release) adds them after its batch is on the stack, and
//! [`alloc`](SharedPool::alloc) subtracts them before it pops a batch. So the stack has at least as many frames as there are
//! tokens, except for the frames that another thread holds while it splits a batch.

use std::sync::Arc;

use heddle_ids::PortId;

use crate::budget::{FillBudget, FillShare, PortRefused};
use crate::frame::{Frame, Holder};
use crate::store::{FrameStore, NIL};
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// The frames that a worker's pool and the shared pool exchange at once.
pub const BATCH: usize = 64;

/// The state that all handles of a pool share.
struct Inner {
    store: Arc<FrameStore>,
    /// The tag in the upper half, the index of the first batch's head in the lower half.
    head: AtomicU64,
    free: AtomicU32,
    budget: Arc<FillBudget>,
}

/// The pool that all workers of one memory area share. Cloning it gives another handle to the same pool.
#[derive(Clone)]
pub struct SharedPool(Arc<Inner>);

impl SharedPool {
    /// Makes a pool of `frames`. `budget` sets some of them aside for ports.
    #[must_use]
    pub fn new(store: Arc<FrameStore>, frames: Vec<Frame>, budget: FillBudget) -> Self {
        let pool = Self(Arc::new(Inner {
            store,
            head: AtomicU64::new(u64::from(NIL)),
            free: AtomicU32::new(0),
            budget: Arc::new(budget),
        }));
        pool.release(frames);
        pool
    }

    /// Makes a store in memory and its pool, without frames set aside for ports. For tests, benches and replays.
    #[must_use]
    pub fn heap(frames: u32, frame_size: u32) -> Self {
        let (store, frames) = FrameStore::heap(crate::AreaId(0), frames, frame_size);
        Self::new(store, frames, FillBudget::none())
    }

    /// Returns the memory of the frames.
    #[must_use]
    pub fn store(&self) -> &Arc<FrameStore> {
        &self.0.store
    }

    /// Returns the budget of the ports' fill rings.
    #[must_use]
    pub fn budget(&self) -> &FillBudget {
        &self.0.budget
    }

    /// Returns the number of free frames in the pool.
    #[must_use]
    pub fn free(&self) -> u32 {
        self.0.free.load(Ordering::Relaxed)
    }

    /// Releases frames into the pool.
    pub fn release(&self, frames: impl IntoIterator<Item = Frame>) {
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

    /// Allocates up to `count` frames for `holder` into `out`, and leaves the frames that are set aside for ports. Returns the number
    /// of allocated frames. It is less than `count` if fewer are free, and in rare cases if another thread splits a batch meanwhile.
    pub fn alloc(&self, count: u32, holder: Holder, out: &mut impl Extend<Frame>) -> u32 {
        self.alloc_above(self.0.budget.set_aside(), count, holder, out)
    }

    /// Allocates up to `count` frames, and leaves at least `keep` in the pool.
    ///
    /// Plan: subtract the tokens, which reserves the frames; pop batches until there are enough; push the rest of the last batch.
    fn alloc_above(&self, keep: u32, count: u32, holder: Holder, out: &mut impl Extend<Frame>) -> u32 {
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
                // Another thread holds the frames while it splits a batch. Return the tokens; the caller tries again later.
                self.0.free.fetch_add(claimed - taken, Ordering::Release);
                break;
            };
            while index != NIL && taken < claimed {
                let next = store.next_of(index);
                store.set_next_of(index, NIL);
                store.set_holder_of(index, holder);
                // `release` consumed the handle for this batch, and only this thread has popped the batch.
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

    /// Admits a port: returns its share of the budget, and allocates the frames of its floor into `out`, as many as there are.
    ///
    /// # Errors
    /// As many ports are open as the budget has floors for.
    pub fn open_port(&self, port: PortId, out: &mut Vec<Frame>) -> Result<FillShare, PortRefused> {
        let floor = self.0.budget.floor();
        self.0.budget.check(port)?;
        // Take the frames before counting the port as open. Until it is counted, its floor is set aside, so no other port takes it.
        let keep = self.0.budget.set_aside().saturating_sub(floor);
        self.alloc_above(keep, floor, Holder::Control, out);
        FillBudget::open(&self.0.budget, port)
    }

    /// Pushes a batch onto the stack.
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

    /// Pops a batch from the stack.
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

/// Returns the head word after `old` that points to `batch`.
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

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use heddle_ids::WorkerId;

    use super::*;
    use crate::{AreaId, Packet, WorkerPool};
    use proptest::prelude::*;

    #[test]
    fn frames_come_back_in_batches_and_parts_of_them() {
        let pool = SharedPool::heap(100, 512);
        assert_eq!(pool.free(), 100);
        let mut taken = Vec::new();
        assert_eq!(pool.alloc(70, Holder::Worker(WorkerId(1)), &mut taken), 70);
        assert_eq!((pool.free(), pool.store().outstanding()), (30, 70));
        assert_eq!(pool.alloc(70, Holder::Worker(WorkerId(1)), &mut taken), 30);
        assert_eq!(pool.alloc(1, Holder::Worker(WorkerId(1)), &mut taken), 0);
        pool.release(taken);
        assert_eq!((pool.free(), pool.store().outstanding()), (100, 0));
    }

    #[test]
    fn set_aside_frames_are_for_ports_only() {
        let (store, frames) = FrameStore::heap(AreaId(0), 200, 512);
        let pool = SharedPool::new(store, frames, FillBudget::new(200, 2, 10).unwrap());
        let (mut taken, mut fill) = (Vec::new(), Vec::new());
        assert_eq!(pool.alloc(200, Holder::Worker(WorkerId(0)), &mut taken), 200 - 128);
        assert_eq!(pool.alloc(1, Holder::Worker(WorkerId(0)), &mut taken), 0);
        let first = pool.open_port(PortId(0), &mut fill).unwrap();
        assert_eq!(
            (fill.len(), pool.alloc(1, Holder::Worker(WorkerId(0)), &mut taken)),
            (64, 0)
        );
        let second = pool.open_port(PortId(1), &mut fill).unwrap();
        assert_eq!((fill.len(), pool.free()), (128, 0));
        pool.open_port(PortId(2), &mut fill).unwrap_err();
        pool.release(fill);
        drop((first, second));
        assert_eq!(pool.alloc(1, Holder::Worker(WorkerId(0)), &mut taken), 0);
        pool.release(taken);
        assert_eq!(pool.free(), 200);
    }

    #[test]
    fn threads_lose_and_double_nothing() {
        let (frames, rounds) = if cfg!(miri) { (40, 10) } else { (1000, 3000) };
        let pool = SharedPool::heap(frames, 512);
        let threads: Vec<_> = (0..4u8)
            .map(|id| {
                let pool = pool.clone();
                std::thread::spawn(move || {
                    let mut taken = Vec::new();
                    for round in 0..rounds {
                        pool.alloc(
                            (round * 7 + u32::from(id) * 13) % 100 + 1,
                            Holder::Worker(WorkerId(id)),
                            &mut taken,
                        );
                        for frame in &mut taken {
                            // Two owners of a frame would see each other's bytes here, and miri would report the race.
                            pool.store().fill(frame, &[id; 8]);
                        }
                        assert!(taken.iter().all(|frame| pool.store().bytes(frame) == [id; 8]));
                        let keep = taken.len() / 3;
                        pool.release(taken.drain(keep..));
                    }
                    pool.release(taken);
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!((pool.free(), pool.store().outstanding()), (frames, 0));
        let mut all = Vec::new();
        pool.alloc(frames, Holder::Control, &mut all);
        let mut indices: Vec<u32> = all.iter().map(Frame::index).collect();
        indices.sort_unstable();
        assert!(indices.into_iter().eq(0..frames));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Alloc(usize),
        Free(usize, usize),
        Hand(usize, usize),
        Packet(usize, usize),
        Drain(usize),
        Lend(usize),
        TakeBack(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            6 => (0..3usize).prop_map(Step::Alloc),
            4 => (0..3usize, any::<usize>()).prop_map(|(w, i)| Step::Free(w, i)),
            1 => (0..3usize, 0..3usize).prop_map(|(a, b)| Step::Hand(a, b)),
            3 => (0..3usize, 0..2000usize).prop_map(|(w, len)| Step::Packet(w, len)),
            1 => (0..3usize).prop_map(Step::Drain),
            2 => (0..3usize).prop_map(Step::Lend),
            2 => (0..3usize).prop_map(Step::TakeBack),
        ];
        let count = if cfg!(miri) { 40 } else { 600 };
        prop::collection::vec(step, 0..count)
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::with_cases(if cfg!(miri) { 3 } else { 128 })
        })]

        /// After any steps of workers and a port, the recorded holders agree with a naive count, and no frame is lost or doubled.
        #[test]
        fn no_frame_is_lost_or_doubled(frames in 0u32..300, steps in steps()) {
            let shared = SharedPool::heap(frames, 512);
            let store = Arc::clone(shared.store());
            let port = PortId(9);
            store.port_opened(port);
            let mut pools: Vec<_> = (0..3).map(|id| WorkerPool::new(WorkerId(id), shared.clone())).collect();
            let mut hands: [Vec<Frame>; 3] = Default::default();
            let mut packets: [Vec<Packet>; 3] = Default::default();
            let mut lent = Vec::new();
            for step in steps {
                match step {
                    Step::Alloc(w) => hands[w].extend(pools[w].alloc()),
                    Step::Free(w, i) => {
                        if let Some(packet) = packets[w].pop() {
                            pools[w].free_packet(packet);
                        } else if !hands[w].is_empty() {
                            let frame = hands[w].swap_remove(i % hands[w].len());
                            pools[w].free(frame);
                        }
                    }
                    Step::Hand(a, b) => {
                        let moved = std::mem::take(&mut packets[a]);
                        packets[b].extend(moved);
                        let moved = std::mem::take(&mut hands[a]);
                        hands[b].extend(moved);
                    }
                    Step::Packet(w, len) => {
                        let bytes: Vec<u8> = (0..len).map(|i| i as u8).collect();
                        if let Some(packet) = pools[w].packet(&bytes) {
                            prop_assert_eq!(packet.to_vec(&store), bytes);
                            packets[w].push(packet);
                        }
                    }
                    Step::Drain(w) => pools[w].drain(),
                    Step::Lend(w) => lent.extend(hands[w].pop().map(|frame| store.lend(frame, port))),
                    Step::TakeBack(w) => {
                        if let Some(index) = lent.pop() {
                            // SAFETY: there is no kernel behind this port, and no other thread.
                            let frame = unsafe { store.take_back(index, port, pools[w].holder()) };
                            hands[w].extend(frame);
                            // SAFETY: as above.
                            prop_assert_eq!(unsafe { store.take_back(index, port, pools[w].holder()) }, None);
                        }
                    }
                }
                let in_hands = hands.iter().map(Vec::len).sum::<usize>()
                    + packets.iter().flatten().map(|packet| usize::from(packet.frames())).sum::<usize>();
                let in_pools = pools.iter().map(WorkerPool::len).sum::<usize>();
                prop_assert_eq!(store.outstanding() as usize, in_hands);
                prop_assert_eq!(shared.free() as usize, frames as usize - in_hands - in_pools - lent.len());
                prop_assert!(pools.iter().all(|pool| pool.len() <= WorkerPool::CAPACITY));
            }
            store.port_closed(port);
            for (w, pool) in pools.iter_mut().enumerate() {
                packets[w].drain(..).for_each(|packet| pool.free_packet(packet));
                hands[w].drain(..).for_each(|frame| pool.free(frame));
            }
            prop_assert_eq!(store.outstanding() as usize, lent.len());
            // SAFETY: the port is closed, and there is no kernel behind it.
            shared.release(unsafe { store.reclaim(port) });
            drop(pools);
            prop_assert_eq!((shared.free(), store.outstanding()), (frames, 0));
            let mut all = Vec::new();
            shared.alloc(frames, Holder::Control, &mut all);
            let mut indices: Vec<u32> = all.iter().map(Frame::index).collect();
            indices.sort_unstable();
            prop_assert!(indices.into_iter().eq(0..frames));
        }
    }
}

/// `RUSTFLAGS="--cfg loom" cargo test -p heddle-port --release loom`
#[cfg(test)]
#[cfg(loom)]
mod loom_tests {
    use heddle_ids::WorkerId;

    use super::*;

    fn model(check: impl Fn() + Sync + Send + 'static) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(3);
        builder.check(check);
    }

    /// Each thread allocates a frame, writes into it and releases it. No frame has two owners, and all are released. Batches have
    /// one frame each, so that the same batch is popped and pushed again (ABA).
    #[test]
    fn loom_frames_are_exchanged_without_loss() {
        model(|| {
            let (store, frames) = FrameStore::heap(crate::AreaId(0), 2, 512);
            let pool = SharedPool::new(store, Vec::new(), FillBudget::none());
            for frame in frames {
                pool.release([frame]);
            }
            let worker = |id: u8| {
                let pool = pool.clone();
                move || {
                    let mut taken = Vec::new();
                    pool.alloc(1, Holder::Worker(WorkerId(id)), &mut taken);
                    for frame in &mut taken {
                        pool.store().fill(frame, &[id; 4]);
                        assert_eq!(pool.store().bytes(frame), [id; 4]);
                    }
                    pool.release(taken);
                }
            };
            let other = loom::thread::spawn(worker(1));
            worker(2)();
            other.join().unwrap();
            assert_eq!((pool.free(), pool.store().outstanding()), (2, 0));
            let mut all = Vec::new();
            pool.alloc(2, Holder::Control, &mut all);
            assert_eq!(all.len(), 2);
            assert_ne!(all[0], all[1]);
        });
    }

    /// One thread splits a batch of two while another one allocates: they get different frames, and tokens match frames.
    #[test]
    fn loom_a_split_batch_is_not_lost() {
        model(|| {
            let pool = SharedPool::heap(2, 512);
            let take = |id: u8| {
                let pool = pool.clone();
                move || {
                    let mut taken = Vec::new();
                    pool.alloc(1, Holder::Worker(WorkerId(id)), &mut taken);
                    taken
                }
            };
            let other = loom::thread::spawn(take(1));
            let mut all = take(2)();
            all.extend(other.join().unwrap());
            assert_eq!(pool.free() as usize + all.len(), 2);
            pool.alloc(2, Holder::Control, &mut all);
            assert_eq!(all.len(), 2);
            assert_ne!(all[0], all[1]);
        });
    }

    /// Two ports are opened, grow and shrink at the same time, within the budget.
    #[test]
    fn loom_the_budget_is_kept() {
        model(|| {
            let budget = Arc::new(FillBudget::new(64 * 2 + 10, 2, 0).unwrap());
            let grow = || {
                let budget = Arc::clone(&budget);
                move || {
                    let mut share = FillBudget::open(&budget, PortId(0)).unwrap();
                    let grown = share.grow(8) - 64;
                    assert!(grown <= 8 && budget.grown() <= 10);
                    share.shrink(1);
                }
            };
            let other = loom::thread::spawn(grow());
            grow()();
            other.join().unwrap();
            assert_eq!((budget.grown(), budget.open_ports()), (0, 0));
        });
    }
}
