//! The frames that the lanes of one sending worker hold, with a limit for all of them and one for each ingress port.
//!
//! The sender counts what it pushes, and the receivers count what they have popped. The difference is in the lanes. So each
//! counter has writers on one side only, and the sender's own counters need no atomic access.
//!
//! The limit of a port is the dynamic threshold of Choudhury and Hahne ("Dynamic queue length thresholds for shared-memory
//! packet switches", 1998) with alpha 1: a port may have as many frames in the lanes as are free. One port that floods gets
//! half of the limit, two get a third each, and a port without frames in the lanes finds as much room as each of them has
//! taken.
//!
//! # Ordering
//!
//! A receiver adds to the counters after the pop, with Release, and the sender reads them with Acquire. So frames that the
//! sender sees as returned have left their queue, and the queue has room for others. A stale read makes the lanes look
//! fuller than they are, never emptier.

use std::sync::Arc;
#[cfg(not(loom))]
use std::sync::atomic::{AtomicU32, Ordering};

#[cfg(loom)]
use loom::sync::atomic::{AtomicU32, Ordering};

use heddle_port::PortId;

/// The frames that the receivers have popped from one sender's lanes. The counters wrap.
#[derive(Debug)]
pub(super) struct Returned {
    all: AtomicU32,
    by_port: Box<[AtomicU32]>,
}

impl Returned {
    /// Adds frames of packets that came in at `port` and have left a lane.
    #[inline]
    pub(super) fn add(&self, port: PortId, frames: u32) {
        if let Some(of_port) = self.by_port.get(usize::from(port.0)) {
            of_port.fetch_add(frames, Ordering::Release);
        }
        self.all.fetch_add(frames, Ordering::Release);
    }
}

/// The sender's side of the count.
#[derive(Debug)]
pub(super) struct Budget {
    limit: u32,
    /// The frames pushed so far, in all and by ingress port. The counters wrap.
    all: u32,
    by_port: Box<[u32]>,
    returned: Arc<Returned>,
}

impl Budget {
    /// Makes the budget of a sender for ports with numbers below `ports`.
    pub(super) fn new(limit: u32, ports: u16) -> Self {
        Self {
            limit,
            all: 0,
            by_port: vec![0; usize::from(ports)].into(),
            returned: Arc::new(Returned {
                all: AtomicU32::new(0),
                by_port: (0..ports).map(|_| AtomicU32::new(0)).collect(),
            }),
        }
    }

    /// Returns the receivers' side of the count.
    pub(super) fn returned(&self) -> Arc<Returned> {
        Arc::clone(&self.returned)
    }

    /// Counts `frames` of a packet that came in at `port`. Returns false, and counts nothing, if the lanes or the port's share
    /// of them have no room for it.
    #[inline]
    pub(super) fn take(&mut self, port: PortId, frames: u32) -> bool {
        let place = usize::from(port.0);
        let (Some(pushed), Some(popped)) = (self.by_port.get_mut(place), self.returned.by_port.get(place)) else {
            return false;
        };
        let used = self.all.wrapping_sub(self.returned.all.load(Ordering::Acquire));
        let own = pushed.wrapping_sub(popped.load(Ordering::Acquire));
        // The port's share is never larger than the free frames, so this is the check of the limit as well.
        if own.saturating_add(frames) > self.limit.saturating_sub(used) {
            return false;
        }
        *pushed = pushed.wrapping_add(frames);
        self.all = self.all.wrapping_add(frames);
        true
    }

    /// Takes back the last [`Self::take`], because the packet was not pushed.
    pub(super) fn undo(&mut self, port: PortId, frames: u32) {
        if let Some(pushed) = self.by_port.get_mut(usize::from(port.0)) {
            *pushed = pushed.wrapping_sub(frames);
            self.all = self.all.wrapping_sub(frames);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const A: PortId = PortId(0);
    const B: PortId = PortId(1);
    const C: PortId = PortId(2);

    /// Takes packets of `frames` frames until one is refused, and returns the frames taken.
    fn flood(budget: &mut Budget, port: PortId, frames: u32) -> u32 {
        std::iter::repeat_with(|| budget.take(port, frames))
            .take_while(|taken| *taken)
            .count() as u32
            * frames
    }

    #[test]
    fn one_port_gets_half_and_others_find_room() {
        for frames in [1, 16] {
            let mut budget = Budget::new(512, 3);
            assert_eq!(flood(&mut budget, A, frames), 256);
            assert_eq!(flood(&mut budget, B, frames), 128);
            assert_eq!(flood(&mut budget, C, frames), 64);
            // The frames that the receivers return can be used again.
            budget.returned().add(A, 256);
            assert_eq!(flood(&mut budget, A, frames), 160, "half of the 320 that are free");
        }
    }

    #[test]
    fn counters_wrap() {
        let mut budget = Budget::new(u32::MAX, 1);
        for _ in 0..8 {
            assert!(budget.take(A, 1 << 30));
            budget.returned().add(A, 1 << 30);
        }
        assert!(!budget.take(PortId(1), 1), "no such port");
    }

    proptest! {
        /// Compares the budget with plain sums.
        #[test]
        fn the_limits_hold(steps in prop::collection::vec((0_u16..3, 1_u32..18, any::<bool>()), 0..300)) {
            let mut budget = Budget::new(64, 3);
            let mut held = [0_u32; 3];
            for (port, frames, push) in steps {
                let own = held[usize::from(port)];
                let used: u32 = held.iter().sum();
                if push {
                    let fits = used + frames <= 64 && own + frames <= 64 - used;
                    prop_assert_eq!(budget.take(PortId(port), frames), fits);
                    held[usize::from(port)] += if fits { frames } else { 0 };
                } else {
                    let frames = frames.min(own);
                    budget.returned().add(PortId(port), frames);
                    held[usize::from(port)] -= frames;
                }
            }
        }
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use loom::sync::Arc;
    use loom::sync::atomic::{AtomicU32, Ordering};
    use loom::thread;

    use super::Budget;
    use heddle_port::PortId;

    /// Two receivers pop while the sender pushes. The lanes never hold more than the limit, and at rest the budget is whole.
    #[test]
    fn loom_the_lanes_hold_no_more_than_the_limit() {
        const LIMIT: u32 = 4;
        loom::model(|| {
            let mut budget = Budget::new(LIMIT, 2);
            // The lanes: frames that were pushed and not popped. A slot is freed before the frames are returned.
            let lanes = Arc::new(AtomicU32::new(2));
            assert!(budget.take(PortId(0), 1) && budget.take(PortId(1), 1));
            let receivers: Vec<_> = [0, 1]
                .into_iter()
                .map(|port| {
                    let (lanes, returned) = (Arc::clone(&lanes), budget.returned());
                    thread::spawn(move || {
                        lanes.fetch_sub(1, Ordering::Relaxed);
                        returned.add(PortId(port), 1);
                    })
                })
                .collect();
            let mut pushed = 0;
            for _ in 0..2 {
                if budget.take(PortId(0), 1) {
                    pushed += 1;
                    assert!(lanes.fetch_add(1, Ordering::Relaxed) < LIMIT);
                }
            }
            receivers.into_iter().for_each(|receiver| receiver.join().unwrap());
            assert_eq!(lanes.load(Ordering::Relaxed), pushed);
            budget.returned().add(PortId(0), pushed);
            assert!(budget.take(PortId(1), LIMIT), "every frame was returned");
        });
    }
}
