//! The types of the table's interface: keys, rewrites, entries.

use std::fmt;

use bitflags::bitflags;
use heddle_ids::{EndpointId, Epoch, Generation, NextHopId, NodeId};
use heddle_wire::checksum::Delta;
use heddle_wire::rewrite::{Deltas, Tuple};
use heddle_wire::{Parsed, Proto};

/// A time in milliseconds, of a clock that never stops: in the agent `CLOCK_BOOTTIME`, which continues over a restart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
#[repr(transparent)]
pub struct Millis(pub u64);

impl Millis {
    /// Returns the time `ms` milliseconds later.
    #[must_use]
    pub const fn plus(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// Returns the milliseconds since `earlier`; 0 if that is not earlier.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// The state of a connection.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum FlowState {
    /// Not TCP: only the opener has sent.
    New = 0,
    /// Not TCP: both sides have sent.
    Replied = 1,
    /// TCP: the opener's SYN was seen.
    SynSent = 2,
    /// TCP: the SYN-ACK was seen.
    SynReceived = 3,
    /// TCP: the handshake is complete, or the connection was adopted.
    Established = 4,
    /// TCP: one side has sent its FIN.
    FinWait = 5,
    /// TCP: both sides have sent their FINs.
    TimeWait = 6,
    /// TCP: a reset was seen.
    Closed = 7,
}

impl FlowState {
    /// Returns true if no more data will come, so that a SYN opens another connection.
    #[must_use]
    pub const fn is_closed(self) -> bool {
        matches!(self, Self::TimeWait | Self::Closed)
    }

    /// Returns the state's name, as `heddle flows` prints it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Replied => "replied",
            Self::SynSent => "syn-sent",
            Self::SynReceived => "syn-received",
            Self::Established => "established",
            Self::FinWait => "fin-wait",
            Self::TimeWait => "time-wait",
            Self::Closed => "closed",
        }
    }
}

/// The origin of a packet: the place where it came in, as a part of the flow key. It never contains the queue or the worker.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Origin(u32);

impl Origin {
    /// The host port.
    pub const HOST: Self = Self(0);
    /// The uplink, not encapsulated.
    pub const UPLINK: Self = Self(1 << 16);
    const POD: u32 = 2 << 16;
    const NODE: u32 = 3 << 16;

    /// A local pod's attachment.
    #[must_use]
    pub const fn pod(endpoint: EndpointId) -> Self {
        Self(Self::POD | endpoint.0 as u32)
    }

    /// Another node, by VXLAN.
    #[must_use]
    pub const fn node(node: NodeId) -> Self {
        Self(Self::NODE | node.0 as u32)
    }

    /// Returns the attachment, if the packet came from a pod.
    #[must_use]
    pub const fn as_pod(self) -> Option<EndpointId> {
        if self.0 & !0xffff == Self::POD {
            Some(EndpointId(self.0 as u16))
        } else {
            None
        }
    }

    /// Returns the node, if the packet came from another node's tunnel.
    #[must_use]
    pub const fn as_node(self) -> Option<NodeId> {
        if self.0 & !0xffff == Self::NODE {
            Some(NodeId(self.0 as u16))
        } else {
            None
        }
    }

    pub(crate) const fn to_bits(self) -> u32 {
        self.0
    }

    pub(crate) const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = self.0 & 0xffff;
        match self.0 & !0xffff {
            0 => f.write_str("host"),
            Self::POD => write!(f, "pod {id}"),
            Self::NODE => write!(f, "node {id}"),
            _ => f.write_str("uplink"),
        }
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The key of one direction of a connection: its tuple as it arrives, its protocol and its origin.
///
/// Protocols without ports have zeroes for them. An ICMP echo request has its identifier as `sport` and 0 as `dport`, an
/// echo reply 0 as `sport` and the identifier as `dport`, as the parser gives them: the tuple of the reply is the tuple of
/// the request reversed. [`echo_reply`](Self::echo_reply) tells the two apart where the identifier is 0.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FlowKey {
    /// Addresses and ports.
    pub tuple: Tuple,
    /// Protocol.
    pub proto: Proto,
    /// The origin.
    pub origin: Origin,
    /// True for an ICMP echo reply: with the identifier 0 its tuple is also that of a request from the same host.
    pub echo_reply: bool,
}

impl FlowKey {
    /// Returns the key of a packet with this origin.
    #[must_use]
    #[inline]
    pub const fn of(packet: &Parsed, origin: Origin) -> Self {
        Self {
            tuple: packet.tuple(),
            proto: packet.proto,
            origin,
            echo_reply: packet.echo_reply,
        }
    }

