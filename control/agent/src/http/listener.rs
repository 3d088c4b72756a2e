//! The server of one port.
//!
//! Each connection answers one request and is closed, within a time limit, because clients that hold connections cost the agent
//! descriptors. [`super::connections`] bounds their number.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

use super::connections::{Connections, Source};

/// The longest time from a connection's start to the end of its request's header. Load balancers give up after 2 to 10 s.
const HEADER_WITHIN: Duration = Duration::from_secs(3);
/// The longest time of a connection.
const CLOSED_WITHIN: Duration = Duration::from_secs(6);
/// The pause after a connection could not be accepted, for example because no descriptor is left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The most bytes of a request's header; the least that hyper allows.
const HEADER_BYTES: usize = 8192;

/// A function that returns the answer for a path.
pub(crate) trait Respond: Fn(&str) -> Response<String> + Clone + Send + Sync + 'static {}

impl<F: Fn(&str) -> Response<String> + Clone + Send + Sync + 'static> Respond for F {}

/// The connections of all ports of a server.
pub(crate) type Shared = Arc<Mutex<Connections<AbortHandle>>>;

/// Locks the connections, also after a task has panicked: they are valid at any time.
pub(crate) fn lock(connections: &Shared) -> MutexGuard<'_, Connections<AbortHandle>> {
    connections.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Opens one socket for both IP families, or an IPv4 socket if the node has no IPv6.
pub(crate) async fn listen(port: u16) -> io::Result<TcpListener> {
    match TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))).await {
        Err(e) if e.kind() != io::ErrorKind::AddrInUse => {
            TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))).await
        }
        other => other,
    }
}

/// Accepts connections until the task is aborted, and answers each with what `answer` returns for the request's path. `what` names the
/// client in the log: "a health check".
pub(crate) async fn serve(
    listener: TcpListener,
    port: u16,
    what: &'static str,
    answer: impl Respond,
    connections: Shared,
) {
    let mut was_refused = false;
    loop {
        match listener.accept().await {
            Ok((stream, from)) => {
                was_refused = false;
                start(stream, port, Source::of(from.ip()), answer.clone(), &connections);
            }
            Err(e) => {
                if !std::mem::replace(&mut was_refused, true) {
                    tracing::warn!(port, error = %e, "cannot accept a connection of {what}");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Starts the task of a connection and ends the tasks of the connections that it displaces.
fn start(stream: TcpStream, port: u16, source: Source, answer: impl Respond, connections: &Shared) {
    let displaced = lock(connections).add(port, source, |id| {
        let entry = Entry {
            id,
            connections: Arc::clone(connections),
        };
        let task = tokio::spawn(async move {
            let _entry = entry;
            // A client that breaks off or is too slow concerns nobody else.
            let _ = tokio::time::timeout(CLOSED_WITHIN, answer_one(stream, answer)).await;
        });
        task.abort_handle()
    });
    // Without the lock, which each ending task takes.
    for task in displaced {
        task.abort();
    }
}

/// A connection's entry; dropping it removes the entry.
struct Entry {
    id: u64,
    connections: Shared,
}

impl Drop for Entry {
    fn drop(&mut self) {
        lock(&self.connections).remove(self.id);
    }
}

/// Answers one request of any method.
async fn answer_one(stream: TcpStream, answer: impl Respond) -> hyper::Result<()> {
    let service = service_fn(|request: hyper::Request<Incoming>| {
        let answer = answer(request.uri().path());
        async { Ok::<_, Infallible>(answer) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_WITHIN)
        .keep_alive(false)
        .max_buf_size(HEADER_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .await
}
