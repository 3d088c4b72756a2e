//! Lists of cores such as `0,2-3`, and the cores that this process may use.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

/// A list of cores without repetition, in the order given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CoreList(Vec<usize>);

/// A list of cores that this process cannot use.
#[derive(Debug, thiserror::Error)]
pub enum CoresError {
    /// The cores of this process cannot be read.
    #[error("cannot read the cores of this process: {0}")]
    System(nix::Error),
    /// A core that does not exist, or that this process may not use.
    #[error("core {core} is not usable; the usable cores are {usable}")]
    NotUsable {
        /// The core.
        core: usize,
        /// The usable cores.
        usable: CoreList,
    },
}

/// Returns the cores that this process may run on (sched_getaffinity(2)).
///
/// # Errors
/// The system call fails.
pub fn usable() -> Result<Vec<usize>, nix::Error> {
    let set = sched_getaffinity(Pid::from_raw(0))?;
    Ok((0..CpuSet::count())
        .filter(|&core| set.is_set(core).unwrap_or(false))
        .collect())
}

/// Returns the configured cores, or else all usable ones except the first: that one stays free for the node's other
/// processes. A single usable core is used.
///
/// # Errors
/// A configured core is not usable, or the usable ones cannot be read.
pub fn choose(configured: Option<&CoreList>) -> Result<Vec<usize>, CoresError> {
    let usable = usable().map_err(CoresError::System)?;
    match configured {
        None if usable.len() > 1 => Ok(usable[1..].to_vec()),
        None => Ok(usable),
        Some(list) => match list.0.iter().find(|core| !usable.contains(core)) {
            Some(&core) => Err(CoresError::NotUsable {
                core,
                usable: CoreList(usable),
            }),
            None => Ok(list.0.clone()),
        },
    }
}

impl FromStr for CoreList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = |part: &str| {
            format!("{part:?} in {text:?} is not a core or a range of cores; write a list such as 1,3 or 2-5")
        };
        let mut cores = Vec::new();
        let mut seen = BTreeSet::new();
        for part in text.split(',').map(str::trim) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let first = first.parse::<usize>().map_err(|_| bad(part))?;
            let last = last.parse::<usize>().map_err(|_| bad(part))?;
            if first > last || last >= CpuSet::count() {
                return Err(bad(part));
            }
            for core in first..=last {
                if !seen.insert(core) {
                    return Err(format!(
                        "core {core} occurs twice in {text:?}; write each core once (for several workers on one core set the number of workers)"
                    ));
                }
                cores.push(core);
            }
        }
        Ok(Self(cores))
    }
}

impl fmt::Display for CoreList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, core) in self.0.iter().enumerate() {
            write!(f, "{}{core}", if n == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl Serialize for CoreList {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for CoreList {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        /// A YAML author may write `cores: 1`, `cores: [1, 2]` or `cores: 1,3-4`.
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            One(usize),
            Many(Vec<usize>),
            Text(String),
        }
        let text = match Written::deserialize(deserializer)? {
            Written::One(core) => core.to_string(),
            Written::Many(cores) => CoreList(cores).to_string(),
            Written::Text(text) => text,
        };
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_ranges() {
        assert_eq!("0,2-4".parse::<CoreList>().unwrap().0, [0, 2, 3, 4]);
        assert_eq!("0,2-4".parse::<CoreList>().unwrap().to_string(), "0,2,3,4");
        for bad in ["", "a", "3-1", "1,1", "1-", "0,0-2", "99999999"] {
            assert!(bad.parse::<CoreList>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn yaml_forms() {
        for text in ["1", "[1]", "\"1\""] {
            assert_eq!(serde_saphyr::from_str::<CoreList>(text).unwrap().0, [1], "{text}");
        }
    }

    #[test]
    fn the_default_leaves_one_core_free() {
        let all = usable().unwrap();
        let chosen = choose(None).unwrap();
        assert_eq!(chosen.len(), (all.len() - 1).max(1));
    }
}
