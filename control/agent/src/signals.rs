//! SIGTERM and SIGINT, from the first instant of the process until its end.
//!
//! The kernel drops signals to process 1 of a container that have no handler, so handlers must be there before anything else. Until
//! the controller runs, a signal ends the process as it would without handlers: whatever the start has made by then, the next start
//! takes over. Afterwards a signal is a message to the controller.

use std::io;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crossbeam::channel::{self, Receiver};
use nix::sys::signal::Signal;
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};

/// The handlers of SIGTERM and SIGINT. They stay for as long as the process lives.
#[derive(Debug)]
pub struct Signals {
    stop: Receiver<()>,
    has_receiver: Arc<AtomicBool>,
}

impl Signals {
    /// Installs the handlers, and starts the thread that acts on them.
    ///
    /// # Errors
    /// The handlers cannot be installed, or the thread cannot be started.
    pub fn handle() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let (mut terminate, mut interrupt) = {
            let _context = runtime.enter();
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?)
        };
        let (sender, stop) = channel::bounded(1);
        let has_receiver = Arc::new(AtomicBool::new(false));
        let is_received = Arc::clone(&has_receiver);
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            runtime.block_on(async {
                let signal = tokio::select! {
                    _ = terminate.recv() => Signal::SIGTERM,
                    _ = interrupt.recv() => Signal::SIGINT,
                };
                if !is_received.load(Ordering::Acquire) {
                    // The status of a process that a signal has ended, as shells and container runtimes write it.
                    process::exit(128 + signal as i32);
                }
                tracing::info!("received {signal}: the agent stops");
                // The controller may have ended before.
                let _ = sender.send(());
                // Keeps the sender, because the controller takes a closed channel for a message.
                std::future::pending::<()>().await;
            });
        })?;
        Ok(Self { stop, has_receiver })
    }

    /// Returns the channel that receives a message at a signal. From now on a signal does not end the process.
    pub(crate) fn into_stop(self) -> Receiver<()> {
        self.has_receiver.store(true, Ordering::Release);
        self.stop
    }
}
