//! Constant load: threads that send HTTP requests, each on a connection of its own, and count the ones that fail.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use heddle_lab::traffic::ProbeOutcome;
use heddle_lab::{LabError, NetNs, wait_until};

use crate::cluster::{fault, http_get};

/// The pause of a thread between two requests: eight threads send some hundred requests a second, and leave the machine its time.
const PAUSE: Duration = Duration::from_millis(20);
/// The failures that are kept for the report.
const KEPT_FAILURES: usize = 5;

/// Running load. Dropping it ends it after the current requests.
pub struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<Result<(), LabError>>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    answered: AtomicU64,
    failed: AtomicU64,
    failures: Mutex<Vec<String>>,
}

impl Load {
    /// Starts `threads` threads in each of the namespaces, which send `GET path` to each of the addresses in turn. A request without an
    /// answer after `bound` has failed.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub fn start(
        from: &[NetNs],
        to: &[SocketAddr],
        path: &str,
        threads: usize,
        bound: Duration,
    ) -> Result<Self, LabError> {
        let mut load = Self {
            shared: Arc::default(),
            threads: Vec::new(),
        };
        for ns in from {
            for offset in 0..threads {
                let (shared, to, path) = (Arc::clone(&load.shared), to.to_vec(), path.to_owned());
                let inside = ns.clone();
                let thread = ns.spawn(move || {
                    send_until_stopped(&inside, &to, offset, &path, bound, &shared);
                    Ok(())
                })?;
                load.threads.push(thread);
            }
        }
        Ok(load)
    }

    /// Waits until `more` further requests are answered.
    ///
    /// # Errors
    /// They are not within a minute.
    pub fn wait_for_answers(&self, more: u64) -> Result<(), LabError> {
        let goal = self.shared.answered.load(Ordering::Relaxed) + more;
        wait_until("requests of the load are answered", Duration::from_secs(60), || {
            Ok(self.shared.answered.load(Ordering::Relaxed) >= goal)
        })
    }

    /// Ends the load and returns the number of requests. `what` names the load in the error.
    ///
    /// # Errors
    /// A request failed.
    pub fn finish_without_failure(mut self, what: &str) -> Result<u64, LabError> {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        let answered = self.shared.answered.load(Ordering::Relaxed);
        let failed = self.shared.failed.load(Ordering::Relaxed);
        if failed == 0 && answered > 0 {
            return Ok(answered);
        }
        let failures = self.shared.failures.lock().unwrap_or_else(PoisonError::into_inner);
        Err(fault(
            what,
            format!(
                "{failed} of {} requests failed, first:\n{}",
                failed + answered,
                failures.join("\n")
            ),
        ))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

fn send_until_stopped(ns: &NetNs, to: &[SocketAddr], offset: usize, path: &str, bound: Duration, shared: &Shared) {
    let start = Instant::now();
    for to in to.iter().cycle().skip(offset) {
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
        let sent = start.elapsed();
        let failure = match http_get(ns, *to, path, bound) {
            Ok(ProbeOutcome::Answered(answer))
                if answer.starts_with("HTTP/1.0 200") || answer.starts_with("HTTP/1.1 200") =>
            {
                None
            }
            Ok(ProbeOutcome::Answered(answer)) => Some(format!("answered {answer:?}")),
            Ok(outcome) => Some(outcome.to_string()),
            Err(e) => Some(e.to_string()),
        };
        match failure {
            None => {
                shared.answered.fetch_add(1, Ordering::Relaxed);
            }
            Some(failure) => {
                shared.failed.fetch_add(1, Ordering::Relaxed);
                let mut failures = shared.failures.lock().unwrap_or_else(PoisonError::into_inner);
                if failures.len() < KEPT_FAILURES {
                    let (sent, now) = (sent.as_millis(), start.elapsed().as_millis());
                    failures.push(format!(
                        "{} to {to}, sent at {sent} ms, at {now} ms: {failure}",
                        ns.name()
                    ));
                }
            }
        }
        std::thread::sleep(PAUSE);
    }
}
