//! The in-memory file system of the flow table's file. The agent mounts it under its run directory, so that the table
//! outlives the process but not a reboot.
//!
//! It is a hugetlbfs if enough pages of 2 MiB are reserved and free. Otherwise it is a tmpfs for which the kernel
//! assembles such pages from free memory as far as it can (`huge=within_size`,
//! `Documentation/admin-guide/mm/transhuge.rst`). An existing mount was made by an earlier agent and stays, with the
//! table in it. The mount is in the mount namespace in which the agent was started, so the next agent finds it.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use heddle_config::HugePages;

/// The name of the mount point in the run directory.
pub const DIR: &str = "flow";
/// The name of the table's file in the mount.
pub const FILE: &str = "table";
/// The bytes of a huge page.
pub const HUGE_PAGE: u64 = 2 << 20;

/// The kind of memory that the table is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Medium {
    /// Reserved pages of 2 MiB.
    HugePages,
    /// Ordinary memory, in pages of 2 MiB where the kernel finds free ones.
    Transparent,
    /// Ordinary memory in small pages.
    Tmpfs,
}

impl fmt::Display for Medium {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::HugePages => "reserved pages of 2 MiB",
            Self::Transparent => "ordinary memory, in pages of 2 MiB as far as the kernel finds free ones",
            Self::Tmpfs => "ordinary memory in small pages",
        })
    }
}

/// The file system cannot be mounted or removed.
#[derive(Debug, thiserror::Error)]
pub enum FlowFileError {
    /// A system call failed.
    #[error("cannot {step} {}: {source}", path.display())]
    System {
        /// The step, for the message.
        step: &'static str,
        /// The directory or file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// Huge pages are required and there are not enough.
    #[error(
        "hugePages: require, but only {free} pages of 2 MiB are free and the flow table needs {needed}: reserve more \
         (vm.nr_hugepages) or lower connections"
    )]
    NoHugePages {
        /// The free pages.
        free: u64,
        /// The pages that the table needs.
        needed: u64,
    },
}

/// Makes the error of a failed step at a path.
fn failed(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FlowFileError {
    let path = path.to_owned();
    move |source| FlowFileError::System { step, path, source }
}

/// Mounts the file system for a table of about `bytes`, unless it is mounted already. Returns the path of the table's file
/// and the kind of memory.
///
/// # Errors
/// The file system cannot be mounted, or huge pages are required and not available.
pub fn prepare(run_dir: &Path, huge: HugePages, bytes: u64) -> Result<(PathBuf, Medium), FlowFileError> {
    let dir = run_dir.join(DIR);
    fs::create_dir_all(&dir).map_err(failed("create", &dir))?;
    if let Some(medium) = mounted(&dir)? {
        return Ok((dir.join(FILE), medium));
    }
    let needed = bytes.div_ceil(HUGE_PAGE);
    let free = free_huge_pages();
    let wanted = match huge {
        HugePages::Never => Medium::Tmpfs,
        HugePages::Auto if free < needed => Medium::Transparent,
        HugePages::Require if free < needed => return Err(FlowFileError::NoHugePages { free, needed }),
        HugePages::Auto | HugePages::Require => Medium::HugePages,
    };
    let medium = match mount_as(wanted, &dir) {
        Ok(()) => wanted,
        // A kernel without transparent huge pages does not know the option.
        Err(Errno::EINVAL) if wanted == Medium::Transparent => {
            mount_as(Medium::Tmpfs, &dir).map_err(|e| failed("mount", &dir)(e.into()))?;
            Medium::Tmpfs
        }
        Err(e) => return Err(failed("mount", &dir)(e.into())),
    };
    Ok((dir.join(FILE), medium))
}

/// Mounts the file system for a kind of memory.
fn mount_as(medium: Medium, dir: &Path) -> nix::Result<()> {
    // size=0 removes the default limit of half the memory: the only file has a fixed size, which was checked before.
    let (kind, options) = match medium {
        Medium::HugePages => ("hugetlbfs", "mode=0700,pagesize=2M"),
        Medium::Transparent => ("tmpfs", "mode=0700,size=0,nr_inodes=16,huge=within_size"),
        Medium::Tmpfs => ("tmpfs", "mode=0700,size=0,nr_inodes=16"),
    };
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("heddle"), dir, Some(kind), flags, Some(options))
}

/// Returns `true` if the kernel allows transparent huge pages for a tmpfs.
pub fn allows_transparent() -> bool {
    fs::read_to_string("/sys/kernel/mm/transparent_hugepage/shmem_enabled").is_ok_and(|text| !text.contains("[deny]"))
}

/// Returns the command that sets `vm.nr_hugepages` so that a table finds its pages: the reserved pages plus the missing ones.
pub fn reservation(needed: u64, reserved: u64, free: u64) -> String {
    format!("sysctl vm.nr_hugepages={}", reserved + needed.saturating_sub(free))
}

