//! The frames of the measurements: UDP over IPv4, of any size. To change the connection of a frame costs two stores.
//!
//! The first two octets of the payload are the complement of the source port. So the checksum is the same for every source
//! port, and a generator that changes the port does not change the checksum.

use heddle_wire::{Ip, MacAddr, Parsed, checksum, parse};

/// The least length of a frame: Ethernet, IPv4, UDP, and the two octets that balance the source port.
pub const MIN_FRAME: usize = 14 + 20 + 8 + 2;
/// The offset of the source port.
pub const SOURCE_PORT: usize = 14 + 20;
/// The offset of the complement of the source port.
pub const BALANCE: usize = 14 + 20 + 8;
/// The offset of the destination address.
const DESTINATION: usize = 14 + 16;

/// The content of the UDP checksum field.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Checksum {
    /// The correct checksum, as in a frame from a NIC.
    Finished,
    /// The folded sum of the pseudo header, as in a frame from a pod's socket that comes over a veth.
    Partial,
}

/// The ends of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ends {
    /// Source and destination MAC.
    pub macs: (MacAddr, MacAddr),
    /// Source and destination address, both IPv4.
    pub ips: (Ip, Ip),
    /// Source and destination port.
    pub ports: (u16, u16),
}

/// Returns a UDP frame of `size` octets without FCS. A `size` outside of [`MIN_FRAME`] to 65,535 is
/// clamped.
#[must_use]
pub fn udp(ends: &Ends, size: usize, sum: Checksum) -> Vec<u8> {
    let size = size.clamp(MIN_FRAME, 65_535);
    let mut f = Vec::with_capacity(size);
    f.extend_from_slice(&ends.macs.1.0);
    f.extend_from_slice(&ends.macs.0.0);
    f.extend_from_slice(&[0x08, 0x00]);
    // RFC 791: version 4, five words; identification 0, DF; TTL 64, UDP.
    f.extend_from_slice(&[0x45, 0]);
    f.extend_from_slice(&((size - 14) as u16).to_be_bytes());
    f.extend_from_slice(&[0, 0, 0x40, 0, 64, 17, 0, 0]);
    f.extend_from_slice(&ends.ips.0.v4_octets());
    f.extend_from_slice(&ends.ips.1.v4_octets());
    // RFC 768.
    f.extend_from_slice(&ends.ports.0.to_be_bytes());
    f.extend_from_slice(&ends.ports.1.to_be_bytes());
    f.extend_from_slice(&((size - 34) as u16).to_be_bytes());
    f.extend_from_slice(&[0, 0]);
    f.extend_from_slice(&(!ends.ports.0).to_be_bytes());
    f.resize(size, 0x5a);
    if let Some(header) = f.get(14..34) {
        let header = checksum::sum(header).checksum();
        put(&mut f, 24, header);
    }
    let finished = parse(&f, f.len()).ok().and_then(|p| {
        let whole = checksum::compute(&p, [f.as_slice()])?;
        Some((p, whole))
    });
    if let Some((p, whole)) = finished {
        match sum {
            Checksum::Finished => {
                whole.store(&mut f);
            }
            Checksum::Partial => put(&mut f, 40, pseudo(&p, size - 34)),
        }
    }
    f
}

/// Returns the folded pseudo-header sum of a UDP datagram of `len` octets.
fn pseudo(p: &Parsed, len: usize) -> u16 {
    checksum::pseudo(p.src, p.dst, p.proto, len as u32).fold()
}

/// Sets the source port of a frame made by [`udp`]. Its checksum stays correct.
#[inline]
pub fn set_source_port(frame: &mut [u8], port: u16) {
    put(frame, SOURCE_PORT, port);
    put(frame, BALANCE, !port);
}

/// Overwrites a frame with another of the same size.
#[inline]
pub fn copy_frame(frame: &mut [u8], template: &[u8]) {
    for (to, from) in frame.iter_mut().zip(template) {
        *to = *from;
    }
}

/// Returns the last two octets of the destination address, and the source port. They identify the connection.
#[must_use]
pub fn connection(frame: &[u8]) -> (u16, u16) {
    (word(frame, DESTINATION + 2), word(frame, SOURCE_PORT))
}

fn word(frame: &[u8], at: usize) -> u16 {
    frame
        .get(at..at + 2)
        .and_then(|w| w.first_chunk::<2>())
        .map_or(0, |w| u16::from_be_bytes(*w))
}

#[inline]
fn put(frame: &mut [u8], at: usize, value: u16) {
    if let Some(field) = frame.get_mut(at..at + 2) {
        field.copy_from_slice(&value.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends() -> Ends {
        Ends {
            macs: (MacAddr([2, 0, 0, 0, 0, 1]), MacAddr::GATEWAY),
            ips: (Ip::from_v4([10, 0, 0, 2]), Ip::from_v4([10, 96, 0, 1])),
            ports: (1024, 80),
        }
    }

    #[test]
    fn frames_parse_and_have_correct_checksums_for_every_source_port() {
        for size in [MIN_FRAME, 64, 65, 1514] {
            let mut frame = udp(&ends(), size, Checksum::Finished);
            assert_eq!(frame.len(), size);
            for port in [0, 1, 1024, 40_000, u16::MAX] {
                set_source_port(&mut frame, port);
                let p = parse(&frame, frame.len()).unwrap();
                assert_eq!((p.sport, p.dport, p.proto), (port, 80, heddle_wire::Proto::UDP));
                assert!(checksum::verify(&p, [frame.as_slice()]), "size {size}, port {port}");
                assert!(!checksum::is_partial(&frame, &p));
            }
        }
    }

    #[test]
    fn a_partial_checksum_is_recognized_for_every_source_port() {
        let mut frame = udp(&ends(), 64, Checksum::Partial);
        for port in [0, 1024, u16::MAX] {
            set_source_port(&mut frame, port);
            let p = parse(&frame, frame.len()).unwrap();
            assert!(checksum::is_partial(&frame, &p));
        }
    }
}
