//! A question and its answer, in the words of the probes' file.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use heddle_wire::Proto;
use serde::{Deserialize, Serialize};

/// One end of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum End {
    /// A pod: its first address, or the one of a family.
    Pod {
        /// `namespace/name`
        pod: String,
        /// 4 or 6
        #[serde(default)]
        family: Option<u8>,
    },
    /// A node: its first internal address, or the one of a family.
    Node {
        /// Its name.
        node: String,
        /// 4 or 6
        #[serde(default)]
        family: Option<u8>,
    },
    /// Any address.
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
    /// IANA's number.
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

    /// As a probe spells it.
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

impl FromStr for Transport {
    type Err = UnknownTransport;

    fn from_str(text: &str) -> Result<Self, UnknownTransport> {
        let all = [Self::Tcp, Self::Udp, Self::Sctp, Self::Icmp, Self::Icmpv6];
        let found = all.into_iter().find(|known| known.as_str().eq_ignore_ascii_case(text));
        found.ok_or_else(|| UnknownTransport(text.to_owned()))
    }
}

/// A protocol that is none of [`Transport`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown protocol {0:?}: use tcp, udp, sctp, icmp or icmpv6")]
pub struct UnknownTransport(String);

/// The first packet of a new connection.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Probe {
    /// Comes back in the answer.
    pub id: String,
    /// From where.
    pub src: End,
    /// To where; a Service by the address of its frontend.
    pub dst: End,
    /// The protocol.
    pub protocol: Transport,
    /// The port at the destination; none for ICMP.
    #[serde(default)]
    pub port: Option<u16>,
    /// The node at which the packet enters, if not the source pod's, or else the destination pod's.
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
    /// It is answered at once: a TCP reset, or an ICMP unreachable for the others.
    Reject,
}

impl Verdict {
    /// In a word.
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
    /// The probe's.
    pub id: String,
    /// The verdict.
    pub verdict: Verdict,
    /// The policies or the reason that decided.
    pub policy: String,
    /// Where a Service may send it, sorted; empty where none does.
    pub backends: Vec<String>,
    /// The source address is masqueraded.
    pub masquerade: bool,
}

/// A probe that cannot be answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProbeError {
    /// There is no such pod.
    #[error("there is no pod {0:?} with an address of its own: write NAMESPACE/NAME of a running one")]
    NoPod(String),
    /// There is no such node.
    #[error("there is no node {0:?} with an internal address")]
    NoNode(String),
    /// It has no address of that family.
    #[error("{0} has no IPv{1} address")]
    NoFamily(End, u8),
    /// The ends are of different families.
    #[error("{from} is of another family than {to}: give \"family\" 4 or 6")]
    Mixed {
        /// The source.
        from: IpAddr,
        /// The destination.
        to: IpAddr,
    },
    /// Nothing says where the packet enters.
    #[error("neither end is a pod, so a node must be named at which the packet enters (\"node\", or --node)")]
    NoEntry,
    /// The node at which the packet is to enter is not known.
    #[error("there is no node {0:?} at which the packet could enter")]
    NoEntryNode(String),
    /// TCP, UDP and SCTP have ports.
    #[error("{} needs a port from 1 to 65535", .0.as_str())]
    NoPort(Transport),
}
