//! The kernel's notifications, for the host task to wait on.
//!
//! A thread waits for them in poll(2): tokio has no safe wrapper for a socket of this kind.

use std::future::pending;
use std::os::fd::AsFd;
use std::thread;

use heddle_linux::{LinuxError, Monitor};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::sync::watch;

/// The longest time after the end of the task at which the thread ends.
const LOOK_UP_MILLIS: u16 = 1000;

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
}

impl Watch {
    /// Watches links, addresses, routes, neighbors, interfaces' sysctls and the tables of nftables, in the namespace of the
    /// calling thread.
    pub(crate) fn start() -> Self {
        let (counts_in, counts) = watch::channel(Counts::default());
        if let Err(e) = spawn(counts_in) {
            tracing::warn!(
                "no notifications of the kernel: {e}; the periodic comparison alone finds changes by others"
            );
        }
        Self {
            counts,
            seen: Counts::default(),
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

/// Starts the thread. It ends when the receiver is dropped.
fn spawn(counts: watch::Sender<Counts>) -> Result<(), String> {
    let open = |monitor: Result<Monitor, LinuxError>| monitor.map_err(|e| e.to_string());
    let (network, rules) = (open(Monitor::network())?, open(Monitor::nftables())?);
    let run = move || {
        while !counts.is_closed() {
            let mut fds = [&network, &rules].map(|monitor| PollFd::new(monitor.as_fd(), PollFlags::POLLIN));
            // An error other than a signal is not known to happen, and `drain` finds what there is in any case.
            let _ = poll(&mut fds, PollTimeout::from(LOOK_UP_MILLIS));
            let [network_changed, rules_changed] = [network.drain(), rules.drain()];
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
        .map(drop)
        .map_err(|e| e.to_string())
}
