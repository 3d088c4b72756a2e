//! Packets for tests: builders with arithmetic of their own, and a verifier that uses etherparse.
//!
//! This module uses none of the crate's parsing and checksum code, so that tests can compare the two.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::too_many_arguments,
    reason = "helpers of tests fail loudly, and read best with the fields in the order of the wire"
)]

mod packet;
mod reassemble;
mod verify;

pub use packet::{Checksum, Packet};
pub use reassemble::reassemble;
pub use verify::{VerifyError, assert_valid, verify};

use std::net::IpAddr;

use crate::{Ip, MacAddr, TcpFlags};

/// Returns the address in a text.
///
/// # Panics
///
/// If the text is no address.
#[must_use]
pub fn ip(text: &str) -> Ip {
    text.parse::<IpAddr>().unwrap_or_else(|e| panic!("{text}: {e}")).into()
}

/// Returns a locally administered Ethernet address that ends in `n`.
#[must_use]
pub const fn mac(n: u8) -> MacAddr {
    MacAddr([0x02, 0, 0, 0, 0, n])
}

/// Builds a UDP datagram with a finished checksum.
#[must_use]
pub fn udp(
    src_mac: MacAddr,
    dst_mac: MacAddr,
    src: impl Into<Ip>,
    dst: impl Into<Ip>,
    sport: u16,
    dport: u16,
    payload: &[u8],
) -> Vec<u8> {
    Packet::new(src_mac, dst_mac, src, dst).udp(sport, dport, payload)
}

/// Builds a TCP segment with a finished checksum.
#[must_use]
pub fn tcp(
    src_mac: MacAddr,
    dst_mac: MacAddr,
    src: impl Into<Ip>,
    dst: impl Into<Ip>,
    sport: u16,
    dport: u16,
    flags: TcpFlags,
    seq: u32,
    ack: u32,
    payload: &[u8],
) -> Vec<u8> {
    Packet::new(src_mac, dst_mac, src, dst).tcp(sport, dport, flags, seq, ack, payload)
}

/// Builds an SCTP packet with a finished CRC32c.
#[must_use]
pub fn sctp(
    src_mac: MacAddr,
    dst_mac: MacAddr,
    src: impl Into<Ip>,
    dst: impl Into<Ip>,
    sport: u16,
    dport: u16,
    chunks: &[u8],
) -> Vec<u8> {
    Packet::new(src_mac, dst_mac, src, dst).sctp(sport, dport, 0, chunks)
}

/// Builds an echo request of the addresses' family.
#[must_use]
pub fn icmp_echo(
    src_mac: MacAddr,
    dst_mac: MacAddr,
    src: impl Into<Ip>,
    dst: impl Into<Ip>,
    id: u16,
    seq: u16,
    payload: &[u8],
) -> Vec<u8> {
    Packet::new(src_mac, dst_mac, src, dst).echo_request(id, seq, payload)
}

/// Builds an echo reply of the addresses' family.
#[must_use]
pub fn icmp_echo_reply(
    src_mac: MacAddr,
    dst_mac: MacAddr,
    src: impl Into<Ip>,
    dst: impl Into<Ip>,
    id: u16,
    seq: u16,
    payload: &[u8],
) -> Vec<u8> {
    Packet::new(src_mac, dst_mac, src, dst).echo_reply(id, seq, payload)
}

/// Builds a broadcast ARP request.
#[must_use]
pub fn arp_request(src_mac: MacAddr, sender: impl Into<Ip>, target: impl Into<Ip>) -> Vec<u8> {
    arp(
        MacAddr::BROADCAST,
        1,
        (src_mac, sender.into()),
        (MacAddr::default(), target.into()),
    )
}

/// Builds an ARP reply.
#[must_use]
pub fn arp_reply(src_mac: MacAddr, dst_mac: MacAddr, sender: impl Into<Ip>, target: impl Into<Ip>) -> Vec<u8> {
    arp(dst_mac, 2, (src_mac, sender.into()), (dst_mac, target.into()))
}

