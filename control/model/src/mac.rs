//! Ethernet addresses, as annotations write them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The Ethernet address of one interface: no group and not zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddress([u8; 6]);

/// The reason for which a text is no Ethernet address of one interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum MacAddressError {
    /// Other than six pairs of hexadecimal digits with colons between them.
    #[error("must be an Ethernet address: six pairs of hexadecimal digits, as 02:68:65:64:64:6c")]
    Form,
    /// The group bit is set, or all octets are zero.
    #[error("must be the Ethernet address of one interface: no multicast, and not zero")]
    NotOneInterface,
}

impl MacAddress {
    /// Returns the octets in wire order.
    #[must_use]
    pub const fn octets(self) -> [u8; 6] {
        self.0
    }
}

impl FromStr for MacAddress {
    type Err = MacAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut octets = [0; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            let part = parts.next().ok_or(MacAddressError::Form)?;
            // `from_str_radix` also takes a sign.
            if part.len() != 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(MacAddressError::Form);
            }
            *octet = u8::from_str_radix(part, 16).map_err(|_| MacAddressError::Form)?;
        }
        if parts.next().is_some() {
            return Err(MacAddressError::Form);
        }
        if octets[0] & 1 == 1 || octets == [0; 6] {
            return Err(MacAddressError::NotOneInterface);
        }
        Ok(Self(octets))
    }
}

impl TryFrom<String> for MacAddress {
    type Error = MacAddressError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<MacAddress> for String {
    fn from(mac: MacAddress) -> Self {
        mac.to_string()
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_as_it_is_written() {
        for text in ["02:68:65:64:64:6c", "00:00:00:00:00:01"] {
            let mac: MacAddress = text.parse().unwrap();
            assert_eq!(mac.to_string(), text);
        }
        assert_eq!(
            "0A:BC:de:f0:12:34".parse::<MacAddress>().unwrap().octets(),
            [10, 0xbc, 0xde, 0xf0, 0x12, 0x34]
        );
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "02:68:65:64:64",
            "02:68:65:64:64:6c:00",
            "2:68:65:64:64:6c",
            "+2:68:65:64:64:6c",
            "02-68-65-64-64-6c",
            "02:68:65:64:64:6g",
        ] {
            assert_eq!(text.parse::<MacAddress>(), Err(MacAddressError::Form), "{text}");
        }
        for text in ["ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:01", "00:00:00:00:00:00"] {
            assert_eq!(
                text.parse::<MacAddress>(),
                Err(MacAddressError::NotOneInterface),
                "{text}"
            );
        }
    }
}
