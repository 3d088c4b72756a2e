//! A range of ports as configuration writes it: `61000-65535`.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A range of ports, both ends included; written `61000-65535`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortRange {
    /// The first port.
    pub first: u16,
    /// The last port.
    pub last: u16,
}

impl PortRange {
    /// Returns the ports as a range.
    #[must_use]
    pub const fn ports(self) -> RangeInclusive<u16> {
        self.first..=self.last
    }
}

impl Default for PortRange {
    /// The default of `reservedPorts`: above the ports that Linux uses for its own connections.
    fn default() -> Self {
        Self {
            first: 61_000,
            last: 65_535,
        }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl FromStr for PortRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is not a range of ports; write FIRST-LAST, such as 61000-65535");
        let (first, last) = text.split_once('-').ok_or_else(bad)?;
        let first = first.trim().parse::<u16>().map_err(|_| bad())?;
        let last = last.trim().parse::<u16>().map_err(|_| bad())?;
        if first > last {
            Err(bad())
        } else {
            Ok(Self { first, last })
        }
    }
}

impl Serialize for PortRange {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PortRange {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_survive_text_and_bad_ones_are_refused() {
        let range: PortRange = "61000-65535".parse().unwrap();
        assert_eq!(
            (range.first, range.last, range.to_string()),
            (61_000, 65_535, "61000-65535".to_owned())
        );
        for bad in ["", "1", "2-1", "1-65536", "a-b", "1-2-3"] {
            assert!(bad.parse::<PortRange>().is_err(), "{bad:?}");
        }
    }
}
