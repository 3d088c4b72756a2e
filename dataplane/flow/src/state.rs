//! The state of a connection, and the timeout of each state.
//!
//! Only TCP flags are tracked, not sequence numbers: policy has allowed the connection, and the two ends check the window. The
//! state decides only the timeout, and that a SYN may still belong to the connection.

use std::time::Duration;

use heddle_wire::{Proto, TcpFlags};

use crate::types::{FlowFlags, FlowState, Millis};

/// The time without packets after which a connection's entry expires. The defaults are Linux conntrack's
/// (`Documentation/networking/nf_conntrack-sysctl.rst`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timeouts {
    /// `nf_conntrack_tcp_timeout_syn_sent`.
    pub tcp_syn_sent: Duration,
    /// `nf_conntrack_tcp_timeout_syn_recv`.
    pub tcp_syn_received: Duration,
    /// `nf_conntrack_tcp_timeout_established`.
    pub tcp_established: Duration,
    /// `nf_conntrack_tcp_timeout_fin_wait`.
    pub tcp_fin_wait: Duration,
    /// `nf_conntrack_tcp_timeout_time_wait`.
    pub tcp_time_wait: Duration,
    /// `nf_conntrack_tcp_timeout_close`.
    pub tcp_closed: Duration,
    /// `nf_conntrack_udp_timeout`.
    pub udp_new: Duration,
    /// `nf_conntrack_udp_timeout_stream`.
    pub udp_replied: Duration,
    /// `nf_conntrack_sctp_timeout_heartbeat_sent`.
    pub sctp_new: Duration,
    /// `nf_conntrack_sctp_timeout_established`.
    pub sctp_replied: Duration,
    /// `nf_conntrack_icmp_timeout` and `nf_conntrack_icmpv6_timeout`.
    pub icmp: Duration,
    /// `nf_conntrack_generic_timeout`.
    pub other: Duration,
    /// The timeout of an adopted TCP connection with packets of one side only. Anyone can send a segment of a connection that does
    /// not exist, so such an entry expires earlier than that of a known connection.
    pub tcp_adopted: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            tcp_syn_sent: Duration::from_secs(120),
            tcp_syn_received: Duration::from_secs(60),
            tcp_established: Duration::from_secs(432_000),
            tcp_fin_wait: Duration::from_secs(120),
            tcp_time_wait: Duration::from_secs(120),
            tcp_closed: Duration::from_secs(10),
            udp_new: Duration::from_secs(30),
            udp_replied: Duration::from_secs(120),
            sctp_new: Duration::from_secs(30),
            sctp_replied: Duration::from_secs(210),
            icmp: Duration::from_secs(30),
            other: Duration::from_secs(600),
            tcp_adopted: Duration::from_secs(30),
        }
    }
}

impl Timeouts {
    /// Returns the timeout of a protocol in a state.
    #[must_use]
    pub const fn of(&self, proto: Proto, state: FlowState) -> Duration {
        match (proto, state) {
            (_, FlowState::SynSent) => self.tcp_syn_sent,
            (_, FlowState::SynReceived) => self.tcp_syn_received,
            (_, FlowState::Established) => self.tcp_established,
            (_, FlowState::FinWait) => self.tcp_fin_wait,
            (_, FlowState::TimeWait) => self.tcp_time_wait,
            (_, FlowState::Closed) => self.tcp_closed,
            (Proto::UDP, FlowState::New) => self.udp_new,
            (Proto::UDP, FlowState::Replied) => self.udp_replied,
            (Proto::SCTP, FlowState::New) => self.sctp_new,
            (Proto::SCTP, FlowState::Replied) => self.sctp_replied,
            (Proto::ICMP | Proto::ICMPV6, _) => self.icmp,
            _ => self.other,
        }
    }
}

/// The timeouts in milliseconds, by the lowest bits of a [`ConnState`]: state, class and whether one side only was seen.
pub(crate) struct Limits([u64; Self::CLASSES.len() * Self::STATES * 2]);

