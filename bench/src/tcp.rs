//! The rate of one TCP stream between two namespaces, and its processor time.

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

/// Sends from the first namespace to a server at `port` in the second, for `time`. `to` is the address that the client connects to.
///
/// # Errors
/// The connection cannot be made, or makes no progress.
pub fn stream(
    [client, server]: [&NetNs; 2],
    to: SocketAddr,
    port: u16,
    time: Duration,
    meter: &CpuMeter,
) -> Result<StreamRun, BenchError> {
    let listener = server.enter(|| {
        bind_when_free(&format!("listening at {port}"), || {
            TcpListener::bind(SocketAddr::from(([0, 0, 0, 0], port)))
        })
    })?;
    let mut sender =
        client.enter(|| TcpStream::connect_timeout(&to, STALL).map_err(LabError::io(format!("connecting to {to}"))))?;
    let io = BenchError::io(format!("the stream to {to}"));
    let (mut receiver, _) = match listener.accept() {
        Ok(accepted) => accepted,
        Err(error) => return Err(io(error)),
    };
    let limits = [
        sender.set_write_timeout(Some(STALL)),
        receiver.set_read_timeout(Some(STALL)),
    ];
    if let Some(error) = limits.into_iter().find_map(Result::err) {
        return Err(io(error));
    }
    let received = Arc::new(AtomicU64::new(0));
    let (result, measured) = thread::scope(|scope| {
        let reading = scope.spawn(|| {
            let mut buffer = vec![0; CHUNK];
            loop {
                match receiver.read(&mut buffer) {
                    Ok(0) => return Ok(()),
                    Ok(n) => received.fetch_add(n as u64, Ordering::Relaxed),
                    Err(error) => return Err(error),
                };
            }
        });
        let written = write_for(&mut sender, WARM_UP);
        let cpu_before = meter.read();
        let (before, began) = (received.load(Ordering::Relaxed), Instant::now());
        let written = written.and_then(|()| write_for(&mut sender, time));
        let (after, took) = (received.load(Ordering::Relaxed), began.elapsed());
        let cpu_after = meter.read();
        drop(sender);
        let read = reading
            .join()
            .unwrap_or_else(|_| Err(std::io::Error::other("the reader died")));
        let bytes = after - before;
        let rate = bytes as f64 * 8.0 / took.as_secs_f64();
        let cpu = cpu_before.and_then(|before| Ok(cpu_after?.saturating_sub(before)));
        (written.and(read), cpu.map(|cpu| StreamRun { rate, bytes, cpu }))
    });
    match result {
        Ok(()) => measured,
        Err(error) => Err(io(error)),
    }
}

fn write_for(stream: &mut TcpStream, time: Duration) -> std::io::Result<()> {
    let chunk = vec![0x5a; CHUNK];
    let began = Instant::now();
    while began.elapsed() < time {
        stream.write_all(&chunk)?;
    }
    Ok(())
}
