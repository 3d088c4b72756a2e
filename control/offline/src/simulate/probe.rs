//! A probe and its answer, in the format of the file that `heddle simulate --probes` reads.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use heddle_model::Protocol;
use heddle_wire::Proto;
use serde::{Deserialize, Serialize};

/// One end of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum End {
    /// A pod, by its first address or by the first address of a family.
    Pod {
        /// `namespace/name`
        pod: String,
        /// 4 or 6
        #[serde(default)]
        family: Option<u8>,
    },
    /// A node, by its first internal address or by the first internal address of a family.
    Node {
        /// The node's name.
        node: String,
        /// 4 or 6
        #[serde(default)]
        family: Option<u8>,
    },
    /// An address.
    Ip {
        /// The address.
        ip: IpAddr,
    },
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Pod { pod, .. } => write!(f, "pod {pod}"),
            End::Node { node, .. } => write!(f, "node {node}"),
            End::Ip { ip } => ip.fmt(f),
        }
    }
}

/// The protocol of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub enum Transport {
    /// TCP.
    #[serde(rename = "TCP")]
    Tcp,
    /// UDP.
    #[serde(rename = "UDP")]
    Udp,
    /// SCTP.
    #[serde(rename = "SCTP")]
    Sctp,
    /// ICMP echo.
    #[serde(rename = "ICMP")]
    Icmp,
    /// ICMPv6 echo.
    #[serde(rename = "ICMPv6")]
    Icmpv6,
}

impl Transport {
    /// Returns the protocol number (IANA).
    #[must_use]
    pub const fn proto(self) -> Proto {
        match self {
            Self::Tcp => Proto::TCP,
            Self::Udp => Proto::UDP,
            Self::Sctp => Proto::SCTP,
            Self::Icmp => Proto::ICMP,
            Self::Icmpv6 => Proto::ICMPV6,
        }
    }

    /// Returns the name in probes.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
            Self::Icmp => "ICMP",
            Self::Icmpv6 => "ICMPv6",
        }
    }

    /// Returns true for protocols with ports.
    #[must_use]
    pub const fn has_ports(self) -> bool {
        matches!(self, Self::Tcp | Self::Udp | Self::Sctp)
    }
}

impl From<Protocol> for Transport {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Tcp => Self::Tcp,
            Protocol::Udp => Self::Udp,
            Protocol::Sctp => Self::Sctp,
        }
    }
}

impl FromStr for Transport {
    type Err = UnknownTransport;

    fn from_str(text: &str) -> Result<Self, UnknownTransport> {
        let all = [Self::Tcp, Self::Udp, Self::Sctp, Self::Icmp, Self::Icmpv6];
        let found = all.into_iter().find(|known| known.as_str().eq_ignore_ascii_case(text));
        found.ok_or_else(|| UnknownTransport(text.to_owned()))
    }
}

/// A text that is not the name of a [`Transport`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown protocol {0:?}: use tcp, udp, sctp, icmp or icmpv6")]
pub struct UnknownTransport(String);

/// A question about the first packet of a new connection.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Probe {
    /// An identifier, which the answer repeats.
    pub id: String,
    /// The source.
    pub src: End,
    /// The destination; for a Service, the address of its frontend.
    pub dst: End,
    /// The protocol.
    pub protocol: Transport,
    /// The destination port; `None` for ICMP.
    #[serde(default)]
    pub port: Option<u16>,
    /// The node where the packet enters. Default: the source pod's node, or else the destination pod's.
    #[serde(default)]
    pub node: Option<String>,
}

/// The verdict on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It arrives.
    Allow,
    /// It is dropped without an answer.
    Deny,
    /// It is answered at once: with a TCP reset, or with ICMP unreachable for other protocols.
    Reject,
}

impl Verdict {
    /// Returns the verdict in one word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Reject => "reject",
        }
    }
}

/// The answer to a probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// The probe's identifier.
    pub id: String,
    /// The verdict.
    pub verdict: Verdict,
    /// The policies or the reason that decided.
    pub policy: String,
    /// The backends to which the Service may send it, sorted; empty if the destination is not a Service.
    pub backends: Vec<String>,
    /// True if the source address is masqueraded.
    pub masquerade: bool,
}

/// A probe that cannot be answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProbeError {
    /// The pod does not exist.
    #[error("there is no pod {0:?} with an address of its own: write NAMESPACE/NAME of a running one")]
    NoPod(String),
    /// The node does not exist.
    #[error("there is no node {0:?} with an internal address")]
    NoNode(String),
    /// The end has no address of that family.
    #[error("{0} has no IPv{1} address")]
    NoFamily(End, u8),
    /// The ends are of different families.
    #[error("{from} and {to} are of different families: set \"family\" of the ends to 4 or 6")]
    Mixed {
        /// The source.
        from: IpAddr,
        /// The destination.
        to: IpAddr,
    },
    /// The node where the packet enters is not given.
    #[error("neither end is a pod: name the node where the packet enters (\"node\", or --node)")]
    NoEntry,
    /// The given entry node does not exist.
    #[error("there is no node {0:?} where the packet could enter")]
    NoEntryNode(String),
    /// The port is missing or 0.
    #[error("{} needs a port from 1 to 65535", .0.as_str())]
    NoPort(Transport),
}
