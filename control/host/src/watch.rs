//! The kernel's notifications, for the host task to wait on.
//!
//! A thread waits for them in poll(2): tokio has no safe wrapper for a socket of this kind.

use std::future::pending;
use std::os::fd::{AsFd, OwnedFd};
use std::thread;

use heddle_linux::{LinuxError, Monitor};
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::pipe2;
use tokio::sync::watch;

/// The number of notifications so far, by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counts {
    network: u64,
    rules: u64,
}

/// The receiving end of the kernel's notifications. Without sockets or a thread it never reports a change, and the periodic
/// comparison finds changes.
#[derive(Debug)]
pub(crate) struct Watch {
    counts: watch::Receiver<Counts>,
    seen: Counts,
    /// The write end of a pipe that nothing is written to: when it closes, the thread ends.
    _end: Option<OwnedFd>,
}

impl Watch {
    /// Watches links, addresses, routes, neighbors, interfaces' sysctls and the tables of nftables, in the namespace of the
    /// calling thread.
    pub(crate) fn start() -> Self {
        let (counts_in, counts) = watch::channel(Counts::default());
        let end = spawn(counts_in).inspect_err(|e| {
            tracing::warn!(
                "no notifications of the kernel: {e}; the periodic comparison alone finds changes by others"
            );
        });
        Self {
            counts,
            seen: Counts::default(),
            _end: end.ok(),
        }
    }

    /// Waits until something has changed. Returns `true` if it may have been a table of nftables.
    pub(crate) async fn changed(&mut self) -> bool {
        if self.counts.changed().await.is_err() {
            return pending().await;
        }
        let now = *self.counts.borrow_and_update();
        let rules = now.rules != self.seen.rules;
        self.seen = now;
        rules
    }
}

/// Starts the thread and returns the end of a pipe. The thread ends when the caller closes it.
fn spawn(counts: watch::Sender<Counts>) -> Result<OwnedFd, String> {
    let open = |monitor: Result<Monitor, LinuxError>| monitor.map_err(|e| e.to_string());
    let (network, rules) = (open(Monitor::network())?, open(Monitor::nftables())?);
    let (ended, end) = pipe2(OFlag::O_CLOEXEC).map_err(|e| e.to_string())?;
    let run = move || {
        loop {
            let watched = [network.as_fd(), rules.as_fd(), ended.as_fd()];
            let mut fds = watched.map(|fd| PollFd::new(fd, PollFlags::POLLIN));
            // An error other than a signal is not known to happen, and `drain` finds what there is in any case.
            let _ = poll(&mut fds, PollTimeout::NONE);
            if fds[2].any() == Some(true) {
                return;
            }
            let [network_changed, rules_changed] = [&network, &rules].map(|monitor| !monitor.drain().is_empty());
            if network_changed || rules_changed {
                counts.send_modify(|counts| {
                    counts.network += u64::from(network_changed);
                    counts.rules += u64::from(rules_changed);
                });
            }
        }
    };
    thread::Builder::new()
        .name("host-watch".to_owned())
        .spawn(run)
        .map(|_| end)
        .map_err(|e| e.to_string())
}
