//! Hand-over between workers: one queue (a lane) for each ordered pair of workers, so that each lane has one producer and one
//! consumer.
//!
//! The lanes that start at one worker share a budget of frames ([`Budget`]): frames are what is scarce, and a packet has up to
//! eighteen of them. Each ingress port has a share of the budget, so that a port that floods a busy worker leaves room for the
//! packets of other ports.
//!
//! The headers of a packet are rewritten before the hand-over, so that only the transmission is left. A lane belongs to its
//! receiver. When the receiver stops, it closes its lanes. The packets that are still in them are freed by [`Inbox::drain`],
//! after all workers have stopped.

mod budget;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam::queue::ArrayQueue;
use heddle_port::{Packet, PortId};
use heddle_tables::{EndpointId, WorkerId};

use self::budget::{Budget, Returned};
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

/// The packets that came in at one port, were popped from one lane in a row, and are not yet returned to the sender's budget.
#[derive(Clone, Copy, Debug)]
struct Popped {
    from: usize,
    port: PortId,
    frames: u32,
}

/// The lanes that end at one worker.
#[derive(Debug)]
pub struct Inbox {
    /// For each sender its lane, and the count of the frames that are returned to it.
    lanes: Box<[(Arc<Lane>, Arc<Returned>)]>,
    popped: Popped,
    sleeper: Sleeper,
}

/// The lanes that start at one worker.
#[derive(Debug)]
pub struct Outbox {
    lanes: Box<[(Arc<Lane>, Waker)]>,
    budget: Budget,
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

/// Makes the lanes for `workers` workers. The lanes that start at one worker hold at most `frames` frames together, of packets
/// that came in at ports with numbers below `ports`. Element `w` of the result belongs to worker `w`.
///
/// # Errors
/// The error of eventfd(2) or epoll_create(2), such as too many open files: each worker has one descriptor of either kind.
pub fn mesh(workers: u8, frames: u32, ports: u16) -> std::io::Result<Vec<Ends>> {
    let n = usize::from(workers);
    let lane = || {
        Arc::new(Lane {
            // Every packet has a frame at least, so the budget is used up before the queue is full.
            queue: ArrayQueue::new((frames as usize).max(1)),
            closed: AtomicBool::new(false),
        })
    };
    // lanes[from][to]
    let lanes: Vec<Vec<Arc<Lane>>> = (0..n).map(|_| (0..n).map(|_| lane()).collect()).collect();
    let budgets: Vec<Budget> = (0..n).map(|_| Budget::new(frames, ports)).collect();
    let counts: Vec<Arc<Returned>> = budgets.iter().map(Budget::returned).collect();
    let sleepers = (0..n).map(|_| Sleeper::new()).collect::<std::io::Result<Vec<_>>>()?;
    let wakers: Vec<Waker> = sleepers.iter().map(Sleeper::waker).collect();
    Ok(sleepers
        .into_iter()
        .zip(budgets)
        .enumerate()
        .map(|(me, (sleeper, budget))| Ends {
            inbox: Inbox {
                lanes: lanes
                    .iter()
                    .zip(&counts)
                    .map(|(to, count)| (Arc::clone(&to[me]), Arc::clone(count)))
                    .collect(),
                popped: Popped {
                    from: 0,
                    port: PortId(0),
                    frames: 0,
                },
                sleeper,
            },
            outbox: Outbox {
                lanes: lanes[me].iter().map(Arc::clone).zip(wakers.iter().cloned()).collect(),
                budget,
                touched: vec![false; n].into(),
            },
        })
        .collect())
}

impl Outbox {
    /// Pushes a packet to another worker.
    ///
    /// # Errors
    /// [`Refused`] returns the item: the lanes have no room for it, the worker has stopped, or there is no such worker.
    #[inline]
    pub fn push(&mut self, to: WorkerId, item: HandoverItem) -> Result<(), Refused> {
        let Some((lane, _)) = self.lanes.get(to.index()) else {
            return Err(Refused::Closed(item));
        };
        if lane.closed.load(Ordering::Acquire) {
            return Err(Refused::Closed(item));
        }
        let (port, frames) = (item.ingress, u32::from(item.packet.frames()));
        if !self.budget.take(port, frames) {
            return Err(Refused::Full(item));
        }
        if let Err(item) = lane.queue.push(item) {
            self.budget.undo(port, frames);
            return Err(Refused::Full(item));
        }
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
    /// The lanes have no room, or the ingress port has used up its share of them.
    Full(HandoverItem),
    /// The worker has stopped.
    Closed(HandoverItem),
}

impl Inbox {
    /// Removes the next item of the lane from worker `from`. Its frames return to the sender's budget at the latest with
    /// [`Self::settle`].
    #[inline]
    pub fn pop(&mut self, from: usize) -> Option<HandoverItem> {
        let item = self.lanes.get(from)?.0.queue.pop()?;
        let frames = u32::from(item.packet.frames());
        if (self.popped.from, self.popped.port) == (from, item.ingress) {
            self.popped.frames += frames;
        } else {
            self.settle();
            self.popped = Popped {
                from,
                port: item.ingress,
                frames,
            };
        }
        Some(item)
    }

    /// Returns the frames of the popped items to the senders' budgets. Neighbors in a lane often came in at one port and are
    /// returned with one addition, because each one takes the cache line from the sender.
    #[inline]
    pub fn settle(&mut self) {
        let Popped { from, port, frames } = self.popped;
        if frames > 0
            && let Some((_, returned)) = self.lanes.get(from)
        {
            returned.add(port, frames);
            self.popped.frames = 0;
        }
    }

    /// Returns the number of lanes, one for each worker.
    #[must_use]
    pub fn lanes(&self) -> usize {
        self.lanes.len()
    }

    /// Returns true if no item waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lanes.iter().all(|(lane, _)| lane.queue.is_empty())
    }

    /// Closes the lanes: [`Outbox::push`] returns [`Refused::Closed`] from now on.
    pub fn close(&self) {
        for (lane, _) in &self.lanes {
            lane.closed.store(true, Ordering::Release);
        }
    }

    /// Removes the items that are left, lane by lane, and returns their frames to the senders' budgets.
    pub fn drain(&mut self) -> impl Iterator<Item = HandoverItem> + '_ {
        let mut lane = 0;
        std::iter::from_fn(move || {
            while lane < self.lanes() {
                if let Some(item) = self.pop(lane) {
                    return Some(item);
                }
                lane += 1;
            }
            self.settle();
            None
        })
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
