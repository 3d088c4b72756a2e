//! Real traffic between namespaces, bounded in count and time.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::socket::{Shutdown, shutdown};

use crate::{LabError, NetNs, run_with_input};

/// What became of an attempt to reach somebody.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProbeOutcome {
    /// It worked; the text is what the other side said.
    Answered(String),
    /// The other side (or heddle in its stead) answered with a reset or "port unreachable".
    Refused,
    /// A router answered that there is no way.
    Unreachable,
    /// Nobody answered in time.
    NoAnswer,
}

impl ProbeOutcome {
    /// Whether it worked.
    #[must_use]
    pub const fn is_answered(&self) -> bool {
        matches!(self, Self::Answered(_))
    }

    fn from_error(e: &io::Error) -> Option<Self> {
        match e.kind() {
            ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset => Some(Self::Refused),
            ErrorKind::TimedOut | ErrorKind::WouldBlock => Some(Self::NoAnswer),
            ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => Some(Self::Unreachable),
            _ => None,
        }
    }
}

/// Sends `count` echo requests, 50 ms apart; how many were answered.
///
/// # Errors
/// `ping` cannot run.
pub fn ping(from: &NetNs, to: IpAddr, count: u32) -> Result<u32, LabError> {
    let out = from.enter(|| {
        run_with_input(
            std::process::Command::new("ping")
                .args(["-n", "-q", "-i", "0.05", "-W", "1", "-c"])
                .arg(count.to_string())
                .arg(to.to_string()),
            "",
        )
    })?;
    let received = out.stdout.lines().find_map(|line| {
        let (before, _) = line.split_once(" received")?;
        before.rsplit([' ', ',']).next()?.parse().ok()
    });
    received.ok_or_else(|| LabError::Reply {
        what: format!("ping {to}"),
        detail: format!("{}{}", out.stdout, out.stderr),
    })
}

/// Connects by TCP, says `say` (if anything) and hears one line.
///
/// # Errors
/// Anything but an answer, a refusal or silence.
pub fn tcp_request(from: &NetNs, to: SocketAddr, say: &str, bound: Duration) -> Result<ProbeOutcome, LabError> {
    let say = say.to_owned();
    from.enter(move || {
        let attempt = || -> io::Result<String> {
            let mut stream = TcpStream::connect_timeout(&to, bound)?;
            stream.set_read_timeout(Some(bound))?;
            stream.set_write_timeout(Some(bound))?;
            stream.write_all(say.as_bytes())?;
            let mut heard = Vec::new();
            let mut byte = [0];
            while stream.read(&mut byte)? == 1 && byte[0] != b'\n' {
                heard.push(byte[0]);
            }
            Ok(String::from_utf8_lossy(&heard).into_owned())
        };
        match attempt() {
            Ok(heard) => Ok(ProbeOutcome::Answered(heard)),
            Err(e) => ProbeOutcome::from_error(&e).ok_or_else(|| LabError::io(format!("TCP to {to}"))(e)),
        }
    })
}

/// Sends one UDP datagram and hears one.
///
/// # Errors
/// Anything but an answer, a refusal or silence.
pub fn udp_request(from: &NetNs, to: SocketAddr, say: &[u8], bound: Duration) -> Result<ProbeOutcome, LabError> {
    let say = say.to_vec();
    from.enter(move || {
        let any: SocketAddr = if to.is_ipv4() {
            ([0, 0, 0, 0], 0).into()
        } else {
            ([0u16; 8], 0).into()
        };
        let attempt = || -> io::Result<String> {
            let socket = UdpSocket::bind(any)?;
            socket.set_read_timeout(Some(bound))?;
            socket.connect(to)?;
            socket.send(&say)?;
            let mut heard = vec![0; 65_536];
            let n = socket.recv(&mut heard)?;
            Ok(String::from_utf8_lossy(&heard[..n]).into_owned())
        };
        match attempt() {
            Ok(heard) => Ok(ProbeOutcome::Answered(heard)),
            Err(e) => ProbeOutcome::from_error(&e).ok_or_else(|| LabError::io(format!("UDP to {to}"))(e)),
        }
    })
}

