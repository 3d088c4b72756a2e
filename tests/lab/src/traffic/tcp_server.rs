//! TCP servers in namespaces.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sys::socket::{Shutdown, shutdown};

use crate::{LabError, NetNs, bind_when_free};

/// The pause between two rounds of a conversation, so that it outlasts a restart without flooding.
pub(super) const ROUND_PAUSE: Duration = Duration::from_millis(10);

/// The behavior of a [`TcpServer`] on each connection.
#[derive(Debug, Clone)]
pub enum ServerBehavior {
    /// Sends this line and closes.
    Greet(String),
    /// Sends this line and the address that the connection comes from, and closes.
    TellPeer(String),
    /// Sends back every byte until the peer closes.
    Echo,
    /// Counts bytes.
    Sink,
    /// Answers each HTTP/1.1 request with this text and keeps the connection open.
    Http(String),
    /// Sends a number line by line, the next one after the peer has sent the last one back.
    SpeakFirst,
}

/// A TCP server in a namespace. Dropping it ends it.
#[derive(Debug)]
pub struct TcpServer {
    listener: Arc<TcpListener>,
    stopping: Arc<AtomicBool>,
    received: Arc<AtomicU64>,
    thread: Option<JoinHandle<Result<(), LabError>>>,
}

impl TcpServer {
    /// Listens at `port` on all addresses of both families.
    ///
    /// # Errors
    /// The port cannot be bound.
    pub fn start(ns: &NetNs, port: u16, behavior: ServerBehavior) -> Result<Self, LabError> {
        let listener = Arc::new(listen(ns, port)?);
        let stopping = Arc::new(AtomicBool::new(false));
        let received = Arc::new(AtomicU64::new(0));
        let thread = thread::Builder::new()
            .name(format!("tcp server {port}"))
            .spawn({
                let (listener, stopping, received) =
                    (Arc::clone(&listener), Arc::clone(&stopping), Arc::clone(&received));
                move || {
                    while let Ok((stream, _)) = listener.accept() {
                        if stopping.load(Ordering::Acquire) {
                            break;
                        }
                        let (behavior, received) = (behavior.clone(), Arc::clone(&received));
                        thread::Builder::new()
                            .name("tcp connection".to_owned())
                            .spawn(move || serve(stream, &behavior, &received))
                            .map_err(LabError::io("starting a thread"))?;
                    }
                    Ok(())
                }
            })
            .map_err(LabError::io("starting a thread"))?;
        Ok(Self {
            listener,
            stopping,
            received,
            thread: Some(thread),
        })
    }

    /// Returns the number of bytes received so far on all connections.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Acquire)
    }
}

impl Drop for TcpServer {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        interrupt_accept(&self.listener);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Listens at `port` on all addresses of both families of a namespace.
pub(super) fn listen(ns: &NetNs, port: u16) -> Result<TcpListener, LabError> {
    ns.enter(move || {
        bind_when_free(&format!("listening at port {port}"), || {
            TcpListener::bind(SocketAddr::from(([0u16; 8], port)))
        })
    })
}

/// Ends a running accept(2) with EINVAL; the socket itself closes with its last owner.
pub(super) fn interrupt_accept(listener: &TcpListener) {
    let _ = shutdown(listener.as_raw_fd(), Shutdown::Both);
}

fn serve(mut stream: TcpStream, behavior: &ServerBehavior, received: &AtomicU64) {
    let mut buffer = vec![0; 256 * 1024];
    match behavior {
        ServerBehavior::Greet(_) | ServerBehavior::TellPeer(_) => {
            let peer = stream.peer_addr().map(|peer| peer.ip().to_canonical().to_string());
            let line = match behavior {
                ServerBehavior::TellPeer(name) => format!("{name} {}\n", peer.unwrap_or_default()),
                ServerBehavior::Greet(line) => format!("{line}\n"),
                _ => String::new(),
            };
            let _ = stream.write_all(line.as_bytes());
            let _ = stream.shutdown(std::net::Shutdown::Write);
            // Closing a socket with unread bytes sends a reset, so the server reads to the peer's end first.
            while matches!(stream.read(&mut buffer), Ok(n) if n > 0) {}
        }
        ServerBehavior::Echo | ServerBehavior::Sink => {
            while let Ok(n) = stream.read(&mut buffer) {
                if n == 0 {
                    break;
                }
                received.fetch_add(n as u64, Ordering::AcqRel);
                if matches!(behavior, ServerBehavior::Echo) && stream.write_all(&buffer[..n]).is_err() {
                    break;
                }
            }
        }
        ServerBehavior::Http(text) => {
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len());
            let mut requests = BufReader::new(&stream).split(b'\n');
            // A request without a body ends with an empty line.
            while let Some(Ok(line)) = requests.next() {
                if line == b"\r" && (&stream).write_all(answer.as_bytes()).is_err() {
                    break;
                }
            }
        }
        ServerBehavior::SpeakFirst => {
            let mut number = 0u64;
            loop {
                let line = format!("{number}\n");
                if stream.write_all(line.as_bytes()).is_err() {
                    break;
                }
                let mut answer = vec![0; line.len()];
                if stream.read_exact(&mut answer).is_err() || answer != line.as_bytes() {
                    break;
                }
                received.fetch_add(line.len() as u64, Ordering::AcqRel);
                number += 1;
                thread::sleep(ROUND_PAUSE);
            }
        }
    }
}
