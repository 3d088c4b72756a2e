//! Bounded waits: for a state that only polling shows, and for the end of a process.

use std::io;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::LabError;

/// The pause between two looks at a state that has no event.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Polls `condition` until it holds, at most for `bound`. `what` names the condition in the error.
///
/// This is for states that no event announces, such as a counter in `heddle status`. Sockets, processes and
/// conversations have waits of their own.
///
/// # Errors
/// The condition does not hold in time, or evaluating it fails.
pub fn wait_until(
    what: &str,
    bound: Duration,
    mut condition: impl FnMut() -> Result<bool, LabError>,
) -> Result<(), LabError> {
    let start = Instant::now();
    while !condition()? {
        if start.elapsed() > bound {
            return Err(LabError::Timeout {
                what: what.to_owned(),
                seconds: bound.as_secs(),
                detail: String::new(),
            });
        }
        std::thread::sleep(POLL_INTERVAL);
    }
    Ok(())
}

/// The longest that a port may stay in use after its socket was closed.
const FREE_BOUND: Duration = Duration::from_secs(5);

/// Binds a socket to a fixed port, and waits while the port is in use.
///
/// A port that was just closed may still be in use: a child process that another thread is starting has a copy of every
/// descriptor until it executes its program.
///
/// # Errors
/// The port does not become free, or cannot be bound for another reason. `what` names the socket in the error.
pub fn bind_when_free<T>(what: &str, mut bind: impl FnMut() -> io::Result<T>) -> Result<T, LabError> {
    let start = Instant::now();
    loop {
        match bind() {
            Err(e) if e.kind() == io::ErrorKind::AddrInUse && start.elapsed() < FREE_BOUND => {
                std::thread::sleep(POLL_INTERVAL);
            }
            bound => return bound.map_err(LabError::io(what)),
        }
    }
}

/// Waits for the end of a child process, at most for `bound`; returns `None` if it still runs then.
///
/// # Errors
/// The kernel refuses a file descriptor for the process, or the wait.
pub fn wait_for_exit(child: &mut Child, bound: Duration) -> io::Result<Option<ExitStatus>> {
    let deadline = Instant::now() + bound;
    // A process that was waited for already has no pidfd any more.
    if let Some(status) = child.try_wait()? {
        return Ok(Some(status));
    }
    // A pidfd becomes readable when its process ends, so no polling interval delays the answer.
    let pidfd = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        let timeout = Timespec::try_from(left).map_err(|_| io::ErrorKind::InvalidInput)?;
        match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn a_port_is_bound_when_it_becomes_free() {
        let holder = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = holder.local_addr().unwrap();
        let mut holder = Some(holder);
        let mut attempts = 0;
        let bound = bind_when_free("a socket", || {
            attempts += 1;
            let bound = UdpSocket::bind(address);
            // Free for the next attempt.
            holder.take();
            bound
        });
        assert_eq!(bound.unwrap().local_addr().unwrap(), address);
        assert!(attempts >= 2);
        // Another error is not waited out.
        let refused = bind_when_free("a socket", || UdpSocket::bind("192.0.2.1:5200"));
        assert!(refused.is_err_and(|e| e.to_string().contains("a socket")));
    }
}
