//! A scripted agent for tests: it gives the answers of its script and records the calls.

use std::path::Path;
use std::sync::{Arc, Mutex};

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::{Router, routing::any};
use heddle_proto::{
    Attachment, AttachmentState, CniError, ErrorCode, PrepareRequest, Prepared, Ready, ReadyRequest, Released,
};
use serde::Serialize;
use tokio::sync::oneshot;

/// The answers of the agent, and the calls that it has received.
pub struct Script {
    /// The answer to *prepare*, as text, so that it can be invalid.
    pub prepare: Result<String, CniError>,
    /// The answer to *ready*.
    pub ready: Result<(), CniError>,
    /// The attachment, once *prepare* has arrived.
    pub attachment: Option<Attachment>,
    /// The attachment's state after *ready*.
    pub state: AttachmentState,
    /// Method and last part of the path of every call.
    pub calls: Vec<String>,
    /// The last *prepare* request.
    pub prepare_request: Option<PrepareRequest>,
    /// The last *ready* request.
    pub ready_request: Option<ReadyRequest>,
}

/// A running agent; dropping it ends the agent.
pub struct Agent {
    script: Arc<Mutex<Script>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Agent {
    /// Starts an agent at `RUN_DIR/cni.sock` that answers *prepare* with `prepared`.
    pub fn start(run_dir: &Path, prepared: &Prepared) -> Self {
        let script = Arc::new(Mutex::new(Script {
            prepare: Ok(serde_json::to_string(prepared).unwrap()),
            ready: Ok(()),
            attachment: None,
            state: AttachmentState::Forwarding,
            calls: Vec::new(),
            prepare_request: None,
            ready_request: None,
        }));
        // Bound before the thread starts, so that the test can connect at once.
        let listener = std::os::unix::net::UnixListener::bind(run_dir.join(heddle_proto::CNI_SOCKET)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let (stop, stopped) = oneshot::channel();
        let state = script.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::UnixListener::from_std(listener).unwrap();
                let router = Router::new().fallback(any(serve)).with_state(state);
                tokio::select! {
                    served = axum::serve(listener, router) => served.unwrap(),
                    _ = stopped => {}
                }
            });
        });
        Self {
            script,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// Reads or changes the script.
    pub fn with<T>(&self, f: impl FnOnce(&mut Script) -> T) -> T {
        f(&mut self.script.lock().unwrap())
    }

    /// Returns the calls since the last call of this function.
    pub fn calls(&self) -> Vec<String> {
        self.with(|script| std::mem::take(&mut script.calls))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

fn json(body: &impl Serialize) -> Response {
    text(serde_json::to_string(body).unwrap())
}

fn text(body: String) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

fn error(e: &CniError) -> Response {
    (StatusCode::from_u16(e.code.http_status()).unwrap(), json(e)).into_response()
}

async fn serve(State(script): State<Arc<Mutex<Script>>>, method: Method, uri: Uri, body: Bytes) -> Response {
    let mut script = script.lock().unwrap();
    let path = uri.path();
    script
        .calls
        .push(format!("{method} {}", path.strip_prefix("/v1/attachments").unwrap()));
    let unknown = CniError::new(ErrorCode::UNKNOWN_CONTAINER, "no such attachment");
    match (method, path.ends_with("/ready")) {
        (Method::POST, false) => {
            let request: PrepareRequest = serde_json::from_slice(&body).unwrap();
            script.prepare_request = Some(request.clone());
            match script.prepare.clone() {
                Ok(answer) => {
                    if let Ok(prepared) = serde_json::from_str::<Prepared>(&answer) {
                        script.attachment = Some(attachment(&request, &prepared));
                    }
                    text(answer)
                }
                Err(e) => error(&e),
            }
        }
        (Method::POST, true) => {
            let request: ReadyRequest = serde_json::from_slice(&body).unwrap();
            script.ready_request = Some(request);
            let state = script.state;
            if let Some(known) = &mut script.attachment {
                known.host_ifindex = Some(request.host_ifindex);
                known.state = state;
            }
            match &script.ready {
                Ok(()) => json(&Ready {
                    attachment: request.attachment,
                    took_ms: 1,
                }),
                Err(e) => error(e),
            }
        }
        (Method::GET, _) => match &script.attachment {
            Some(known) => json(known),
            None => error(&unknown),
        },
        (Method::DELETE, _) => {
            let was = script.attachment.take();
            json(&Released {
                existed: was.is_some(),
                host_ifname: was.map(|a| a.host_ifname),
            })
        }
        (other, _) => panic!("unexpected {other} {path}"),
    }
}

fn attachment(request: &PrepareRequest, prepared: &Prepared) -> Attachment {
    Attachment {
        attachment: prepared.attachment,
        container: request.container.clone(),
        ifname: request.ifname.clone(),
        netns: request.netns.clone(),
        pod: request.pod.clone(),
        host_ifname: prepared.host_ifname.clone(),
        host_ifindex: None,
        mac: prepared.mac,
        addresses: prepared.addresses.iter().map(|a| a.address).collect(),
        port_mappings: request.port_mappings.clone(),
        state: AttachmentState::Prepared,
        why: String::new(),
    }
}
