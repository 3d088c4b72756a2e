//! Compares the memory that the configuration needs with the memory that is available, before the agent allocates it.
//!
//! Packet memory is mapped and pinned at the start. Without this check, on a machine with too little memory the
//! kernel's out-of-memory killer would end the agent or other processes, without a clear error.

use std::fs;
use std::path::{Path, PathBuf};

use heddle_config::{Config, FRAME_SIZE, HugePages};
use heddle_proto::Bytes;

use crate::workers::flow_file::{HUGE_PAGE, huge_pages};

/// The bytes that the kernel allocates for each port and each frame of the UMEM.
const KERNEL_BYTES_PER_PORT_AND_FRAME: u64 = 128;

/// The memory that the agent needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Demand {
    /// The frames of the UMEM.
    pub frames: u32,
    /// The bytes of ordinary memory for a flow table that has to be created; 0 if there is one, or on huge pages.
    pub flows: u64,
    /// The maximum number of ports.
    pub ports: u32,
}

/// The memory that is available to this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Available {
    /// The bytes.
    pub bytes: u64,
    /// The limit that applies, as messages name it: the machine's or a control group's.
    pub limit: String,
}

/// The packet memory and the flow table do not fit into the available memory.
#[derive(Debug, thiserror::Error)]
#[error(
    "frames: {frames} of {} bytes are {} of packet memory, and the flow table needs {}, but only {} are available {}: \
     lower frames or connections",
    FRAME_SIZE, Bytes(u64::from(*.frames) * u64::from(FRAME_SIZE)), Bytes(*.flows), Bytes(.available.bytes), .available.limit
)]
pub struct TooLarge {
    /// The frames of the UMEM.
    pub frames: u32,
    /// The bytes of ordinary memory for the flow table.
    pub flows: u64,
    /// The available memory.
    pub available: Available,
}

/// Returns the bytes of a flow table.
#[must_use]
pub fn flow_table_bytes(connections: u32) -> u64 {
    let config = heddle_flow::Config {
        capacity: connections,
        ..heddle_flow::Config::default()
    };
    config.file_bytes()
}

/// Returns the bytes of ordinary memory for a flow table: 0 if it fits on the free reserved huge pages, or if these are
/// required.
#[must_use]
pub fn ordinary_flow_bytes(connections: u32, wish: HugePages) -> u64 {
    let bytes = flow_table_bytes(connections);
    match wish {
        HugePages::Require => 0,
        HugePages::Auto if huge_pages("free_hugepages") >= bytes.div_ceil(HUGE_PAGE) => 0,
        HugePages::Auto | HugePages::Never => bytes,
    }
}

impl Demand {
    /// Returns the demand of a configuration if there is no flow table yet. `heddle check` calls it.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        Self {
            frames: config.frame_count(),
            flows: ordinary_flow_bytes(config.connections, config.huge_pages),
            ports: u32::from(config.max_pods) + config.worker_count(),
        }
    }

    /// Returns the bytes that the agent allocates at the start.
    #[must_use]
    pub fn at_start(&self) -> u64 {
        u64::from(self.frames) * u64::from(FRAME_SIZE) + self.flows
    }

    /// Returns the bytes that the kernel allocates in addition when all ports are open.
    #[must_use]
    pub fn of_ports(&self) -> u64 {
        KERNEL_BYTES_PER_PORT_AND_FRAME * u64::from(self.frames) * u64::from(self.ports)
    }

    /// Compares the demand at the start with the available memory.
    ///
    /// # Errors
    /// The packet memory and the flow table do not fit into the available memory.
    pub fn check(&self, available: &Available) -> Result<(), TooLarge> {
        if self.at_start() <= available.bytes {
            return Ok(());
        }
        Err(TooLarge {
            frames: self.frames,
            flows: self.flows,
            available: available.clone(),
        })
    }
}

/// Returns the memory that is available: the smallest of the machine's available memory and of what each control group
/// of this process may still allocate. Returns `None` if none of these can be read.
#[must_use]
pub fn available() -> Option<Available> {
    let machine = fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| mem_available(&text))
        .map(|bytes| Available {
            bytes,
            limit: "on this machine (MemAvailable)".to_owned(),
        });
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    group_dirs(&groups)
        .into_iter()
        .filter_map(|dir| available_in_group(&dir))
        .chain(machine)
        .min_by_key(|available| available.bytes)
}

