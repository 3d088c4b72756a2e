//! Follows the objects of a Kubernetes API server.
//!
//! A thread with a runtime of its own lists and watches each kind of object (`follow`), decodes what changes, and hands it on in
//! batches (`batch`). `connect` finds the API server, `health` has the state of each kind, and `report` writes what the
//! agent tells about its node and about refused objects.
//!
//! Whatever happens to the connection, nothing is taken back: objects go when the server says that they are gone, or when a
//! complete list does not have them. At the start, while there is no such list, the objects that an earlier agent saved serve
//! (`saved`).

mod batch;
mod connect;
mod error;
mod follow;
pub(crate) mod health;
mod limit;
mod mirror;
mod raw;
mod read;
pub(crate) mod report;
mod resource;
mod saved;

use std::sync::Arc;
use std::thread::{self, JoinHandle};

use heddle_model::Kind;
use tokio::sync::{mpsc, watch};

pub use connect::{ApiServer, Credentials};
pub use error::ConnectError;
pub use health::{Health, KindHealth};
pub use read::{ReadError, read};
pub use report::{NodeReport, Reporter, VERSION_ANNOTATION, VTEP_ADDRESS_ANNOTATION};
pub use saved::Load;

use crate::source::{FollowError, Followed, Sink, Source};
use report::Observed;

/// Events that wait for their batch. A source that is faster than the batches waits.
const QUEUE: usize = 4096;

/// The source of objects that follows an API server.
pub struct ApiServerSource {
    /// The server.
    pub server: ApiServer,
    /// The name of the agent's own Node, about which it writes; `None`: nothing is written.
    pub node: Option<Arc<str>>,
    /// Reads the cluster that an earlier agent saved.
    pub load_saved: Load,
}

/// The objects of an API server, followed; dropping it ends that.
#[derive(Debug)]
pub struct Follower {
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
    health: Health,
    reporter: Reporter,
}

impl Followed for Follower {
    fn health(&self) -> Option<&Health> {
        Some(&self.health)
    }

    fn reporter(&self) -> Option<&Reporter> {
        Some(&self.reporter)
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

impl Source for ApiServerSource {
    /// Follows the server on a thread of its own. When `sink` breaks, the thread ends. The server need not be there: the thread
    /// tries until it is.
    ///
    /// # Errors
    /// The credentials cannot be read, or the thread cannot be started.
    fn follow(self: Box<Self>, sink: Sink) -> Result<Box<dyn Followed>, FollowError> {
        follow(*self, sink)
            .map(|follower| Box::new(follower) as Box<dyn Followed>)
            .map_err(|e| {
                let lasts = !matches!(e, ConnectError::Thread(_));
                FollowError::new(e, lasts)
            })
    }
}

/// Follows an API server. See [`ApiServerSource::follow`].
fn follow(source: ApiServerSource, sink: Sink) -> Result<Follower, ConnectError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(ConnectError::Thread)?;
    // Read once here, so that a wrong path or a broken file is an error of the start.
    runtime.block_on(source.server.check())?;
    let (health, reporter) = (Health::new(), Reporter::new());
    let (stop, stopped) = watch::channel(false);
    let thread = thread::Builder::new().name("heddle-kube".to_owned()).spawn({
        let (health, reporter) = (health.clone(), reporter.clone());
        move || {
            runtime.block_on(run(source, health, reporter, stopped, sink));
            // A saved cluster may still be read, and nobody waits for it.
            runtime.shutdown_background();
        }
    });
    Ok(Follower {
        stop,
        thread: Some(thread.map_err(ConnectError::Thread)?),
        health,
        reporter,
    })
}

/// Runs until the follower is dropped or `sink` breaks.
async fn run(
    source: ApiServerSource,
    health: Health,
    reporter: Reporter,
    mut stopped: watch::Receiver<bool>,
    sink: Sink,
) {
    let origin = source.server.origin();
    let observed = Arc::new(Observed::new(source.node));
    let (events_in, events) = mpsc::channel(QUEUE);
    let (clients_in, clients) = watch::channel(None);
    let (saved_in, saved) = watch::channel(None);
    let unreachable = watch::Sender::new(false);
    let mut tasks = tokio::task::JoinSet::new();
    for kind in Kind::ALL {
        tasks.spawn(follow::follow(
            kind,
            Arc::clone(&origin),
            follow::Inputs {
                clients: clients.clone(),
                saved: saved.clone(),
            },
            follow::Outputs {
                events: events_in.clone(),
                health: health.clone(),
                observed: Arc::clone(&observed),
            },
        ));
    }
    drop(events_in);
    tasks.spawn(saved::serve_saved(
        source.load_saved,
        origin,
        health.clone(),
        unreachable.subscribe(),
        saved_in,
    ));
    tasks.spawn({
        let (health, clients) = (health.clone(), clients.clone());
        async move { reporter.run(&observed, &health, &clients).await }
    });
    tokio::select! {
        _ = stopped.wait_for(|stopped| *stopped) => {}
        () = connect::keep_connected(&source.server, &health, clients_in, &unreachable) => {}
        () = batch::hand_on(events, sink) => {}
    }
    // The tasks and their connections end with the set.
    tasks.shutdown().await;
}
