//! heddle's range of source ports in `net.ipv4.ip_local_reserved_ports`, next to the ports that others have added.
//!
//! The sysctl is one list that everybody shares. Before heddle adds ports, it records them in the state directory, so that it
//! removes only its own ports.

use std::fmt;
use std::fs;
use std::io;
use std::ops::RangeInclusive;
use std::path::Path;

use crate::error::HostError;
use heddle_linux::sysctl as kernel;

use crate::{state_file, sysctl};

/// The sysctl.
const SYSCTL: &str = "net/ipv4/ip_local_reserved_ports";
/// The name of the record in the state directory.
pub const FILE: &str = "reserved-ports";

/// A set of ports as sorted ranges that neither touch nor overlap, written as the kernel does: `8080,61000-65535`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct PortSet(Vec<(u16, u16)>);

impl PortSet {
    /// Parses a list as the kernel writes it; `None` if it has another form.
    fn parse(text: &str) -> Option<Self> {
        let mut ranges = Vec::new();
        for part in text.trim().split(',').filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            ranges.push((first.trim().parse().ok()?, last.trim().parse().ok()?));
        }
        Some(Self::default().union(&Self(ranges)))
    }

    /// Returns the ports of both sets.
    fn union(&self, other: &Self) -> Self {
        let mut all: Vec<(u16, u16)> = self
            .0
            .iter()
            .chain(&other.0)
            .copied()
            .filter(|(first, last)| first <= last)
            .collect();
        all.sort_unstable();
        let mut merged: Vec<(u16, u16)> = Vec::new();
        for (first, last) in all {
            match merged.last_mut() {
                Some(before) if u32::from(first) <= u32::from(before.1) + 1 => before.1 = before.1.max(last),
                _ => merged.push((first, last)),
            }
        }
        Self(merged)
    }

    /// Returns the ports that are not in `other`.
    fn without(&self, other: &Self) -> Self {
        let mut left = self.0.clone();
        for &(cut_first, cut_last) in &other.0 {
            left = left
                .into_iter()
                .flat_map(|(first, last)| {
                    if cut_last < first || cut_first > last {
                        return [Some((first, last)), None];
                    }
                    let before = cut_first
                        .checked_sub(1)
                        .filter(|end| *end >= first)
                        .map(|end| (first, end));
                    let after = cut_last
                        .checked_add(1)
                        .filter(|start| *start <= last)
                        .map(|start| (start, last));
                    [before, after]
                })
                .flatten()
                .collect();
        }
        Self(left)
    }
}

impl fmt::Display for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (first, last)) in self.0.iter().enumerate() {
            let comma = if n == 0 { "" } else { "," };
            if first == last {
                write!(f, "{comma}{first}")?;
            } else {
                write!(f, "{comma}{first}-{last}")?;
            }
        }
        Ok(())
    }
}

/// Adds the range to the sysctl and records the ports that were not there before. Ports that heddle added earlier and no
/// longer uses are removed.
///
/// # Errors
/// The sysctl cannot be read or written. A record that cannot be written is only logged: then `heddle cleanup` leaves the ports
/// in the sysctl.
pub fn reserve(state_dir: &Path, range: &RangeInclusive<u16>) -> Result<(), HostError> {
    let wanted = PortSet(vec![(*range.start(), *range.end())]);
    let recorded = read_record(state_dir)?;
    let others = current()?.without(&recorded);
    let added = wanted.without(&others);
    // Both the old and the new ports are recorded until the sysctl is written, because a crash may come in between.
    let both = recorded.union(&added);
    record_if_changed(state_dir, &recorded, &both);
    kernel::write(SYSCTL, &others.union(&added).to_string())?;
    record_if_changed(state_dir, &both, &added);
    Ok(())
}

/// Writes the record if it has to change. A failed write is logged.
fn record_if_changed(state_dir: &Path, before: &PortSet, after: &PortSet) {
    if before != after
        && let Err(e) = write_record(state_dir, after)
    {
        tracing::warn!("the reserved ports {after} are not recorded, so heddle cleanup cannot remove them: {e}");
    }
}

/// Reserves the range again if a port of it is missing in the sysctl. Returns `true` if one was missing.
///
/// # Errors
/// The sysctl or the record cannot be read or written.
pub fn restore(state_dir: &Path, range: &RangeInclusive<u16>) -> Result<bool, HostError> {
    let is_missing = lacks_part_of(range)?;
    if is_missing {
        reserve(state_dir, range)?;
    }
    Ok(is_missing)
}

/// Returns `true` if the sysctl lacks a port of the range.
///
/// # Errors
/// The sysctl cannot be read.
pub fn lacks_part_of(range: &RangeInclusive<u16>) -> Result<bool, HostError> {
    let wanted = PortSet(vec![(*range.start(), *range.end())]);
    Ok(wanted.without(&current()?) != PortSet::default())
}

