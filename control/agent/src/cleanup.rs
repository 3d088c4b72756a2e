//! `heddle cleanup`: removes everything that an agent made in this network namespace, and says what it removed.
//!
//! What it finds is decided by the state directory (pods' interfaces) and by fixed names (host port, anchors, nftables
//! table, mounts, sockets). It holds both directories' locks meanwhile, so no agent runs.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::attachments::{Store, StoreError, store};
use crate::lock::{DirLock, LOCK_FILE, LockError};
use crate::workers::flow_file::{self, FlowFileError};
use heddle_host::{HostError, links, netlink, reserved};

/// What was removed.
#[derive(Debug, Default, Serialize)]
pub struct Removed {
    /// One line each.
    pub removed: Vec<String>,
}

/// Why something could not be removed.
#[derive(Debug, thiserror::Error)]
pub enum CleanupError {
    /// An agent runs there.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The state cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The kernel refuses.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The flow table's mount stays.
    #[error(transparent)]
    FlowFile(#[from] FlowFileError),
    /// A file stays.
    #[error("removing {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Removes everything.
///
/// # Errors
/// An agent runs there, or something cannot be removed; what was removed before stays removed.
pub async fn run(run_dir: &Path, state_dir: &Path) -> Result<Removed, CleanupError> {
    let mut removed = Vec::new();
    // Only directories that are there can hold anything; taking a lock would make them.
    let locks = [run_dir, state_dir]
        .into_iter()
        .filter(|dir| dir.is_dir())
        .map(|dir| DirLock::acquire(dir, "heddle cleanup"))
        .collect::<Result<Vec<_>, _>>()?;

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
    let mut files = vec![
        (run_dir.join(heddle_proto::CNI_SOCKET), true),
        (run_dir.join(heddle_proto::API_SOCKET), true),
        (state_dir.join(store::FILE), true),
        (state_dir.join(store::FILE).with_extension("json.new"), true),
        (state_dir.join(format!("{}.new", reserved::FILE)), true),
    ];
    // The locks go last: until then nobody else may come in.
    files.extend([(run_dir.join(LOCK_FILE), false), (state_dir.join(LOCK_FILE), false)]);
    for (path, told) in files {
        if remove_file(&path)? && told {
            removed.push(format!("file {}", path.display()));
        }
    }
    drop(locks);
    for dir in [run_dir, state_dir] {
        // Only where nothing of others is in it. Parents were the administrator's before.
        if fs::remove_dir(dir).is_ok() {
            removed.push(format!("directory {}", dir.display()));
        }
    }
    Ok(Removed { removed })
}

/// As many anchors as heddle-io looks for.
const ANCHORS: u32 = 16;

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
