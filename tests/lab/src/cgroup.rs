//! Cgroups that carry the names of a laboratory's namespaces, because a container runtime made them for a node.

use std::fs;
use std::path::{Path, PathBuf};

use crate::netns;

const ROOT: &str = "/sys/fs/cgroup";

/// Removes the cgroups with this name in all hierarchies. Returns false if a process is in one of them; those stay.
#[must_use]
pub fn remove_cgroups(name: &str) -> bool {
    let mut removed = true;
    for hierarchy in hierarchies() {
        let cgroup = hierarchy.join(name);
        if cgroup.is_dir() {
            removed &= remove_tree(&cgroup);
        }
    }
    removed
}

/// Removes the cgroups of processes that have ended.
pub(crate) fn remove_dead() {
    for hierarchy in hierarchies() {
        for entry in fs::read_dir(&hierarchy).into_iter().flatten().flatten() {
            if netns::dead_owner(&entry.file_name().to_string_lossy()).is_some() {
                remove_tree(&entry.path());
            }
        }
    }
}

/// Returns the roots of the hierarchies: one with version 2 of cgroups, one for each controller with version 1
/// (Documentation/admin-guide/cgroup-v1/cgroups.rst).
fn hierarchies() -> Vec<PathBuf> {
    let root = Path::new(ROOT);
    let below = fs::read_dir(root)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    below.filter(|path| path.is_dir()).chain([root.to_owned()]).collect()
}

/// Removes a cgroup and those in it, the deepest first. Returns false if it stays.
fn remove_tree(cgroup: &Path) -> bool {
    for child in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if child.path().is_dir() {
            remove_tree(&child.path());
        }
    }
    fs::remove_dir(cgroup).is_ok()
}
