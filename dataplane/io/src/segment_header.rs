//! The header that tells the kernel the segment size of a large TCP segment: `struct virtio_net_hdr`
//! (include/uapi/linux/virtio_net.h), as a packet socket with `PACKET_VNET_HDR` expects it before a packet.

use heddle_wire::{L3, Proto, TcpFlags, checksum, parse};

// include/uapi/linux/virtio_net.h
const NEEDS_CSUM: u8 = 1;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_ECN: u8 = 0x80;
/// The offset of the checksum in a TCP header (RFC 9293 section 3.1).
const TCP_CHECKSUM: usize = 16;

/// The header of one packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SegmentHeader {
    gso_type: u8,
    headers: u16,
    gso_size: u16,
    csum_start: u16,
}

impl SegmentHeader {
    /// The length of the header in bytes.
    pub(crate) const LEN: usize = 10;

    /// Makes the header of a TCP segment that is to be cut into pieces of `segment_size` octets of payload, and writes the sum of the
    /// pseudo header into its checksum field: the kernel adds the rest, or leaves it out where nobody looks.
    ///
    /// `head` is the packet's first frame and `packet_len` the length of all. Returns `None` for other packets, for fragments, and if
    /// the first frame does not have all headers.
    pub(crate) fn prepare(head: &mut [u8], packet_len: u32, segment_size: u16) -> Option<Self> {
        let parsed = parse(head, packet_len as usize).ok()?;
        if parsed.proto != Proto::TCP || parsed.is_fragment() || parsed.payload() > head.len() {
            return None;
        }
        let len = u32::try_from(parsed.l4_len()).ok()?;
        let sum = checksum::pseudo(parsed.src, parsed.dst, parsed.proto, len).fold();
        let at = parsed.l4() + TCP_CHECKSUM;
        head.get_mut(at..at + 2)?.copy_from_slice(&sum.to_be_bytes());
        let mut header = Self {
            gso_type: GSO_NONE,
            headers: parsed.payload_offset,
            gso_size: 0,
            csum_start: parsed.l4_offset,
        };
        // The kernel takes a packet that is one segment for one without a segment size.
        if segment_size > 0 && parsed.payload_len() > usize::from(segment_size) {
            header.gso_size = segment_size;
            header.gso_type = match parsed.l3 {
                L3::V4 => GSO_TCPV4,
                L3::V6 => GSO_TCPV6,
                L3::Arp => return None,
            };
            // With ECN, only the first piece keeps CWR (RFC 3168 section 6.1.2).
            if parsed.tcp_flags.contains(TcpFlags::CWR) {
                header.gso_type |= GSO_ECN;
            }
        }
        Some(header)
    }

    /// Returns the segment size in the bytes of a header; 0 if the packet is no large segment.
    pub(crate) fn size_in(header: &[u8]) -> Option<u16> {
        Some(u16::from_ne_bytes(header.get(4..6)?.try_into().ok()?))
    }

    /// Returns the bytes of the header. Its fields have the machine's byte order.
    pub(crate) fn bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[0] = NEEDS_CSUM;
        bytes[1] = self.gso_type;
        let words = [self.headers, self.gso_size, self.csum_start, TCP_CHECKSUM as u16];
        for (to, word) in bytes[2..].chunks_exact_mut(2).zip(words) {
            to.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }
}