fn arp(dst_mac: MacAddr, operation: u8, sender: (MacAddr, Ip), target: (MacAddr, Ip)) -> Vec<u8> {
    let mut frame = [dst_mac.0, sender.0.0].concat();
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, operation]);
    frame.extend(sender.0.0);
    frame.extend(sender.1.v4_octets());
    frame.extend(target.0.0);
    frame.extend(target.1.v4_octets());
    frame
}

/// Builds a neighbor solicitation to the target's solicited-node group, with the source's Ethernet address. If `src` is
/// unspecified, it is a probe for a duplicate address.
#[must_use]
pub fn ndp_solicit(src_mac: MacAddr, src: impl Into<Ip>, target: impl Into<Ip>) -> Vec<u8> {
    let (src, t) = (src.into(), target.into().octets());
    let group = Ip::from_v6([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, t[13], t[14], t[15]]);
    let mut message = t.to_vec();
    if src != Ip::UNSPECIFIED {
        message.extend([1, 1]);
        message.extend(src_mac.0);
    }
    let dst_mac = MacAddr([0x33, 0x33, 0xff, t[13], t[14], t[15]]);
    Packet::new(src_mac, dst_mac, src, group)
        .ttl(255)
        .icmp(135, 0, [0; 4], &message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Proto;

    fn all(base: &Packet) -> [Vec<u8>; 4] {
        let tcp = base.tcp(1, 2, TcpFlags::SYN, 1, 0, b"odd");
        [
            base.udp(1, 2, b"odd"),
            tcp,
            base.sctp(1, 2, 3, b"chunk"),
            base.echo_request(1, 2, b"odd"),
        ]
    }

    fn families() -> [Packet; 3] {
        let six = Packet::new(mac(1), mac(2), ip("fd00::1"), ip("fd00::2"));
        [
            Packet::new(mac(1), mac(2), ip("10.0.0.1"), ip("10.0.0.2"))
                .ip_options(&[1, 1, 1, 0])
                .padding(7),
            six.clone()
                .extension(0, &[0, 1, 4, 0, 0, 0, 0])
                .extension(60, &[0, 1, 4, 0, 0, 0, 0]),
            six,
        ]
    }

    #[test]
    fn built_packets_are_valid() {
        for base in families() {
            for frame in all(&base) {
                assert_valid(&frame);
            }
            assert_valid(&base.clone().fragment(8, true).raw(Proto::UDP, &[1; 16]));
            let code = if base.is_v4() { 11 } else { 3 };
            assert_valid(&base.icmp_error(code, 0, 0, &base.udp(1, 2, b"quoted")));
        }
        assert_valid(&arp_request(mac(1), ip("10.0.0.1"), ip("10.0.0.2")));
        assert_valid(&arp_reply(mac(1), mac(2), ip("10.0.0.1"), ip("10.0.0.2")));
        assert_valid(&ndp_solicit(mac(1), ip("fd00::1"), ip("fe80::1")));
        assert_valid(&ndp_solicit(mac(1), ip("::"), ip("fe80::1")));
    }

    #[test]
    fn wrong_and_partial_checksums_are_found() {
        for base in families() {
            for frame in all(&base.clone().checksum(Checksum::Wrong)) {
                assert!(
                    matches!(verify(&frame), Err(VerifyError::Checksum { .. })),
                    "{frame:02x?}"
                );
            }
            for frame in &all(&base.partial())[..3] {
                assert!(
                    matches!(verify(frame), Err(VerifyError::Checksum { .. })),
                    "{frame:02x?}"
                );
            }
        }
        let mut header = udp(mac(1), mac(2), ip("10.0.0.1"), ip("10.0.0.2"), 1, 2, b"");
        header[22] = 63;
        assert!(matches!(
            verify(&header),
            Err(VerifyError::Checksum {
                what: "IPv4 header",
                ..
            })
        ));
        assert!(matches!(verify(&header[..30]), Err(VerifyError::Unparsable(_))));
    }
}
