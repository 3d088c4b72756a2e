//! The ends of a connection as people write them: `NAMESPACE/NAME`, a node or an address, with the port after a colon.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use heddle_model::ObjectKey;

use super::probe::Transport;

/// An end of a connection, by name or address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamedEnd {
    /// `NAMESPACE/NAME`: a pod, or else a Service.
    Either(ObjectKey),
    /// `pod/NAMESPACE/NAME`
    Pod(ObjectKey),
    /// `service/NAMESPACE/NAME` or `svc/NAMESPACE/NAME`
    Service(ObjectKey),
    /// A node's name.
    Node(String),
    /// An address; IPv6 with or without brackets.
    Ip(IpAddr),
}

/// A port of the destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Port {
    /// A number from 1.
    Number(u16),
    /// The name of a port of the Service or pod.
    Name(String),
    /// No port, but an echo request.
    Echo,
}

/// A destination: an end with `:PORT[/PROTOCOL]` or `:icmp`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// The end.
    pub end: NamedEnd,
    /// The port.
    pub port: Port,
    /// The protocol, if the text gives one.
    pub transport: Option<Transport>,
}

/// A text that is not an end or a destination.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndSyntaxError {
    /// The text has none of the forms of an end.
    #[error(
        "{0:?} is not an end of a connection: write NAMESPACE/NAME, pod/NAMESPACE/NAME, service/NAMESPACE/NAME, a node or an address"
    )]
    End(String),
    /// The port is missing.
    #[error("{0:?} has no port: write {0}:PORT[/PROTOCOL], or {0}:icmp for an echo request ([ADDRESS]:PORT for IPv6)")]
    NoPort(String),
    /// The port is not valid.
    #[error("{0:?} is not a port: write a number from 1 to 65535, a port's name, or icmp")]
    Port(String),
    /// The protocol has no ports, or does not exist.
    #[error("{0:?} is not a protocol with ports: use tcp, udp or sctp")]
    Transport(String),
}

impl FromStr for NamedEnd {
    type Err = EndSyntaxError;

    fn from_str(text: &str) -> Result<Self, EndSyntaxError> {
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        if let Ok(ip) = bare.unwrap_or(text).parse::<IpAddr>() {
            return Ok(Self::Ip(ip));
        }
        let parts: Vec<&str> = text.split('/').collect();
        if text.contains(['[', ']', ':']) || parts.iter().any(|part| part.is_empty()) {
            return Err(EndSyntaxError::End(text.to_owned()));
        }
        match parts[..] {
            [node] => Ok(Self::Node(node.to_owned())),
            [namespace, name] => Ok(Self::Either(ObjectKey::new(namespace, name))),
            ["pod", namespace, name] => Ok(Self::Pod(ObjectKey::new(namespace, name))),
            ["service" | "svc", namespace, name] => Ok(Self::Service(ObjectKey::new(namespace, name))),
            _ => Err(EndSyntaxError::End(text.to_owned())),
        }
    }
}

impl fmt::Display for NamedEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Either(key) | Self::Pod(key) => key.fmt(f),
            Self::Service(key) => write!(f, "Service {key}"),
            Self::Node(node) => write!(f, "node {node}"),
            Self::Ip(ip) => ip.fmt(f),
        }
    }
}

impl FromStr for Destination {
    type Err = EndSyntaxError;

    fn from_str(text: &str) -> Result<Self, EndSyntaxError> {
        let no_port = || EndSyntaxError::NoPort(text.to_owned());
        if text.parse::<IpAddr>().is_ok() || text.ends_with(']') {
            return Err(no_port());
        }
        let (end, port) = text.rsplit_once(':').ok_or_else(no_port)?;
        let end = end.parse()?;
        if port.eq_ignore_ascii_case("icmp") || port.eq_ignore_ascii_case("icmpv6") {
            return Ok(Self {
                end,
                port: Port::Echo,
                transport: None,
            });
        }
        let (port, transport) = match port.split_once('/') {
            Some((port, protocol)) => {
                let transport = protocol.parse::<Transport>().ok().filter(|t| t.has_ports());
                let transport = transport.ok_or_else(|| EndSyntaxError::Transport(protocol.to_owned()))?;
                (port, Some(transport))
            }
            None => (port, None),
        };
        Ok(Self {
            end,
            port: parse_port(port)?,
            transport,
        })
    }
}

