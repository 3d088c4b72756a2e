//! Large TCP segments: frames, and a packet socket that sends and receives them with their segment size.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use heddle_wire::{checksum, parse};

use super::index;

/// `PACKET_VNET_HDR` (include/uapi/linux/if_packet.h).
const PACKET_VNET_HDR: libc::c_int = 15;
/// The flag NEEDS_CSUM and the types of segments (include/uapi/linux/virtio_net.h).
pub const NEEDS_CSUM: u8 = 1;
pub const TCPV4: u8 = 1;
pub const TCPV6: u8 = 4;
pub const ECN: u8 = 0x80;
/// ACK, PSH and CWR.
pub const ACK: u8 = 0x10;
pub const CWR: u8 = 0x80;

/// `struct virtio_net_hdr`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Header {
    pub flags: u8,
    pub gso_type: u8,
    pub hdr_len: u16,
    pub gso_size: u16,
    pub csum_start: u16,
    pub csum_offset: u16,
}

impl Header {
    /// Returns the header of a segment of [`tcp`].
    pub fn of(v6: bool, ecn: bool, gso_size: u16) -> Self {
        let l4 = if v6 { 54 } else { 34 };
        Self {
            flags: NEEDS_CSUM,
            gso_type: if v6 { TCPV6 } else { TCPV4 } | if ecn { ECN } else { 0 },
            hdr_len: l4 + 32,
            gso_size,
            csum_start: l4,
            csum_offset: 16,
        }
    }

    fn bytes(self) -> [u8; 10] {
        let mut bytes = [self.flags, self.gso_type, 0, 0, 0, 0, 0, 0, 0, 0];
        let words = [self.hdr_len, self.gso_size, self.csum_start, self.csum_offset];
        for (to, word) in bytes[2..].chunks_exact_mut(2).zip(words) {
            to.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }

    fn read(bytes: &[u8]) -> Self {
        let word = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        Self {
            flags: bytes[0],
            gso_type: bytes[1],
            hdr_len: word(2),
            gso_size: word(4),
            csum_start: word(6),
            csum_offset: word(8),
        }
    }
}

/// Returns a TCP segment with timestamps, and with the sum of the pseudo header in its checksum field.
pub fn tcp(v6: bool, flags: u8, seed: u8, payload: usize) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    let l4_len = 32 + payload;
    if v6 {
        frame.extend_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0]);
        frame.extend_from_slice(&u16::try_from(l4_len).unwrap().to_be_bytes());
        frame.extend_from_slice(&[6, 64]);
        for last in [1, 2] {
            let mut address = [0; 16];
            (address[0], address[15]) = (0xfd, last);
            frame.extend_from_slice(&address);
        }
    } else {
        frame.extend_from_slice(&[8, 0, 0x45, 0]);
        frame.extend_from_slice(&u16::try_from(20 + l4_len).unwrap().to_be_bytes());
        frame.extend_from_slice(&[0, 1, 0x40, 0, 64, 6, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2]);
        let sum = checksum::sum(&frame[14..34]).checksum();
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    }
    let l4 = frame.len();
    // Ports, sequence number 1000, acknowledgment number, header length 32, flags, window.
    frame.extend_from_slice(&[0x10, 0, 0x20, 0, 0, 0, 3, 0xe8, 0, 0, 0, 1, 0x80, flags, 0xff, 0xff]);
    frame.extend_from_slice(&[0, 0, 0, 0, 1, 1, 8, 10, 0, 0, 0, 7, 0, 0, 0, 8]);
    frame.extend((0..payload).map(|i| {
        (i as u8)
            .wrapping_mul(7)
            .wrapping_add(seed)
            .wrapping_add((i >> 8) as u8)
    }));
    let parsed = parse(&frame, frame.len()).unwrap();
    let sum = checksum::pseudo(parsed.src, parsed.dst, parsed.proto, l4_len as u32).fold();
    frame[l4 + 16..l4 + 18].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// A packet socket at one end of a veth that sees segment sizes.
pub struct SegmentTap(OwnedFd);

impl SegmentTap {
    pub fn new(name: &str) -> Self {
        // SAFETY: plain system calls; results are checked, values and address are valid for their lengths.
        unsafe {
            let every = (libc::ETH_P_ALL as u16).to_be();
            let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0);
            assert!(fd >= 0, "{}", io::Error::last_os_error());
            let fd = OwnedFd::from_raw_fd(fd);
            for (level, option, value) in [
                (libc::SOL_PACKET, PACKET_VNET_HDR, 1),
                (libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 1),
                (libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 16 << 20),
            ] {
                let value: libc::c_int = value;
                let result = libc::setsockopt(fd.as_raw_fd(), level, option, (&raw const value).cast(), 4);
                assert_eq!(result, 0, "{}", io::Error::last_os_error());
            }
            let mut address: libc::sockaddr_ll = std::mem::zeroed();
            address.sll_family = libc::AF_PACKET as u16;
            address.sll_protocol = every;
            address.sll_ifindex = index(name) as i32;
            let len = size_of::<libc::sockaddr_ll>() as u32;
            let bound = libc::bind(fd.as_raw_fd(), (&raw const address).cast(), len);
            assert_eq!(bound, 0, "{name}: {}", io::Error::last_os_error());
            Self(fd)
        }
    }

    pub fn send(&self, header: Header, frame: &[u8]) {
        let bytes = [&header.bytes()[..], frame].concat();
        // SAFETY: the buffer is valid for its length.
        let sent = unsafe { libc::send(self.0.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) };
        assert_eq!(sent, bytes.len() as isize, "{}", io::Error::last_os_error());
    }

    /// Receives the next frame and its header, if one arrives in time.
    pub fn receive(&self, wait: Duration) -> Option<(Header, Vec<u8>)> {
        let mut poll = libc::pollfd {
            fd: self.0.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one valid pollfd.
        if unsafe { libc::poll(&raw mut poll, 1, wait.as_millis() as i32) } != 1 {
            return None;
        }
        let mut bytes = vec![0; 1 << 17];
        // SAFETY: the buffer is valid for its length.
        let got = unsafe { libc::recv(self.0.as_raw_fd(), bytes.as_mut_ptr().cast(), bytes.len(), 0) };
        bytes.truncate(usize::try_from(got).unwrap());
        Some((Header::read(&bytes), bytes.split_off(10)))
    }
}
