//! Listening unix sockets, in place of the sockets that an earlier agent may have left behind.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;

/// The file of a listening socket; dropping this removes the file.
#[derive(Debug)]
pub(super) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // A failure does no harm: the next start of the agent replaces the file.
        let _ = fs::remove_file(&self.0);
    }
}

/// Listens at `path`, for root only. The caller holds the run directory's lock, so an existing socket belongs to an
/// agent that has ended, and is replaced.
///
/// # Errors
/// A file that is no socket exists at the path, or a system call fails.
pub(super) fn listen(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => fs::remove_file(path)?,
        Ok(_) => return Err(io::Error::other("there is a file that is no socket: remove it")),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok((listener, SocketFile(path.to_owned())))
}
