//! A TCP relay before a server, which cuts off whoever uses it.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use nix::sys::socket::{Shutdown as Half, shutdown};

use crate::{LabError, NetNs};

/// A relay to one server. Dropping it ends it and its connections.
#[derive(Debug)]
pub struct Gate {
    address: SocketAddr,
    listener: Arc<TcpListener>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<(), LabError>>>,
}

#[derive(Debug, Default)]
struct Shared {
    is_closed: AtomicBool,
    is_ending: AtomicBool,
    /// Both ends of each connection.
    streams: Mutex<Vec<Arc<TcpStream>>>,
}

impl Gate {
    /// Listens in a namespace at a free port of `server`'s address, and relays each connection to `server`.
    ///
    /// # Errors
    /// The address cannot be bound, or a thread cannot be started.
    pub fn start(ns: &NetNs, server: SocketAddr) -> Result<Self, LabError> {
        let bind = || TcpListener::bind(SocketAddr::new(server.ip(), 0)).map_err(LabError::io("binding a gate"));
        let listener = Arc::new(ns.enter(bind)?);
        let address = listener.local_addr().map_err(LabError::io("a gate's address"))?;
        let shared = Arc::new(Shared::default());
        // The thread stays in the namespace, because it connects to the server.
        let thread = ns.spawn({
            let (listener, shared) = (Arc::clone(&listener), Arc::clone(&shared));
            move || {
                while let Ok((client, _)) = listener.accept() {
                    if shared.is_ending.load(Ordering::Acquire) {
                        break;
                    }
                    // A connection that is not relayed is closed here. Its client tries again, and reports it.
                    if !shared.is_closed.load(Ordering::Acquire) {
                        let _ = shared.relay(client, server);
                    }
                }
                Ok(())
            }
        })?;
        Ok(Self {
            address,
            listener,
            shared,
            thread: Some(thread),
        })
    }

    /// Returns the address at which it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Cuts all connections. New ones are relayed.
    pub fn cut(&self) {
        for stream in self.shared.lock().drain(..) {
            // The peer may have closed it.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Cuts all connections, and refuses new ones until [`Gate::open`].
    pub fn close(&self) {
        self.shared.is_closed.store(true, Ordering::Release);
        self.cut();
    }

    /// Relays new connections again.
    pub fn open(&self) {
        self.shared.is_closed.store(false, Ordering::Release);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Vec<Arc<TcpStream>>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Relays a connection on two threads of its own.
    fn relay(&self, client: TcpStream, server: SocketAddr) -> io::Result<()> {
        let (client, server) = (Arc::new(client), Arc::new(TcpStream::connect(server)?));
        let mut streams = self.lock();
        // Under the lock, so that no connection begins beside a cut.
        if self.is_closed.load(Ordering::Acquire) {
            return Ok(());
        }
        for (from, to) in [(&client, &server), (&server, &client)] {
            let (from, to) = (Arc::clone(from), Arc::clone(to));
            thread::Builder::new().name("gate".to_owned()).spawn(move || {
                let _ = io::copy(&mut &*from, &mut &*to);
                let _ = to.shutdown(Shutdown::Both);
                let _ = from.shutdown(Shutdown::Both);
            })?;
        }
        streams.extend([client, server]);
        Ok(())
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.shared.is_ending.store(true, Ordering::Release);
        self.close();
        // Ends accept(2).
        let _ = shutdown(self.listener.as_raw_fd(), Half::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
