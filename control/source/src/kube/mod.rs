//! Follows the objects of a Kubernetes API server.
//!
//! A thread with a runtime of its own lists and watches each kind of object ([`follow`]), decodes what changes, and hands it on in
//! batches ([`batch`]). [`connect`] finds the API server, [`health`] tells what became of each kind.
//!
//! Whatever happens to the connection, nothing is taken back: objects go when the server says that they are gone, or when a
//! complete list does not have them.

mod batch;
mod connect;
mod error;
mod follow;
mod health;
mod limit;
mod mirror;
mod raw;
mod resource;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use heddle_model::{Event, Kind};
use tokio::sync::{mpsc, watch};

pub use connect::{ApiServer, Credentials};
pub use error::ConnectError;
pub use health::{Health, KindHealth};

/// Events that wait for their batch. A source that is faster than the batches waits.
const QUEUE: usize = 4096;

/// The objects of an API server, followed; dropping it ends that.
#[derive(Debug)]
pub struct Follower {
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
    health: Health,
}

impl Follower {
    /// Returns the state of each kind.
    #[must_use]
    pub const fn health(&self) -> &Health {
        &self.health
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            // It ends between two batches.
            let _ = thread.join();
        }
    }
}

/// Follows an API server, and calls `sink` on a thread of its own with each batch of events. When `sink` breaks, the thread
/// ends. The first events are all objects of each kind, with [`Event::Synced`] at their end.
///
/// The server need not be there: the thread tries until it is.
///
/// # Errors
/// The credentials cannot be read, or the thread cannot be started.
pub fn follow(
    server: ApiServer,
    sink: impl FnMut(Vec<Event>) -> ControlFlow<()> + Send + 'static,
) -> Result<Follower, ConnectError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(ConnectError::Thread)?;
    // Read once here, so that a wrong path or a broken file is an error of the start.
    runtime.block_on(server.check())?;
    let health = Health::new();
    let (stop, stopped) = watch::channel(false);
    let thread = thread::Builder::new().name("heddle-kube".to_owned()).spawn({
        let health = health.clone();
        move || runtime.block_on(run(Arc::new(server), health, stopped, sink))
    });
    Ok(Follower {
        stop,
        thread: Some(thread.map_err(ConnectError::Thread)?),
        health,
    })
}

/// Runs until the follower is dropped or `sink` breaks.
async fn run(
    server: Arc<ApiServer>,
    health: Health,
    mut stopped: watch::Receiver<bool>,
    sink: impl FnMut(Vec<Event>) -> ControlFlow<()>,
) {
    let (events_in, events) = mpsc::channel(QUEUE);
    let (clients_in, clients) = watch::channel(None);
    let mut tasks = tokio::task::JoinSet::new();
    for kind in Kind::ALL {
        tasks.spawn(follow::follow(
            kind,
            server.origin(),
            clients.clone(),
            events_in.clone(),
            health.clone(),
        ));
    }
    drop(events_in);
    tokio::select! {
        _ = stopped.wait_for(|stopped| *stopped) => {}
        () = connect::keep_connected(&server, &health, clients_in) => {}
        () = batch::hand_on(events, sink) => {}
    }
    // The tasks and their connections end with the set.
    tasks.shutdown().await;
}