/// Removes the ports that heddle added from the sysctl and returns them; `None` if there were none.
///
/// # Errors
/// The sysctl or the record cannot be read or written.
pub fn release(state_dir: &Path) -> Result<Option<String>, HostError> {
    let recorded = read_record(state_dir)?;
    if recorded == PortSet::default() {
        return Ok(None);
    }
    let now = current()?;
    let left = now.without(&recorded);
    // An empty line clears the list; the kernel ignores an empty write.
    kernel::write(SYSCTL, &format!("{left}\n"))?;
    let path = state_dir.join(FILE);
    fs::remove_file(&path).map_err(|source| HostError::Record { path, source })?;
    Ok((left != now).then(|| recorded.to_string()))
}

/// Reads the sysctl.
fn current() -> Result<PortSet, HostError> {
    let text = sysctl::read(SYSCTL)?;
    PortSet::parse(&text).ok_or_else(|| HostError::InTheWay(format!("{SYSCTL} is {text:?}, which is no list of ports")))
}

/// Reads the recorded ports; none if there is no record. A damaged record is set aside: it only says which ports `heddle cleanup`
/// removes from the sysctl.
fn read_record(state_dir: &Path) -> Result<PortSet, HostError> {
    let path = state_dir.join(FILE);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(PortSet::parse(&text).unwrap_or_else(|| {
            set_aside(&path, &text);
            PortSet::default()
        })),
        // A text that is no UTF-8.
        Err(e) if e.kind() == io::ErrorKind::InvalidData => {
            set_aside(&path, "bytes that are no text");
            Ok(PortSet::default())
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(PortSet::default()),
        Err(source) => Err(HostError::Record { path, source }),
    }
}

/// Renames a damaged record, so that somebody can look at it.
fn set_aside(path: &Path, text: &str) {
    let aside = path.with_extension("damaged");
    let outcome = match fs::rename(path, &aside) {
        Ok(()) => format!("it is now {}", aside.display()),
        Err(e) => format!("it cannot be renamed: {e}"),
    };
    tracing::warn!(
        "{} is damaged ({text:?}), so the ports that heddle reserved earlier stay reserved; {outcome}",
        path.display()
    );
}

/// Writes the record, so that after a crash it has either the old or the new ports.
fn write_record(state_dir: &Path, set: &PortSet) -> Result<(), HostError> {
    let path = state_dir.join(FILE);
    state_file::replace(&path, format!("{set}\n").as_bytes()).map_err(|source| HostError::Record { path, source })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn ports(set: &PortSet) -> BTreeSet<u16> {
        set.0.iter().flat_map(|&(first, last)| first..=last).collect()
    }

    #[test]
    fn the_text_is_as_the_kernel_writes_it() {
        let set = PortSet::parse("8080,9000-9001,9002\n").unwrap();
        assert_eq!(set.to_string(), "8080,9000-9002");
        assert_eq!(
            set.union(&PortSet(vec![(61_000, 65_535)])).to_string(),
            "8080,9000-9002,61000-65535"
        );
        assert_eq!(PortSet::parse("").unwrap().to_string(), "");
        assert!(PortSet::parse("x").is_none());
    }

    #[test]
    fn a_damaged_record_is_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        for damaged in [&b"61000-"[..], b"\xff\xfe", b"{}"] {
            fs::write(dir.path().join(FILE), damaged).unwrap();
            assert_eq!(read_record(dir.path()).unwrap(), PortSet::default());
            assert!(!dir.path().join(FILE).exists());
            assert_eq!(fs::read(dir.path().join("reserved-ports.damaged")).unwrap(), damaged);
        }
        let set = PortSet(vec![(61_000, 65_535)]);
        write_record(dir.path(), &set).unwrap();
        assert_eq!(read_record(dir.path()).unwrap(), set);
    }

    #[test]
    fn a_record_that_cannot_be_written_stops_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let in_the_way = dir.path().join("file");
        fs::write(&in_the_way, "").unwrap();
        record_if_changed(&in_the_way, &PortSet::default(), &PortSet(vec![(1, 2)]));
    }

    proptest! {
        #[test]
        fn sets_agree_with_sets(
            a in proptest::collection::vec((0u16..40, 0u16..6), 0..6),
            b in proptest::collection::vec((0u16..40, 0u16..6), 0..6),
        ) {
            let build = |v: Vec<(u16, u16)>| PortSet::default().union(&PortSet(v.into_iter().map(|(f, n)| (f, f + n)).collect()));
            let (a, b) = (build(a), build(b));
            prop_assert_eq!(ports(&a.union(&b)), ports(&a).union(&ports(&b)).copied().collect::<BTreeSet<_>>());
            prop_assert_eq!(ports(&a.without(&b)), ports(&a).difference(&ports(&b)).copied().collect::<BTreeSet<_>>());
            prop_assert_eq!(PortSet::parse(&a.to_string()).unwrap(), a);
        }
    }
}
