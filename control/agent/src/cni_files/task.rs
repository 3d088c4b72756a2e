//! Installs the files when ADD can be served, and looks at them again afterwards.

use std::env;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use heddle_config::Settings;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_blocking};

use super::install::{InstallError, Plan};

/// The interval between two looks at the files.
const INTERVAL: Duration = Duration::from_secs(30);
/// The pause after a failed try.
const RETRY: Duration = Duration::from_secs(2);

/// The state of the files, for readers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FilesState {
    /// The files wait until ADD can be served.
    Waiting,
    /// The files are in place.
    Installed,
    /// A file cannot be installed.
    Failed(String),
}

/// The running task. Dropping it ends the task; the files stay.
#[derive(Debug)]
pub struct CniFiles {
    task: JoinHandle<()>,
    state: watch::Receiver<FilesState>,
}

impl CniFiles {
    /// Starts the task, if the configuration names a directory. `can_add` has the reason for which ADD cannot be served.
    ///
    /// # Errors
    /// The path of the agent's own binary, beside which the plugin is, cannot be found.
    pub fn start(
        runtime: &Handle,
        settings: &Settings,
        can_add: watch::Receiver<Result<(), String>>,
    ) -> io::Result<Option<Self>> {
        if settings.cni.config_dir.is_none() && settings.cni.bin_dir.is_none() {
            return Ok(None);
        }
        let plan = Plan {
            dirs: settings.cni.clone(),
            state_dir: settings.state_dir.clone(),
            run_dir: settings.run_dir.clone(),
            binary: env::current_exe()?.with_file_name("heddle-cni"),
            compared: None,
        };
        let (shown, state) = watch::channel(FilesState::Waiting);
        let task = runtime.spawn(keep_installed(plan, can_add, shown));
        Ok(Some(Self { task, state }))
    }

    /// Returns the state of the files, for readers.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<FilesState> {
        self.state.clone()
    }
}

impl Drop for CniFiles {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Waits until ADD can be served, installs the files, and then looks at them again for as long as the agent runs.
async fn keep_installed(
    mut plan: Plan,
    mut can_add: watch::Receiver<Result<(), String>>,
    shown: watch::Sender<FilesState>,
) {
    let mut was_installed = false;
    loop {
        // A node that cannot serve ADD for a while keeps its configuration, but no file is written meanwhile.
        if can_add.wait_for(Result::is_ok).await.is_err() {
            return;
        }
        let outcome;
        (plan, outcome) = match spawn_blocking(move || {
            let outcome = plan.install();
            (plan, outcome)
        })
        .await
        {
            Ok(done) => done,
            // The runtime ends.
            Err(_) => return,
        };
        let is_installed = outcome.is_ok();
        record(outcome, was_installed, &shown);
        was_installed |= is_installed;
        tokio::time::sleep(if is_installed { INTERVAL } else { RETRY }).await;
    }
}

/// Logs an outcome that is news, and shows it to readers.
fn record(outcome: Result<Vec<PathBuf>, InstallError>, was_installed: bool, shown: &watch::Sender<FilesState>) {
    let state = match outcome {
        Ok(written) => {
            for path in written {
                if was_installed {
                    tracing::warn!("repaired: {} was changed or removed: written again", path.display());
                } else {
                    tracing::info!("installed {}", path.display());
                }
            }
            FilesState::Installed
        }
        Err(e) => FilesState::Failed(e.to_string()),
    };
    if let FilesState::Failed(why) = &state
        && *shown.borrow() != state
    {
        tracing::error!("cannot install the CNI plugin: {why}");
    }
    shown.send_replace(state);
}
