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

use heddle_ids::PortId;

use crate::budget::{FillBudget, FillShare, PortRefused};
use crate::frame::{Frame, Holder};
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
        let (store, frames) = FrameStore::heap(crate::AreaId(0), frames, frame_size);
        Self::new(store, frames, FillBudget::none())
    }

    /// The frames' memory.
    #[must_use]
    pub fn store(&self) -> &Arc<FrameStore> {
        &self.0.store
    }

    /// The frames reserved for ports.
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
    pub fn open_port(&self, port: PortId, out: &mut Vec<Frame>) -> Result<FillShare, PortRefused> {
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
        assert_eq!(pool.take(70, Holder::Worker(WorkerId(1)), &mut taken), 70);
        assert_eq!((pool.free(), pool.store().outstanding()), (30, 70));
        assert_eq!(pool.take(70, Holder::Worker(WorkerId(1)), &mut taken), 30);
        assert_eq!(pool.take(1, Holder::Worker(WorkerId(1)), &mut taken), 0);
        pool.put(taken);
        assert_eq!((pool.free(), pool.store().outstanding()), (100, 0));
    }

    #[test]
    fn what_is_set_aside_is_for_ports_only() {
        let (store, frames) = FrameStore::heap(AreaId(0), 200, 512);
        let pool = SharedPool::new(store, frames, FillBudget::new(200, 2, 10).unwrap());
        let (mut taken, mut fill) = (Vec::new(), Vec::new());
        assert_eq!(pool.take(200, Holder::Worker(WorkerId(0)), &mut taken), 200 - 128);
        assert_eq!(pool.take(1, Holder::Worker(WorkerId(0)), &mut taken), 0);
        let first = pool.open_port(PortId(0), &mut fill).unwrap();
        assert_eq!(
            (fill.len(), pool.take(1, Holder::Worker(WorkerId(0)), &mut taken)),
            (64, 0)
        );
        let second = pool.open_port(PortId(1), &mut fill).unwrap();
        assert_eq!((fill.len(), pool.free()), (128, 0));
        pool.open_port(PortId(2), &mut fill).unwrap_err();
        pool.put(fill);
        drop((first, second));
        assert_eq!(pool.take(1, Holder::Worker(WorkerId(0)), &mut taken), 0);
        pool.put(taken);
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
                        pool.take(
                            (round * 7 + u32::from(id) * 13) % 100 + 1,
                            Holder::Worker(WorkerId(id)),
                            &mut taken,
                        );
                        for frame in &mut taken {
                            // Two owners of a frame would see each other's mark here, and miri the race.
                            pool.store().fill(frame, &[id; 8]);
                        }
                        assert!(taken.iter().all(|frame| pool.store().bytes(frame) == [id; 8]));
                        let keep = taken.len() / 3;
                        pool.put(taken.drain(keep..));
                    }
                    pool.put(taken);
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!((pool.free(), pool.store().outstanding()), (frames, 0));
        let mut all = Vec::new();
        pool.take(frames, Holder::Control, &mut all);
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

        /// Whatever workers and a port do, the ledger agrees with a naive account, and nothing is lost or doubled.
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
            shared.put(unsafe { store.reclaim(port) });
            drop(pools);
            prop_assert_eq!((shared.free(), store.outstanding()), (frames, 0));
            let mut all = Vec::new();
            shared.take(frames, Holder::Control, &mut all);
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

    /// Each thread takes a frame, writes into it and puts it back: no frame has two owners, the bytes go along with the
    /// handle, and all come back. Batches of one frame each, so that the same batch is popped and pushed again (ABA).
    #[test]
    fn loom_frames_are_exchanged_without_loss() {
        model(|| {
            let (store, frames) = FrameStore::heap(crate::AreaId(0), 2, 512);
            let pool = SharedPool::new(store, Vec::new(), FillBudget::none());
            for frame in frames {
                pool.put([frame]);
            }
            let worker = |id: u8| {
                let pool = pool.clone();
                move || {
                    let mut taken = Vec::new();
                    pool.take(1, Holder::Worker(WorkerId(id)), &mut taken);
                    for frame in &mut taken {
                        pool.store().fill(frame, &[id; 4]);
                        assert_eq!(pool.store().bytes(frame), [id; 4]);
                    }
                    pool.put(taken);
                }
            };
            let other = loom::thread::spawn(worker(1));
            worker(2)();
            other.join().unwrap();
            assert_eq!((pool.free(), pool.store().outstanding()), (2, 0));
            let mut all = Vec::new();
            pool.take(2, Holder::Control, &mut all);
            assert_eq!(all.len(), 2);
            assert_ne!(all[0], all[1]);
        });
    }

    /// One thread splits a batch of two while another one takes: nobody gets the same frame, and tokens match frames.
    #[test]
    fn loom_a_split_batch_is_not_lost() {
        model(|| {
            let pool = SharedPool::heap(2, 512);
            let take = |id: u8| {
                let pool = pool.clone();
                move || {
                    let mut taken = Vec::new();
                    pool.take(1, Holder::Worker(WorkerId(id)), &mut taken);
                    taken
                }
            };
            let other = loom::thread::spawn(take(1));
            let mut all = take(2)();
            all.extend(other.join().unwrap());
            assert_eq!(pool.free() as usize + all.len(), 2);
            pool.take(2, Holder::Control, &mut all);
            assert_eq!(all.len(), 2);
            assert_ne!(all[0], all[1]);
        });
    }

    /// Two ports grow and shrink, and one is opened, at the same time: the budget is kept.
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
