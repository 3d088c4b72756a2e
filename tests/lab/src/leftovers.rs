//! Removal of what laboratories of ended processes left behind.

use std::fs;
use std::path::Path;

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{LabError, cgroup, netns};

/// The file in a node's folder that contains the agent's process id.
pub(crate) const PID_FILE: &str = "agent.pid";
/// The marker file in the folder of a laboratory that was left standing on purpose.
pub(crate) const KEPT: &str = "kept";

/// The leftovers to remove.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leftovers {
    /// Leftovers of killed processes, but not laboratories that were kept on purpose.
    NotKept,
    /// All, also laboratories that were kept on purpose.
    All,
}

/// Removes the processes, folders, mounts, namespaces and cgroups of laboratories whose process has ended, and returns their names.
///
/// # Errors
/// `/run/netns` or the folder of temporary files cannot be read.
pub fn remove_leftovers(which: Leftovers) -> Result<Vec<String>, LabError> {
    let temp = std::env::temp_dir();
    let mut removed = Vec::new();
    let mut kept_pids = Vec::new();
    for entry in fs::read_dir(&temp)
        .map_err(LabError::io(format!("reading {}", temp.display())))?
        .flatten()
    {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(pid) = netns::dead_owner(&name) else {
            continue;
        };
        if which == Leftovers::NotKept && entry.path().join(KEPT).exists() {
            kept_pids.push(pid);
            continue;
        }
        kill_processes(&entry.path());
        remove_folder(&entry.path());
        removed.push(entry.path().display().to_string());
    }
    removed.extend(netns::remove_dead(&kept_pids)?);
    cgroup::remove_dead();
    Ok(removed)
}

/// Kills the processes whose ids are in `*.pid` of the laboratory's folders. A process id may belong to another process by
/// now: only one whose command line names the laboratory's folder is killed.
fn kill_processes(lab: &Path) {
    for folder in fs::read_dir(lab).into_iter().flatten().flatten() {
        for file in fs::read_dir(folder.path()).into_iter().flatten().flatten() {
            if file.path().extension().is_none_or(|extension| extension != "pid") {
                continue;
            }
            let text = fs::read_to_string(file.path()).unwrap_or_default();
            let Ok(pid) = text.trim().parse::<i32>() else { continue };
            let cmdline = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            if String::from_utf8_lossy(&cmdline).contains(&*lab.to_string_lossy()) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
    }
}

/// Unmounts everything that an agent mounted below `dir`, the deepest mount first.
pub(crate) fn unmount_below(dir: &Path) {
    let Ok(mounts) = fs::read_to_string("/proc/self/mountinfo") else {
        return;
    };
    let mut points: Vec<&str> = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .filter(|point| Path::new(point).starts_with(dir))
        .collect();
    points.sort_unstable_by_key(|point| std::cmp::Reverse(point.len()));
    for point in points {
        let _ = umount2(point, MntFlags::MNT_DETACH);
    }
}

/// Removes a folder and the mounts in it.
pub(crate) fn remove_folder(dir: &Path) {
    unmount_below(dir);
    let _ = fs::remove_dir_all(dir);
}
