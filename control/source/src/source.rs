//! The common side of all sources.

use std::error::Error;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use heddle_model::Event;

use crate::kube::health::Health;
use crate::kube::report::Reporter;

/// The pause after which a series of changes ends and becomes one batch. A single change waits as long.
pub(crate) const QUIET: Duration = Duration::from_millis(2);
/// The longest time for which a batch collects changes. The tables of a large cluster take up to 10 ms more (bench/RESULTS.md), so the
/// workers have a change after 100 ms at the latest, also under a constant stream.
pub(crate) const LONGEST_BATCH: Duration = Duration::from_millis(90);

/// Events that belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The events, in their order.
    pub events: Vec<Event>,
    /// The time at which the first of them was received; of a folder, the time at which its files have been read.
    pub received_at: Instant,
}

impl Batch {
    /// Returns a batch of events that are received now.
    #[must_use]
    pub fn now(events: Vec<Event>) -> Self {
        Self {
            events,
            received_at: Instant::now(),
        }
    }
}

/// The receiver of a source's batches of events. The source ends when it breaks.
pub type Sink = Box<dyn FnMut(Batch) -> ControlFlow<()> + Send>;

/// A place that objects come from: a folder or an API server. A relay between the API server and the agents would be a third
/// one: it can send the same events, decoded once for all agents.
///
/// The first events are all objects of each kind, with [`Event::Synced`] at the end of the kind. After that, each change
/// follows, in batches. A batch is one change of the cluster, as far as the source can tell. Events of one object are in order.
/// Events of different objects need not be, and an object may be reported again without a change.
pub trait Source: Send {
    /// Follows the source and calls `sink` with each batch of events, on a thread of the source.
    ///
    /// # Errors
    /// The source cannot be followed at all. A source that is away for a while is no error.
    fn follow(self: Box<Self>, sink: Sink) -> Result<Box<dyn Followed>, FollowError>;
}

/// A source while it is followed. Dropping it ends that.
pub trait Followed: Send {
    /// Returns the state of each kind, if the source can lose its connection.
    fn health(&self) -> Option<&Health> {
        None
    }

    /// Returns the way to write about this node and about refused objects, if the source has one.
    fn reporter(&self) -> Option<&Reporter> {
        None
    }
}

/// The reason why a source cannot be followed.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct FollowError {
    #[source]
    error: Box<dyn Error + Send + Sync>,
    lasts: bool,
}

impl FollowError {
    /// Wraps a source's own error. `lasts`: it stays until someone changes the configuration.
    pub(crate) fn new(error: impl Error + Send + Sync + 'static, lasts: bool) -> Self {
        Self {
            error: Box::new(error),
            lasts,
        }
    }

    /// Returns `true` if another try fails too, until someone changes the configuration.
    #[must_use]
    pub const fn lasts(&self) -> bool {
        self.lasts
    }
}
