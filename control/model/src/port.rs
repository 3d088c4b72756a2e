//! Transport protocols and port numbers.

use std::fmt;
use std::num::NonZeroU16;
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The transport protocols that Services, slices and policies can name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// `TCP`, the default of every `protocol` field.
    #[default]
    Tcp,
    /// `UDP`
    Udp,
    /// `SCTP`
    Sctp,
}

impl Protocol {
    /// Returns the API's spelling.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
            Protocol::Sctp => "SCTP",
        }
    }

    /// Returns IANA's protocol number: 6, 17 or 132.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that is not the name of a [`Protocol`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown protocol {0:?}: use TCP, UDP or SCTP")]
pub struct UnknownProtocol(pub String);

impl FromStr for Protocol {
    type Err = UnknownProtocol;

    fn from_str(text: &str) -> Result<Protocol, UnknownProtocol> {
        match text {
            "TCP" => Ok(Protocol::Tcp),
            "UDP" => Ok(Protocol::Udp),
            "SCTP" => Ok(Protocol::Sctp),
            _ => Err(UnknownProtocol(text.to_owned())),
        }
    }
}

/// A port, 1 to 65535.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PortNumber(NonZeroU16);

impl PortNumber {
    /// The lowest port, 1.
    pub const MIN: PortNumber = PortNumber(NonZeroU16::MIN);
    /// The highest port, 65535.
    pub const MAX: PortNumber = PortNumber(NonZeroU16::MAX);

    /// Makes a port from its number; `None` for 0.
    #[must_use]
    pub const fn new(number: u16) -> Option<PortNumber> {
        match NonZeroU16::new(number) {
            Some(number) => Some(PortNumber(number)),
            None => None,
        }
    }

    /// Returns the number.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0.get()
    }
}

impl fmt::Display for PortNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A range of ports, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "PortRangeFields")]
pub struct PortRange {
    first: PortNumber,
    last: PortNumber,
}

/// The fields of a [`PortRange`] as they were written, not yet checked.
#[derive(Deserialize)]
struct PortRangeFields {
    first: PortNumber,
    last: PortNumber,
}

impl TryFrom<PortRangeFields> for PortRange {
    type Error = PortRangeError;

    fn try_from(fields: PortRangeFields) -> Result<PortRange, PortRangeError> {
        PortRange::new(fields.first, fields.last)
    }
}

/// A range that ends before it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("endPort {last} is below port {first}")]
pub struct PortRangeError {
    first: PortNumber,
    last: PortNumber,
}

impl PortRange {
    /// Makes the range from `first` to `last`.
    ///
    /// # Errors
    /// Refuses a range that ends before it starts.
    pub const fn new(first: PortNumber, last: PortNumber) -> Result<PortRange, PortRangeError> {
        if first.get() <= last.get() {
            Ok(PortRange { first, last })
        } else {
            Err(PortRangeError { first, last })
        }
    }

    /// Returns the first port of the range.
    #[must_use]
    pub const fn first(self) -> PortNumber {
        self.first
    }

    /// Returns the last port of the range.
    #[must_use]
    pub const fn last(self) -> PortNumber {
        self.last
    }

    /// Returns the range as the standard library's type.
    #[must_use]
    pub const fn numbers(self) -> RangeInclusive<u16> {
        self.first.get()..=self.last.get()
    }
}

impl From<PortNumber> for PortRange {
    fn from(port: PortNumber) -> PortRange {
        PortRange {
            first: port,
            last: port,
        }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            self.first.fmt(f)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_zero_and_reversed_ranges_are_refused() {
        assert_eq!(PortNumber::new(0), None);
        assert_eq!(PortNumber::new(1), Some(PortNumber::MIN));
        assert_eq!(PortNumber::new(65535), Some(PortNumber::MAX));
        let (low, high) = (PortNumber::new(80).unwrap(), PortNumber::new(81).unwrap());
        assert_eq!(PortRange::new(low, high).unwrap().numbers(), 80..=81);
        assert_eq!(PortRange::new(low, low), Ok(low.into()));
        assert_eq!(
            PortRange::new(high, low).unwrap_err().to_string(),
            "endPort 80 is below port 81"
        );
    }

    #[test]
    fn protocols_are_parsed_from_the_apis_names() {
        for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp] {
            assert_eq!(protocol.as_str().parse(), Ok(protocol));
        }
        assert!("tcp".parse::<Protocol>().is_err());
    }
}
