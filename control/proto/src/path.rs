//! The paths of the two sockets, for client and server.

use std::fmt::Write as _;

use crate::{ContainerId, IfName};

/// `POST`: prepare ([`crate::PrepareRequest`] → [`crate::Prepared`]).
pub const ATTACHMENTS: &str = "/v1/attachments";
/// The router's pattern for `GET` (→ [`crate::Attachment`]) and `DELETE` (→ [`crate::Released`]).
pub const ATTACHMENT_PATTERN: &str = "/v1/attachments/{container}/{ifname}";
/// The router's pattern for `POST`: ready ([`crate::ReadyRequest`] → [`crate::Ready`]).
pub const READY_PATTERN: &str = "/v1/attachments/{container}/{ifname}/ready";
/// `GET`: whether ADD can be served (→ [`crate::Readiness`]).
pub const READINESS: &str = "/v1/readiness";
/// `GET` on the command line's socket (→ [`crate::Status`]).
pub const STATUS: &str = "/v1/status";

/// `POST` on the command line's socket ([`crate::DropsRequest`] → [`crate::Drops`]).
pub const DROPS: &str = "/v1/drops";
/// `POST` on the command line's socket ([`crate::FlowsRequest`] → [`crate::Flows`]).
pub const FLOWS: &str = "/v1/flows";

/// The path of one attachment.
#[must_use]
pub fn attachment(container: &ContainerId, ifname: &IfName) -> String {
    let mut path = format!("{ATTACHMENTS}/{container}/");
    // An interface name may hold almost any byte; all but the unreserved ones are escaped (RFC 3986 section 2.1).
    for byte in ifname.as_str().bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            path.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(path, "%{byte:02X}");
        }
    }
    path
}

/// The path of one attachment's *ready*.
#[must_use]
pub fn ready(container: &ContainerId, ifname: &IfName) -> String {
    attachment(container, ifname) + "/ready"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_interface_names_are_escaped() {
        let container = ContainerId::new("c.1").unwrap();
        assert_eq!(
            attachment(&container, &IfName::new("eth0").unwrap()),
            "/v1/attachments/c.1/eth0"
        );
        assert_eq!(
            ready(&container, &IfName::new("a?%#ä").unwrap()),
            "/v1/attachments/c.1/a%3F%25%23%C3%A4/ready"
        );
    }
}