/// Removes the mount with the table in it, and returns `true` if there was one. `cleanup` calls it.
///
/// # Errors
/// The file system cannot be unmounted, or its directory cannot be removed.
pub fn remove(run_dir: &Path) -> Result<bool, FlowFileError> {
    let dir = run_dir.join(DIR);
    let mut was_mounted = false;
    while mounted(&dir)?.is_some() {
        umount2(&dir, MntFlags::UMOUNT_NOFOLLOW).map_err(|e| failed("unmount", &dir)(e.into()))?;
        was_mounted = true;
    }
    match fs::remove_dir(&dir) {
        Ok(()) => Ok(was_mounted),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(was_mounted),
        Err(e) => Err(failed("remove", &dir)(e)),
    }
}

/// Returns the kind of memory of the file system at a directory; `None` if none of heddle's kinds is mounted there.
fn mounted(dir: &Path) -> Result<Option<Medium>, FlowFileError> {
    let table = Path::new("/proc/self/mountinfo");
    let text = fs::read_to_string(table).map_err(failed("read", table))?;
    // A directory that cannot be looked at may well have the table: mounting over it would lose every connection.
    let dir = match dir.canonicalize() {
        Ok(dir) => dir,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed("look at", dir)(e)),
    };
    Ok(text.lines().rev().find_map(|line| medium_at(line, &dir)))
}

/// Returns the kind of memory if a line of mountinfo describes a mount at a directory (proc_pid_mountinfo(5)). The mount point
/// is the fifth field, the type follows ` - `, and the file system's options are last.
fn medium_at(line: &str, dir: &Path) -> Option<Medium> {
    let point = line.split(' ').nth(4)?;
    if unescaped(point) != dir.as_os_str().as_encoded_bytes() {
        return None;
    }
    let mut fields = line.split(" - ").nth(1)?.split(' ');
    match fields.next()? {
        "hugetlbfs" => Some(Medium::HugePages),
        "tmpfs" if fields.next_back().is_some_and(|options| options.contains("huge=")) => Some(Medium::Transparent),
        "tmpfs" => Some(Medium::Tmpfs),
        _ => None,
    }
}

/// Decodes a path of mountinfo, in which space, tab, newline and backslash are a backslash and three octal digits.
fn unescaped(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&first, after)) = rest.split_first() {
        let code = (first == b'\\')
            .then(|| after.get(..3).and_then(|digits| std::str::from_utf8(digits).ok()))
            .flatten()
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(byte) => {
                out.push(byte);
                rest = &after[3..];
            }
            None => {
                out.push(first);
                rest = after;
            }
        }
    }
    out
}

/// Returns the number of free huge pages.
fn free_huge_pages() -> u64 {
    huge_pages("free_hugepages")
}

/// Returns a count of pages of 2 MiB by the name of its file in `/sys/kernel/mm/hugepages`; 0 if the kernel has no such pages.
pub fn huge_pages(which: &str) -> u64 {
    let dir = Path::new("/sys/kernel/mm/hugepages/hugepages-2048kB");
    fs::read_to_string(dir.join(which))
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_mountinfo() {
        let line = r"36 35 98:0 / /run/a\040b/flow rw,nosuid shared:1 - tmpfs heddle rw,size=0k";
        assert_eq!(medium_at(line, Path::new("/run/a b/flow")), Some(Medium::Tmpfs));
        assert_eq!(medium_at(line, Path::new("/run/a b")), None);
        assert_eq!(
            medium_at(&line.replace("tmpfs", "hugetlbfs"), Path::new("/run/a b/flow")),
            Some(Medium::HugePages)
        );
        assert_eq!(
            medium_at(&line.replace("tmpfs", "ext4"), Path::new("/run/a b/flow")),
            None
        );
        assert_eq!(
            medium_at(&format!("{line},huge=within_size"), Path::new("/run/a b/flow")),
            Some(Medium::Transparent)
        );
        assert_eq!(medium_at("", Path::new("/run")), None);
        assert_eq!(unescaped(r"\134\"), br"\\"[..].to_vec());
    }

    /// Needs root, as the agent does.
    #[test]
    fn without_reserved_pages_the_table_uses_transparent_ones() {
        let dir = tempfile::tempdir().unwrap();
        let (file, medium) = prepare(dir.path(), HugePages::Auto, u64::MAX).unwrap();
        let expected = if allows_transparent() {
            Medium::Transparent
        } else {
            medium
        };
        assert_eq!(medium, expected);
        assert_ne!(medium, Medium::HugePages);
        assert_eq!(
            prepare(dir.path(), HugePages::Auto, 1).unwrap(),
            (file, medium),
            "found again"
        );
        assert!(remove(dir.path()).unwrap());
    }

    /// Needs root, as the agent does.
    #[test]
    fn mounted_once_found_again_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let (file, medium) = prepare(dir.path(), HugePages::Never, 1 << 20).unwrap();
        fs::write(&file, "kept").unwrap();
        assert_eq!(prepare(dir.path(), HugePages::Auto, 1).unwrap(), (file.clone(), medium));
        assert_eq!(fs::read_to_string(&file).unwrap(), "kept");
        assert!(remove(dir.path()).unwrap());
        assert!(!remove(dir.path()).unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        let error = prepare(dir.path(), HugePages::Require, u64::MAX)
            .unwrap_err()
            .to_string();
        assert!(error.contains("hugePages: require"), "{error}");
        assert!(!remove(dir.path()).unwrap());
    }
}
