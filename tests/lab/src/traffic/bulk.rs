//! Bulk transfers with a comparison of every byte.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::tcp_server::{interrupt_accept, listen};
use crate::{LabError, NetNs};

/// The length of the pattern, and the most bytes of one write or read.
const CHUNK: usize = 64 * 1024;
/// The longest that one write or read may block.
const STALL_BOUND: Duration = Duration::from_secs(60);

/// Sends `bytes` bytes over one TCP connection from `from` to a reader that listens at `listen_port` in `to_ns`, which compares
/// every byte. `to` is the address that the sender connects to. Returns the duration of the transfer.
///
/// # Errors
/// The connection fails, a byte that arrives is not the one that was sent, or bytes are missing.
pub fn bulk(from: &NetNs, to_ns: &NetNs, to: SocketAddr, listen_port: u16, bytes: u64) -> Result<Duration, LabError> {
    let pattern: Arc<[u8]> = (0..CHUNK).map(|i| (i * 31 + i / 251) as u8).collect();
    let listener = Arc::new(listen(to_ns, listen_port)?);
    let reader = thread::Builder::new()
        .name("bulk reader".to_owned())
        .spawn({
            let (listener, pattern) = (Arc::clone(&listener), Arc::clone(&pattern));
            move || compare(&listener, &pattern)
        })
        .map_err(LabError::io("starting a thread"))?;
    let start = Instant::now();
    let sent = from.enter(|| send(to, &pattern, bytes));
    if sent.is_err() {
        // Without a connection the reader would wait in accept(2) for ever.
        interrupt_accept(&listener);
    }
    let received = match reader.join() {
        Ok(result) => result.map_err(LabError::io("reading the bulk transfer")),
        Err(panic) => std::panic::resume_unwind(panic),
    };
    // Report the sender's failure first: it explains the reader's.
    sent?;
    let received = received?;
    if received == bytes {
        return Ok(start.elapsed());
    }
    Err(LabError::Reply {
        what: format!("the bulk transfer to {to}"),
        detail: format!("{received} of {bytes} bytes arrived"),
    })
}

fn send(to: SocketAddr, pattern: &[u8], bytes: u64) -> Result<(), LabError> {
    let mut stream =
        TcpStream::connect_timeout(&to, Duration::from_secs(5)).map_err(LabError::io(format!("connecting to {to}")))?;
    stream
        .set_write_timeout(Some(STALL_BOUND))
        .map_err(LabError::io("setting a write timeout"))?;
    let mut left = bytes;
    while left > 0 {
        let n = left.min(CHUNK as u64) as usize;
        stream
            .write_all(&pattern[..n])
            .map_err(LabError::io(format!("sending to {to}")))?;
        left -= n as u64;
    }
    Ok(())
}

/// Accepts one connection, compares what arrives with the repeated pattern and returns the number of bytes.
fn compare(listener: &TcpListener, pattern: &[u8]) -> io::Result<u64> {
    let (mut stream, _) = listener.accept()?;
    stream.set_read_timeout(Some(STALL_BOUND))?;
    let mut buffer = vec![0; CHUNK];
    let mut received = 0u64;
    loop {
        let n = stream.read(&mut buffer)?;
        if n == 0 {
            return Ok(received);
        }
        // A read may reach over the end of the pattern: its second part is compared with the pattern's beginning.
        let at = (received % CHUNK as u64) as usize;
        let first = n.min(CHUNK - at);
        if buffer[..first] != pattern[at..at + first] || buffer[first..n] != pattern[..n - first] {
            return Err(io::Error::other(format!(
                "a byte among {received}..{} is not the one that was sent",
                received + n as u64
            )));
        }
        received += n as u64;
    }
}