/// How a [`TcpServer`] treats a connection.
#[derive(Debug, Clone)]
pub enum ServerBehavior {
    /// Says this line and closes.
    Greet(String),
    /// Sends back what it hears until the other side closes.
    Echo,
    /// Counts what it hears.
    Sink,
    /// Answers each HTTP/1.1 request with this text, on a connection that stays open.
    Http(String),
    /// Says a number line by line, one each time the other side's last line came back.
    SpeakFirst,
}

/// A TCP server in a namespace; it ends with its guard.
#[derive(Debug)]
pub struct TcpServer {
    listener: Arc<TcpListener>,
    stopping: Arc<AtomicBool>,
    heard: Arc<AtomicU64>,
    thread: Option<JoinHandle<Result<(), LabError>>>,
}

impl TcpServer {
    /// Listens at `port` on all addresses of both families.
    ///
    /// # Errors
    /// The port cannot be bound.
    pub fn start(ns: &NetNs, port: u16, manner: ServerBehavior) -> Result<Self, LabError> {
        let listener = ns.enter(move || {
            TcpListener::bind(SocketAddr::from(([0u16; 8], port)))
                .map_err(LabError::io(format!("listening at port {port}")))
        })?;
        let listener = Arc::new(listener);
        let stopping = Arc::new(AtomicBool::new(false));
        let heard = Arc::new(AtomicU64::new(0));
        let thread = std::thread::Builder::new()
            .name(format!("tcp server {port}"))
            .spawn({
                let (listener, stopping, heard) = (Arc::clone(&listener), Arc::clone(&stopping), Arc::clone(&heard));
                move || {
                    while let Ok((stream, _)) = listener.accept() {
                        if stopping.load(Ordering::Acquire) {
                            break;
                        }
                        let (manner, heard) = (manner.clone(), Arc::clone(&heard));
                        std::thread::Builder::new()
                            .name("tcp connection".to_owned())
                            .spawn(move || serve(stream, &manner, &heard))
                            .map_err(LabError::io("starting a thread"))?;
                    }
                    Ok(())
                }
            })
            .map_err(LabError::io("starting a thread"))?;
        Ok(Self {
            listener,
            stopping,
            heard,
            thread: Some(thread),
        })
    }

    /// Bytes heard so far on all connections.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.heard.load(Ordering::Acquire)
    }
}

