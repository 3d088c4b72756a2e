//! Traffic between namespaces: pings, requests, TCP servers, long-lived connections, bulk transfers. Every attempt is
//! bounded in count and time.

mod bulk;
mod conversation;
mod http;
mod tcp_server;

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

pub use bulk::bulk;
pub use conversation::{Conversation, Speaker};
pub use http::HttpClient;
pub use tcp_server::{ServerBehavior, TcpServer};

use crate::udp::any_address;
use crate::{LabError, NetNs, run_with_input};

/// The outcome of an attempt to reach an address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProbeOutcome {
    /// The peer answered with this text.
    Answered(String),
    /// The peer, or heddle in its place, answered with a reset or "port unreachable".
    Refused,
    /// A router answered that the host or network is unreachable.
    Unreachable,
    /// No answer came in time.
    NoAnswer,
}

impl ProbeOutcome {
    /// Returns true if the peer answered.
    #[must_use]
    pub const fn is_answered(&self) -> bool {
        matches!(self, Self::Answered(_))
    }

    /// Returns the outcome that an error of a socket stands for, if it is one.
    fn from_error(e: &io::Error) -> Option<Self> {
        match e.kind() {
            ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset => Some(Self::Refused),
            ErrorKind::TimedOut | ErrorKind::WouldBlock => Some(Self::NoAnswer),
            ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => Some(Self::Unreachable),
            _ => None,
        }
    }
}

impl fmt::Display for ProbeOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answered(text) => write!(f, "{text} answered"),
            Self::Refused => f.write_str("refused at once"),
            Self::Unreachable => f.write_str("unreachable"),
            Self::NoAnswer => f.write_str("no answer"),
        }
    }
}

/// Sends `count` echo requests, 50 ms apart, and returns the number of answers.
///
/// # Errors
/// `ping` cannot run.
pub fn ping(from: &NetNs, to: IpAddr, count: u32) -> Result<u32, LabError> {
    let out = from.enter(|| {
        run_with_input(
            Command::new("ping")
                .args(["-n", "-q", "-i", "0.05", "-W", "1", "-c"])
                .arg(count.to_string())
                .arg(to.to_string()),
            "",
        )
    })?;
    // "5 packets transmitted, 5 received, 0% packet loss"
    let received = out.stdout.lines().find_map(|line| {
        let (before, _) = line.split_once(" received")?;
        before.rsplit([' ', ',']).next()?.parse().ok()
    });
    received.ok_or_else(|| LabError::Reply {
        what: format!("ping {to}"),
        detail: format!("{}{}", out.stdout, out.stderr),
    })
}

/// Connects by TCP, sends `request` (which may be empty) and reads one line.
///
/// # Errors
/// The attempt fails for a reason that no [`ProbeOutcome`] stands for.
pub fn tcp_request(from: &NetNs, to: SocketAddr, request: &str, bound: Duration) -> Result<ProbeOutcome, LabError> {
    exchange(from, to, request, bound, |stream| {
        let mut line = Vec::new();
        let mut byte = [0];
        while stream.read(&mut byte)? == 1 && byte[0] != b'\n' {
            line.push(byte[0]);
        }
        Ok(line)
    })
}

/// Connects by TCP, sends `request` and reads until the peer closes the connection.
///
/// # Errors
/// The attempt fails for a reason that no [`ProbeOutcome`] stands for.
pub fn tcp_exchange(from: &NetNs, to: SocketAddr, request: &str, bound: Duration) -> Result<ProbeOutcome, LabError> {
    exchange(from, to, request, bound, |stream| {
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(answer)
    })
}

/// Connects by TCP, sends `request` and returns what `read` reads.
fn exchange(
    from: &NetNs,
    to: SocketAddr,
    request: &str,
    bound: Duration,
    read: impl FnOnce(&mut TcpStream) -> io::Result<Vec<u8>> + Send,
) -> Result<ProbeOutcome, LabError> {
    let request = request.to_owned();
    from.enter(move || {
        let attempt = || -> io::Result<String> {
            let mut stream = TcpStream::connect_timeout(&to, bound)?;
            stream.set_read_timeout(Some(bound))?;
            stream.set_write_timeout(Some(bound))?;
            stream.write_all(request.as_bytes())?;
            Ok(String::from_utf8_lossy(&read(&mut stream)?).into_owned())
        };
        match attempt() {
            Ok(answer) => Ok(ProbeOutcome::Answered(answer)),
            Err(e) => ProbeOutcome::from_error(&e).ok_or_else(|| LabError::io(format!("TCP to {to}"))(e)),
        }
    })
}

/// Sends one UDP datagram and waits for one.
///
/// # Errors
/// The attempt fails for a reason that no [`ProbeOutcome`] stands for.
pub fn udp_request(from: &NetNs, to: SocketAddr, request: &[u8], bound: Duration) -> Result<ProbeOutcome, LabError> {
    let request = request.to_vec();
    from.enter(move || {
        let attempt = || -> io::Result<String> {
            let socket = UdpSocket::bind(any_address(to))?;
            socket.set_read_timeout(Some(bound))?;
            socket.connect(to)?;
            socket.send(&request)?;
            let mut answer = vec![0; 65_536];
            let n = socket.recv(&mut answer)?;
            Ok(String::from_utf8_lossy(&answer[..n]).into_owned())
        };
        match attempt() {
            Ok(answer) => Ok(ProbeOutcome::Answered(answer)),
            Err(e) => ProbeOutcome::from_error(&e).ok_or_else(|| LabError::io(format!("UDP to {to}"))(e)),
        }
    })
}
