//! The rate of one TCP stream between the pods.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use heddle_lab::{LabError, bind_when_free};

use crate::BenchError;
use crate::veth::Scene;

/// The bytes of one read or write.
const CHUNK: usize = 256 * 1024;
/// The time before the measurement, in which the TCP windows grow.
const WARM_UP: Duration = Duration::from_millis(300);
/// The longest time without progress.
const STALL: Duration = Duration::from_secs(5);

/// Sends from the client to the server's `port` for `time`, and returns the bits per second that the server read. `to` is the
/// address that the client connects to.
///
/// # Errors
/// The connection cannot be made, or makes no progress.
pub fn stream(scene: &Scene, to: SocketAddr, port: u16, time: Duration) -> Result<f64, BenchError> {
    let listener = scene.server().ns.enter(|| {
        bind_when_free(&format!("listening at {port}"), || {
            TcpListener::bind(SocketAddr::from(([0, 0, 0, 0], port)))
        })
    })?;
    let mut sender = scene
        .client()
        .ns
        .enter(|| TcpStream::connect_timeout(&to, STALL).map_err(LabError::io(format!("connecting to {to}"))))?;
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
    let (result, rate) = thread::scope(|scope| {
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
        let (before, began) = (received.load(Ordering::Relaxed), Instant::now());
        let written = written.and_then(|()| write_for(&mut sender, time));
        let (after, took) = (received.load(Ordering::Relaxed), began.elapsed());
        drop(sender);
        let read = reading
            .join()
            .unwrap_or_else(|_| Err(std::io::Error::other("the reader died")));
        (written.and(read), (after - before) as f64 * 8.0 / took.as_secs_f64())
    });
    match result {
        Ok(()) => Ok(rate),
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
