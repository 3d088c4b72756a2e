//! The machine of a measurement.

use std::fmt;
use std::fs;

use serde::Serialize;

/// The machine, its kernel and its load.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// The processor's name, family and model.
    pub cpu: String,
    /// The number of online processors.
    pub cpus: usize,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// The kernel's release.
    pub kernel: String,
    /// True on a virtual machine, whose figures vary with its neighbors on the host.
    pub virtual_machine: bool,
    /// The mode of transparent huge pages.
    pub huge_pages: String,
    /// The load average of the last minute. More than 0.5 means that other work runs.
    pub load: f64,
}

impl Machine {
    /// Reads the properties of this machine.
    #[must_use]
    pub fn detect() -> Self {
        let cpuinfo = read("/proc/cpuinfo");
        let field = |name: &str| {
            let line = cpuinfo
                .lines()
                .find(|l| l.split(':').next().map(str::trim) == Some(name));
            line.and_then(|l| l.split_once(':'))
                .map_or("?", |(_, v)| v.trim())
                .to_owned()
        };
        let thp = read("/sys/kernel/mm/transparent_hugepage/enabled");
        let chosen = thp.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
        Self {
            cpu: format!(
                "{} (family {} model {})",
                field("model name"),
                field("cpu family"),
                field("model")
            ),
            cpus: cpuinfo.lines().filter(|line| line.starts_with("processor")).count(),
            memory_mib: number(&read("/proc/meminfo"), 1) as u64 / 1024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            virtual_machine: field("flags").split(' ').any(|flag| flag == "hypervisor"),
            huge_pages: chosen.map_or("?", |(mode, _)| mode).to_owned(),
            load: number(&read("/proc/loadavg"), 0),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let virtual_machine = if self.virtual_machine { ", virtual machine" } else { "" };
        write!(
            f,
            "{}, {} CPUs, {} MiB{virtual_machine}; Linux {}; transparent huge pages: {}; load {:.1}",
            self.cpu, self.cpus, self.memory_mib, self.kernel, self.huge_pages, self.load
        )
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn number(text: &str, word: usize) -> f64 {
    text.split_whitespace()
        .nth(word)
        .and_then(|w| w.parse().ok())
        .unwrap_or_default()
}
