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