impl Limits {
    const STATES: usize = 8;
    /// A timeout that is never reached.
    const NEVER: u64 = 1 << 60;
    /// One protocol for each class of timeouts. `Proto(0)` stands for all protocols that are in no other class.
    const CLASSES: [Proto; 4] = [Proto(0), Proto::UDP, Proto::SCTP, Proto::ICMP];

    pub(crate) fn of(timeouts: &Timeouts) -> Self {
        Self(std::array::from_fn(|n| {
            let conn = ConnState(n as u32);
            let class = Self::CLASSES[n / Self::STATES % Self::CLASSES.len()];
            let mut timeout = timeouts.of(class, conn.state());
            if conn.is_one_sided() {
                timeout = timeout.min(timeouts.tcp_adopted);
            }
            u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX).min(Self::NEVER)
        }))
    }

    const fn class(proto: Proto) -> u32 {
        match proto {
            Proto::UDP => 1,
            Proto::SCTP => 2,
            Proto::ICMP | Proto::ICMPV6 => 3,
            _ => 0,
        }
    }
}

/// The connection's state in 32 bits: state, protocol, who opened, whose FIN and whose packets were seen. The incarnation of
/// the slot is the upper half of the same atomic word, so a change can never hit another connection's state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ConnState(u32);

impl ConnState {
    const STATE: u32 = 0x7;
    /// Above the state, so that both together are an index of [`Limits`].
    const CLASS_SHIFT: u32 = 3;
    /// The connection was adopted, and only one side's packets were seen. An index of [`Limits`] too.
    const ONE_SIDED: u32 = 1 << 5;
    const FIN: [u32; 2] = [1 << 6, 1 << 7];
    const OPENER_B: u32 = 1 << 16;
    const LIVE: u32 = 1 << 17;
    /// A packet of the direction was seen since the connection was adopted, or since it was reset.
    const SEEN: [u32; 2] = [1 << 18, 1 << 19];
    const BOTH_SEEN: u32 = Self::SEEN[0] | Self::SEEN[1];
    const BOTH_FINS: u32 = Self::FIN[0] | Self::FIN[1];
    const PROTO_SHIFT: u32 = 8;
    /// The connection is forwarded ([`FlowFlags::FORWARDED`]): only the opener's packets are ever seen.
    const FORWARDED: u32 = 1 << 20;

    /// The state of a slot without a connection.
    pub(crate) const NONE: Self = Self(0);

    /// Returns the state of a connection that is inserted. `forward` is the flags of its direction 0.
    pub(crate) fn opening(proto: Proto, forward: FlowFlags) -> Self {
        let (state, one_sided) = match proto {
            Proto::TCP if forward.contains(FlowFlags::ADOPTED) => (FlowState::Established, Self::ONE_SIDED),
            Proto::TCP => (FlowState::SynSent, 0),
            _ => (FlowState::New, 0),
        };
        let opener = if forward.contains(FlowFlags::REPLY) {
            Self::OPENER_B
        } else {
            0
        };
        let forwarded = if forward.contains(FlowFlags::FORWARDED) {
            Self::FORWARDED
        } else {
            0
        };
        let class = Limits::class(proto) << Self::CLASS_SHIFT;
        let opener = opener | forwarded;
        Self(Self::LIVE | state as u32 | one_sided | opener | u32::from(proto.0) << Self::PROTO_SHIFT | class)
    }

    pub(crate) const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    pub(crate) const fn to_bits(self) -> u32 {
        self.0
    }

    pub(crate) const fn is_live(self) -> bool {
        self.0 & Self::LIVE != 0
    }

    pub(crate) const fn proto(self) -> Proto {
        Proto((self.0 >> Self::PROTO_SHIFT) as u8)
    }

    pub(crate) const fn state(self) -> FlowState {
        match self.0 & Self::STATE {
            0 => FlowState::New,
            1 => FlowState::Replied,
            2 => FlowState::SynSent,
            3 => FlowState::SynReceived,
            4 => FlowState::Established,
            5 => FlowState::FinWait,
            6 => FlowState::TimeWait,
            _ => FlowState::Closed,
        }
    }

    /// Returns the direction that opened the connection.
    pub(crate) const fn opener(self) -> usize {
        (self.0 & Self::OPENER_B != 0) as usize
    }

