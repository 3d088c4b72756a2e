//! Ethernet addresses as text: `#[serde(with = "heddle_proto::serde_mac")]` writes and reads `02:68:65:64:64:6c`.

use heddle_wire::MacAddr;
use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

/// Reads six pairs of hexadecimal digits separated by colons.
///
/// # Errors
/// A message with the text, if it has another form.
pub fn parse(text: &str) -> Result<MacAddr, String> {
    let wrong = || {
        format!("{text:?} is not an Ethernet address: write six pairs of hexadecimal digits, such as 02:68:65:64:64:6c")
    };
    let mut octets = [0u8; 6];
    let mut parts = text.split(':');
    for octet in &mut octets {
        let part = parts.next().ok_or_else(wrong)?;
        if part.len() != 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        *octet = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
    }
    if parts.next().is_some() {
        return Err(wrong());
    }
    Ok(MacAddr(octets))
}

/// Writes the address as text.
///
/// # Errors
/// The serializer's error.
pub fn serialize<S: Serializer>(mac: &MacAddr, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(mac)
}

/// Reads the address from text.
///
/// # Errors
/// The text is not an Ethernet address.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<MacAddr, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse(&text).map_err(D::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes_and_refuses_the_rest() {
        assert_eq!(parse(&MacAddr::GATEWAY.to_string()), Ok(MacAddr::GATEWAY));
        for bad in [
            "",
            "02:68:65:64:64",
            "02:68:65:64:64:6c:00",
            "2:68:65:64:64:6c",
            "02-68-65-64-64-6c",
            "+2:68:65:64:64:6c",
            "0g:68:65:64:64:6c",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
