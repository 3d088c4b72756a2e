//! The files of the link and the maps in a bpffs directory. They outlive the process.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use heddle_linux::bpffs;

use super::object::NAMES;
use super::syscall::{self, LinkInfo, Map};
use crate::error::XdpError;

/// The name of the link's file.
const LINK: &str = "link";

/// A directory of a bpffs.
#[derive(Clone, Debug)]
pub(super) struct Pins(PathBuf);

/// A pinned link to an XDP program.
#[derive(Debug)]
pub(super) struct PinnedLink {
    pub(super) fd: OwnedFd,
    pub(super) info: LinkInfo,
}

impl Pins {
    /// Checks that the directory is in a bpffs.
    pub(super) fn new(directory: &Path) -> Result<Self, XdpError> {
        match bpffs::is_bpffs(directory) {
            Ok(true) => Ok(Self(directory.to_owned())),
            Ok(false) => Err(XdpError::NoBpffs {
                path: directory.display().to_string(),
            }),
            Err(error) => Err(XdpError::kernel(format!("look at {}", directory.display()), error)),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Opens the link. `None` if there is none, or something else has its name.
    pub(super) fn link(&self) -> io::Result<Option<PinnedLink>> {
        let Some(fd) = syscall::open_pin(&self.path(LINK))? else {
            return Ok(None);
        };
        Ok(syscall::link_info(fd.as_fd())?.map(|info| PinnedLink { fd, info }))
    }

    /// Opens a map. `None` if there is none.
    pub(super) fn map(&self, name: &str) -> io::Result<Option<Map>> {
        syscall::open_pin(&self.path(name))?.map(Map::new).transpose()
    }

    /// Pins the link in place of an earlier one.
    pub(super) fn put_link(&self, link: BorrowedFd<'_>) -> io::Result<()> {
        self.put(link, LINK)
    }

    /// Pins an object in place of an earlier one of that name. There is no moment at which neither is pinned.
    pub(super) fn put(&self, object: BorrowedFd<'_>, name: &str) -> io::Result<()> {
        // A bpffs refuses names with dots.
        let new = self.path(&format!("{name}-new"));
        remove(&new)?;
        syscall::pin(object, &new)?;
        fs::rename(&new, self.path(name))
    }
}

/// Removes a file. Returns false if there is none.
fn remove(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Detaches the pinned link, and removes it and the maps. Returns false if nothing was there. Other files stay.
pub(super) fn detach(directory: &Path) -> io::Result<bool> {
    if !bpffs::is_bpffs(directory)? {
        return Ok(false);
    }
    let pins = Pins(directory.to_owned());
    if let Some(link) = pins.link()? {
        syscall::detach_link(link.fd.as_fd())?;
    }
    let mut found = false;
    for name in [LINK].into_iter().chain(NAMES) {
        found |= remove(&pins.path(name))?;
        found |= remove(&pins.path(&format!("{name}-new")))?;
    }
    Ok(found)
}
