//! The thread of a running agent that asks the questions of `heddle check` again, because a firewall or an administrator can
//! change the answers at any time.

use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::row::{Row, State};
use super::rows;

/// The interval of the questions. Each run starts `nft` three times.
const INTERVAL: Duration = Duration::from_secs(30);

/// The newest rows, which the read model shows in `heddle status`.
#[derive(Debug, Clone, Default)]
pub struct CheckRows(Arc<Mutex<Vec<Row>>>);

impl CheckRows {
    /// Returns the rows; none before the first run has ended.
    #[must_use]
    pub fn get(&self) -> Vec<Row> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the rows, and logs each that is not as it should be and was not logged before.
    fn set(&self, rows: &[Row]) {
        let before = std::mem::replace(
            &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner),
            rows.to_vec(),
        );
        for row in rows.iter().filter(|row| !before.contains(row)) {
            let Row {
                what,
                state,
                value,
                advice,
            } = row;
            if *state > State::Ok {
                tracing::warn!("{what}: {value}: {advice}");
            } else if before
                .iter()
                .any(|earlier| earlier.what == *what && earlier.state > State::Ok)
            {
                tracing::info!("{what}: {value} again");
            }
        }
    }
}

/// The running thread. Dropping it ends the thread, without waiting for a program that it runs.
#[derive(Debug)]
pub struct Watcher {
    _stop: Sender<()>,
}

impl Watcher {
    /// Starts the thread in the calling thread's network namespace. `cni_config_dir` is the directory in which the agent writes the
    /// network configuration.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(shown: CheckRows, cni_config_dir: Option<PathBuf>) -> io::Result<Self> {
        let (stop, stopped) = mpsc::channel();
        thread::Builder::new().name("checks".to_owned()).spawn(move || {
            loop {
                shown.set(&rows::of_others(cni_config_dir.as_deref()));
                if stopped.recv_timeout(INTERVAL) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
            }
        })?;
        Ok(Self { _stop: stop })
    }
}
