//! UDP traffic between namespaces: an echo, a counting sink, paced and unpaced senders.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::{LabError, NetNs, bind_when_free};

/// The time for which a server waits for a datagram before it checks if it has to stop.
const STOP_CHECK: Duration = Duration::from_millis(50);

/// A UDP server in a namespace. Dropping it ends it.
#[derive(Debug)]
pub struct UdpServer {
    stop: Arc<AtomicBool>,
    received: Arc<Counter>,
    thread: Option<JoinHandle<Result<(), LabError>>>,
}

/// A count, and a signal for each increment.
#[derive(Debug, Default)]
struct Counter {
    count: Mutex<u64>,
    changed: Condvar,
}

impl Counter {
    fn lock(&self) -> MutexGuard<'_, u64> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn increment(&self) {
        *self.lock() += 1;
        self.changed.notify_all();
    }
}

impl UdpServer {
    /// Starts a server that counts datagrams at `port` of all addresses of both families.
    ///
    /// # Errors
    /// The port cannot be bound.
    pub fn sink(ns: &NetNs, port: u16) -> Result<Self, LabError> {
        Self::start(ns, port, false)
    }

    /// Starts a server that counts every datagram and sends it back.
    ///
    /// # Errors
    /// The port cannot be bound.
    pub fn echo(ns: &NetNs, port: u16) -> Result<Self, LabError> {
        Self::start(ns, port, true)
    }

    fn start(ns: &NetNs, port: u16, echo: bool) -> Result<Self, LabError> {
        let socket = ns.enter(move || {
            let any = SocketAddr::from(([0u16; 8], port));
            let socket = bind_when_free(&format!("binding UDP port {port}"), || UdpSocket::bind(any))?;
            socket
                .set_read_timeout(Some(STOP_CHECK))
                .map_err(LabError::io("a read timeout"))?;
            Ok(socket)
        })?;
        let stop = Arc::new(AtomicBool::new(false));
        let received = Arc::new(Counter::default());
        let thread = ns.spawn({
            let (stop, received) = (Arc::clone(&stop), Arc::clone(&received));
            move || {
                let mut buffer = vec![0; 65_536];
                while !stop.load(Ordering::Acquire) {
                    if let Ok((n, from)) = socket.recv_from(&mut buffer) {
                        received.increment();
                        if echo {
                            // The client notices a missing answer.
                            let _ = socket.send_to(&buffer[..n], from);
                        }
                    }
                }
                Ok(())
            }
        })?;
        Ok(Self {
            stop,
            received,
            thread: Some(thread),
        })
    }

    /// Returns the number of datagrams received so far.
    #[must_use]
    pub fn received(&self) -> u64 {
        *self.received.lock()
    }

    /// Waits until the server has received `total` datagrams in all, at most for `bound`.
    ///
    /// # Errors
    /// It has received fewer when the time is over.
    pub fn wait_for_total(&self, total: u64, bound: Duration) -> Result<(), LabError> {
        let count = self.received.lock();
        let waited = self
            .received
            .changed
            .wait_timeout_while(count, bound, |count| *count < total);
        let (count, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if *count >= total {
            return Ok(());
        }
        Err(LabError::Timeout {
            what: format!("datagram {total} at a UDP server"),
            seconds: bound.as_secs(),
            detail: format!("; {count} have arrived"),
        })
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

/// A socket that sends datagrams to a [`UdpServer::echo`] until it is dropped: one connection. It counts the answers.
#[derive(Debug)]
pub struct UdpConversation {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    thread: Option<JoinHandle<Result<(), LabError>>>,
}

impl UdpConversation {
    /// Starts to send a datagram every 10 ms. A missing answer delays the next datagram by at most 50 ms.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn start(from: &NetNs, to: SocketAddr) -> Result<Self, LabError> {
        let socket = from.enter(move || connected(to))?;
        socket
            .set_read_timeout(Some(STOP_CHECK))
            .map_err(LabError::io("a read timeout"))?;
        let stop = Arc::new(AtomicBool::new(false));
        let rounds = Arc::new(AtomicU64::new(0));
        let thread = from.spawn({
            let (stop, rounds) = (Arc::clone(&stop), Arc::clone(&rounds));
            move || {
                let mut number = 0u64;
                while !stop.load(Ordering::Acquire) {
                    // Failed sends and missing answers are not errors: the caller compares the count.
                    if is_answered(&socket, number) {
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

    /// Returns the number of answers so far.
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

/// Sends a number to an echo, and returns true if it comes back in time. Answers to earlier numbers, which came too late for their
/// own round, are discarded: one that stays in the socket would be taken for the answer of every later round.
fn is_answered(socket: &UdpSocket, number: u64) -> bool {
    let word = number.to_be_bytes();
    let mut buffer = [0; 8];
    if socket.send(&word).is_err() {
        return false;
    }
    while socket.recv(&mut buffer).is_ok() {
        if buffer == word {
            return true;
        }
    }
    false
}

/// Returns the unspecified address of the family of `to`, with port 0.
pub(crate) fn any_address(to: SocketAddr) -> SocketAddr {
    if to.is_ipv4() {
        ([0, 0, 0, 0], 0).into()
    } else {
        ([0u16; 8], 0).into()
    }
}

fn connected(to: SocketAddr) -> Result<UdpSocket, LabError> {
    let socket = UdpSocket::bind(any_address(to)).map_err(LabError::io("a UDP socket"))?;
    socket.connect(to).map_err(LabError::io(format!("UDP to {to}")))?;
    Ok(socket)
}

/// Sends `rounds` datagrams to an echo, with a pause before each, and returns the round-trip times, shortest first. The
/// first round opens the flow and does not count.
///
/// # Errors
/// No answer comes within a second.
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

/// The pace of a [`send`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// As many as the socket takes.
    Flood,
    /// This number every millisecond.
    PerMillisecond(u32),
}

/// Sends datagrams of `size` bytes for `time` and returns their number.
///
/// # Errors
/// The socket fails for another reason than a full queue or a closed port.
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
                // The pause ends at a multiple of 1 ms after the start, so a late wake-up delays only one burst.
                std::thread::sleep((Duration::from_millis(1) * rounds).saturating_sub(start.elapsed()));
            }
        }
        Ok(sent)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_answer_does_not_hide_the_next_one() {
        let echo = UdpSocket::bind("127.0.0.1:0").unwrap();
        let client = connected(echo.local_addr().unwrap()).unwrap();
        client.set_read_timeout(Some(STOP_CHECK)).unwrap();
        echo.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let answer = || {
            let mut buffer = [0; 8];
            let (n, from) = echo.recv_from(&mut buffer).unwrap();
            echo.send_to(&buffer[..n], from).unwrap();
        };
        assert!(!is_answered(&client, 1), "nobody answers in time");
        answer();
        std::thread::scope(|scope| {
            scope.spawn(answer);
            assert!(is_answered(&client, 2));
        });
    }
}