    /// Returns the key of the packet that opens a connection. For an ICMP echo this is the request.
    #[must_use]
    pub const fn opening(tuple: Tuple, proto: Proto, origin: Origin) -> Self {
        Self {
            tuple,
            proto,
            origin,
            echo_reply: false,
        }
    }

    /// Returns the key of the replies to packets that leave with the tuple `sent`. The replies come in at `origin`.
    #[must_use]
    pub const fn replying(sent: Tuple, proto: Proto, origin: Origin) -> Self {
        Self {
            tuple: sent.reversed(),
            proto,
            origin,
            echo_reply: matches!(proto, Proto::ICMP | Proto::ICMPV6),
        }
    }
}

/// The compiled header change of one direction: the tuple that packets leave with and the changes of their checksums, in the form
/// for [`heddle_wire::rewrite::forward`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rewrite {
    /// The tuple that packets leave with.
    pub to: Tuple,
    /// The changes of the checksums.
    pub deltas: Deltas,
}

impl Rewrite {
    /// Returns the rewrite that changes nothing.
    #[must_use]
    pub const fn none(key: &FlowKey) -> Self {
        Self {
            to: key.tuple,
            deltas: Deltas {
                l3: Delta::NONE,
                l4: Delta::NONE,
            },
        }
    }

    /// Returns the rewrite of the replies to packets that came with `seen` and leave with this rewrite.
    #[must_use]
    pub const fn back(&self, seen: &Tuple) -> Self {
        Self {
            to: seen.reversed(),
            deltas: Deltas {
                l3: self.deltas.l3.reverse(),
                l4: self.deltas.l4.reverse(),
            },
        }
    }

    /// Returns the rewrite with which packets with this key leave with another tuple.
    #[must_use]
    pub fn between(key: &FlowKey, to: Tuple) -> Self {
        Self {
            to,
            deltas: Deltas::between(key.proto, &key.tuple, &to),
        }
    }
}

/// The egress of one direction's packets.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Egress {
    /// A local pod, or the host port.
    Endpoint(EndpointId),
    /// The uplink, by a next-hop record.
    Uplink(NextHopId),
    /// The tunnel to another node.
    Node(NodeId),
}

impl Egress {
    pub(crate) const fn to_bits(self) -> u32 {
        match self {
            Self::Endpoint(n) => n.0 as u32,
            Self::Uplink(n) => 1 << 16 | n.0 as u32,
            Self::Node(n) => 2 << 16 | n.0 as u32,
        }
    }

    /// Decodes bits from [`Self::to_bits`]. Other bits give an arbitrary egress.
    #[inline]
    pub(crate) const fn from_bits(bits: u32) -> Self {
        let id = bits as u16;
        let kind = bits >> 16;
        match if kind < 2 { kind } else { 2 } {
            0 => Self::Endpoint(EndpointId(id)),
            1 => Self::Uplink(NextHopId(id)),
            _ => Self::Node(NodeId(id)),
        }
    }

    /// Decodes bits from [`Self::to_bits`]. Other bits give `None`.
    pub(crate) const fn try_from_bits(bits: u32) -> Option<Self> {
        let id = bits as u16;
        match bits >> 16 {
            0 => Some(Self::Endpoint(EndpointId(id))),
            1 => Some(Self::Uplink(NextHopId(id))),
            2 => Some(Self::Node(NodeId(id))),
            _ => None,
        }
    }
}

bitflags! {
    /// Flags of one direction, which the caller sets at the insertion.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
    pub struct FlowFlags: u16 {
        /// This direction has the replies: the other side opened the connection. Exactly one of the two directions has the flag.
        const REPLY = 1;
        /// The connection was adopted in mid-stream, after a start without a table.
        const ADOPTED = 1 << 1;
        /// The packet's addresses or ports change.
        const NAT = 1 << 2;
        /// The source is replaced by an address of the node.
        const MASQUERADED = 1 << 3;
        /// The connection goes from a pod through a Service to the same pod.
        const HAIRPIN = 1 << 4;
        /// The connection goes through a Service.
        const SERVICE = 1 << 5;
        /// The payer is outside of this node: the connection is charged to its source prefix. Both directions have it.
        const OUTSIDE = 1 << 6;
        /// The connection is charged to the side that did not open it, because that side's packet made the entry. Both
        /// directions have it.
        const RESPONDER_PAYS = 1 << 7;
        /// The connection is forwarded to the backend's node without translation, and answered from there directly: no reply
        /// comes by this node. The rewrite has the backend that this node chose, and is not applied. Both directions have it.
        const FORWARDED = 1 << 8;
    }
}

