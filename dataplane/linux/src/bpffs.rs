//! A BPF file system (bpffs), in which programs, maps and links are kept as files ("pins") after their process has ended.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, umount2};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use crate::error::LinuxError;

/// Mounts a bpffs at a directory that only root may enter, and creates the directory. Does nothing if a bpffs is there already.
///
/// The mount belongs to the mount namespace of the calling thread.
///
/// # Errors
/// The path is not a directory (a symbolic link is none), the directory contains files, which the mount would hide, or the
/// kernel refuses.
pub fn mount(directory: &Path) -> Result<(), LinuxError> {
    mount_at(directory).map_err(LinuxError::step(format!(
        "mounting a BPF file system at {}",
        directory.display()
    )))
}

fn mount_at(directory: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(directory) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    if !fs::symlink_metadata(directory)?.is_dir() {
        return Err(io::Error::new(
            io::ErrorKind::NotADirectory,
            "there is something else than a directory: remove it",
        ));
    }
    if is_bpffs(directory)? {
        return Ok(());
    }
    if fs::read_dir(directory)?.next().is_some() {
        return Err(io::Error::new(
            io::ErrorKind::DirectoryNotEmpty,
            "the directory contains files, which the mount would hide: remove them",
        ));
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    nix::mount::mount(Some("bpf"), directory, Some("bpf"), flags, Some("mode=0700"))?;
    Ok(())
}

/// Unmounts the bpffs at a directory. Its pins are gone afterwards, unless it is mounted elsewhere too. Returns false if no
/// bpffs is there.
///
/// # Errors
/// The kernel refuses.
pub fn unmount(directory: &Path) -> Result<bool, LinuxError> {
    let unmounted = match is_bpffs(directory) {
        Ok(true) => umount2(directory, MntFlags::empty())
            .map(|()| true)
            .map_err(io::Error::from),
        other => other,
    };
    unmounted.map_err(LinuxError::step(format!(
        "unmounting the BPF file system at {}",
        directory.display()
    )))
}

/// Returns true if the path is in a bpffs; false if it is elsewhere or does not exist.
///
/// # Errors
/// The kernel could not be asked.
pub fn is_bpffs(path: &Path) -> io::Result<bool> {
    match statfs(path) {
        Ok(found) => Ok(found.filesystem_type() == BPF_FS_MAGIC),
        Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
