//! The exclusive locks of the agent: one for its network namespace, one for each of its directories.
//!
//! `run` and `cleanup` take all of them. The namespace's lock comes first: everything that heddle has in the kernel (`heddle0`,
//! the pods' ports, the nftables table, the anchor) belongs to the namespace, whatever directories an agent was started with.
//! The directories' locks keep agents of different namespaces apart.
//!
//! The kernel holds a lock (flock(2)), so it ends with the process in any case. The file's text names the holder, for error
//! messages. Only root can hold one: the files have mode 0600, a file that another user may have open is replaced, and a
//! link is not followed. The namespace's files are in [`NETNS_LOCKS`], a directory for root alone, named after device and
//! inode of `/proc/self/ns/net`, which identify a namespace.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};
use nix::unistd::geteuid;

/// The lock file's name in the run and in the state directory.
pub const LOCK_FILE: &str = "agent.lock";
/// The directory of the namespaces' lock files. A container that runs an agent in the node's network namespace must have the
/// node's directory mounted there.
pub const NETNS_LOCKS: &str = "/run/heddle-netns";
/// How often a lock file is opened again, if it was replaced meanwhile by another process that took or released the lock.
const TRIES: u32 = 16;

/// The lock of a directory. Dropping it releases the lock; the file stays.
#[derive(Debug)]
pub struct DirLock {
    _file: Flock<File>,
}

/// The lock of the calling thread's network namespace. Dropping it removes the file and releases the lock.
#[derive(Debug)]
pub struct NetnsLock {
    _file: Flock<File>,
    path: PathBuf,
}

