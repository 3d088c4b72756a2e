//! The table's file: makes one, and checks that an existing one can be taken over.
//!
//! | line | word | contents |
//! |------|------|----------|
//! | 0    | 0    | magic, written last |
//! | 0    | 1    | layout version |
//! | 0    | 2    | capacity; upper half: sets of affinities |
//! | 0    | 3    | epoch |
//! | 0    | 4    | when the table was made |
//! | 0    | 5, 6 | boot id of the machine |
//! | 0    | 7    | 1 while a takeover rebuilds the index |
//! | 1    | all  | the key of the hash: the file is for root alone |
//!
//! The further header lines are the free lists and the cursor of expiry.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use heddle_ids::Epoch;
use memmap2::MmapOptions;
use rustix::fs::{FallocateFlags, FlockOperation, OFlags, fallocate, flock};
use rustix::io::Errno;
use thiserror::Error;

use crate::config::Config;
use crate::hash::Seed;
use crate::layout::{FILE_UNIT, Geometry, LAYOUT_VERSION, header};
use crate::mmap::{Mapping, Memory};
use crate::sync::Ordering;
use crate::table::FlowTable;
use crate::types::Millis;

const MAGIC: u64 = u64::from_le_bytes(*b"heddleFT");

const MAGIC_WORD: usize = 0;
const LAYOUT: usize = 1;
const CAPACITY: usize = 2;
const EPOCH: usize = 3;
const FRESH_SINCE: usize = 4;
const BOOT: usize = 5;
pub(crate) const REBUILDING: usize = 7;

/// The boot of the machine, in which the times of a table are valid.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct BootId(pub u128);

impl BootId {
    /// The kernel's file with the boot id (`Documentation/admin-guide/sysctl/kernel.rst`, `random`).
    const PATH: &str = "/proc/sys/kernel/random/boot_id";

    /// Reads the id of this boot.
    ///
    /// # Errors
    /// The file cannot be read or contains no UUID.
    pub fn current() -> io::Result<Self> {
        let text = std::fs::read_to_string(Self::PATH)?;
        let digits: String = text.trim().chars().filter(|c| *c != '-').collect();
        u128::from_str_radix(&digits, 16).map(Self).map_err(|e| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{}: {text:?} is no UUID: {e}", Self::PATH),
            )
        })
    }
}

impl fmt::Debug for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// The reason for which a table could not be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The file cannot be made or opened.
    #[error("flow table {}: cannot open it: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// The kernel's error.
        source: io::Error,
    },
    /// Another process uses the file.
    #[error("flow table {}: another process has it locked; end the agent that uses this run directory first", path.display())]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// There is not enough memory for the file.
    #[error("flow table {}: no room for {bytes} bytes: {source}; lower its capacity or enlarge the file system", path.display())]
    NoRoom {
        /// The file.
        path: PathBuf,
        /// The size of the table's file.
        bytes: usize,
        /// The kernel's error.
        source: io::Error,
    },
    /// The file cannot be mapped.
    #[error("flow table {}: cannot map {bytes} bytes: {source}", path.display())]
    Map {
        /// The file.
        path: PathBuf,
        /// The size of the table's file.
        bytes: usize,
        /// The kernel's error.
        source: io::Error,
    },
}

/// The reason for which a table starts empty.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum Fresh {
    /// There was no file.
    #[error("there was no table")]
    NoFile,
    /// The file is no flow table, or was never completed.
    #[error("the file was no complete table")]
    Damaged,
    /// Another version of heddle wrote it.
    #[error("the table's layout is version {found}, this one is {LAYOUT_VERSION}")]
    Layout {
        /// Its layout version.
        found: u64,
    },
    /// The table has other sizes than configured.
    #[error("the table's capacity was {found}, the configuration says otherwise")]
    Capacity {
        /// Its capacity.
        found: u64,
    },
    /// The machine has booted since. The times are not valid any more, and the connections have ended.
    #[error("the table is from before this boot")]
    Boot,
}

/// The result of opening a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Takeover {
    /// The reason for which the table starts empty; `None` if it was taken over.
    pub fresh: Option<Fresh>,
    /// The time at which this table was made, from which the time for adoption counts.
    pub fresh_since: Millis,
    /// The epoch of this start.
    pub epoch: Epoch,
    /// Connections that were taken over.
    pub entries_kept: u32,
    /// Connections that were removed because the dead process was writing them.
    pub discarded_torn: u32,
    /// Connections that were removed because one direction was missing in the index.
    pub discarded_orphans: u32,
}

