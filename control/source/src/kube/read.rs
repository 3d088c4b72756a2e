//! Reads a live cluster once, for commands that answer a question about it.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use heddle_model::{Event, Kind};

use super::connect::ApiServer;
use super::error::ConnectError;
use super::{ApiServerSource, follow};

/// The bound of reading everything.
const WITHIN: Duration = Duration::from_secs(120);
/// The interval at which faults are looked at.
const CHECK_INTERVAL: Duration = Duration::from_millis(50);

/// The reason why a cluster cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The credentials cannot be used.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The server does not answer.
    #[error("cannot reach the API server: {0}")]
    Unreachable(String),
    /// A kind cannot be listed.
    #[error("{0}")]
    Kind(String),
    /// The server has not sent everything in time.
    #[error("the API server has not sent everything within {} s; missing: {missing}", WITHIN.as_secs())]
    TooSlow {
        /// The kinds that are missing.
        missing: String,
    },
}

/// Reads all objects of a cluster, as events that end with [`Event::Synced`] of every kind. Nothing is written.
///
/// # Errors
/// The server cannot be reached, or does not send a kind: part of a cluster would give wrong answers.
pub fn read(server: ApiServer) -> Result<Vec<Event>, ReadError> {
    let (sender, batches) = mpsc::channel();
    let source = ApiServerSource {
        server,
        node: None,
        load_saved: Box::new(|| None),
    };
    let sink = Box::new(move |batch| match sender.send(batch) {
        Ok(()) => ControlFlow::Continue(()),
        Err(_) => ControlFlow::Break(()),
    });
    let follower = follow(source, sink)?;
    let end = Instant::now() + WITHIN;
    let (mut events, mut synced) = (Vec::new(), BTreeSet::new());
    while synced.len() < Kind::ALL.len() {
        match batches.recv_timeout(CHECK_INTERVAL) {
            Ok(batch) => {
                synced.extend(batch.events.iter().filter_map(|event| match event {
                    Event::Synced(kind) => Some(*kind),
                    _ => None,
                }));
                events.extend(batch.events);
                continue;
            }
            // The thread ends only with the follower.
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
        if let Some(fault) = follower.health.connection_fault() {
            return Err(ReadError::Unreachable(fault));
        }
        if let Some(fault) = follower.health.all().into_values().find_map(|kind| kind.error) {
            return Err(ReadError::Kind(fault));
        }
        if Instant::now() >= end {
            let missing = Kind::ALL.iter().filter(|kind| !synced.contains(kind));
            return Err(ReadError::TooSlow {
                missing: missing.map(|kind| kind.as_str()).collect::<Vec<_>>().join(", "),
            });
        }
    }
    Ok(events)
}