/// A lock that cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process holds the lock of a directory.
    #[error("{} is in use by {holder}: stop that process first, or use another directory", dir.display())]
    Held {
        /// The directory.
        dir: PathBuf,
        /// The holder, as the lock file names it.
        holder: String,
    },
    /// Another process holds the lock of this network namespace.
    #[error(
        "this network namespace is in use by {holder}: stop that process first; only one agent runs in a network namespace, \
         whatever its directories are"
    )]
    NetnsHeld {
        /// The holder, as the lock file names it.
        holder: String,
    },
    /// A directory or lock file cannot be created, opened or locked.
    #[error("cannot lock {}: {source}", path.display())]
    System {
        /// The file or directory.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

/// Makes the error of a failed step at a path.
fn system(path: &Path) -> impl FnOnce(io::Error) -> LockError {
    let path = path.to_owned();
    move |source| LockError::System { path, source }
}

impl DirLock {
    /// Creates the directory if it is missing, locks it, and writes `holder` with the process id into the lock file. `run` and
    /// `cleanup` call it.
    ///
    /// # Errors
    /// Another process holds the lock, or the system refuses.
    pub fn acquire(dir: &Path, holder: &str) -> Result<Self, LockError> {
        fs::create_dir_all(dir).map_err(system(dir))?;
        let held = |holder| LockError::Held {
            dir: dir.to_owned(),
            holder,
        };
        let file = lock(&dir.join(LOCK_FILE), holder)?.map_err(held)?;
        Ok(Self { _file: file })
    }
}

impl NetnsLock {
    /// Locks the calling thread's network namespace. `run` and `cleanup` call it before anything else.
    ///
    /// # Errors
    /// Another process holds the lock, or the system refuses.
    pub fn acquire(holder: &str) -> Result<Self, LockError> {
        Self::acquire_in(Path::new(NETNS_LOCKS), holder)
    }

    /// Locks the namespace by a file of this directory.
    fn acquire_in(dir: &Path, holder: &str) -> Result<Self, LockError> {
        make_private(dir).map_err(system(dir))?;
        let namespace = Path::new("/proc/thread-self/ns/net");
        let found = fs::metadata(namespace).map_err(system(namespace))?;
        let path = dir.join(format!("{}-{}.lock", found.dev(), found.ino()));
        let file = lock(&path, holder)?.map_err(|holder| LockError::NetnsHeld { holder })?;
        Ok(Self { _file: file, path })
    }
}

impl Drop for NetnsLock {
    fn drop(&mut self) {
        // Removed while it is locked; a process that has the removed file open opens the path again. A file that stays
        // behind is locked by the next one.
        let _ = fs::remove_file(&self.path);
    }
}

/// Creates a directory that only the caller's user may use. An existing one must be the user's and loses the others' rights.
fn make_private(dir: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    let found = fs::symlink_metadata(dir)?;
    if !found.is_dir() || found.uid() != geteuid().as_raw() {
        return Err(io::Error::other("it is no directory of this user: remove it"));
    }
    if found.mode() & 0o077 != 0 {
        fs::set_permissions(dir, Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// Returns `true` if no other user can have the file open.
fn is_private(found: &Metadata) -> bool {
    found.is_file() && found.uid() == geteuid().as_raw() && found.mode() & 0o077 == 0
}

/// Creates a lock file if it is missing, locks it and writes the holder into it. Returns the holder's text if another process
/// holds the lock.
fn lock(path: &Path, holder: &str) -> Result<Result<Flock<File>, String>, LockError> {
    for _ in 0..TRIES {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(OFlag::O_NOFOLLOW.bits())
            .open(path)
            .map_err(system(path))?;
        // A file that others may open is of an earlier version. Any user may hold a lock on it, so a new one replaces it.
        if !is_private(&file.metadata().map_err(system(path))?) {
            remove_if_present(path).map_err(system(path))?;
            continue;
        }
        let mut locked = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(locked) => locked,
            Err((mut file, Errno::EWOULDBLOCK)) => return Ok(Err(read_holder(&mut file))),
            Err((_, Errno::EINTR)) => continue,
            Err((_, e)) => return Err(system(path)(e.into())),
        };
        // The file may have been removed between opening and locking it. Then the lock protects nothing.
        if !is_at(&locked, path).map_err(system(path))? {
            continue;
        }
        let text = format!("{holder} (pid {})\n", std::process::id());
        if let Err(e) = locked.set_len(0).and_then(|()| locked.write_all(text.as_bytes())) {
            // The text only informs, for example while the disk is full.
            tracing::warn!("cannot write the holder's name into {}: {e}", path.display());
        }
        return Ok(Ok(locked));
    }
    Err(system(path)(io::Error::other("it is replaced again and again")))
}

/// Returns `true` if the open file is the one at the path.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let open = file.metadata()?;
    match fs::symlink_metadata(path) {
        Ok(there) => Ok((open.dev(), open.ino()) == (there.dev(), there.ino())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

/// Removes a file; a file that is gone is no error.
fn remove_if_present(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Returns the holder that a lock file names.
fn read_holder(file: &mut File) -> String {
    let mut holder = String::new();
    // The text only informs.
    let _ = file.read_to_string(&mut holder);
    match holder.trim() {
        "" => "another process".to_owned(),
        holder => holder.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn the_error_of_a_second_lock_names_the_holder() {
        let dir = tempfile::tempdir().unwrap();
        let below = dir.path().join("a/b");
        let first = DirLock::acquire(&below, "the agent of node-1").unwrap();
        let error = DirLock::acquire(&below, "the agent of node-2").unwrap_err().to_string();
        assert!(
            error.contains("the agent of node-1 (pid ") && error.contains("a/b"),
            "{error}"
        );
        drop(first);
        DirLock::acquire(&below, "the agent of node-2").unwrap();
        let text = fs::read_to_string(below.join(LOCK_FILE)).unwrap();
        assert_eq!(text, format!("the agent of node-2 (pid {})\n", std::process::id()));
    }

    #[test]
    fn a_namespace_is_locked_once_and_the_file_goes_with_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let locks = dir.path().join("locks");
        let first = NetnsLock::acquire_in(&locks, "the agent of node-1").unwrap();
        let error = NetnsLock::acquire_in(&locks, "heddle cleanup").unwrap_err().to_string();
        let pid = format!("the agent of node-1 (pid {})", std::process::id());
        assert!(error.contains(&pid), "{error}");
        assert_eq!(fs::metadata(&locks).unwrap().mode() & 0o777, 0o700);
        assert_eq!(fs::metadata(&first.path).unwrap().mode() & 0o777, 0o600);
        drop(first);
        assert_eq!(fs::read_dir(&locks).unwrap().count(), 0);
        NetnsLock::acquire_in(&locks, "heddle cleanup").unwrap();
    }

    #[test]
    fn a_file_that_others_may_open_is_replaced_although_it_is_locked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(LOCK_FILE);
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        let foreign = Flock::lock(File::open(&path).unwrap(), FlockArg::LockExclusiveNonblock).unwrap();
        let ours = DirLock::acquire(dir.path(), "the agent").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert!(DirLock::acquire(dir.path(), "another").is_err());
        drop((ours, foreign));
    }

    #[test]
    fn the_rights_of_others_on_the_directory_are_removed_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let locks = dir.path().join("locks");
        fs::create_dir(&locks).unwrap();
        fs::set_permissions(&locks, Permissions::from_mode(0o777)).unwrap();
        drop(NetnsLock::acquire_in(&locks, "the agent").unwrap());
        assert_eq!(fs::metadata(&locks).unwrap().mode() & 0o777, 0o700);
        let (link, target) = (dir.path().join("link"), dir.path().join("target"));
        symlink(&locks, &link).unwrap();
        NetnsLock::acquire_in(&link, "the agent").unwrap_err();
        symlink(&target, dir.path().join(LOCK_FILE)).unwrap();
        DirLock::acquire(dir.path(), "the agent").unwrap_err();
        assert!(!target.exists());
    }
}
