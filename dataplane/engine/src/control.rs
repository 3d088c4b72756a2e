//! How control talks to a worker: messages that the worker reads once a turn, and a handle that sends them and wakes it.
//!
//! Control makes and closes ports; the worker only uses them in between. A port that is removed comes back with nothing
//! of it left in the worker.

use std::fmt;
use std::sync::Arc;

use crossbeam::channel::{Receiver, Sender, bounded, unbounded};
use heddle_port::{Port, PortId};
use heddle_tables::WorkerId;

use crate::counters::WorkerCounters;
use crate::ingress::PortRole;
use crate::wakeup::Waker;

/// A message of control to a worker.
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

/// The reason for which a worker did not take a port, and the port.
#[derive(thiserror::Error)]
pub enum AddError<P> {
    /// The number is beyond those that the worker has counters for.
    #[error("port {number} does not fit: this worker was made for ports 0 to {}; raise maxPods", .limit.saturating_sub(1))]
    NumberTooGreat {
        /// The port.
        port: P,
        /// Its number.
        number: u16,
        /// How many numbers there are.
        limit: usize,
    },
    /// The worker has a port of that number.
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

/// The worker has ended, or its thread died.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("worker {0} has stopped: start the agent again")]
pub struct WorkerGone(pub WorkerId);

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

    /// The worker's number.
    #[must_use]
    pub fn id(&self) -> WorkerId {
        self.id
    }

    /// Returns its counters.
    #[must_use]
    pub fn counters(&self) -> &Arc<WorkerCounters> {
        &self.counters
    }

    /// Gives it a port. The answer comes when the worker has it: from then on its packets are seen.
    ///
    /// # Errors
    /// [`WorkerGone`]; the port is dropped then.
    pub fn add_port(&self, port: P, role: PortRole) -> Result<Receiver<Result<(), AddError<P>>>, WorkerGone> {
        let (done, answer) = bounded(1);
        self.send(Message::Add { port, role, done })?;
        Ok(answer)
    }

    /// Takes a port from it. The answer is the port, or `None` if it had none of that number.
    ///
    /// # Errors
    /// [`WorkerGone`].
    pub fn remove_port(&self, port: PortId) -> Result<Receiver<Option<P>>, WorkerGone> {
        let (done, answer) = bounded(1);
        self.send(Message::Remove { port, done })?;
        Ok(answer)
    }

    /// Ends it: its thread returns from `run` with all its ports. Without effect if it has ended.
    pub fn stop(&self) {
        // A worker that is gone needs no stopping.
        let _ = self.send(Message::Stop);
    }

    /// Wakes it if it sleeps, as after a new snapshot that shall be taken at once.
    pub fn wake(&self) {
        self.waker.wake();
    }

    fn send(&self, message: Message<P>) -> Result<(), WorkerGone> {
        self.messages.send(message).map_err(|_| WorkerGone(self.id))?;
        self.waker.wake();
        Ok(())
    }
}
