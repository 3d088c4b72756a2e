//! The kernel's notifications, for the host task to wait on.
//!
//! A thread waits for them in poll(2): tokio has no safe wrapper for a socket of this kind.

use std::mem;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use heddle_linux::{Changes, LinuxError, Monitor};
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::pipe2;
use tokio::sync::Notify;

/// The changes that notifications have announced since the receiver last looked.
#[derive(Debug, Clone, Default)]
pub(crate) struct Announced {
    /// Links, addresses, routes, policy rules, neighbors and the sysctls of interfaces.
    pub(crate) network: Changes,
    /// `true` if it may have been a table of nftables.
    pub(crate) rules: bool,
}

/// The changes that one receiver has not seen yet. Their number is bounded: of each neighbor only the newest one is kept.
#[derive(Debug, Default)]
struct Mailbox {
    announced: Mutex<Announced>,
    arrived: Notify,
}

/// The receiving end of the kernel's notifications. Without sockets or a thread it never reports a change, and the periodic
/// comparison finds changes.
#[derive(Debug)]
pub(crate) struct Watch {
    mailbox: Arc<Mailbox>,
    /// The write end of a pipe that nothing is written to: when the last receiver closes it, the thread ends.
    _end: Option<Arc<OwnedFd>>,
}

impl Watch {
    /// Watches links, addresses, routes, policy rules, neighbors, interfaces' sysctls and the tables of nftables, in the namespace
    /// of the calling thread. Each of the two receivers gets every change.
    pub(crate) fn start() -> [Self; 2] {
        let mailboxes: [Arc<Mailbox>; 2] = Default::default();
        let end = spawn(mailboxes.clone()).inspect_err(|e| {
            tracing::warn!(
                "no notifications of the kernel: {e}; the periodic comparison alone finds changes by others"
            );
        });
        let end = end.ok().map(Arc::new);
        mailboxes.map(|mailbox| Self {
            mailbox,
            _end: end.clone(),
        })
    }

    /// Waits until something has changed, and returns the changes.
    pub(crate) async fn changed(&mut self) -> Announced {
        self.mailbox.arrived.notified().await;
        let mut announced = self.mailbox.announced.lock().unwrap_or_else(PoisonError::into_inner);
        mem::take(&mut announced)
    }
}

/// Starts the thread and returns the end of a pipe. The thread ends when the caller closes it.
fn spawn(mailboxes: [Arc<Mailbox>; 2]) -> Result<OwnedFd, String> {
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
            let (network_changes, rules_changed) = (network.drain(), !rules.drain().is_empty());
            if network_changes.is_empty() && !rules_changed {
                continue;
            }
            for mailbox in &mailboxes {
                let mut announced = mailbox.announced.lock().unwrap_or_else(PoisonError::into_inner);
                announced.network.merge(network_changes.clone());
                announced.rules |= rules_changed;
                drop(announced);
                mailbox.arrived.notify_one();
            }
        }
    };
    thread::Builder::new()
        .name("host-watch".to_owned())
        .spawn(run)
        .map(|_| end)
        .map_err(|e| e.to_string())
}
