//! `heddle cleanup`: removes everything that an agent created in this network namespace, and lists it.
//!
//! The state directory names the pods' interfaces; everything else (host port, anchors, nftables table, mounts, sockets) has
//! fixed names. The locks of the network namespace and of both directories are held meanwhile, so no agent runs here, whatever
//! directories it was started with.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::api_endpoints;
use crate::attachments::{self, Store, StoreError};
use crate::cni_files::{self, RecordError};
use crate::kept;
use crate::lock::{DirLock, LOCK_FILE, LockError, NetnsLock};
use crate::saved_cluster;
use crate::workers::flow_file::{self, FlowFileError};
use crate::workers::uplink::PINS;
use heddle_host::{HostError, links, netlink, reserved, state_file};
use heddle_io::uplink::{self, Uplink};

/// The things that were removed.
#[derive(Debug, Default, Serialize)]
pub struct Removed {
    /// One line for each.
    pub removed: Vec<String>,
}

/// A failure to remove something.
#[derive(Debug, thiserror::Error)]
pub enum CleanupError {
    /// An agent uses this network namespace or one of the directories.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The file of the attachments cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The record of the CNI plugin's files cannot be read.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The kernel or `nft` refuses.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The flow table's mount cannot be removed.
    #[error(transparent)]
    FlowFile(#[from] FlowFileError),
    /// The uplink's program cannot be detached, or its pins cannot be removed.
    #[error("cannot remove the uplink's program or its pins at {}: {source}", path.display())]
    Uplink {
        /// The directory of the pins.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A directory cannot be looked at.
    #[error("cannot look at {}: {source}", path.display())]
    Look {
        /// The directory.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
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
/// An agent uses this namespace or one of the directories, or something cannot be removed. Things that were removed before stay removed.
pub async fn run(run_dir: &Path, state_dir: &Path) -> Result<Removed, CleanupError> {
    let mut removed = Vec::new();
    // The namespace first: an agent with other directories may run in it. Of the directories only existing ones are locked,
    // because locking would create a missing one.
    let namespace = NetnsLock::acquire(HOLDER)?;
    let mut locks = Vec::new();
    for dir in [run_dir, state_dir] {
        if exists(dir)? {
            locks.push(DirLock::acquire(dir, HOLDER)?);
        }
    }

    // The CNI plugin's files first: without its configuration the container runtime starts no further pod here.
    for path in cni_files::recorded(state_dir)? {
        if remove_file(&path)? {
            removed.push(format!("file {}", path.display()));
        }
    }

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
    removed.extend(remove_uplink(run_dir)?);
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
        (state_file::draft(&state_dir.join(attachments::FILE)), true),
        (state_file::draft(&state_dir.join(reserved::FILE)), true),
    ];
    for name in [
        kept::FILE,
        saved_cluster::FILE,
        api_endpoints::FILE,
        cni_files::RECORD_FILE,
    ] {
        let path = state_dir.join(name);
        files.extend([(state_file::draft(&path), true), (path, true)]);
    }
    // The lock files last: no agent may start before everything else is removed.
    files.extend([(run_dir.join(LOCK_FILE), false), (state_dir.join(LOCK_FILE), false)]);
    for (path, is_listed) in files {
        if remove_file(&path)? && is_listed {
            removed.push(format!("file {}", path.display()));
        }
    }
    drop((locks, namespace));
    for dir in [run_dir, state_dir] {
        // Succeeds only for an empty directory. Parent directories may be the administrator's and stay.
        if fs::remove_dir(dir).is_ok() {
            removed.push(format!("directory {}", dir.display()));
        }
    }
    Ok(Removed { removed })
}

/// The name of this command in the lock files.
const HOLDER: &str = "heddle cleanup";
/// The number of anchor names. This version uses the first; earlier versions used the others, too.
const ANCHORS: u32 = 16;

/// Returns `false` if there is nothing at a path. A path that cannot be looked at is an error.
fn exists(path: &Path) -> Result<bool, CleanupError> {
    path.try_exists().map_err(|source| CleanupError::Look {
        path: path.to_owned(),
        source,
    })
}

/// Detaches the uplink's program, and removes its pins with their file system.
fn remove_uplink(run_dir: &Path) -> Result<Vec<String>, CleanupError> {
    let pins = run_dir.join(PINS);
    let failed = |source| CleanupError::Uplink {
        path: pins.clone(),
        source,
    };
    let mut removed = Vec::new();
    if Uplink::detach_pinned(&pins).map_err(failed)? {
        removed.push("the XDP program on the uplink".to_owned());
    }
    if uplink::remove_pins(&pins).map_err(failed)? {
        removed.push(format!("the pins of the uplink at {}", pins.display()));
    }
    Ok(removed)
}

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
