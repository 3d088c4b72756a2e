//! The HTTP server of the probes.
//!
//! Each connection answers one request and is closed, within a time limit. At most [`CONNECTIONS`] are open; a further one waits
//! in the kernel's queue.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::report::ProbeReport;

/// The most open connections. They are among the descriptors that [`crate::descriptors`] leaves to everything but ports.
const CONNECTIONS: usize = 8;
/// The longest time of a connection. The kubelet waits one second by default.
const CLOSED_WITHIN: Duration = Duration::from_secs(5);
/// The pause after the port could not be opened, or a connection could not be accepted.
const PAUSE: Duration = Duration::from_secs(1);

/// The source of the probes' answers.
pub trait Probed: Send + Sync + 'static {
    /// Returns the checks of `/livez`.
    fn live(&self) -> ProbeReport;

    /// Returns the checks of `/readyz`.
    fn ready(&self) -> ProbeReport;
}

/// The running server. Dropping it closes the port.
#[derive(Debug)]
pub struct ProbeServer {
    task: JoinHandle<()>,
}

impl ProbeServer {
    /// Serves the probes at 127.0.0.1. A port that is in use is logged once and tried again every second, because pods need
    /// their network more than the kubelet needs its probes.
    #[must_use]
    pub fn start(runtime: &Handle, port: u16, probed: Arc<dyn Probed>) -> Self {
        Self {
            task: runtime.spawn(serve(port, probed)),
        }
    }
}

impl Drop for ProbeServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Opens the port, and answers until the task is aborted.
async fn serve(port: u16, probed: Arc<dyn Probed>) {
    let mut was_refused = false;
    let listener = loop {
        match TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await {
            Ok(listener) => break listener,
            Err(e) => {
                if !std::mem::replace(&mut was_refused, true) {
                    tracing::error!(
                        "cannot serve the probes at 127.0.0.1:{port}: {e}: free the port, or set another probePort"
                    );
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    };
    tracing::info!("serving /livez and /readyz at 127.0.0.1:{port}");
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // The semaphore is never closed.
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let probed = Arc::clone(&probed);
                tokio::spawn(async move {
                    // A client that breaks off or is too slow concerns nobody else.
                    let _ = tokio::time::timeout(CLOSED_WITHIN, answer_one(stream, &*probed)).await;
                    drop(slot);
                });
            }
            Err(e) => {
                accept_failed(&e);
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Logs that a connection could not be accepted, for example because no descriptor is left.
fn accept_failed(error: &io::Error) {
    tracing::warn!(%error, "cannot accept a connection of a probe");
}

/// Answers one request.
async fn answer_one(stream: TcpStream, probed: &dyn Probed) -> hyper::Result<()> {
    let service = service_fn(|request: hyper::Request<_>| {
        let answer = answer(request.uri().path(), probed);
        async { Ok::<_, Infallible>(answer) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

/// Returns the answer for a path.
fn answer(path: &str, probed: &dyn Probed) -> Response<String> {
    let (status, body) = match path {
        "/livez" => of_report(&probed.live()),
        "/readyz" => of_report(&probed.ready()),
        _ => (
            StatusCode::NOT_FOUND,
            "heddle serves /livez and /readyz here\n".to_owned(),
        ),
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, text);
    response
}

/// Returns the status and the body of a report.
fn of_report(report: &ProbeReport) -> (StatusCode, String) {
    let status = match report.passed() {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, report.to_string())
}

#[cfg(test)]
mod tests {
    use super::super::report::Check;
    use super::*;

    struct Alive;

    impl Probed for Alive {
        fn live(&self) -> ProbeReport {
            ProbeReport {
                probe: "livez",
                checks: vec![Check::new("controller", Ok("turned 0 s ago".to_owned()))],
            }
        }

        fn ready(&self) -> ProbeReport {
            ProbeReport {
                probe: "readyz",
                checks: vec![Check::new("objects", Err("Pod is missing".to_owned()))],
            }
        }
    }

    #[test]
    fn the_status_follows_the_checks() {
        let of = |path| {
            let response = answer(path, &Alive);
            (response.status().as_u16(), response.into_body())
        };
        assert_eq!(
            of("/livez"),
            (200, "[+]controller ok: turned 0 s ago\nlivez check passed\n".to_owned())
        );
        assert_eq!(
            of("/readyz"),
            (
                503,
                "[-]objects failed: Pod is missing\nreadyz check failed\n".to_owned()
            )
        );
        assert_eq!(of("/metrics").0, 404);
    }
}
