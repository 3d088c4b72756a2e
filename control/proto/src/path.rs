//! Paths with parameters: the client fills in a route's pattern.

use std::fmt::Write as _;

/// Replaces each `{name}` of a route's pattern by its value.
#[must_use]
pub fn fill(pattern: &str, parameters: &[(&str, &str)]) -> String {
    let mut path = pattern.to_owned();
    for (name, value) in parameters {
        path = path.replace(&format!("{{{name}}}"), &escape(value));
    }
    path
}

/// Escapes all characters except the unreserved ones (RFC 3986 section 2.3), because an interface name may contain almost any
/// byte.
fn escape(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            escaped.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(escaped, "%{byte:02X}");
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_interface_names_are_escaped() {
        let pattern = "/v1/attachments/{container}/{ifname}";
        let with = |ifname| fill(pattern, &[("container", "c.1"), ("ifname", ifname)]);
        assert_eq!(with("eth0"), "/v1/attachments/c.1/eth0");
        assert_eq!(with("a?%#ä") + "/ready", "/v1/attachments/c.1/a%3F%25%23%C3%A4/ready");
    }
}
