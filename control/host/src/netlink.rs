//! A netlink connection of this network namespace.

use std::io;

use rtnetlink::{Handle, new_connection};

use crate::error::HostError;

/// Connects to the kernel; the connection lives as a task of the current runtime until the handle goes.
///
/// # Errors
/// The socket cannot be opened.
pub fn connect() -> Result<Handle, HostError> {
    let (connection, handle, _) = new_connection().map_err(|source| HostError::Netlink {
        what: "opening a netlink socket".into(),
        source,
    })?;
    tokio::spawn(connection);
    Ok(handle)
}

/// The system's error in what rtnetlink says.
#[must_use]
pub fn io_error(error: &rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => io::Error::from_raw_os_error(message.raw_code().wrapping_neg()),
        other => io::Error::other(other.to_string()),
    }
}

/// Names the request that failed.
pub(crate) fn failed(what: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> HostError {
    let what = what.into();
    move |error| HostError::Netlink {
        what,
        source: io_error(&error),
    }
}

/// Whether the kernel answered with this error number.
pub(crate) fn is_errno(error: &rtnetlink::Error, errno: nix::errno::Errno) -> bool {
    io_error(error).raw_os_error() == Some(errno as i32)
}
