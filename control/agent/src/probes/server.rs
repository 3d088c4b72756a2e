//! The port of the probes.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::report::ProbeReport;
use crate::http::connections::{Connections, Limits};
use crate::http::listener;

/// The most open connections. They are among the descriptors that [`crate::descriptors`] leaves to everything but ports. Processes of
/// the node that hold some do not keep the kubelet from an answer: a new connection takes the place of the oldest one.
const LIMITS: Limits = Limits {
    total: 8,
    per_port: 8,
    per_source: 8,
};
/// The pause after the port could not be opened.
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
    let connections = Arc::new(Mutex::new(Connections::new(LIMITS)));
    let answer = move |path: &str| answer(path, &*probed);
    listener::serve(listener, port, "a probe", answer, connections).await;
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
    use std::io::{Read, Write};
    use std::net::TcpStream;

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

    #[test]
    fn clients_that_only_hold_connections_keep_the_kubelet_from_no_answer() {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        // A port that was free a moment ago.
        let free = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let _server = ProbeServer::start(runtime.handle(), port, Arc::new(Alive));
        let connect = || loop {
            if let Ok(stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) {
                break stream;
            }
        };
        let idle: Vec<TcpStream> = (0..3 * LIMITS.total).map(|_| connect()).collect();
        let mut asked = connect();
        asked.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut answer = String::new();
        asked.read_to_string(&mut answer).unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("livez check passed\n"),
            "{answer}"
        );
        // The newest connection still waits: the answer did not wait for the time limit of others.
        let newest = idle.last().unwrap();
        newest.set_nonblocking(true).unwrap();
        let waits = (&*newest).read(&mut [0]).unwrap_err();
        assert_eq!(waits.kind(), std::io::ErrorKind::WouldBlock);
    }
}
