//! Hand-over between workers: one bounded queue for each ordered pair, so that each has one producer and one consumer.
//!
//! A packet is handed over finished: its headers are written, only the transmission is left. The queue's owner is its
//! receiver; when that one has stopped, nothing is accepted any more, and what was left in the queue is freed by
//! [`Inbox::drain`] after all workers have stopped.

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
    /// The port where it came in, which counts its end.
    pub ingress: PortId,
    /// The egress port.
    pub egress: PortId,
    /// The endpoint behind that port: the port may lead to another one by the time the item is popped.
    pub to: EndpointId,
    /// True for a fragment of a packet that heddle has cut, other than the first one, which counts as the packet.
    pub later_fragment: bool,
}

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
    /// Workers to be woken at the end of the turn.
    touched: Box<[bool]>,
}

/// One worker's ends of the mesh.
#[derive(Debug)]
pub struct Ends {
    /// The items that others push to it.
    pub inbox: Inbox,
    /// The items that it pushes to others.
    pub outbox: Outbox,
}

/// The mesh for `workers` workers with `capacity` packets a lane: element `w` belongs to worker `w`.
///
/// # Errors
/// What eventfd(2) says: each worker has one.
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
    /// [`Refused`] gives it back: the lane is full, or that worker has stopped or never was.
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
    /// The next item of one lane.
    #[inline]
    pub fn pop(&self, from: usize) -> Option<HandoverItem> {
        self.lanes.get(from)?.queue.pop()
    }

    /// How many lanes end here.
    #[must_use]
    pub fn lanes(&self) -> usize {
        self.lanes.len()
    }

    /// Returns true if no item waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lanes.iter().all(|l| l.queue.is_empty())
    }

    /// Closes the lanes: they accept nothing more.
    pub fn close(&self) {
        for l in &self.lanes {
            l.closed.store(true, Ordering::Release);
        }
    }

    /// Takes the items that are left, lane by lane.
    pub fn drain(&self) -> impl Iterator<Item = HandoverItem> + '_ {
        self.lanes.iter().flat_map(|l| std::iter::from_fn(|| l.queue.pop()))
    }

    /// The owner's sleep.
    #[must_use]
    pub fn sleeper(&self) -> &Sleeper {
        &self.sleeper
    }

    /// Wakes the owner.
    #[must_use]
    pub fn waker(&self) -> Waker {
        self.sleeper.waker()
    }
}