    /// Returns true for an adopted connection with packets of one side only.
    pub(crate) const fn is_one_sided(self) -> bool {
        self.0 & Self::ONE_SIDED != 0
    }

    /// Returns true if only the opener's packets are ever seen, because the replies take another way.
    pub(crate) const fn is_forwarded(self) -> bool {
        self.0 & Self::FORWARDED != 0
    }

    /// Returns true for an entry that a new connection may displace when the table is full: its TCP handshake is not complete,
    /// another protocol's packets have no reply yet, or it was adopted or is forwarded, and only one side was seen. (Linux's
    /// conntrack drops the same entries early.) The next packet of a displaced connection that is forwarded enters it again.
    pub(crate) const fn is_displaceable(self) -> bool {
        self.is_one_sided()
            || self.is_forwarded()
            || matches!(
                self.state(),
                FlowState::New | FlowState::SynSent | FlowState::SynReceived
            )
    }

    const fn with(self, state: FlowState) -> Self {
        Self(self.0 & !Self::STATE | state as u32)
    }

    /// Returns the state after a packet of `direction` with the TCP flags `flags`, which other protocols ignore.
    ///
    /// A reset closes the connection, whatever its sequence number. It may be forged, or refer to an older connection
    /// (RFC 5961 section 3), so segments of both sides after it open the connection again; after a genuine reset one side
    /// has nothing to send.
    #[inline]
    pub(crate) fn after(self, direction: usize, flags: TcpFlags) -> Self {
        let from_opener = self.opener() == direction & 1;
        let state = self.state();
        if self.proto() != Proto::TCP {
            // Nobody can tell whether a connection that is forwarded has replies, so the opener's packets count.
            return if (!from_opener || self.is_forwarded()) && state == FlowState::New {
                self.with(FlowState::Replied)
            } else {
                self
            };
        }
        if flags.contains(TcpFlags::RST) {
            return Self(self.0 & !Self::BOTH_SEEN).with(FlowState::Closed);
        }
        if self.0 & Self::ONE_SIDED != 0 || state == FlowState::Closed {
            return self.seen(direction, flags);
        }
        if flags.contains(TcpFlags::FIN) {
            let seen = Self(self.0 | Self::FIN[direction & 1]);
            let both = seen.0 & Self::BOTH_FINS == Self::BOTH_FINS;
            return seen.with(if both { FlowState::TimeWait } else { FlowState::FinWait });
        }
        let syn = flags.contains(TcpFlags::SYN);
        let ack = flags.contains(TcpFlags::ACK);
        match state {
            FlowState::SynSent if !from_opener && syn && ack => self.with(FlowState::SynReceived),
            FlowState::SynReceived if from_opener && !syn && ack => self.with(FlowState::Established),
            // The SYN-ACK takes another way.
            FlowState::SynSent if self.is_forwarded() && from_opener && !syn && ack => {
                self.with(FlowState::Established)
            }
            _ => self,
        }
    }

    /// Returns the state of an adopted or reset connection after a segment that is no reset. Once both sides have sent data or an
    /// acknowledgement, the connection is one like any other.
    #[cold]
    fn seen(self, direction: usize, flags: TcpFlags) -> Self {
        if flags.contains(TcpFlags::SYN) || !flags.contains(TcpFlags::ACK) {
            return self;
        }
        let mut seen = Self(self.0 | Self::SEEN[direction & 1]);
        if seen.0 & Self::BOTH_SEEN != Self::BOTH_SEEN {
            return seen;
        }
        seen = Self(seen.0 & !Self::ONE_SIDED);
        if flags.contains(TcpFlags::FIN) {
            seen = Self(seen.0 | Self::FIN[direction & 1]);
        }
        match seen.0 & Self::BOTH_FINS {
            0 => seen.with(FlowState::Established),
            Self::BOTH_FINS => seen.with(FlowState::TimeWait),
            _ => seen.with(FlowState::FinWait),
        }
    }

