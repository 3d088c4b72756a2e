//! The error of the attachments' store.

use std::io;
use std::path::PathBuf;

use ipnet::IpNet;

/// A failure to read, change or write the attachments.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file or its directory cannot be read or written.
    #[error("cannot read or write {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The file is damaged or of another version.
    #[error(
        "{} cannot be read: {problem}. The file was not changed: restore it, or move it away to start without attachments \
         (then delete the pods of this node, so that they are created again)", path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The problem.
        problem: String,
    },
    /// The node has as many attachments as are allowed.
    #[error("{who}: this node has {max} attachments, the most that key maxPods allows: raise it, or delete pods")]
    TooMany {
        /// The pod or container of the request.
        who: String,
        /// The limit.
        max: u16,
    },
    /// A range has no free address.
    #[error(
        "{who}: every address of this node's pod range {range} is in use: give the node a larger range, or delete pods"
    )]
    Exhausted {
        /// The pod or container of the request.
        who: String,
        /// The range.
        range: IpNet,
    },
}
