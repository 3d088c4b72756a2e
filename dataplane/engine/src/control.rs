//! The messages from control to a worker, and the handle that sends them. The worker reads them once a turn.
//!
//! Control makes and closes ports, and the worker uses them in between. When a removed port comes back, the worker has no frame
//! and no descriptor of it any more.

use std::fmt;
use std::sync::Arc;

use crossbeam::channel::{Receiver, SendError, Sender, bounded, unbounded};
use heddle_port::{Port, PortId};
use heddle_tables::WorkerId;

use crate::counters::WorkerCounters;
use crate::ingress::PortRole;
use crate::wakeup::Waker;

/// A message from control to a worker. `done` receives the answer.
pub(crate) enum Message<P> {
    Add {
        port: P,
        role: PortRole,
        done: Sender<Result<(), AddError<P>>>,
    },
    Remove {
        port: PortId,
        done: Sender<Option<P>>,
    },
    Stop,
}

/// The reason for which a worker refused a port, and the port itself.
#[derive(thiserror::Error)]
pub enum AddError<P> {
    /// The worker has no counters for the number.
    #[error("port {number} does not fit: this worker was made for ports 0 to {}; raise maxPods", .limit.saturating_sub(1))]
    NumberTooGreat {
        /// The port.
        port: P,
        /// Its number.
        number: u16,
        /// The limit: numbers are below it.
        limit: usize,
    },
    /// The worker has a port of that number already.
    #[error("port {number} is taken: remove the old port before adding the new one")]
    NumberTaken {
        /// The port.
        port: P,
        /// Its number.
        number: u16,
    },
}

impl<P> fmt::Debug for AddError<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The error of a message to a worker that has ended or whose thread has died.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("worker {0} has stopped: start the agent again")]
pub struct WorkerGone(pub WorkerId);

/// A port that could not be passed to a worker, because the worker has ended. The caller closes it.
#[derive(thiserror::Error)]
#[error("{gone}")]
pub struct NotAdded<P> {
    /// The port.
    pub port: P,
    /// The worker.
    pub gone: WorkerGone,
}

impl<P> fmt::Debug for NotAdded<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The handle of one worker, for control.
pub struct WorkerHandle<P> {
    id: WorkerId,
    messages: Sender<Message<P>>,
    waker: Waker,
    counters: Arc<WorkerCounters>,
}

impl<P> Clone for WorkerHandle<P> {
    fn clone(&self) -> Self {
        Self {
            id: self.id,
            messages: self.messages.clone(),
            waker: self.waker.clone(),
            counters: Arc::clone(&self.counters),
        }
    }
}

impl<P: Port> WorkerHandle<P> {
    pub(crate) fn new(id: WorkerId, waker: Waker, counters: Arc<WorkerCounters>) -> (Self, Receiver<Message<P>>) {
        let (messages, receiver) = unbounded();
        (
            Self {
                id,
                messages,
                waker,
                counters,
            },
            receiver,
        )
    }

    /// Returns the worker's id.
    #[must_use]
    pub fn id(&self) -> WorkerId {
        self.id
    }

    /// Returns the worker's counters.
    #[must_use]
    pub fn counters(&self) -> &Arc<WorkerCounters> {
        &self.counters
    }

    /// Adds a port to the worker. The returned channel gets the answer when the worker has taken the port and receives from it.
    ///
    /// # Errors
    /// [`NotAdded`] with the port.
    pub fn add_port(&self, port: P, role: PortRole) -> Result<Receiver<Result<(), AddError<P>>>, NotAdded<P>> {
        let (done, answer) = bounded(1);
        let gone = WorkerGone(self.id);
        match self.messages.send(Message::Add { port, role, done }) {
            Ok(()) => {
                self.waker.wake();
                Ok(answer)
            }
            Err(SendError(Message::Add { port, .. })) => Err(NotAdded { port, gone }),
            Err(SendError(Message::Remove { .. } | Message::Stop)) => unreachable!("the message comes back"),
        }
    }

    /// Removes a port from the worker. The answer is the port, or `None` if the worker has no port of that number.
    ///
    /// # Errors
    /// [`WorkerGone`].
    pub fn remove_port(&self, port: PortId) -> Result<Receiver<Option<P>>, WorkerGone> {
        let (done, answer) = bounded(1);
        self.send(Message::Remove { port, done })?;
        Ok(answer)
    }

    /// Stops the worker: its `run` returns at the end of the turn, and the worker keeps its ports. Does nothing if the worker
    /// has ended.
    pub fn stop(&self) {
        // The only error is a worker that has ended.
        let _ = self.send(Message::Stop);
    }

    /// Wakes the worker if it sleeps, for example after a new snapshot was published that it should take at once.
    pub fn wake(&self) {
        self.waker.wake();
    }

    /// Sends a message and wakes the worker.
    fn send(&self, message: Message<P>) -> Result<(), WorkerGone> {
        self.messages.send(message).map_err(|_| WorkerGone(self.id))?;
        self.waker.wake();
        Ok(())
    }
}
