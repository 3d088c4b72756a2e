//! The types of a decision: the connection in question, the decision, and the path and translation of an allowed connection.

use heddle_flow::{Egress, FlowKey, Origin};
use heddle_tables::{EndpointId, RuleId};
use heddle_wire::rewrite::Tuple;
use heddle_wire::{Ip, Proto};

use crate::reason::DropReason;

/// A connection to be decided: the tuple of its first packet, and where that came in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Query {
    /// Where the packet came in.
    pub origin: Origin,
    /// Its addresses and ports as it came in.
    pub tuple: Tuple,
    /// Its protocol.
    pub proto: Proto,
}

impl From<&FlowKey> for Query {
    fn from(key: &FlowKey) -> Self {
        Self {
            origin: key.origin,
            tuple: key.tuple,
            proto: key.proto,
        }
    }
}

/// The decision on a new connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    /// It may pass.
    Pass(Allowed),
    /// The Service has no such port or no endpoint: the client gets a rejection at once.
    Reject,
    /// It is for the gateway, which is heddle itself.
    Gateway,
    /// It may not pass.
    Drop(Denial),
}

/// The denial of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Denial {
    /// The reason.
    pub reason: DropReason,
    /// The rule that denied the connection, if policy did.
    pub rule: RuleId,
    /// The pod whose policy contains the rule; [`EndpointId::HOST`], which has no policy, if no policy denied the connection.
    pub pod: EndpointId,
}

impl Denial {
    /// Returns a denial that is not policy's.
    #[must_use]
    pub const fn new(reason: DropReason) -> Self {
        Self {
            reason,
            rule: RuleId::NO_POLICY,
            pod: EndpointId::HOST,
        }
    }
}

/// The destination of a connection after DNAT. Without a Service it is the packet's own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Target {
    /// The address that the connection reaches.
    pub dst: Ip,
    /// The port that it reaches.
    pub dport: u16,
    /// True if the connection goes through a Service.
    pub service: bool,
    /// True if the Service has session affinity: the client's next connection goes to the same backend.
    pub sticky: bool,
    /// True if the source is masqueraded, as kube-proxy would mark the connection.
    pub masquerade: bool,
    /// True if the packets go to the backend's node without translation: it translates them and answers the client directly.
    pub forwarded: bool,
}

impl Target {
    /// Returns the target of a connection that goes through no Service.
    #[must_use]
    pub const fn direct(dst: Ip, dport: u16) -> Self {
        Self {
            dst,
            dport,
            service: false,
            sticky: false,
            masquerade: false,
            forwarded: false,
        }
    }
}

/// The source address that the destination sees.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// The packet's own source address.
    Kept,
    /// The gateway's, because a pod reaches itself through a Service.
    Hairpin(Ip),
    /// The masquerade address, because the reply would not come back through heddle otherwise.
    Masqueraded(Ip),
}

/// A connection that may pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Allowed {
    /// The endpoint that it comes from.
    pub from: EndpointId,
    /// The egress of its opener's packets.
    pub egress: Egress,
    /// The egress of the replies. A client at the uplink gets the kernel here; the worker knows a better next hop.
    pub back: Egress,
    /// The origin of the replies.
    pub reply_origin: Origin,
    /// The destination after DNAT.
    pub target: Target,
    /// The source after SNAT.
    pub source: Source,
    /// The destination is another node's own address.
    pub other_host: bool,
    /// The rule that allowed it to leave its source.
    pub egress_rule: RuleId,
    /// The rule that allowed it to reach its destination.
    pub ingress_rule: RuleId,
}

impl Allowed {
    /// Returns the endpoint that the connection goes to: a local one, or the uplink, behind which other nodes are.
    #[must_use]
    pub const fn to(&self) -> EndpointId {
        match self.egress {
            Egress::Endpoint(id) => id,
            Egress::Uplink(_) | Egress::Node(_) => EndpointId::UPLINK,
        }
    }

    /// Returns true if the connection may go on by an egress that it has: by its own, or by the kernel to a node whose own addresses
    /// were the kernel's when the connection was opened. (The kernel has its translation.)
    #[must_use]
    pub(crate) fn admits(&self, egress: Egress) -> bool {
        let kernel = egress == Egress::Endpoint(EndpointId::HOST);
        egress == self.egress || kernel && self.other_host && self.source == Source::Kept
    }

    /// Returns true if kube-proxy would replace the source address by the node's, even where it already is the node's.
    #[must_use]
    pub const fn is_masqueraded(&self) -> bool {
        self.target.masquerade || !matches!(self.source, Source::Kept)
    }
}
