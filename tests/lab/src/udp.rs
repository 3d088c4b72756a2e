//! UDP traffic between namespaces: an echo, a counting sink, paced and unpaced senders. Bounded in time.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::{LabError, NetNs};

/// How often a server looks whether it is to end.
const LOOK: Duration = Duration::from_millis(50);

/// A UDP server in a namespace; it ends with its guard.
#[derive(Debug)]
pub struct UdpServer {
    stop: Arc<AtomicBool>,
    heard: Arc<AtomicU64>,
    thread: Option<JoinHandle<Result<(), LabError>>>,
}

impl UdpServer {
    /// Counts datagrams at `port` of all addresses of both families.
    ///
    /// # Errors
    /// The port cannot be bound.
    pub fn sink(ns: &NetNs, port: u16) -> Result<Self, LabError> {
        Self::start(ns, port, false)
    }

    /// Sends every datagram back.
    ///
    /// # Errors
    /// The port cannot be bound.
    pub fn echo(ns: &NetNs, port: u16) -> Result<Self, LabError> {
        Self::start(ns, port, true)
    }

    fn start(ns: &NetNs, port: u16, echo: bool) -> Result<Self, LabError> {
        let socket = ns.enter(move || {
            let any = SocketAddr::from(([0u16; 8], port));
            let socket = UdpSocket::bind(any).map_err(LabError::io(format!("binding UDP port {port}")))?;
            socket
                .set_read_timeout(Some(LOOK))
                .map_err(LabError::io("a read timeout"))?;
            Ok(socket)
        })?;
        let stop = Arc::new(AtomicBool::new(false));
        let heard = Arc::new(AtomicU64::new(0));
        let thread = ns.spawn({
            let (stop, heard) = (Arc::clone(&stop), Arc::clone(&heard));
            move || {
                let mut buffer = vec![0; 65_536];
                while !stop.load(Ordering::Acquire) {
                    if let Ok((n, from)) = socket.recv_from(&mut buffer) {
                        heard.fetch_add(1, Ordering::AcqRel);
                        if echo {
                            // The asker notices an answer that is missing.
                            let _ = socket.send_to(&buffer[..n], from);
                        }
                    }
                }
                Ok(())
            }
        })?;
        Ok(Self {
            stop,
            heard,
            thread: Some(thread),
        })
    }

    /// Datagrams heard so far.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.heard.load(Ordering::Acquire)
    }
}

impl Drop for UdpServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// One socket that keeps asking a [`UdpServer::echo`], so that all it says is one connection; it counts the answers.
#[derive(Debug)]
pub struct UdpConversation {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    thread: Option<JoinHandle<Result<(), LabError>>>,
}

impl UdpConversation {
    /// Begins to ask, a word every 10 ms or when the last one was answered, whichever is later; an answer that is missing
    /// for 50 ms is given up.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn start(from: &NetNs, to: SocketAddr) -> Result<Self, LabError> {
        let socket = from.enter(move || connected(to))?;
        socket
            .set_read_timeout(Some(LOOK))
            .map_err(LabError::io("a read timeout"))?;
        let stop = Arc::new(AtomicBool::new(false));
        let rounds = Arc::new(AtomicU64::new(0));
        let thread = from.spawn({
            let (stop, rounds) = (Arc::clone(&stop), Arc::clone(&rounds));
            move || {
                let mut buffer = [0; 8];
                let mut number = 0u64;
                while !stop.load(Ordering::Acquire) {
                    let word = number.to_be_bytes();
                    // What cannot be sent now, or is not answered, is noticed by the count.
                    if socket.send(&word).is_ok() && matches!(socket.recv(&mut buffer), Ok(8)) && buffer == word {
                        rounds.fetch_add(1, Ordering::AcqRel);
                    }
                    number += 1;
                    std::thread::sleep(Duration::from_millis(10));
                }
                Ok(())
            }
        })?;
        Ok(Self {
            stop,
            rounds,
            thread: Some(thread),
        })
    }

    /// Words answered so far.
    #[must_use]
    pub fn rounds(&self) -> u64 {
        self.rounds.load(Ordering::Acquire)
    }
}

impl Drop for UdpConversation {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn connected(to: SocketAddr) -> Result<UdpSocket, LabError> {
    let any: SocketAddr = if to.is_ipv4() {
        ([0, 0, 0, 0], 0).into()
    } else {
        ([0u16; 8], 0).into()
    };
    let socket = UdpSocket::bind(any).map_err(LabError::io("a UDP socket"))?;
    socket.connect(to).map_err(LabError::io(format!("UDP to {to}")))?;
    Ok(socket)
}

/// Asks an echo `rounds` times with a pause before each, and gives the round trips, shortest first. The first one, which
/// finds no flow, is not among them.
///
/// # Errors
/// An answer is missing for a second.
pub fn ping_pong(from: &NetNs, to: SocketAddr, rounds: usize, pause: Duration) -> Result<Vec<Duration>, LabError> {
    from.enter(move || {
        let socket = connected(to)?;
        socket
            .set_read_timeout(Some(Duration::from_secs(1)))
            .map_err(LabError::io("a read timeout"))?;
        let mut trips = Vec::with_capacity(rounds + 1);
        let mut buffer = [0; 64];
        for _ in 0..=rounds {
            std::thread::sleep(pause);
            let start = Instant::now();
            socket.send(b"ping").map_err(LabError::io(format!("sending to {to}")))?;
            socket
                .recv(&mut buffer)
                .map_err(LabError::io(format!("the answer of {to}")))?;
            trips.push(start.elapsed());
        }
        trips.remove(0);
        trips.sort_unstable();
        Ok(trips)
    })
}

/// How a [`send`] is paced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// As many as go.
    Flood,
    /// That many every millisecond.
    PerMillisecond(u32),
}

/// Sends datagrams of `size` bytes for `time`; how many.
///
/// # Errors
/// The socket refuses for another reason than that it is full or nobody listens.
pub fn send(from: &NetNs, to: SocketAddr, size: usize, pace: Pace, time: Duration) -> Result<u64, LabError> {
    from.enter(move || {
        let socket = connected(to)?;
        let bytes = vec![0x5a; size];
        let start = Instant::now();
        let mut sent = 0u64;
        let mut rounds = 0u32;
        while start.elapsed() < time {
            let burst = match pace {
                Pace::Flood => 256,
                Pace::PerMillisecond(n) => n,
            };
            for _ in 0..burst {
                match socket.send(&bytes) {
                    Ok(_) => sent += 1,
                    Err(e)
                        if matches!(
                            e.kind(),
                            ErrorKind::ConnectionRefused | ErrorKind::WouldBlock | ErrorKind::OutOfMemory
                        ) => {}
                    // ENOBUFS: the interface's queue is full.
                    Err(e) if e.raw_os_error() == Some(nix::libc::ENOBUFS) => {}
                    Err(e) => return Err(LabError::io(format!("sending {size} bytes to {to}"))(e)),
                }
            }
            if pace != Pace::Flood {
                rounds += 1;
                // Paced by the clock from the start on, so a late wake-up is made up for.
                std::thread::sleep((Duration::from_millis(1) * rounds).saturating_sub(start.elapsed()));
            }
        }
        Ok(sent)
    })
}