/// Parses the bytes of `MemAvailable` from /proc/meminfo.
fn mem_available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Returns the directories of a process's control groups for memory (proc_pid_cgroup(5)), with all their parents.
fn group_dirs(cgroup: &str) -> Vec<PathBuf> {
    let mut dirs = Vec::new();
    for line in cgroup.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        let root = match controllers {
            "" => Path::new("/sys/fs/cgroup"),
            list if list.split(',').any(|name| name == "memory") => Path::new("/sys/fs/cgroup/memory"),
            _ => continue,
        };
        let own = root.join(path.trim_start_matches('/'));
        dirs.extend(
            own.ancestors()
                .take_while(|dir| dir.starts_with(root))
                .map(Path::to_owned),
        );
    }
    dirs
}

/// Returns the memory that a control group may still allocate: its limit less its usage. Inactive page cache does not count
/// as usage, because the kernel can free it.
fn available_in_group(dir: &Path) -> Option<Available> {
    let number = |name: &str| fs::read_to_string(dir.join(name)).ok()?.trim().parse::<u64>().ok();
    let (limit, used) = match number("memory.max") {
        Some(limit) => (limit, number("memory.current")?),
        None => (number("memory.limit_in_bytes")?, number("memory.usage_in_bytes")?),
    };
    let stat = fs::read_to_string(dir.join("memory.stat")).unwrap_or_default();
    let cache = stat
        .lines()
        .find_map(|line| line.strip_prefix("inactive_file ")?.trim().parse::<u64>().ok())
        .unwrap_or(0);
    Some(Available {
        bytes: limit.saturating_sub(used.saturating_sub(cache)),
        limit: format!(
            "in the control group {} (its memory limit is {})",
            dir.display(),
            Bytes(limit)
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn demand(frames: u32) -> Demand {
        Demand {
            frames,
            flows: 60 << 20,
            ports: 129,
        }
    }

    #[test]
    fn the_error_names_all_numbers() {
        let available = Available {
            bytes: 124 << 20,
            limit: "on this machine (MemAvailable)".to_owned(),
        };
        demand(16_384).check(&available).unwrap();
        let error = demand(16_385).check(&available).unwrap_err().to_string();
        for part in ["16385", "64.0 MiB", "60.0 MiB", "124.0 MiB", "MemAvailable"] {
            assert!(error.contains(part), "{part}: {error}");
        }
        assert_eq!(demand(16_384).of_ports(), 270_532_608);
    }

    #[test]
    fn meminfo_and_cgroup() {
        assert_eq!(
            mem_available("MemTotal:       100 kB\nMemAvailable:    42 kB\n"),
            Some(43_008)
        );
        assert_eq!(mem_available("MemTotal: 100 kB\n"), None);
        let dirs = group_dirs("4:memory:/a/b\n3:cpuset:/\n0::/c\nodd\n");
        let dirs: Vec<_> = dirs.iter().map(|dir| dir.display().to_string()).collect();
        assert_eq!(
            dirs,
            [
                "/sys/fs/cgroup/memory/a/b",
                "/sys/fs/cgroup/memory/a",
                "/sys/fs/cgroup/memory",
                "/sys/fs/cgroup/c",
                "/sys/fs/cgroup"
            ]
        );
    }

    #[test]
    fn groups_of_both_kinds() {
        for (limit, used) in [
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ] {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join(limit), "1000\n").unwrap();
            fs::write(dir.path().join(used), "700\n").unwrap();
            assert_eq!(available_in_group(dir.path()).unwrap().bytes, 300);
            fs::write(dir.path().join("memory.stat"), "anon 1\ninactive_file 200\n").unwrap();
            assert_eq!(available_in_group(dir.path()).unwrap().bytes, 500);
            fs::write(dir.path().join(limit), "max\n").unwrap();
            assert_eq!(available_in_group(dir.path()), None);
        }
    }
}
