//! Verifies all lengths and checksums of a frame with etherparse.

use etherparse::{LaxSlicedPacket, NetSlice, SlicedPacket, TransportSlice};
use thiserror::Error;

use super::packet::crc32c;

/// The reason for which a frame is invalid.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum VerifyError {
    /// etherparse cannot parse it.
    #[error("etherparse refuses the frame: {0}")]
    Unparsable(String),
    /// A checksum is wrong.
    #[error("{what} checksum is {found:#06x}, expected {expected:#06x}")]
    Checksum {
        /// The header's name.
        what: &'static str,
        /// The checksum in the frame.
        found: u32,
        /// The correct checksum.
        expected: u32,
    },
    /// It has no network header.
    #[error("frame has no network header that can be verified")]
    NoNetwork,
}

/// Compares a checksum with the expected one.
fn same(what: &'static str, found: u32, expected: u32) -> Result<(), VerifyError> {
    if found == expected {
        Ok(())
    } else {
        Err(VerifyError::Checksum { what, found, expected })
    }
}

/// Parses a frame with etherparse and verifies its IPv4 header checksum and its transport checksum, including SCTP's.
///
/// Of a fragment only the IPv4 header is verified. ARP has no checksum.
///
/// # Errors
///
/// A [`VerifyError`] with the found and the expected value.
pub fn verify(frame: &[u8]) -> Result<(), VerifyError> {
    let unparsable = |e: &dyn std::fmt::Display| VerifyError::Unparsable(e.to_string());
    let packet = SlicedPacket::from_ethernet(frame).map_err(|e| unparsable(&e))?;
    let net = packet.net.as_ref().ok_or(VerifyError::NoNetwork)?;
    if let NetSlice::Ipv4(v4) = net {
        let header = v4.header().to_header();
        same(
            "IPv4 header",
            header.header_checksum.into(),
            header.calc_header_checksum().into(),
        )?;
    }
    if let Some(payload) = net.ip_payload_ref() {
        if payload.fragmented {
            return Ok(());
        }
        if payload.ip_number == etherparse::IpNumber::SCTP {
            return sctp(payload.payload);
        }
    }
    let Some(transport) = &packet.transport else {
        return Ok(());
    };
    transport_checksum(net, transport).map_err(|e| match e {
        Ok(e) => e,
        Err(message) => VerifyError::Unparsable(message),
    })
}

/// Verifies the transport checksum. The inner error is etherparse's text, for a packet that it cannot handle.
fn transport_checksum(net: &NetSlice<'_>, t: &TransportSlice<'_>) -> Result<(), Result<VerifyError, String>> {
    let text = |e: &dyn std::fmt::Display| Err(e.to_string());
    match (net, t) {
        (NetSlice::Ipv4(ip), TransportSlice::Udp(udp)) => {
            let header = udp.to_header();
            // In IPv4, 0 means that there is no checksum.
            if header.checksum == 0 {
                return Ok(());
            }
            let ip = ip.header().to_header();
            let expected = header.calc_checksum_ipv4(&ip, udp.payload()).map_err(|e| text(&e))?;
            same("UDP", header.checksum.into(), expected.into()).map_err(Ok)
        }
        (NetSlice::Ipv6(ip), TransportSlice::Udp(udp)) => {
            let header = udp.to_header();
            let ip = ip.header().to_header();
            let expected = header.calc_checksum_ipv6(&ip, udp.payload()).map_err(|e| text(&e))?;
            same("UDP", header.checksum.into(), expected.into()).map_err(Ok)
        }
        (NetSlice::Ipv4(ip), TransportSlice::Tcp(tcp)) => {
            let ip = ip.header().to_header();
            let expected = tcp
                .to_header()
                .calc_checksum_ipv4(&ip, tcp.payload())
                .map_err(|e| text(&e))?;
            same("TCP", tcp.checksum().into(), expected.into()).map_err(Ok)
        }
        (NetSlice::Ipv6(ip), TransportSlice::Tcp(tcp)) => {
            let ip = ip.header().to_header();
            let expected = tcp
                .to_header()
                .calc_checksum_ipv6(&ip, tcp.payload())
                .map_err(|e| text(&e))?;
            same("TCP", tcp.checksum().into(), expected.into()).map_err(Ok)
        }
        (_, TransportSlice::Icmpv4(icmp)) => {
            let expected = icmp.icmp_type().calc_checksum(icmp.payload());
            same("ICMP", icmp.checksum().into(), expected.into()).map_err(Ok)
        }
        (NetSlice::Ipv6(ip), TransportSlice::Icmpv6(icmp)) => {
            let ip = ip.header();
            if icmp.is_checksum_valid(ip.source(), ip.destination()) {
                Ok(())
            } else {
                Err(Ok(VerifyError::Checksum {
                    what: "ICMPv6",
                    found: icmp.checksum().into(),
                    expected: 0,
                }))
            }
        }
        _ => Ok(()),
    }
}

/// Verifies the CRC32c of an SCTP packet, which etherparse does not parse.
fn sctp(packet: &[u8]) -> Result<(), VerifyError> {
    if packet.len() < 12 {
        return Err(VerifyError::Unparsable(format!(
            "SCTP packet of {} octets",
            packet.len()
        )));
    }
    let mut zeroed = packet.to_vec();
    zeroed[8..12].fill(0);
    let found = u32::from_le_bytes([packet[8], packet[9], packet[10], packet[11]]);
    same("SCTP", found, crc32c(&zeroed))
}

/// Verifies a frame. Fails the test with the error and the frame's bytes.
///
/// # Panics
///
/// If [`verify`] finds an error.
#[track_caller]
pub fn assert_valid(frame: &[u8]) {
    if let Err(e) = verify(frame) {
        let lax = LaxSlicedPacket::from_ethernet(frame);
        panic!("{e}\nframe: {frame:02x?}\nas far as it parses: {lax:?}");
    }
}