impl FlowTable {
    /// Opens the table in the file at `path`, or makes it. The file stays locked until the table is dropped.
    ///
    /// An existing table is taken over. Its connections keep their translation but are stale, because their epoch is old.
    /// Half-written connections are removed. `now` is the time by the clock of all times of this table, and
    /// `boot` is the boot in which that clock runs.
    ///
    /// # Errors
    /// [`OpenError`] with the path. A file that is no table of this layout is replaced, which is no error.
    pub fn open(path: &Path, config: &Config, boot: BootId, now: Millis) -> Result<(Self, Takeover), OpenError> {
        let io = |source| OpenError::Open {
            path: path.to_owned(),
            source,
        };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(OFlags::NOFOLLOW.bits() as i32)
            .open(path)
            .map_err(io)?;
        // The lock comes before any read, because another agent may still write.
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(OpenError::Locked { path: path.to_owned() }),
            Err(e) => return Err(io(e.into())),
        }
        // Is the file a table that can be taken over?
        let geometry = config.geometry();
        let bytes = geometry.file_bytes();
        let found = file.metadata().map_err(io)?.len();
        let fresh = if found == 0 {
            Some(Fresh::NoFile)
        } else {
            examine(&file, path, found, bytes, &geometry, boot)?
        };
        if fresh.is_some() {
            // To length 0 first, so that the old contents are gone.
            file.set_len(0).and_then(|()| file.set_len(bytes as u64)).map_err(io)?;
            reserve(&file, path, bytes)?;
        }
        // Map the file, and repair it or write its header. The table keeps the lock.
        let memory = map(&file, path, bytes, config.huge_pages)?;
        let opened = match fresh {
            Some(reason) => Self::make(memory, geometry, config, boot, now, reason),
            None => Self::take_over(memory, geometry, config),
        };
        let (mut table, takeover) = opened;
        table.keep_locked(file);
        Ok((table, takeover))
    }

    fn make(
        memory: Memory,
        geometry: Geometry,
        config: &Config,
        boot: BootId,
        now: Millis,
        reason: Fresh,
    ) -> (Self, Takeover) {
        let seed = config.seed.map_or_else(Seed::random, Seed::from_words);
        let epoch = Epoch::FIRST;
        let table = Self::over(memory, geometry, seed, epoch, config);
        for (word, key) in table.line(header::SEED).0.iter().zip(seed.0) {
            word.store(key, Ordering::Relaxed);
        }
        let fixed = &table.line(header::FIXED).0;
        fixed[LAYOUT].store(LAYOUT_VERSION, Ordering::Relaxed);
        fixed[CAPACITY].store(sizes(&geometry), Ordering::Relaxed);
        fixed[EPOCH].store(u64::from(epoch.0), Ordering::Relaxed);
        fixed[FRESH_SINCE].store(now.0, Ordering::Relaxed);
        fixed[BOOT].store(boot.0 as u64, Ordering::Relaxed);
        fixed[BOOT + 1].store((boot.0 >> 64) as u64, Ordering::Relaxed);
        fixed[MAGIC_WORD].store(MAGIC, Ordering::Release);
        let takeover = Takeover {
            fresh: Some(reason),
            fresh_since: now,
            epoch,
            entries_kept: 0,
            discarded_torn: 0,
            discarded_orphans: 0,
        };
        (table, takeover)
    }

    fn take_over(memory: Memory, geometry: Geometry, config: &Config) -> (Self, Takeover) {
        let lines = memory.lines();
        let fixed = &lines[header::FIXED].0;
        let epoch = Epoch(fixed[EPOCH].load(Ordering::Relaxed) as u32).next();
        fixed[EPOCH].store(u64::from(epoch.0), Ordering::Relaxed);
        let fresh_since = Millis(fixed[FRESH_SINCE].load(Ordering::Relaxed));
        let seed = Seed(std::array::from_fn(|n| {
            lines[header::SEED].0[n].load(Ordering::Relaxed)
        }));
        let table = Self::over(memory, geometry, seed, epoch, config);
        let repaired = table.repair();
        table.affinities().repair();
        let takeover = Takeover {
            fresh: None,
            fresh_since,
            epoch,
            entries_kept: repaired.kept,
            discarded_torn: repaired.torn,
            discarded_orphans: repaired.orphans,
        };
        (table, takeover)
    }
}

/// Returns the configured sizes in one word.
fn sizes(geometry: &Geometry) -> u64 {
    u64::from(geometry.capacity) | u64::from(geometry.affinity_sets) << 32
}

/// Returns the reason for which a file cannot be taken over, or `None` if it can.
fn examine(
    file: &File,
    path: &Path,
    found: u64,
    bytes: usize,
    geometry: &Geometry,
    boot: BootId,
) -> Result<Option<Fresh>, OpenError> {
    if found < FILE_UNIT as u64 {
        return Ok(Some(Fresh::Damaged));
    }
    let head = map(file, path, FILE_UNIT, false)?;
    let word = |n: usize| head.lines()[header::FIXED].0[n].load(Ordering::Acquire);
    Ok(if word(MAGIC_WORD) != MAGIC {
        Some(Fresh::Damaged)
    } else if word(LAYOUT) != LAYOUT_VERSION {
        Some(Fresh::Layout { found: word(LAYOUT) })
    } else if u128::from(word(BOOT)) | u128::from(word(BOOT + 1)) << 64 != boot.0 {
        Some(Fresh::Boot)
    } else if word(CAPACITY) != sizes(geometry) {
        let found = u64::from(word(CAPACITY) as u32);
        Some(Fresh::Capacity { found })
    } else if found != bytes as u64 {
        Some(Fresh::Damaged)
    } else {
        None
    })
}

/// Allocates the file's memory in the file system now. If it ran out later, a worker would be killed by SIGBUS.
fn reserve(file: &File, path: &Path, bytes: usize) -> Result<(), OpenError> {
    match fallocate(file, FallocateFlags::empty(), 0, bytes as u64) {
        Ok(()) | Err(Errno::OPNOTSUPP) => Ok(()),
        Err(e) => {
            // Best effort: an empty file is no table.
            let _ = file.set_len(0);
            Err(OpenError::NoRoom {
                path: path.to_owned(),
                bytes,
                source: e.into(),
            })
        }
    }
}

fn map(file: &File, path: &Path, bytes: usize, huge: bool) -> Result<Memory, OpenError> {
    let failed = |source| OpenError::Map {
        path: path.to_owned(),
        bytes,
        source,
    };
    let pages = MmapOptions::new().len(bytes).map_raw(file).map_err(failed)?;
    Mapping::new(pages, huge)
        .map(Memory::Mapped)
        .ok_or_else(|| failed(io::ErrorKind::Unsupported.into()))
}
