//! Long-lived TCP connections with traffic in both directions.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::tcp_server::ROUND_PAUSE;
use crate::{LabError, NetNs};

/// The side that sends first in each round of a [`Conversation`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaker {
    /// The client; an [`super::ServerBehavior::Echo`] server answers.
    Client,
    /// A [`super::ServerBehavior::SpeakFirst`] server; the client answers.
    Server,
}

/// A TCP connection on which both ends exchange lines until it is finished. It counts the rounds.
#[derive(Debug)]
pub struct Conversation {
    progress: Arc<Progress>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<(), LabError>>>,
}

/// The completed rounds, and a signal for each one.
#[derive(Debug, Default)]
struct Progress {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    rounds: u64,
    ended: bool,
}

impl Progress {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn update(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }
}

impl Conversation {
    /// Connects from `from` to `to` and starts the exchange.
    ///
    /// # Errors
    /// The connection is not made within 5 s.
    pub fn start(from: &NetNs, to: SocketAddr, speaker: Speaker) -> Result<Self, LabError> {
        let stream = from.enter(move || {
            TcpStream::connect_timeout(&to, Duration::from_secs(5)).map_err(LabError::io(format!("connecting to {to}")))
        })?;
        stream.set_nodelay(true).map_err(LabError::io("setting TCP_NODELAY"))?;
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .map_err(LabError::io("setting a read timeout"))?;
        let progress = Arc::new(Progress::default());
        let stop = Arc::new(AtomicBool::new(false));
        let thread = thread::Builder::new()
            .name(format!("conversation with {to}"))
            .spawn({
                let (progress, stop) = (Arc::clone(&progress), Arc::clone(&stop));
                move || {
                    let result = exchange(stream, speaker, &progress, &stop);
                    progress.update(|state| state.ended = true);
                    result.map_err(LabError::io(format!("the conversation with {to}")))
                }
            })
            .map_err(LabError::io("starting a thread"))?;
        Ok(Self {
            progress,
            stop,
            thread: Some(thread),
        })
    }

    /// Returns the number of rounds completed so far.
    #[must_use]
    pub fn rounds(&self) -> u64 {
        self.progress.lock().rounds
    }

    /// Waits until `more` further rounds are completed, at most for `bound`.
    ///
    /// # Errors
    /// The connection broke, or it makes no such progress in time.
    pub fn wait_for_rounds(&self, more: u64, bound: Duration) -> Result<(), LabError> {
        let state = self.progress.lock();
        let goal = state.rounds + more;
        let waited = self
            .progress
            .changed
            .wait_timeout_while(state, bound, |state| state.rounds < goal && !state.ended);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if state.rounds >= goal {
            return Ok(());
        }
        Err(LabError::Timeout {
            what: format!("round {goal} of a TCP conversation"),
            seconds: bound.as_secs(),
            detail: format!(
                "; {} rounds are completed, the connection {}",
                state.rounds,
                if state.ended { "has ended" } else { "is open" }
            ),
        })
    }

    /// Closes the connection after the current round and returns the number of rounds.
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

/// Exchanges lines until `stop`; the line of each round is its number, so a lost or repeated line is an error.
fn exchange(mut stream: TcpStream, speaker: Speaker, progress: &Progress, stop: &AtomicBool) -> io::Result<()> {
    let mut number = 0u64;
    while !stop.load(Ordering::Acquire) {
        let line = format!("{number}\n");
        let mut received = vec![0; line.len()];
        if speaker == Speaker::Client {
            stream.write_all(line.as_bytes())?;
        }
        stream.read_exact(&mut received)?;
        if received != line.as_bytes() {
            return Err(io::Error::other(format!(
                "expected {line:?}, received {:?}",
                String::from_utf8_lossy(&received)
            )));
        }
        if speaker == Speaker::Server {
            stream.write_all(line.as_bytes())?;
        } else {
            thread::sleep(ROUND_PAUSE);
        }
        number += 1;
        progress.update(|state| state.rounds = number);
    }
    Ok(())
}
