//! Neighbor discovery (RFC 4861): validates neighbor solicitations. `build` writes the advertisements that answer them.

use crate::addr::{Ip, MacAddr};
use crate::bytes;
use crate::checksum;
use crate::icmp::IcmpMessage;
use crate::parse::{ParseError, Parsed};

pub(crate) const OPTION_SOURCE_MAC: u8 = 1;
pub(crate) const OPTION_TARGET_MAC: u8 = 2;
/// The length of the ICMPv6 header and the target address.
const SOLICITATION: usize = 24;

/// A neighbor solicitation that passed the checks of RFC 4861 section 7.1.1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Solicitation {
    /// The address asked for.
    pub target: Ip,
    /// The asker's address; unspecified in a probe for a duplicate address (RFC 4862 section 5.4.2).
    pub asker: Ip,
    /// The asker's Ethernet address, if the solicitation contains one.
    pub source_mac: Option<MacAddr>,
}

impl Solicitation {
    /// Returns true for a probe for a duplicate address.
    #[must_use]
    pub fn is_probe(&self) -> bool {
        self.asker == Ip::UNSPECIFIED
    }
}

/// Reads and validates the neighbor solicitation in a parsed packet.
///
/// # Errors
///
/// `NeighborInvalid` if the solicitation must be discarded (RFC 4861 section 7.1.1), or if the packet is no solicitation;
/// `HeadersSplit` if it is not whole in the head frame.
pub fn solicitation(head: &[u8], p: &Parsed) -> Result<Solicitation, ParseError> {
    let invalid = ParseError::NeighborInvalid;
    if p.icmp() != Some(IcmpMessage::NeighborSolicitation) || p.is_fragment() {
        return Err(invalid);
    }
    if p.ttl != 255 || p.icmp_code != 0 || p.l4_len() < SOLICITATION {
        return Err(invalid);
    }
    let message = head.get(p.l4()..p.end()).ok_or(ParseError::HeadersSplit)?;
    if !checksum::verify(p, [head]) {
        return Err(invalid);
    }
    let target = Ip::from_v6(*bytes::read::<16>(message, 8).ok_or(invalid)?);
    if target.octets()[0] == 0xff || target.is_v4() || target == Ip::UNSPECIFIED {
        return Err(invalid);
    }
    let source_mac = link_layer_option(message.get(SOLICITATION..).ok_or(invalid)?, OPTION_SOURCE_MAC)?;
    let probe = p.src == Ip::UNSPECIFIED;
    if probe && (source_mac.is_some() || !is_solicited_node(p.dst)) {
        return Err(invalid);
    }
    Ok(Solicitation {
        target,
        asker: p.src,
        source_mac,
    })
}

/// Returns the Ethernet address in the first option of `kind`. An option of length 0 makes the message invalid.
fn link_layer_option(mut options: &[u8], kind: u8) -> Result<Option<MacAddr>, ParseError> {
    let mut found = None;
    while !options.is_empty() {
        let (Some(&k), Some(&units)) = (options.first(), options.get(1)) else {
            return Err(ParseError::NeighborInvalid);
        };
        let len = usize::from(units) * 8;
        if len == 0 || len > options.len() {
            return Err(ParseError::NeighborInvalid);
        }
        if k == kind && found.is_none() {
            found = bytes::read::<6>(options, 2).map(|m| MacAddr(*m));
        }
        options = options.get(len..).unwrap_or_default();
    }
    Ok(found)
}

/// Returns true for a solicited-node address, `ff02::1:ffXX:XXXX` (RFC 4291 section 2.7.1).
#[must_use]
pub fn is_solicited_node(ip: Ip) -> bool {
    ip.octets()[..13] == [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff]
}

/// Returns the solicited-node multicast address of an address.
#[must_use]
pub const fn solicited_node(ip: Ip) -> Ip {
    let o = ip.octets();
    Ip::from_v6([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, o[13], o[14], o[15]])
}

/// Returns the Ethernet address for an IPv6 multicast address (RFC 2464 section 7).
#[must_use]
pub const fn multicast_mac(ip: Ip) -> MacAddr {
    let o = ip.octets();
    MacAddr([0x33, 0x33, o[12], o[13], o[14], o[15]])
}
