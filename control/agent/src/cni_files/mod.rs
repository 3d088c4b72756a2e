//! The CNI plugin's files on the node: its binary, and the network configuration that makes the container runtime call it.
//!
//! The agent installs them when it can serve ADD and not before, because a runtime that finds a configuration takes the node's
//! network for ready. Afterwards they stay, also while no agent runs: then ADD fails with "try again later", and DEL works.
//! Every 30 seconds the agent looks at them again, and replaces a file that others have changed or removed.
//!
//! `install` writes the files, `record` remembers them for `heddle cleanup`, `foreign` finds configurations of others that the
//! runtime prefers, and `task` runs it all beside the control thread.

mod foreign;
mod install;
mod record;
mod task;

pub use foreign::before_ours;
pub use install::{CONFIG_FILE, InstallError};
pub use record::{FILE as RECORD_FILE, RecordError, recorded};
pub use task::{CniFiles, FilesState};
