//! The charge of a connection: its payer, whose quota it counts against.
//!
//! A connection is charged to the pod that opened it, to the source prefix of a client outside of the node, or to the node
//! itself. The charge is computed from the connection's entry. So the same charge is found when the entry is removed, and after a
//! takeover.

use heddle_ids::EndpointId;
use heddle_wire::{Ip, Proto};

use crate::encoding::PORTS;
use crate::hash::{ip_from_words, scramble};
use crate::state::ConnState;
use crate::types::{FlowFlags, NewFlow};

/// The number of counters for source prefixes. Prefixes whose hashes select the same counter share its limit.
pub(crate) const PREFIXES: usize = if cfg!(any(loom, miri)) { 2 } else { 1 << 14 };

/// The number of counters for pairs of a payer and a masqueraded destination. Pairs whose hashes select the same counter share
/// its limit.
pub(crate) const DESTINATIONS: usize = if cfg!(any(loom, miri)) { 2 } else { 1 << 16 };

/// The charge of a connection: its payer, and the counter of its destination if it is masqueraded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Charge {
    pub(crate) payer: Payer,
    pub(crate) destination: Option<usize>,
}

impl Charge {
    /// Returns the charge of a connection that is to be inserted.
    pub(crate) fn of(forward: &NewFlow, reverse: &NewFlow) -> Self {
        let (opener, replies) = match forward.flags.contains(FlowFlags::REPLY) {
            false => ((forward, forward.endpoints[0]), (reverse, forward.endpoints[1])),
            true => ((reverse, forward.endpoints[1]), (forward, forward.endpoints[0])),
        };
        let (direction, endpoint) = match forward.flags.contains(FlowFlags::RESPONDER_PAYS) {
            false => opener,
            true => replies,
        };
        let payer = if forward.flags.contains(FlowFlags::OUTSIDE) {
            Payer::outside(endpoint, direction.key.tuple.src)
        } else {
            Payer::Endpoint(endpoint)
        };
        if !forward.flags.contains(FlowFlags::MASQUERADED) {
            return Charge {
                payer,
                destination: None,
            };
        }
        let destination = replies.0.key;
        Charge::masqueraded(payer, destination.tuple.src, destination.tuple.sport, destination.proto)
    }

    /// Returns the charge of a connection that is masqueraded to a destination.
    pub(crate) fn masqueraded(payer: Payer, ip: Ip, port: u16, proto: Proto) -> Self {
        let who = match payer {
            Payer::Endpoint(endpoint) => u64::from(endpoint.0),
            Payer::Outside(endpoint, prefix) => u64::from(endpoint.0) | (prefix as u64 + 1) << 16,
        };
        let address = u128::from_be_bytes(ip.octets());
        let words = [
            address as u64,
            (address >> 64) as u64,
            u64::from(port) << 8 | u64::from(proto.0),
            who,
        ];
        let hash = words.into_iter().fold(0, |hash: u64, word| scramble(hash ^ word));
        Self {
            payer,
            destination: Some((hash >> 32) as usize % DESTINATIONS),
        }
    }
}

/// The payer of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Payer {
    /// A pod, or the node itself.
    Endpoint(EndpointId),
    /// A client outside of this node, which may be a pod of another node: the endpoint that it comes in by, and the index of its
    /// prefix's counter.
    Outside(EndpointId, usize),
}

impl Payer {
    /// Returns the payer for a client outside of this node. All addresses of a /24 (IPv4) or /64 (IPv6) are one payer.
    pub(crate) fn outside(behind: EndpointId, client: Ip) -> Self {
        let octets = client.octets();
        let prefix = if client.is_v4() {
            u64::from_be_bytes([4, 0, 0, 0, 0, octets[12], octets[13], octets[14]])
        } else {
            u64::from_be_bytes(*octets.first_chunk().unwrap_or(&[0; 8]))
        };
        Self::Outside(behind, (scramble(prefix) >> 32) as usize % PREFIXES)
    }

    pub(crate) const fn endpoint(self) -> EndpointId {
        match self {
            Self::Endpoint(endpoint) | Self::Outside(endpoint, _) => endpoint,
        }
    }
}

/// Returns the charge of a connection; `word` is a word of a direction.
pub(crate) fn of_words(meta: u64, ends: u64, conn: ConnState, word: impl Fn(usize, usize) -> u64) -> Charge {
    let flags = FlowFlags::from_bits_truncate(meta as u16);
    let source = |direction: usize| ip_from_words([word(direction, 0), word(direction, 1)]);
    let direction = conn.opener() ^ usize::from(flags.contains(FlowFlags::RESPONDER_PAYS));
    let endpoint = EndpointId((ends >> (direction * 16)) as u16);
    let payer = if flags.contains(FlowFlags::OUTSIDE) {
        Payer::outside(endpoint, source(direction))
    } else {
        Payer::Endpoint(endpoint)
    };
    if !flags.contains(FlowFlags::MASQUERADED) {
        return Charge {
            payer,
            destination: None,
        };
    }
    // The replies' source is the destination behind the Service.
    let replies = conn.opener() ^ 1;
    Charge::masqueraded(payer, source(replies), word(replies, PORTS) as u16, conn.proto())
}