impl Drop for TcpServer {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        // Wakes the thread out of accept(2) (EINVAL); the socket itself closes with its last owner.
        let _ = shutdown(self.listener.as_raw_fd(), Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(mut stream: TcpStream, manner: &ServerBehavior, heard: &AtomicU64) {
    let mut buffer = vec![0; 256 * 1024];
    match manner {
        ServerBehavior::Greet(line) => {
            let _ = stream.write_all(format!("{line}\n").as_bytes());
            let _ = stream.shutdown(std::net::Shutdown::Write);
            // Waits for the other side's end, so that its last bytes are not answered by a reset.
            while matches!(stream.read(&mut buffer), Ok(n) if n > 0) {}
        }
        ServerBehavior::Echo | ServerBehavior::Sink => {
            while let Ok(n) = stream.read(&mut buffer) {
                if n == 0 {
                    break;
                }
                heard.fetch_add(n as u64, Ordering::AcqRel);
                if matches!(manner, ServerBehavior::Echo) && stream.write_all(&buffer[..n]).is_err() {
                    break;
                }
            }
        }
        ServerBehavior::Http(text) => {
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len());
            let mut requests = BufReader::new(&stream).split(b'\n');
            // A request without a body ends with an empty line.
            while let Some(Ok(line)) = requests.next() {
                if line == b"\r" && (&stream).write_all(answer.as_bytes()).is_err() {
                    break;
                }
            }
        }
        ServerBehavior::SpeakFirst => {
            let mut number = 0u64;
            loop {
                let line = format!("{number}\n");
                if stream.write_all(line.as_bytes()).is_err() {
                    break;
                }
                let mut back = vec![0; line.len()];
                if stream.read_exact(&mut back).is_err() || back != line.as_bytes() {
                    break;
                }
                heard.fetch_add(line.len() as u64, Ordering::AcqRel);
                number += 1;
                // A pause between two words, not a wait for anything: the conversation is to outlast a restart.
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

/// A client that asks a [`ServerBehavior::Http`] server again and again on one connection.
#[derive(Debug)]
pub struct HttpClient(BufReader<TcpStream>);

impl HttpClient {
    /// Connects.
    ///
    /// # Errors
    /// The connection is not made within `bound`, which holds for every answer too.
    pub fn connect(from: &NetNs, to: SocketAddr, bound: Duration) -> Result<Self, LabError> {
        let stream = from.enter(move || {
            TcpStream::connect_timeout(&to, bound).map_err(LabError::io(format!("connecting to {to}")))
        })?;
        stream
            .set_read_timeout(Some(bound))
            .map_err(LabError::io("a read timeout"))?;
        stream.set_nodelay(true).map_err(LabError::io("TCP_NODELAY"))?;
        Ok(Self(BufReader::new(stream)))
    }

    /// Asks and hears the answer's text.
    ///
    /// # Errors
    /// The connection broke, or the answer is none.
    pub fn get(&mut self) -> Result<String, LabError> {
        let mut get = || -> io::Result<String> {
            self.0.get_ref().write_all(b"GET / HTTP/1.1\r\nHost: service\r\n\r\n")?;
            let (mut line, mut length) = (String::new(), None);
            while line != "\r\n" {
                line.clear();
                if self.0.read_line(&mut line)? == 0 {
                    return Err(ErrorKind::UnexpectedEof.into());
                }
                if let Some(value) = line.strip_prefix("Content-Length: ") {
                    length = value.trim().parse().ok();
                }
            }
            let mut text = vec![0; length.ok_or(ErrorKind::InvalidData)?];
            self.0.read_exact(&mut text)?;
            String::from_utf8(text).map_err(|_| ErrorKind::InvalidData.into())
        };
        get().map_err(LabError::io("an HTTP request"))
    }
}

/// A TCP connection on which both ends keep talking until told to stop; it counts the rounds.
#[derive(Debug)]
pub struct Conversation {
    rounds: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<(), LabError>>>,
}

/// Who says the next word in a [`Conversation`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaker {
    /// The client asks, an [`ServerBehavior::Echo`] server answers.
    Client,
    /// A [`ServerBehavior::SpeakFirst`] server asks, the client answers.
    Server,
}

impl Conversation {
    /// Connects from `from` to `to` and begins to talk.
    ///
    /// # Errors
    /// The connection is not made within 5 s.
    pub fn start(from: &NetNs, to: SocketAddr, speaker: Speaker) -> Result<Self, LabError> {
        let stream = from.enter(move || {
            TcpStream::connect_timeout(&to, Duration::from_secs(5)).map_err(LabError::io(format!("connecting to {to}")))
        })?;
        stream.set_nodelay(true).map_err(LabError::io("TCP_NODELAY"))?;
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .map_err(LabError::io("a read timeout"))?;
        let rounds = Arc::new(AtomicU64::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::Builder::new()
            .name(format!("conversation with {to}"))
            .spawn({
                let (rounds, stop) = (Arc::clone(&rounds), Arc::clone(&stop));
                move || {
                    talk(stream, speaker, &rounds, &stop).map_err(LabError::io(format!("the conversation with {to}")))
                }
            })
            .map_err(LabError::io("starting a thread"))?;
        Ok(Self {
            rounds,
            stop,
            thread: Some(thread),
        })
    }

    /// Rounds completed so far.
    #[must_use]
    pub fn rounds(&self) -> u64 {
        self.rounds.load(Ordering::Acquire)
    }

    /// Waits until `more` further rounds are completed, at most `bound`.
    ///
    /// # Errors
    /// They are not: the connection hangs or broke.
    pub fn wait_for_rounds(&self, more: u64, bound: Duration) -> Result<(), LabError> {
        let goal = self.rounds() + more;
        let start = Instant::now();
        while self.rounds() < goal {
            let ended = self.thread.as_ref().is_none_or(JoinHandle::is_finished);
            if ended || start.elapsed() > bound {
                return Err(LabError::Timeout {
                    what: format!("round {goal} of a TCP conversation"),
                    seconds: bound.as_secs(),
                    detail: format!(
                        "; it stands at {}, the connection {}",
                        self.rounds(),
                        if ended { "has ended" } else { "is open" }
                    ),
                });
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Ends it in good order.
    ///
    /// # Errors
    /// The connection had broken.
    pub fn finish(mut self) -> Result<u64, LabError> {
        self.stop.store(true, Ordering::Release);
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result?,
            Some(Err(panic)) => std::panic::resume_unwind(panic),
            None => {}
        }
        Ok(self.rounds())
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
    }
}

fn talk(mut stream: TcpStream, speaker: Speaker, rounds: &AtomicU64, stop: &AtomicBool) -> io::Result<()> {
    let mut number = 0u64;
    while !stop.load(Ordering::Acquire) {
        let line = format!("{number}\n");
        let mut heard = vec![0; line.len()];
        if speaker == Speaker::Client {
            stream.write_all(line.as_bytes())?;
        }
        stream.read_exact(&mut heard)?;
        if heard != line.as_bytes() {
            return Err(io::Error::other(format!(
                "expected {line:?}, heard {:?}",
                String::from_utf8_lossy(&heard)
            )));
        }
        if speaker == Speaker::Server {
            stream.write_all(line.as_bytes())?;
        } else {
            // A pause between two words, not a wait for anything: the conversation is to outlast a restart.
            std::thread::sleep(Duration::from_millis(10));
        }
        number += 1;
        rounds.store(number, Ordering::Release);
    }
    Ok(())
}

/// Sends `bytes` bytes over one TCP connection to a [`ServerBehavior::Echo`]- or [`ServerBehavior::Sink`]-like reader of its own in
/// `to_ns`; every byte is compared. Returns how long it took.
///
/// # Errors
/// The connection fails, or a byte arrives that was not sent.
pub fn bulk(from: &NetNs, to_ns: &NetNs, to: SocketAddr, listen_port: u16, bytes: u64) -> Result<Duration, LabError> {
    const CHUNK: usize = 64 * 1024;
    let pattern: Arc<Vec<u8>> = Arc::new((0..CHUNK).map(|i| (i * 31 + i / 251) as u8).collect());
    let bound = Duration::from_secs(60);
    let listener = to_ns.enter(move || {
        TcpListener::bind(SocketAddr::from(([0u16; 8], listen_port)))
            .map_err(LabError::io(format!("listening at port {listen_port}")))
    })?;
    let reader = std::thread::Builder::new()
        .name("bulk reader".to_owned())
        .spawn({
            let pattern = Arc::clone(&pattern);
            move || -> io::Result<u64> {
                let (mut stream, _) = listener.accept()?;
                stream.set_read_timeout(Some(bound))?;
                let mut buffer = vec![0; CHUNK];
                let mut got = 0u64;
                loop {
                    let n = stream.read(&mut buffer)?;
                    if n == 0 {
                        return Ok(got);
                    }
                    let at = (got % CHUNK as u64) as usize;
                    let first = n.min(CHUNK - at);
                    if buffer[..first] != pattern[at..at + first] || buffer[first..n] != pattern[..n - first] {
                        return Err(io::Error::other(format!(
                            "a byte among {got}..{} is not what was sent",
                            got + n as u64
                        )));
                    }
                    got += n as u64;
                }
            }
        })
        .map_err(LabError::io("starting a thread"))?;
    let start = Instant::now();
    let sent = from.enter(|| {
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(5))
            .map_err(LabError::io(format!("connecting to {to}")))?;
        stream
            .set_write_timeout(Some(bound))
            .map_err(LabError::io("a write timeout"))?;
        let mut left = bytes;
        while left > 0 {
            let n = left.min(CHUNK as u64) as usize;
            stream
                .write_all(&pattern[..n])
                .map_err(LabError::io(format!("sending to {to}")))?;
            left -= n as u64;
        }
        Ok(())
    });
    if sent.is_err() {
        // The reader may still sit in accept(2): it is left to end with the process, the failure is what counts.
        sent?;
    }
    let got = match reader.join() {
        Ok(result) => result.map_err(LabError::io("reading the bulk transfer"))?,
        Err(panic) => std::panic::resume_unwind(panic),
    };
    if got == bytes {
        return Ok(start.elapsed());
    }
    Err(LabError::Reply {
        what: format!("the bulk transfer to {to}"),
        detail: format!("{got} of {bytes} bytes arrived"),
    })
}
