//! Port mappings of a pod: the CNI capability `portMappings`, which the runtime fills from `spec.containers[].ports[].hostPort`.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use heddle_wire::Proto;
use serde::{Deserialize, Serialize};

/// The maximum number of port mappings of an attachment. A pod may map ranges of ports for media or games.
pub const MAX_PORT_MAPPINGS: usize = 4096;

/// A port of the node that leads to a port of the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PortMapping {
    /// The port of the node, not 0.
    pub host_port: u16,
    /// The protocol.
    pub protocol: MappedProtocol,
    /// The only address of the node at which the port is open. `None` stands for every address; 0.0.0.0 and `::` stand for every
    /// address of their family.
    #[serde(default, rename = "hostIP", skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<IpAddr>,
    /// The port of the pod, not 0.
    pub container_port: u16,
}

impl fmt::Display for PortMapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host_ip {
            Some(ip) => write!(f, "{}", SocketAddr::new(ip, self.host_port))?,
            None => write!(f, "{}", self.host_port)?,
        }
        write!(f, "->{}/{}", self.container_port, self.protocol.as_str())
    }
}

/// A protocol with ports, as the capability names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MappedProtocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl MappedProtocol {
    /// Returns the name in lower case.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }

    /// Returns the IANA number.
    #[must_use]
    pub const fn proto(self) -> Proto {
        match self {
            Self::Tcp => Proto::TCP,
            Self::Udp => Proto::UDP,
            Self::Sctp => Proto::SCTP,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_are_written_as_the_capability_names_them() {
        let text = r#"{"hostPort":8080,"protocol":"tcp","hostIP":"192.0.2.1","containerPort":80}"#;
        let mapping: PortMapping = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&mapping).unwrap(), text);
        assert_eq!(mapping.to_string(), "192.0.2.1:8080->80/tcp");
        let any = PortMapping {
            host_ip: None,
            ..mapping
        };
        assert_eq!(any.to_string(), "8080->80/tcp");
        let v6 = PortMapping {
            host_ip: Some("::".parse().unwrap()),
            ..mapping
        };
        assert_eq!(v6.to_string(), "[::]:8080->80/tcp");
    }
}
