//! The cost of a process: the processor time of its threads, and its memory.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::LabError;

/// The processor time and the wake-ups of a thread since its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ThreadUse {
    /// Time on a processor, to the nanosecond (`/proc/PID/task/TID/schedstat`).
    pub cpu: Duration,
    /// Voluntary context switches. Each is one sleep, and so one wake-up.
    pub sleeps: u64,
}

fn read(path: &Path) -> Result<String, LabError> {
    fs::read_to_string(path).map_err(LabError::io(format!("reading {}", path.display())))
}

fn field(text: &str, name: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.split_whitespace().next())
        .and_then(|n| n.parse().ok())
        .unwrap_or(0)
}

/// Reads the use of each thread of a process, by `NAME/TID`.
///
/// # Errors
/// The process does not exist.
pub fn threads(pid: u32) -> Result<BTreeMap<String, ThreadUse>, LabError> {
    let dir = format!("/proc/{pid}/task");
    let mut all = BTreeMap::new();
    for task in fs::read_dir(&dir)
        .map_err(LabError::io(format!("reading {dir}")))?
        .flatten()
    {
        // A thread may end between the listing of the folder and these reads.
        let (Ok(name), Ok(stat), Ok(status)) = (
            read(&task.path().join("comm")),
            read(&task.path().join("schedstat")),
            read(&task.path().join("status")),
        ) else {
            continue;
        };
        let nanos = stat.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0);
        all.insert(
            format!("{}/{}", name.trim(), task.file_name().to_string_lossy()),
            ThreadUse {
                cpu: Duration::from_nanos(nanos),
                sleeps: field(&status, "voluntary_ctxt_switches"),
            },
        );
    }
    Ok(all)
}

/// Returns the differences between two readings of [`threads`], by thread.
#[must_use]
pub fn between(
    before: &BTreeMap<String, ThreadUse>,
    after: &BTreeMap<String, ThreadUse>,
) -> BTreeMap<String, ThreadUse> {
    after
        .iter()
        .map(|(thread, now)| {
            let then = before.get(thread).copied().unwrap_or_default();
            let spent = ThreadUse {
                cpu: now.cpu.saturating_sub(then.cpu),
                sleeps: now.sleeps.saturating_sub(then.sleeps),
            };
            (thread.clone(), spent)
        })
        .collect()
}

/// Reads the resident memory of a process, in bytes.
///
/// # Errors
/// The process does not exist.
pub fn resident(pid: u32) -> Result<u64, LabError> {
    Ok(field(&read(Path::new(&format!("/proc/{pid}/status")))?, "VmRSS") * 1024)
}

/// Reads the largest resident memory that a process has had, in bytes.
///
/// # Errors
/// The process does not exist.
pub fn peak(pid: u32) -> Result<u64, LabError> {
    Ok(field(&read(Path::new(&format!("/proc/{pid}/status")))?, "VmHWM") * 1024)
}

/// Reads the memory that the kernel itself uses, in bytes: slab, vmalloc, per-CPU memory, page tables, stacks. The
/// number is for the whole machine, so a difference is meaningful only if nothing else runs.
///
/// # Errors
/// `/proc/meminfo` cannot be read.
pub fn kernel_memory() -> Result<u64, LabError> {
    let text = read(Path::new("/proc/meminfo"))?;
    let kilobytes: u64 = ["Slab", "VmallocUsed", "Percpu", "PageTables", "KernelStack"]
        .iter()
        .map(|name| field(&text, name))
        .sum();
    Ok(kilobytes * 1024)
}
