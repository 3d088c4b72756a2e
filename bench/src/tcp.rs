//! The rate of TCP streams between two namespaces, and their processor time.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use heddle_lab::{LabError, NetNs, bind_when_free};
use serde::Serialize;

use crate::BenchError;
use crate::cpu::CpuMeter;

/// The bytes of one read or write.
const CHUNK: usize = 256 * 1024;
/// The time before the measurement, in which the TCP windows grow.
const WARM_UP: Duration = Duration::from_millis(300);
/// The longest time without progress.
const STALL: Duration = Duration::from_secs(5);

/// The results of a stream.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct StreamRun {
    /// The bits per second that the server read.
    pub rate: f64,
    /// The bytes that it read.
    pub bytes: u64,
    /// The processor time of both ends, of what is between them, and of the kernel.
    pub cpu: Duration,
}

impl StreamRun {
    /// Returns the processor time for each gigabyte, in seconds.
    #[must_use]
    pub fn seconds_a_gigabyte(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e9 / self.bytes as f64
    }
}

/// The direction of the data on connections that the first end opens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// From the end that opens.
    Up,
    /// To the end that opens.
    Down,
}

/// Sends from the first namespace to a server at `port` in the second, for `time`. `to` is the address that the client connects to.
///
/// # Errors
/// The connection cannot be made, or makes no progress.
pub fn stream(
    ends: [&NetNs; 2],
    to: SocketAddr,
    port: u16,
    time: Duration,
    meter: &CpuMeter,
) -> Result<StreamRun, BenchError> {
    streams(ends, to, port, (Direction::Up, 1), time, meter)
}

/// Opens connections from the first namespace to a server at `port` in the second, and sends on all of them in this direction for
/// `time`. `to` is the address that the client connects to. The result is the sum of all connections.
///
/// # Errors
/// A connection cannot be made, or makes no progress.
pub fn streams(
    [client, server]: [&NetNs; 2],
    to: SocketAddr,
    port: u16,
    (direction, count): (Direction, usize),
    time: Duration,
    meter: &CpuMeter,
) -> Result<StreamRun, BenchError> {
    let listener = server.enter(|| {
        bind_when_free(&format!("listening at {port}"), || {
            TcpListener::bind(SocketAddr::from(([0, 0, 0, 0], port)))
        })
    })?;
    let io = |error| BenchError::io(format!("the stream to {to}"))(error);
    let mut pairs = Vec::new();
    for _ in 0..count {
        let opened = client
            .enter(|| TcpStream::connect_timeout(&to, STALL).map_err(LabError::io(format!("connecting to {to}"))))?;
        let (accepted, _) = listener.accept().map_err(io)?;
        let (sender, receiver) = match direction {
            Direction::Up => (opened, accepted),
            Direction::Down => (accepted, opened),
        };
        sender.set_write_timeout(Some(STALL)).map_err(io)?;
        receiver.set_read_timeout(Some(STALL)).map_err(io)?;
        pairs.push((sender, receiver));
    }
    let received = Arc::new(AtomicU64::new(0));
    let (result, measured) = thread::scope(|scope| {
        let until = Instant::now() + WARM_UP + time;
        let mut ends = Vec::new();
        for (mut sender, mut receiver) in pairs {
            let received = Arc::clone(&received);
            ends.push(scope.spawn(move || {
                let mut buffer = vec![0; CHUNK];
                loop {
                    match receiver.read(&mut buffer) {
                        Ok(0) => return Ok(()),
                        Ok(n) => received.fetch_add(n as u64, Ordering::Relaxed),
                        Err(error) => return Err(error),
                    };
                }
            }));
            ends.push(scope.spawn(move || write_until(&mut sender, until)));
        }
        thread::sleep(WARM_UP);
        let cpu_before = meter.read();
        let (before, began) = (received.load(Ordering::Relaxed), Instant::now());
        thread::sleep(until.saturating_duration_since(began));
        let (after, took) = (received.load(Ordering::Relaxed), began.elapsed());
        let cpu_after = meter.read();
        let done = ends.into_iter().map(|end| {
            end.join()
                .unwrap_or_else(|_| Err(std::io::Error::other("a thread of the stream died")))
        });
        let result: std::io::Result<()> = done.collect();
        let bytes = after - before;
        let rate = bytes as f64 * 8.0 / took.as_secs_f64();
        let cpu = cpu_before.and_then(|before| Ok(cpu_after?.saturating_sub(before)));
        (result, cpu.map(|cpu| StreamRun { rate, bytes, cpu }))
    });
    match result {
        Ok(()) => measured,
        Err(error) => Err(io(error)),
    }
}

fn write_until(stream: &mut TcpStream, until: Instant) -> std::io::Result<()> {
    let chunk = vec![0x5a; CHUNK];
    while Instant::now() < until {
        stream.write_all(&chunk)?;
    }
    Ok(())
}
