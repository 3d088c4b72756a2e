//! The resident memory of an agent, by what it is for, from `/proc/PID/smaps`.

use std::fmt;
use std::fs;
use std::path::Path;

use crate::BenchError;

/// The resident memory of an agent in KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// The flow table: mappings of files below the run directory.
    pub flow_table: u64,
    /// Packet memory: shared mappings without a file, of exactly as many bytes as the UMEM.
    pub packets: u64,
    /// Rings of AF_XDP sockets.
    pub rings: u64,
    /// The executable and libraries, as far as they are unchanged.
    pub code: u64,
    /// Everything else: heap and stacks.
    pub own: u64,
}

/// The name of a shared anonymous mapping.
const SHARED: &str = "/dev/zero (deleted)";
/// The UMEM's size with the default configuration: 16,384 frames of 4 KiB.
const UMEM_KIB: u64 = 16_384 * 4;

impl Memory {
    /// Reads the memory of a process.
    ///
    /// # Errors
    /// The process does not exist.
    pub fn read(pid: u32, run_dir: &Path) -> Result<Self, BenchError> {
        let path = format!("/proc/{pid}/smaps");
        let text = fs::read_to_string(&path).map_err(BenchError::io(format!("reading {path}")))?;
        Ok(Self::parse(&text, &run_dir.display().to_string()))
    }

    fn parse(smaps: &str, run_dir: &str) -> Self {
        let mut memory = Self::default();
        let mut file = "";
        let mut size = 0;
        for line in smaps.lines() {
            let mut words = line.split_whitespace();
            let first = words.next().unwrap_or_default();
            let number = || line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(0);
            match first {
                "Size:" => size = number(),
                "Rss:" => {
                    let part = if file.starts_with(run_dir) {
                        &mut memory.flow_table
                    } else if file.contains("[xdp") || file.contains("socket:") || file.contains("XDP") {
                        &mut memory.rings
                    } else if file == SHARED && size == UMEM_KIB {
                        &mut memory.packets
                    } else if file.starts_with('/') {
                        &mut memory.code
                    } else {
                        &mut memory.own
                    };
                    *part += number();
                }
                // A header: range, permissions, offset, device, inode and, if there is one, the file.
                other if !other.ends_with(':') => file = line.splitn(6, ' ').nth(5).unwrap_or_default().trim(),
                _ => {}
            }
        }
        memory
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |kib: u64| kib as f64 / 1024.0;
        write!(
            f,
            "{:.1} MiB of its own and {:.1} MiB of code; flow table {:.1} MiB, packet memory {:.1} MiB, rings {:.1} MiB",
            mib(self.own),
            mib(self.code),
            mib(self.flow_table),
            mib(self.packets),
            mib(self.rings)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_are_told_apart() {
        let smaps = "\
55d0-55d1 r-xp 00000000 fe:00 12 /usr/bin/heddle
Size:               1000 kB
Rss:                 900 kB
55d2-55d3 rw-p 00000000 00:00 0                          [heap]
Size:               5000 kB
Rss:                4000 kB
7f00-7f01 rw-s 00000000 00:01 7     /dev/zero (deleted)
Size:              65536 kB
Rss:               65536 kB
7f02-7f03 rw-s 00000000 00:2d 3 /run/x/flows/table
Size:              70000 kB
Rss:               60000 kB
7f04-7f05 rw-p 00000000 00:00 0
Size:                100 kB
Rss:                  50 kB
";
        assert_eq!(
            Memory::parse(smaps, "/run/x"),
            Memory {
                flow_table: 60_000,
                packets: 65_536,
                rings: 0,
                code: 900,
                own: 4050
            }
        );
    }
}
