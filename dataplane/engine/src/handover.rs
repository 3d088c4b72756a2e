//! Hand-over between workers: one bounded queue (a lane) for each ordered pair of workers, so that each lane has one producer
//! and one consumer.
//!
//! The headers of a packet are rewritten before the hand-over, so that only the transmission is left. A lane belongs to its
//! receiver. When the receiver stops, it closes its lanes. The packets that are still in them are freed by [`Inbox::drain`],
//! after all workers have stopped.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam::queue::ArrayQueue;
use heddle_port::{Packet, PortId};
use heddle_tables::{EndpointId, WorkerId};

use crate::wakeup::{Sleeper, Waker};

/// A packet on its way to the worker that owns its egress port.
#[derive(Debug)]
pub struct HandoverItem {
    /// The packet, ready to be sent.
    pub packet: Packet,
    /// The port where the packet came in, at which it is counted when it ends.
    pub ingress: PortId,
    /// The egress port.
    pub egress: PortId,
    /// The endpoint behind the egress port. When the item is popped, the port may lead to another endpoint.
    pub to: EndpointId,
    /// True for a fragment that heddle has made, other than the first one, which counts as the packet.
    pub later_fragment: bool,
}

/// The queue from one worker to another.
#[derive(Debug)]
struct Lane {
    queue: ArrayQueue<HandoverItem>,
    closed: AtomicBool,
}

/// The lanes that end at one worker.
#[derive(Debug)]
pub struct Inbox {
    lanes: Box<[Arc<Lane>]>,
    sleeper: Sleeper,
}

/// The lanes that start at one worker.
#[derive(Debug)]
pub struct Outbox {
    lanes: Box<[(Arc<Lane>, Waker)]>,
    /// For each worker, true if it got an item in this turn and must be woken at the end.
    touched: Box<[bool]>,
}

/// One worker's ends of the mesh.
#[derive(Debug)]
pub struct Ends {
    /// The receiving ends.
    pub inbox: Inbox,
    /// The sending ends.
    pub outbox: Outbox,
}

/// Makes the lanes for `workers` workers, with room for `capacity` packets each. Element `w` of the result belongs to worker `w`.
///
/// # Errors
/// The error of eventfd(2) or epoll_create(2), such as too many open files: each worker has one descriptor of either kind.
pub fn mesh(workers: u8, capacity: usize) -> std::io::Result<Vec<Ends>> {
    let n = usize::from(workers);
    let lane = || {
        Arc::new(Lane {
            queue: ArrayQueue::new(capacity.max(1)),
            closed: AtomicBool::new(false),
        })
    };
    // lanes[from][to]
    let lanes: Vec<Vec<Arc<Lane>>> = (0..n).map(|_| (0..n).map(|_| lane()).collect()).collect();
    let sleepers = (0..n).map(|_| Sleeper::new()).collect::<std::io::Result<Vec<_>>>()?;
    let wakers: Vec<Waker> = sleepers.iter().map(Sleeper::waker).collect();
    Ok(sleepers
        .into_iter()
        .enumerate()
        .map(|(me, sleeper)| Ends {
            inbox: Inbox {
                lanes: lanes.iter().map(|to| Arc::clone(&to[me])).collect(),
                sleeper,
            },
            outbox: Outbox {
                lanes: lanes[me].iter().map(Arc::clone).zip(wakers.iter().cloned()).collect(),
                touched: vec![false; n].into(),
            },
        })
        .collect())
}

impl Outbox {
    /// Pushes a packet to another worker.
    ///
    /// # Errors
    /// [`Refused`] returns the item: the lane is full, the worker has stopped, or there is no such worker.
    #[inline]
    pub fn push(&mut self, to: WorkerId, item: HandoverItem) -> Result<(), Refused> {
        let Some((lane, _)) = self.lanes.get(to.index()) else {
            return Err(Refused::Closed(item));
        };
        if lane.closed.load(Ordering::Acquire) {
            return Err(Refused::Closed(item));
        }
        lane.queue.push(item).map_err(Refused::Full)?;
        if let Some(t) = self.touched.get_mut(to.index()) {
            *t = true;
        }
        Ok(())
    }

    /// Wakes the sleeping workers that got an item since the last call.
    #[inline]
    pub fn wake(&mut self) {
        for (touched, (_, waker)) in self.touched.iter_mut().zip(&self.lanes) {
            if std::mem::take(touched) {
                waker.wake();
            }
        }
    }
}

/// The reason for which an item came back.
#[derive(Debug)]
pub enum Refused {
    /// The lane is full.
    Full(HandoverItem),
    /// The worker has stopped.
    Closed(HandoverItem),
}

impl Inbox {
    /// Removes the next item of the lane from worker `from`.
    #[inline]
    pub fn pop(&self, from: usize) -> Option<HandoverItem> {
        self.lanes.get(from)?.queue.pop()
    }

    /// Returns the number of lanes, one for each worker.
    #[must_use]
    pub fn lanes(&self) -> usize {
        self.lanes.len()
    }

    /// Returns true if no item waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lanes.iter().all(|l| l.queue.is_empty())
    }

    /// Closes the lanes: [`Outbox::push`] returns [`Refused::Closed`] from now on.
    pub fn close(&self) {
        for l in &self.lanes {
            l.closed.store(true, Ordering::Release);
        }
    }

    /// Removes the items that are left, lane by lane.
    pub fn drain(&self) -> impl Iterator<Item = HandoverItem> + '_ {
        self.lanes.iter().flat_map(|l| std::iter::from_fn(|| l.queue.pop()))
    }

    /// Returns the receiver's sleeper.
    #[must_use]
    pub fn sleeper(&self) -> &Sleeper {
        &self.sleeper
    }

    /// Returns a waker of the receiver.
    #[must_use]
    pub fn waker(&self) -> Waker {
        self.sleeper.waker()
    }
}
