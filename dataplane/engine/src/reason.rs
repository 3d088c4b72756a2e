//! The reasons for which packets are dropped or absorbed, and the kinds of local replies: one enum each, with one counter for each
//! variant. Drop reasons are grouped in classes.
//!
//! A released name does not change, because users' alerts depend on it.

use heddle_wire::parse::ParseError;
use heddle_wire::vxlan::VxlanError;

macro_rules! reasons {
    ($(#[$enum_doc:meta])* $name:ident { $($(#[doc = $doc:literal])+ $variant:ident = $text:literal,)+ }) => {
        $(#[$enum_doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u8)]
        pub enum $name {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl $name {
            /// Every variant, in the order of its number.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];
            /// The number of variants.
            pub const COUNT: usize = Self::ALL.len();

            /// Returns the name in counters and messages, in kebab case.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }

            /// Returns the meaning, as a sentence.
            #[must_use]
            pub const fn describe(self) -> &'static str {
                match self {
                    $(Self::$variant => concat!($($doc,)+),)+
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

reasons! {
    /// The reason for which a packet was dropped.
    DropReason {
        // The parser's errors, in the parser's order and under its names: see `From<ParseError>`.
        /// The frame is shorter than an Ethernet header.
        EthernetTruncated = "ethernet-truncated",
        /// The frame carries a VLAN tag.
        VlanTagged = "vlan-tagged",
        /// The EtherType is neither ARP nor IPv4 nor IPv6.
        UnknownEtherType = "unknown-ethertype",
        /// The headers do not fit the first frame of the packet.
        HeadersSplit = "headers-split",
        /// The ARP packet is truncated.
        ArpTruncated = "arp-truncated",
        /// The ARP packet is not an Ethernet/IPv4 request or reply.
        ArpMalformed = "arp-malformed",
        /// The IPv4 header is truncated.
        Ipv4Truncated = "ipv4-truncated",
        /// The version field of an IPv4 header is not 4.
        Ipv4Version = "ipv4-version",
        /// The IPv4 header length is below 20.
        Ipv4HeaderLength = "ipv4-header-length",
        /// The IPv4 total length is below the header length.
        Ipv4TotalLength = "ipv4-total-length",
        /// The IPv4 total length is more than the frame holds.
        Ipv4LengthExceedsFrame = "ipv4-length-exceeds-frame",
        /// The IPv4 header checksum is wrong.
        Ipv4Checksum = "ipv4-checksum",
        /// An IPv4 header with a source route (RFC 7126 section 4.3 and 4.4: drop).
        Ipv4SourceRoute = "ipv4-source-route",
        /// The IPv6 header is truncated.
        Ipv6Truncated = "ipv6-truncated",
        /// The version field of an IPv6 header is not 6.
        Ipv6Version = "ipv6-version",
        /// The IPv6 payload length is more than the frame holds.
        Ipv6LengthExceedsFrame = "ipv6-length-exceeds-frame",
        /// An IPv6 extension header goes on behind the packet's end.
        Ipv6ExtensionTruncated = "ipv6-extension-truncated",
        /// There are too many IPv6 extension headers.
        Ipv6TooManyExtensions = "ipv6-too-many-extensions",
        /// IPv6 extension headers stand in a forbidden order.
        Ipv6ExtensionOrder = "ipv6-extension-order",
        /// An IPv6 routing header of type 0 (RFC 5095).
        Ipv6RoutingType0 = "ipv6-routing-type0",
        /// An IPv6 routing header with segments left.
        Ipv6RoutingSegmentsLeft = "ipv6-routing-segments-left",
        /// An IPv4-mapped address in an IPv6 header.
        Ipv4MappedAddress = "ipv4-mapped-address",
        /// The source address is multicast or broadcast.
        SourceMulticast = "source-multicast",
        /// The source address is a loopback address.
        SourceLoopback = "source-loopback",
        /// The destination address is a loopback address.
        DestinationLoopback = "destination-loopback",
        /// The destination address is unspecified.
        DestinationUnspecified = "destination-unspecified",
        /// ICMP in IPv6 or ICMPv6 in IPv4.
        ProtocolFamily = "protocol-family",
        /// A fragment ends beyond the largest datagram.
        FragmentOverflow = "fragment-overflow",
        /// A fragment is empty, or not the last and no multiple of 8 octets.
        FragmentLength = "fragment-length",
        /// A fragment splits or overlays the transport header (RFC 1858, RFC 7112).
        FragmentTiny = "fragment-tiny",
        /// The TCP header is truncated.
        TcpTruncated = "tcp-truncated",
        /// The TCP data offset is below 5 or beyond the segment.
        TcpHeaderLength = "tcp-header-length",
        /// The UDP header is truncated.
        UdpTruncated = "udp-truncated",
        /// The UDP length is below 8 or more than the packet holds.
        UdpLength = "udp-length",
        /// The SCTP header is truncated.
        SctpTruncated = "sctp-truncated",
        /// The ICMP header is truncated.
        IcmpTruncated = "icmp-truncated",
        /// The packet quoted in an ICMP error is truncated.
        IcmpQuoteTruncated = "icmp-quote-truncated",
        /// The packet quoted in an ICMP error is malformed.
        IcmpQuoteMalformed = "icmp-quote-malformed",
        /// An ICMP error quotes an ICMP error.
        IcmpQuoteOfError = "icmp-quote-of-error",
        /// A neighbor discovery message that RFC 4861 section 7.1 says to discard.
        NeighborInvalid = "neighbor-invalid",

        // The tunnel.
        /// A packet at the tunnel's port that is no whole VXLAN packet.
        TunnelTruncated = "tunnel-truncated",
        /// A VXLAN header without a network identifier, or with reserved bits set.
        TunnelFlags = "tunnel-flags",
        /// A VXLAN packet of another network identifier.
        TunnelNetwork = "tunnel-network",
        /// A VXLAN packet whose sender is no node of the cluster that packets go to by a tunnel.
        TunnelUnknownSender = "tunnel-unknown-sender",
        /// The network has marked the packet for congestion, and its sender does not understand marks (RFC 6040 section 4.2).
        TunnelCongested = "tunnel-congested",
        /// The packet cannot be encapsulated: its frame has no room for the outer headers.
        TunnelNoHeadroom = "tunnel-no-headroom",
        /// An ICMP error about a packet of the tunnel with a kind, an MTU or a checksum that no error to a pod can follow from.
        TunnelErrorRefused = "tunnel-error-refused",

        // The classifying stage and anti-spoofing.
        /// The frame is not addressed to the gateway.
        NotForGateway = "not-for-gateway",
        /// The source MAC address is not the pod's.
        SpoofedMac = "spoofed-mac",
        /// The source IP address does not belong where the packet came in.
        SpoofedSource = "spoofed-source",
        /// An ARP or neighbor message speaks for an address that does not belong where it came in.
        SpoofedNeighbor = "spoofed-neighbor",
        /// An address that no router forwards to or from: IPv6 link-local, or the unspecified source.
        Martian = "martian",
        /// A multicast or broadcast destination.
        Multicast = "multicast",
        /// A protocol that is not forwarded between hosts: IGMP to an address of one host.
        UnsupportedProtocol = "unsupported-protocol",
        /// An ICMP message that is neither echo nor error, a redirect (RFC 1812 section 5.2.7.2), or a source quench (RFC 6633).
        UnsupportedIcmp = "unsupported-icmp",
        /// A combination of TCP flags that no TCP sends.
        TcpFlags = "tcp-flags",

        // Fragments that do not fit their datagram. The parser's errors have the fragments that fit none.
        /// The fragment overlaps another one of its datagram, or belongs to a datagram in which two did (RFC 5722).
        FragmentOverlap = "fragment-overlap",
        /// The fragment is held already, and waits for the first of its datagram.
        FragmentDuplicate = "fragment-duplicate",
        /// The first fragment of its datagram was dropped or answered.
        FragmentFirstRefused = "fragment-first-refused",
        /// The first fragment of its datagram did not come in time.
        FragmentFirstMissing = "fragment-first-missing",
        /// There was no room to hold the fragment until the first one comes, or other datagrams needed it.
        FragmentNoRoom = "fragment-no-room",
        /// Its datagram has more fragments than any needs.
        FragmentTooMany = "fragment-too-many",
        /// The flow of the first fragment is gone.
        FragmentWithoutFlow = "fragment-without-flow",

        // No path to the destination.
        /// The destination is in a pod range of this node and no pod has it.
        UnknownDestination = "unknown-destination",
        /// The destination, or the pod that sent the packet, is on another node, and no packets reach that node: `heddle status` says
        /// why.
        NodeUnreachable = "node-unreachable",
        /// The packet would leave where it came in, or by an egress that has no port.
        NoRoute = "no-route",
        /// The TTL or hop limit is used up, and no answer was due or the port's ICMP errors are used up.
        TtlExceeded = "ttl-exceeded",
        /// A header could not be rewritten as its flow says: ports of a fragmented SCTP packet. Or octets behind the end of an IP
        /// packet of several frames could not be cut off.
        Untranslatable = "untranslatable",
        /// The packet is larger than its path takes, cannot be fragmented, and no answer was due or the port's ICMP
        /// errors are used up.
        TooBig = "too-big",
        /// The Service has endpoints, but its traffic policy leaves none here.
        ServiceNoLocalEndpoint = "service-no-local-endpoint",
        /// The source address is in none of the Service's loadBalancerSourceRanges.
        ServiceSourceRange = "service-source-range",
        /// The Service has no such port or no endpoint, and no answer was due or the port's ICMP errors are used up.
        ServiceRejected = "service-rejected",

        // Policy.
        /// The policy of the pod that the packet came in from is not compiled yet.
        PolicyNotReady = "policy-not-ready",
        /// Denied by the source pod's egress policy.
        PolicyDeniedEgress = "policy-denied-egress",
        /// Denied by the destination pod's ingress policy.
        PolicyDeniedIngress = "policy-denied-ingress",

        // Connections and their table.
        /// An ICMP error or reply that belongs to no flow.
        IcmpWithoutFlow = "icmp-without-flow",
        /// A reset in the middle of no flow, or a segment there to which none may be sent.
        TcpWithoutFlow = "tcp-without-flow",
        /// The flow table is full.
        FlowTableFull = "flow-table-full",
        /// The pod, or the pods of its namespace together, have as many flows as they may have.
        FlowQuota = "flow-quota",
        /// The clients of a /24 or /64 outside of the node have as many flows as they may have.
        FlowSourceQuota = "flow-source-quota",
        /// The opener has its share of the source ports that are masqueraded to the destination.
        FlowPortShare = "flow-port-share",
        /// No source port was free that distinguishes the flow from the others to the same backend.
        FlowPortsUsedUp = "flow-ports-used-up",
        /// The flow table refused the flow while another worker was changing the same one.
        FlowContended = "flow-contended",
        /// The burst's earlier packets from the same port have used up the work that it may cause.
        SlowPathLimit = "slow-path-limit",

        // Transmission.
        /// There were too few frames to fragment the packet into.
        PoolEmpty = "pool-empty",
        /// The queue to the worker that owns the port was full.
        HandoverQueueFull = "handover-queue-full",
        /// The transmit ring of the port was full.
        TxRingFull = "tx-ring-full",
        /// The port that the packet should leave by, or its worker, is closed.
        PortClosed = "port-closed",
        /// The packet ran through the pipeline without a verdict: a defect of heddle, please report it.
        NoVerdict = "no-verdict",
    }
}

reasons! {
    /// The reason for which a packet ended in heddle although nothing was wrong with it.
    AbsorbReason {
        /// A probe for a duplicate of the sender's own address (RFC 4862 section 5.4, RFC 5227).
        DuplicateAddressDetection = "duplicate-address-detection",
        /// A multicast listener report: there is no multicast to listen to.
        MulticastListener = "multicast-listener",
        /// A router solicitation: pods are configured by CNI.
        RouterSolicitation = "router-solicitation",
        /// An announcement of the sender's own address: heddle knows its neighbours.
        NeighborAnnouncement = "neighbor-announcement",
        /// A packet to heddle's own gateway address that is no echo request.
        ToGateway = "to-gateway",
        /// From the host: multicast, broadcast and router messages of the kernel on its own interface.
        HostLink = "host-link",
        /// From the uplink: ARP, neighbor discovery, multicast and broadcast, which are the kernel's.
        UplinkLink = "uplink-link",
    }
}

reasons! {
    /// The kind of a local reply.
    AnswerKind {
        /// An ARP reply.
        Arp = "arp",
        /// A neighbor advertisement.
        Neighbor = "neighbor",
        /// An echo reply from the gateway address.
        Echo = "echo",
        /// ICMP time exceeded.
        TimeExceeded = "time-exceeded",
        /// ICMP fragmentation needed, or packet too big.
        TooBig = "too-big",
        /// A TCP reset, because the segment belongs to no flow.
        TcpReset = "tcp-reset",
        /// A TCP reset, because the Service has no such port or no endpoint.
        RejectReset = "reject-reset",
        /// ICMP port unreachable, because the Service has no such port or no endpoint.
        RejectUnreachable = "reject-unreachable",
    }
}

reasons! {
    /// The class of a drop reason.
    DropClass {
        /// A header that no valid packet has.
        Malformed = "malformed",
        /// An address that does not belong where the packet came in.
        Spoofing = "spoofing",
        /// A valid packet of a kind that heddle does not forward.
        Unsupported = "unsupported",
        /// A policy or a Service's source ranges deny the packet.
        Policy = "policy",
        /// Nothing can be reached at the destination, or not by this packet.
        Unreachable = "unreachable",
        /// The packet belongs to no known connection or datagram.
        NoFlow = "no-flow",
        /// A table, a queue, a ring or the pool of frames was full.
        Capacity = "capacity",
        /// A defect of heddle.
        Defect = "defect",
    }
}

impl DropReason {
    /// Returns the class of the reason.
    #[must_use]
    pub const fn class(self) -> DropClass {
        match self {
            Self::EthernetTruncated
            | Self::ArpTruncated
            | Self::ArpMalformed
            | Self::Ipv4Truncated
            | Self::Ipv4Version
            | Self::Ipv4HeaderLength
            | Self::Ipv4TotalLength
            | Self::Ipv4LengthExceedsFrame
            | Self::Ipv4Checksum
            | Self::Ipv6Truncated
            | Self::Ipv6Version
            | Self::Ipv6LengthExceedsFrame
            | Self::Ipv6ExtensionTruncated
            | Self::Ipv6ExtensionOrder
            | Self::Ipv4MappedAddress
            | Self::SourceMulticast
            | Self::SourceLoopback
            | Self::DestinationLoopback
            | Self::DestinationUnspecified
            | Self::ProtocolFamily
            | Self::FragmentOverflow
            | Self::FragmentLength
            | Self::FragmentTiny
            | Self::TcpTruncated
            | Self::TcpHeaderLength
            | Self::UdpTruncated
            | Self::UdpLength
            | Self::SctpTruncated
            | Self::IcmpTruncated
            | Self::IcmpQuoteTruncated
            | Self::IcmpQuoteMalformed
            | Self::IcmpQuoteOfError
            | Self::NeighborInvalid
            | Self::TunnelTruncated
            | Self::TunnelFlags
            | Self::TcpFlags
            | Self::FragmentOverlap => DropClass::Malformed,
            Self::SpoofedMac | Self::SpoofedSource | Self::SpoofedNeighbor | Self::TunnelUnknownSender => {
                DropClass::Spoofing
            }
            Self::VlanTagged
            | Self::UnknownEtherType
            | Self::HeadersSplit
            | Self::Ipv6TooManyExtensions
            | Self::Ipv6RoutingType0
            | Self::Ipv6RoutingSegmentsLeft
            | Self::Ipv4SourceRoute
            | Self::Multicast
            | Self::UnsupportedProtocol
            | Self::UnsupportedIcmp
            | Self::TunnelNetwork
            | Self::TunnelErrorRefused
            | Self::Untranslatable => DropClass::Unsupported,
            Self::ServiceSourceRange | Self::PolicyNotReady | Self::PolicyDeniedEgress | Self::PolicyDeniedIngress => {
                DropClass::Policy
            }
            Self::NotForGateway
            | Self::Martian
            | Self::UnknownDestination
            | Self::NodeUnreachable
            | Self::NoRoute
            | Self::TtlExceeded
            | Self::TooBig
            | Self::ServiceNoLocalEndpoint
            | Self::ServiceRejected
            | Self::PortClosed => DropClass::Unreachable,
            Self::IcmpWithoutFlow
            | Self::TcpWithoutFlow
            | Self::FragmentDuplicate
            | Self::FragmentFirstRefused
            | Self::FragmentFirstMissing
            | Self::FragmentWithoutFlow => DropClass::NoFlow,
            Self::FragmentNoRoom
            | Self::FragmentTooMany
            | Self::FlowTableFull
            | Self::FlowQuota
            | Self::FlowSourceQuota
            | Self::FlowPortShare
            | Self::FlowPortsUsedUp
            | Self::FlowContended
            | Self::SlowPathLimit
            | Self::TunnelCongested
            | Self::TunnelNoHeadroom
            | Self::PoolEmpty
            | Self::HandoverQueueFull
            | Self::TxRingFull => DropClass::Capacity,
            Self::NoVerdict => DropClass::Defect,
        }
    }

    /// Returns true if policy denied the packet, so that a change of policy may allow its connection again.
    #[must_use]
    pub const fn is_policy(self) -> bool {
        matches!(
            self,
            Self::PolicyNotReady | Self::PolicyDeniedEgress | Self::PolicyDeniedIngress
        )
    }

    /// Returns true if an established connection that is denied for this reason may go on later: policy is changed, or the other
    /// node is reached again.
    #[must_use]
    pub const fn may_pass(self) -> bool {
        self.is_policy() || matches!(self, Self::NodeUnreachable)
    }
}

impl From<VxlanError> for DropReason {
    fn from(e: VxlanError) -> Self {
        match e {
            VxlanError::Truncated => Self::TunnelTruncated,
            VxlanError::Flags => Self::TunnelFlags,
            VxlanError::Vni => Self::TunnelNetwork,
        }
    }
}

impl From<ParseError> for DropReason {
    #[inline]
    fn from(e: ParseError) -> Self {
        // The first variants are the parser's, in its order (a test compares the names).
        Self::ALL.get(e as usize).copied().unwrap_or(Self::NoVerdict)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(names: Vec<&'static str>) {
        let mut unique = names.clone();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(unique.len(), names.len());
        for n in names {
            assert!(
                n.bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'),
                "{n}"
            );
        }
    }

    #[test]
    fn names_are_kebab_case_and_unique() {
        check(DropReason::ALL.iter().map(|r| r.as_str()).collect());
        check(AbsorbReason::ALL.iter().map(|r| r.as_str()).collect());
        check(AnswerKind::ALL.iter().map(|r| r.as_str()).collect());
    }

    #[test]
    fn each_class_has_a_reason() {
        check(DropClass::ALL.iter().map(|class| class.as_str()).collect());
        for class in DropClass::ALL {
            assert!(DropReason::ALL.iter().any(|reason| reason.class() == *class), "{class}");
        }
        for reason in DropReason::ALL.iter().filter(|reason| reason.is_policy()) {
            assert_eq!(reason.class(), DropClass::Policy, "{reason}");
        }
    }

    #[test]
    fn numbers_follow_the_list() {
        assert!((0..).zip(DropReason::ALL).all(|(n, r)| *r as usize == n));
    }

    #[test]
    fn each_parse_error_has_the_reason_of_its_name() {
        for e in ParseError::ALL {
            assert_eq!(DropReason::from(e).as_str(), e.as_str());
        }
    }

    #[test]
    fn each_reason_says_what_it_means() {
        for r in DropReason::ALL {
            assert!(r.describe().trim().ends_with('.'), "{r}");
        }
    }
}