/// Parses a port. Names have letters, digits and hyphens, at least one letter (RFC 6335 section 5.1).
fn parse_port(text: &str) -> Result<Port, EndSyntaxError> {
    let wrong = || EndSyntaxError::Port(text.to_owned());
    if text.bytes().all(|b| b.is_ascii_digit()) {
        let number = text.parse().ok().filter(|number| *number > 0);
        return number.map(Port::Number).ok_or_else(wrong);
    }
    let is_name = text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let has_letter = text.bytes().any(|b| b.is_ascii_alphabetic());
    (is_name && has_letter)
        .then(|| Port::Name(text.to_owned()))
        .ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_parsed_in_all_forms() {
        let read = |text: &str| text.parse::<NamedEnd>();
        let key = || ObjectKey::new("shop", "web");
        assert_eq!(read("shop/web"), Ok(NamedEnd::Either(key())));
        assert_eq!(read("pod/shop/web"), Ok(NamedEnd::Pod(key())));
        assert_eq!(read("service/shop/web"), Ok(NamedEnd::Service(key())));
        assert_eq!(read("svc/shop/web"), Ok(NamedEnd::Service(key())));
        assert_eq!(read("node-1.example"), Ok(NamedEnd::Node("node-1.example".to_owned())));
        for ip in ["10.0.0.1", "fd00::1"] {
            assert_eq!(read(ip), Ok(NamedEnd::Ip(ip.parse().unwrap())));
        }
        assert_eq!(read("[fd00::1]"), Ok(NamedEnd::Ip("fd00::1".parse().unwrap())));
        for bad in ["", "/web", "shop/", "a/b/c", "shop/web:80", "[shop/web]", "10.0.0.1:80"] {
            assert_eq!(read(bad), Err(EndSyntaxError::End(bad.to_owned())));
        }
    }

    #[test]
    fn destinations_have_a_port_after_the_last_colon() {
        let read = |text: &str| {
            text.parse::<Destination>()
                .map(|goal| (goal.end.to_string(), goal.port, goal.transport))
        };
        let good = |end: &str, port, transport| Ok((end.to_owned(), port, transport));
        let name = |name: &str| Port::Name(name.to_owned());
        assert_eq!(read("shop/db:5432"), good("shop/db", Port::Number(5432), None));
        assert_eq!(
            read("shop/db:53/UDP"),
            good("shop/db", Port::Number(53), Some(Transport::Udp))
        );
        assert_eq!(read("svc/shop/db:http"), good("Service shop/db", name("http"), None));
        assert_eq!(read("[fd00::1]:80"), good("fd00::1", Port::Number(80), None));
        assert_eq!(
            read("node-1:30080/tcp"),
            good("node node-1", Port::Number(30080), Some(Transport::Tcp))
        );
        assert_eq!(read("shop/db:icmp"), good("shop/db", Port::Echo, None));
        for bad in ["shop/db", "10.0.0.1", "fd00::1", "[fd00::1]"] {
            assert_eq!(read(bad), Err(EndSyntaxError::NoPort(bad.to_owned())));
        }
        for bad in ["0", "65536", "", "80-90", "-", "a b"] {
            assert_eq!(
                read(&format!("shop/db:{bad}")),
                Err(EndSyntaxError::Port(bad.to_owned()))
            );
        }
        assert_eq!(
            read("shop/db:80/icmp"),
            Err(EndSyntaxError::Transport("icmp".to_owned()))
        );
        assert_eq!(read(":80"), Err(EndSyntaxError::End(String::new())));
    }
}