    /// Returns true if a connection in this state, whose last packet came at that time, has expired.
    #[inline]
    pub(crate) const fn is_expired(self, limits: &Limits, last_seen: Millis, now: Millis) -> bool {
        // Neither can overflow: a time has 40 bits, a limit 60.
        last_seen.0.wrapping_add(limits.0[self.0 as usize % limits.0.len()]) <= now.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYN: TcpFlags = TcpFlags::SYN;
    const ACK: TcpFlags = TcpFlags::ACK;
    const FIN: TcpFlags = TcpFlags::FIN;
    const RST: TcpFlags = TcpFlags::RST;

    fn walk(proto: Proto, flags: FlowFlags, packets: &[(usize, TcpFlags)]) -> FlowState {
        packets
            .iter()
            .fold(ConnState::opening(proto, flags), |l, &(d, f)| l.after(d, f))
            .state()
    }

    #[test]
    fn a_tcp_connection_from_syn_to_time_wait() {
        let mut packets = Vec::new();
        for (packet, state) in [
            ((0, SYN), FlowState::SynSent),
            ((0, SYN), FlowState::SynSent),
            ((1, SYN | ACK), FlowState::SynReceived),
            ((1, SYN | ACK), FlowState::SynReceived),
            ((0, ACK), FlowState::Established),
            ((1, ACK), FlowState::Established),
            ((1, FIN | ACK), FlowState::FinWait),
            ((1, FIN | ACK), FlowState::FinWait),
            ((0, ACK), FlowState::FinWait),
            ((0, FIN | ACK), FlowState::TimeWait),
            ((1, ACK), FlowState::TimeWait),
        ] {
            packets.push(packet);
            assert_eq!(
                walk(Proto::TCP, FlowFlags::empty(), &packets),
                state,
                "after {packets:?}"
            );
        }
    }

    #[test]
    fn a_handshake_cannot_be_completed_by_one_side() {
        let only_opener = [(0, SYN), (0, SYN | ACK), (0, ACK)];
        assert_eq!(walk(Proto::TCP, FlowFlags::empty(), &only_opener), FlowState::SynSent);
        let only_other = [(1, SYN | ACK), (1, ACK)];
        assert_eq!(
            walk(Proto::TCP, FlowFlags::empty(), &only_other),
            FlowState::SynReceived
        );
    }

    #[test]
    fn a_forwarded_connection_is_established_by_its_opener_and_gives_way_in_a_full_table() {
        let forwarded = FlowFlags::FORWARDED;
        for (packets, state) in [
            (vec![(0, SYN), (0, SYN)], FlowState::SynSent),
            (vec![(0, SYN), (0, ACK)], FlowState::Established),
            (vec![(0, SYN), (0, ACK), (0, FIN | ACK)], FlowState::FinWait),
            (vec![(0, SYN), (0, ACK), (0, RST)], FlowState::Closed),
        ] {
            assert_eq!(walk(Proto::TCP, forwarded, &packets), state, "after {packets:?}");
        }
        assert_eq!(walk(Proto::UDP, forwarded, &[(0, TcpFlags::NONE)]), FlowState::Replied);
        let established = [(0, SYN), (0, ACK)].iter();
        let end = established.fold(ConnState::opening(Proto::TCP, forwarded), |state, &(d, f)| {
            state.after(d, f)
        });
        assert!(end.is_displaceable() && !end.is_one_sided());
    }

    #[test]
    fn the_opener_is_the_side_without_the_reply_flag() {
        let packets = [(1, SYN), (0, SYN | ACK), (1, ACK)];
        assert_eq!(walk(Proto::TCP, FlowFlags::REPLY, &packets), FlowState::Established);
    }

    #[test]
    fn a_reset_closes_until_both_sides_send_again() {
        assert_eq!(walk(Proto::TCP, FlowFlags::ADOPTED, &[]), FlowState::Established);
        let handshake = [(0, SYN), (1, SYN | ACK), (0, ACK)];
        let after = |more: &[(usize, TcpFlags)]| {
            let packets: Vec<_> = handshake.iter().chain([&(1, RST)]).chain(more).copied().collect();
            walk(Proto::TCP, FlowFlags::empty(), &packets)
        };
        // One side alone does not open it again, nor does a handshake: that is another connection.
        assert_eq!(
            after(&[(0, FIN | ACK), (0, ACK), (0, SYN), (1, SYN | ACK)]),
            FlowState::Closed
        );
        assert_eq!(after(&[(1, ACK), (1, ACK)]), FlowState::Closed);
        // A forged reset does not end a connection whose sides both continue to send.
        assert_eq!(after(&[(0, ACK), (1, ACK)]), FlowState::Established);
        assert_eq!(after(&[(0, ACK), (1, ACK | FIN)]), FlowState::FinWait);
        // After another reset, both sides have to send again.
        assert_eq!(after(&[(0, ACK), (1, ACK), (0, RST), (1, ACK)]), FlowState::Closed);
    }

    #[test]
    fn an_adopted_connection_is_one_sided_until_both_sides_were_seen() {
        let adopted = ConnState::opening(Proto::TCP, FlowFlags::ADOPTED);
        let limits = Limits::of(&Timeouts::default());
        let expires = |conn: ConnState, ms| conn.is_expired(&limits, Millis(0), Millis(ms));
        let one = adopted.after(0, ACK).after(0, ACK);
        assert!(one.is_one_sided() && expires(one, 30_000) && !expires(one, 29_999));
        let both = one.after(1, ACK);
        assert!(!both.is_one_sided() && !both.is_displaceable() && !expires(both, 431_999_999));
        assert_eq!(both.state(), FlowState::Established);
    }

    #[test]
    fn entries_without_a_complete_handshake_may_be_displaced() {
        let tcp = ConnState::opening(Proto::TCP, FlowFlags::empty());
        let half = tcp.after(1, SYN | ACK);
        assert!(tcp.is_displaceable() && half.is_displaceable());
        assert!(!half.after(0, ACK).is_displaceable());
        let udp = ConnState::opening(Proto::UDP, FlowFlags::empty());
        assert!(udp.is_displaceable() && !udp.after(1, TcpFlags::NONE).is_displaceable());
        assert!(ConnState::opening(Proto::TCP, FlowFlags::ADOPTED).is_displaceable());
    }

    #[test]
    fn other_protocols_are_new_until_answered() {
        for proto in [Proto::UDP, Proto::SCTP, Proto::ICMP, Proto(47)] {
            assert_eq!(
                walk(proto, FlowFlags::empty(), &[(0, TcpFlags::NONE); 3]),
                FlowState::New
            );
            assert_eq!(
                walk(proto, FlowFlags::empty(), &[(0, RST), (1, TcpFlags::NONE)]),
                FlowState::Replied
            );
        }
    }

    #[test]
    fn expiry_is_at_the_timeout_and_not_before() {
        let conn = ConnState::opening(Proto::UDP, FlowFlags::empty());
        let t = Limits::of(&Timeouts::default());
        assert!(!conn.is_expired(&t, Millis(1000), Millis(30_999)));
        assert!(conn.is_expired(&t, Millis(1000), Millis(31_000)));
        assert!(
            !conn.is_expired(&t, Millis(1000), Millis(0)),
            "a clock that steps back expires nothing"
        );
    }

    #[test]
    fn limits_are_the_timeouts_of_every_protocol_and_state() {
        let timeouts = Timeouts {
            other: Duration::MAX,
            ..Timeouts::default()
        };
        let limits = Limits::of(&timeouts);
        for proto in (0..=255).map(Proto) {
            let states: &[u32] = if proto == Proto::TCP {
                &[2, 3, 4, 5, 6, 7]
            } else {
                &[0, 1]
            };
            for state in states {
                let conn = ConnState(ConnState::opening(proto, FlowFlags::empty()).0 & !ConnState::STATE | state);
                let timeout = timeouts
                    .of(proto, conn.state())
                    .as_millis()
                    .min(u128::from(Limits::NEVER)) as u64;
                assert!(
                    conn.is_expired(&limits, Millis(0), Millis(timeout)),
                    "{proto:?} {state}"
                );
                assert!(
                    !conn.is_expired(&limits, Millis(0), Millis(timeout - 1)),
                    "{proto:?} {state}"
                );
            }
        }
    }
}
