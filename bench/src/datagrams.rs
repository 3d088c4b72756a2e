//! Small UDP datagrams between two namespaces by sockets: the rate at which they arrive, the loss, and the processor time.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use heddle_lab::{LabError, NetNs, bind_when_free};
use nix::sys::socket::{setsockopt, sockopt};
use serde::Serialize;

use crate::BenchError;
use crate::cpu::CpuMeter;

/// The octets of a datagram: with UDP, IPv4 and Ethernet headers a frame of 64 octets, without FCS.
const SIZE: usize = 22;
/// The bytes of the receiver's socket buffer.
const BUFFER: usize = 4 << 20;
/// The time before the measurement, in which connections open and rings grow.
const WARM_UP: Duration = Duration::from_millis(300);
/// The time in which the last datagrams arrive.
const DRAIN: Duration = Duration::from_millis(300);
/// The time between two bursts of a sender with a rate.
const PERIOD: Duration = Duration::from_millis(1);

/// The datagrams to send.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Datagrams {
    /// The number of connections, each with a source port of its own.
    pub connections: u16,
    /// Datagrams a second; `None` for as many as one thread sends.
    pub rate: Option<u32>,
    /// The duration.
    pub time: Duration,
}

/// The results of one run.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Arrivals {
    /// Datagrams sent a second.
    pub offered: f64,
    /// Datagrams received a second.
    pub received: f64,
    /// The share of the datagrams that was lost.
    pub loss: f64,
    /// Processor time for each received datagram, in nanoseconds: senders, nodes, receiver and kernel.
    pub cpu: f64,
}

/// Sends from the first namespace to a server at `port` in the second. `to` is the address that the client sends to.
///
/// # Errors
/// The sockets cannot be made, or no datagram arrives.
pub fn send(
    [client, server]: [&NetNs; 2],
    to: SocketAddr,
    port: u16,
    datagrams: Datagrams,
    meter: &CpuMeter,
) -> Result<Arrivals, BenchError> {
    let bind = |port: u16| {
        bind_when_free(&format!("UDP port {port}"), || {
            UdpSocket::bind(SocketAddr::from(([0, 0, 0, 0], port)))
        })
    };
    let receiver = server.enter(|| {
        let socket = bind(port)?;
        setsockopt(&socket, sockopt::RcvBufForce, &BUFFER).map_err(LabError::nix("a receive buffer"))?;
        Ok(socket)
    })?;
    let senders = client.enter(|| {
        let connected = (0..datagrams.connections).map(|_| {
            let socket = bind(0)?;
            socket.connect(to).map_err(LabError::io(format!("UDP to {to}")))?;
            Ok(socket)
        });
        connected.collect::<Result<Vec<_>, LabError>>()
    })?;
    let (over, count) = (AtomicBool::new(false), AtomicU64::new(0));
    let io = |error| BenchError::io(format!("datagrams to {to}"))(error);
    thread::scope(|scope| {
        let receiving = scope.spawn(|| receive(&receiver, &over, &count));
        let outcome = (|| {
            let (warm, _) = burst(&senders, datagrams.rate, WARM_UP).map_err(io)?;
            thread::sleep(DRAIN);
            let lost_before = warm.saturating_sub(count.load(Ordering::Relaxed));
            let cpu_before = meter.read()?;
            let before = count.load(Ordering::Relaxed);
            let (sent, took) = burst(&senders, datagrams.rate, datagrams.time).map_err(io)?;
            let arrived = count.load(Ordering::Relaxed) - before;
            let cpu = meter.read()?.saturating_sub(cpu_before);
            thread::sleep(DRAIN);
            let all = count.load(Ordering::Relaxed) - before;
            if arrived == 0 {
                return Err(BenchError::Unexpected {
                    what: format!("{sent} datagrams to {to}, {lost_before} of the first {warm} lost"),
                    expected: "some arrive".to_owned(),
                    got: "none".to_owned(),
                });
            }
            let seconds = took.as_secs_f64();
            Ok(Arrivals {
                offered: sent as f64 / seconds,
                received: arrived as f64 / seconds,
                loss: 1.0 - all as f64 / sent as f64,
                cpu: cpu.as_nanos() as f64 / arrived as f64,
            })
        })();
        over.store(true, Ordering::Relaxed);
        let received = receiving
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the receiver died")));
        received.map_err(io).and(outcome)
    })
}

/// Sends for a time, by each socket in turn. Returns the number of datagrams, and the time that it took.
fn burst(sockets: &[UdpSocket], rate: Option<u32>, time: Duration) -> io::Result<(u64, Duration)> {
    let began = Instant::now();
    let mut sent = 0_u64;
    for socket in sockets.iter().cycle() {
        let elapsed = began.elapsed();
        if elapsed >= time {
            break;
        }
        if let Some(rate) = rate
            && sent as f64 >= elapsed.as_secs_f64() * f64::from(rate)
        {
            thread::sleep(PERIOD);
        }
        match socket.send(&[0x5a; SIZE]) {
            Ok(_) => sent += 1,
            // A queue on the way is full: the datagram was not sent.
            Err(error) if error.raw_os_error() == Some(nix::libc::ENOBUFS) => {}
            Err(error) => return Err(error),
        }
    }
    Ok((sent, began.elapsed()))
}

fn receive(socket: &UdpSocket, over: &AtomicBool, count: &AtomicU64) -> io::Result<()> {
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    let mut buffer = [0; 2 * SIZE];
    while !over.load(Ordering::Relaxed) {
        match socket.recv(&mut buffer) {
            Ok(_) => {
                count.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
