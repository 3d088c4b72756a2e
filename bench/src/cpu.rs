//! The processor time that a measurement costs the machine.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use crate::BenchError;

/// The process id of the parent of all kernel threads.
const KTHREADD: u32 = 2;

/// Reads the processor time that this process, its agents and the kernel have used: the machine's, less the one of all other
/// processes. So softirqs count whatever process they interrupt, and a build beside the measurement does not.
///
/// The clock has ticks of 10 ms as a rule. Work of kernel threads for other processes counts.
#[derive(Clone, Debug)]
pub struct CpuMeter {
    own: BTreeSet<u32>,
    tick: Duration,
}

impl CpuMeter {
    /// Makes a meter for this process and these.
    ///
    /// # Errors
    /// The length of a tick is unknown.
    pub fn new(processes: impl IntoIterator<Item = u32>) -> Result<Self, BenchError> {
        let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).map_err(BenchError::nix("CLK_TCK"))?;
        let ticks = ticks
            .and_then(|ticks| u32::try_from(ticks).ok())
            .filter(|ticks| *ticks > 0);
        Ok(Self {
            own: processes.into_iter().chain([std::process::id()]).collect(),
            tick: Duration::from_secs(1) / ticks.unwrap_or(100),
        })
    }

    /// Reads the time. Only the difference of two readings has a meaning.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub fn read(&self) -> Result<Duration, BenchError> {
        let stat = fs::read_to_string("/proc/stat").map_err(BenchError::io("reading /proc/stat"))?;
        let mut foreign = 0;
        for entry in fs::read_dir("/proc")
            .map_err(BenchError::io("reading /proc"))?
            .flatten()
        {
            // A process may end while the folder is read. Its parent then has its time.
            if let Ok(text) = fs::read_to_string(entry.path().join("stat"))
                && let Some(process) = ProcessTime::parse(&text)
                && !self.own.contains(&process.id)
                && ![process.id, process.parent].contains(&KTHREADD)
            {
                foreign += process.ticks;
            }
        }
        let own = busy(&stat).saturating_sub(foreign);
        Ok(self.tick * u32::try_from(own).unwrap_or(u32::MAX))
    }
}

/// Returns the ticks in which a processor was busy, from `/proc/stat`: of users, nice users, the kernel, interrupts and softirqs.
fn busy(stat: &str) -> u64 {
    let fields = stat.lines().next().unwrap_or_default().split_whitespace().skip(1);
    let ticks: Vec<u64> = fields.map_while(|field| field.parse().ok()).collect();
    [0, 1, 2, 5, 6].into_iter().filter_map(|at| ticks.get(at)).sum()
}

/// The time of a process and of its children that have ended.
struct ProcessTime {
    id: u32,
    parent: u32,
    ticks: u64,
}

impl ProcessTime {
    /// Reads `/proc/PID/stat` (proc_pid_stat(5)). The name is in parentheses and may contain any character.
    fn parse(text: &str) -> Option<Self> {
        let (id, rest) = text.split_once(" (")?;
        let (_, rest) = rest.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        Some(Self {
            id: id.parse().ok()?,
            parent: u32::try_from(number(4)?).ok()?,
            ticks: [14, 15, 16, 17].into_iter().filter_map(number).sum(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_process_is_read_whatever_its_name() {
        let text = "42 (a) b ) S 7 1 1 0 -1 4194560 10 20 0 0 100 20 3 4 20 0 1 0 5 1000 1 1";
        let process = ProcessTime::parse(text).unwrap();
        assert_eq!((process.id, process.parent, process.ticks), (42, 7, 127));
        assert_eq!(busy("cpu  1 2 4 100 100 8 16 100 0 0\ncpu0 1 1 1\n"), 31);
    }

    #[test]
    fn own_work_counts() {
        let meter = CpuMeter::new([]).unwrap();
        let (before, began) = (meter.read().unwrap(), Instant::now());
        let mut n = 0_u64;
        while began.elapsed() < Duration::from_millis(500) {
            n = std::hint::black_box(n + 1);
        }
        let used = meter.read().unwrap().saturating_sub(before);
        assert!(used >= Duration::from_millis(100), "{used:?}");
    }
}
