//! `heddle cleanup`: removes everything that an agent created in this network namespace, and lists it.
//!
//! The state directory names the pods' interfaces; everything else (host port, anchors, nftables table, mounts, sockets) has
//! fixed names. The locks of both directories are held meanwhile, so no agent runs.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::attachments::{self, Store, StoreError};
use crate::lock::{DirLock, LOCK_FILE, LockError};
use crate::workers::flow_file::{self, FlowFileError};
use heddle_host::{HostError, links, netlink, reserved};

/// The things that were removed.
#[derive(Debug, Default, Serialize)]
pub struct Removed {
    /// One line for each.
    pub removed: Vec<String>,
}

/// A failure to remove something.
#[derive(Debug, thiserror::Error)]
pub enum CleanupError {
    /// An agent uses one of the directories.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The file of the attachments cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The kernel or `nft` refuses.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The flow table's mount cannot be removed.
    #[error(transparent)]
    FlowFile(#[from] FlowFileError),
    /// A file cannot be removed.
    #[error("cannot remove {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

/// Removes everything. The command `heddle cleanup` calls it.
///
/// # Errors
/// An agent uses one of the directories, or something cannot be removed. Things that were removed before stay removed.
pub async fn run(run_dir: &Path, state_dir: &Path) -> Result<Removed, CleanupError> {
    let mut removed = Vec::new();
    // Only existing directories are locked, because locking would create a missing one.
    let locks = [run_dir, state_dir]
        .into_iter()
        .filter(|dir| dir.is_dir())
        .map(|dir| DirLock::acquire(dir, "heddle cleanup"))
        .collect::<Result<Vec<_>, _>>()?;

    // The interfaces: pods first, then the anchors of the UMEM, then the host port with its table and sysctl.
    let handle = netlink::connect()?;
    for record in Store::open(state_dir)?.all() {
        let name = record.host_ifname.as_str();
        if links::is_veth_named(&handle, name)? && links::delete(&handle, name)? {
            removed.push(format!("interface {name} of {}", record.name()));
        }
    }
    for number in 0..ANCHORS {
        let name = format!("hdanchor{number}");
        if links::delete(&handle, &name)? {
            removed.push(format!("interface {name}"));
        }
    }
    removed.extend(heddle_host::remove(&handle, state_dir).await?);
    if flow_file::remove(run_dir)? {
        removed.push(format!(
            "the flow table under {}",
            run_dir.join(flow_file::DIR).display()
        ));
    }
    // The files.
    let mut files = vec![
        (run_dir.join(heddle_proto::CNI_SOCKET), true),
        (run_dir.join(heddle_proto::API_SOCKET), true),
        (state_dir.join(attachments::FILE), true),
        (state_dir.join(attachments::FILE).with_extension("json.new"), true),
        (state_dir.join(format!("{}.new", reserved::FILE)), true),
    ];
    // The lock files last: no agent may start before everything else is removed.
    files.extend([(run_dir.join(LOCK_FILE), false), (state_dir.join(LOCK_FILE), false)]);
    for (path, is_listed) in files {
        if remove_file(&path)? && is_listed {
            removed.push(format!("file {}", path.display()));
        }
    }
    drop(locks);
    for dir in [run_dir, state_dir] {
        // Succeeds only for an empty directory. Parent directories may be the administrator's and stay.
        if fs::remove_dir(dir).is_ok() {
            removed.push(format!("directory {}", dir.display()));
        }
    }
    Ok(Removed { removed })
}

/// The number of anchor names that heddle-io uses.
const ANCHORS: u32 = 16;

/// Removes a file, and returns `false` if there was none.
fn remove_file(path: &Path) -> Result<bool, CleanupError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(CleanupError::File {
            path: path.to_owned(),
            source,
        }),
    }
}
