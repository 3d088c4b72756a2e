//! The round-trip time of UDP between two namespaces, with blocking ends.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use heddle_lab::{LabError, NetNs, bind_when_free};
use serde::Serialize;

use crate::BenchError;
use crate::stats;

/// The octets of a datagram.
const SIZE: usize = 32;
/// The longest time that an answer may take.
const LOST: Duration = Duration::from_secs(1);
/// The first rounds, which do not count.
const WARM_UP: usize = 50;

/// The number and the pace of the rounds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct PingPace {
    /// The number of rounds.
    pub rounds: usize,
    /// The pause before each round. During a pause that is longer than the idle time, a worker that may sleep falls asleep.
    pub pause: Duration,
}

/// Round-trip times in microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct RoundTrips {
    /// The median.
    pub p50: f64,
    /// The 99th percentile.
    pub p99: f64,
    /// The 99.9th percentile.
    pub p999: f64,
}

/// Exchanges datagrams between the first namespace and a server at `port` in the second. `to` is the address that the client sends to.
///
/// # Errors
/// The sockets cannot be made, or a datagram is lost.
pub fn ping_pong(
    [client, server]: [&NetNs; 2],
    to: SocketAddr,
    port: u16,
    pace: PingPace,
) -> Result<RoundTrips, BenchError> {
    let bind = |port: u16| {
        bind_when_free(&format!("UDP port {port}"), || {
            UdpSocket::bind(SocketAddr::from(([0, 0, 0, 0], port)))
        })
    };
    let server = server.enter(|| bind(port))?;
    let client = client.enter(|| {
        let socket = bind(0)?;
        socket.connect(to).map_err(LabError::io(format!("UDP to {to}")))?;
        Ok(socket)
    })?;
    let over = AtomicBool::new(false);
    let result = thread::scope(|scope| {
        let echo = scope.spawn(|| echo(&server, &over));
        let times = rounds(&client, pace);
        over.store(true, Ordering::Relaxed);
        let echoed = echo.join().unwrap_or_else(|_| Err(io::Error::other("the echo died")));
        echoed.and(times)
    });
    let mut times = result.map_err(BenchError::io(format!("ping-pong with {to}")))?;
    times.sort_unstable();
    let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|p| stats::percentile(&times, p) as f64 / 1000.0);
    Ok(RoundTrips { p50, p99, p999 })
}

fn echo(socket: &UdpSocket, over: &AtomicBool) -> io::Result<()> {
    socket.set_read_timeout(Some(LOST / 10))?;
    let mut buffer = [0; 2 * SIZE];
    while !over.load(Ordering::Relaxed) {
        match socket.recv_from(&mut buffer) {
            Ok((n, from)) => {
                socket.send_to(buffer.get(..n).unwrap_or_default(), from)?;
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn rounds(socket: &UdpSocket, pace: PingPace) -> io::Result<Vec<u64>> {
    socket.set_read_timeout(Some(LOST))?;
    let mut times = Vec::with_capacity(pace.rounds);
    let mut buffer = [0; 2 * SIZE];
    for round in 0..pace.rounds + WARM_UP {
        if !pace.pause.is_zero() {
            thread::sleep(pace.pause);
        }
        let began = Instant::now();
        socket.send(&[0x5a; SIZE])?;
        socket.recv(&mut buffer)?;
        if round >= WARM_UP {
            times.push(began.elapsed().as_nanos() as u64);
        }
    }
    Ok(times)
}