/// One direction of a connection, to be inserted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NewFlow {
    /// Its key.
    pub key: FlowKey,
    /// Its rewrite.
    pub rewrite: Rewrite,
    /// Its egress.
    pub egress: Egress,
    /// The endpoints that it comes from and goes to. The table uses the forward direction's for both.
    pub endpoints: [EndpointId; 2],
    /// Their generations when it was evaluated.
    pub generations: [Generation; 2],
    /// The largest MSS on the path of this direction, lowered to the one that its receiver announced; 0 means no limit. It limits the
    /// MSS option in a SYN or SYN-ACK, and is the size of segments.
    pub mss_clamp: u16,
    /// Its flags.
    pub flags: FlowFlags,
}

/// A reference to one direction of a connection, valid for the life of that connection.
///
/// It contains the incarnation: the number of times that the slot was allocated. An operation on a slot that was removed, and
/// perhaps reused by another worker, changes nothing and returns false or `None`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct SlotId(u64);

impl SlotId {
    pub(crate) const fn new(incarnation: u32, record: u32, direction: usize) -> Self {
        Self((incarnation as u64) << 32 | (record as u64) << 1 | direction as u64 & 1)
    }

    /// Makes the same slot as [`Self::new`]. It takes the incarnation from the upper half of `state_word`.
    #[inline]
    pub(crate) const fn from_state_word(state_word: u64, record: u32, direction: usize) -> Self {
        Self(state_word & !(u32::MAX as u64) | (record as u64) << 1 | direction as u64 & 1)
    }

    pub(crate) const fn incarnation(self) -> u32 {
        (self.0 >> 32) as u32
    }

    pub(crate) const fn record(self) -> u32 {
        (self.0 as u32) >> 1
    }

    pub(crate) const fn direction(self) -> usize {
        (self.0 & 1) as usize
    }

    /// Returns the slot as a number that no other connection's slot has during the life of the table.
    #[must_use]
    pub const fn id(self) -> u64 {
        self.0
    }

    /// Returns the number of the connection's record, by which [`FlowTable::page`](crate::FlowTable::page) iterates.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.record()
    }

    /// Returns the other direction of the same connection.
    #[must_use]
    pub const fn peer(self) -> Self {
        Self(self.0 ^ 1)
    }
}

impl fmt::Debug for SlotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}@{}", self.record(), self.direction(), self.incarnation())
    }
}

/// The content of an entry: one direction of a connection at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlowView {
    /// The rewrite of its packets.
    pub rewrite: Rewrite,
    /// The origin of its packets. An entry from `find_tuple` may have another origin than the packet.
    pub origin: Origin,
    /// Their egress.
    pub egress: Egress,
    /// The endpoints that this direction comes from and goes to.
    pub endpoints: [EndpointId; 2],
    /// The generations of these endpoints under which it was last evaluated.
    pub generations: [Generation; 2],
    /// The start of the agent in which it was last evaluated.
    pub epoch: Epoch,
    /// The largest MSS on the path of this direction, lowered to the one that its receiver announced; 0 means no limit.
    pub mss_clamp: u16,
    /// The flags that the caller inserted.
    pub flags: FlowFlags,
    /// The state of the connection.
    pub state: FlowState,
    /// The time of the last packet of either direction.
    pub last_seen: Millis,
}

impl FlowView {
    /// Returns true if the entry was evaluated in `epoch` and under these generations of [`Self::endpoints`].
    #[must_use]
    pub fn is_current(&self, epoch: Epoch, generations: [Generation; 2]) -> bool {
        self.epoch == epoch && self.generations == generations
    }

    /// Returns true if a SYN without ACK may be a packet of this connection.
    ///
    /// A SYN from the side that did not open the connection, on an adopted entry, or on a closed entry opens a new connection in its
    /// own direction and must be judged as one. A SYN of the opener on a live entry is a retransmission.
    #[must_use]
    pub fn admits_syn(&self) -> bool {
        !self.flags.intersects(FlowFlags::REPLY | FlowFlags::ADOPTED) && !self.state.is_closed()
    }
}

/// A flow that was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hit {
    /// Its slot.
    pub slot: SlotId,
    /// Its content.
    pub view: FlowView,
}
