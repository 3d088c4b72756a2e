//! A builder of packets of any kind, with any checksum.

use crate::{Ip, MacAddr, Proto, TcpFlags};

/// The content of the transport checksum field.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Checksum {
    /// The correct checksum.
    #[default]
    Full,
    /// The content under Linux's `CHECKSUM_PARTIAL`: the folded pseudo-header sum, or 0 for SCTP. ICMP is never partial.
    Partial,
    /// Zero, which means no checksum for UDP over IPv4.
    Zero,
    /// A wrong checksum.
    Wrong,
}

/// A builder: addresses and options are set first, and one of the last methods returns the frame.
#[derive(Clone, Debug)]
pub struct Packet {
    src_mac: MacAddr,
    dst_mac: MacAddr,
    src: Ip,
    dst: Ip,
    ttl: u8,
    dont_fragment: bool,
    identification: u32,
    fragment: Option<(u16, bool)>,
    checksum: Checksum,
    ip_options: Vec<u8>,
    extensions: Vec<(u8, Vec<u8>)>,
    tcp_options: Vec<u8>,
    padding: usize,
}

impl Packet {
    /// Starts a packet between two addresses of one family, with TTL 64, DF set and finished checksums.
    ///
    /// # Panics
    ///
    /// If the families differ.
    #[must_use]
    pub fn new(src_mac: MacAddr, dst_mac: MacAddr, src: impl Into<Ip>, dst: impl Into<Ip>) -> Self {
        let (src, dst) = (src.into(), dst.into());
        assert_eq!(src.is_v4(), dst.is_v4(), "{src} and {dst} are of different families");
        Self {
            src_mac,
            dst_mac,
            src,
            dst,
            ttl: 64,
            dont_fragment: true,
            identification: 0x1234,
            fragment: None,
            checksum: Checksum::Full,
            ip_options: Vec::new(),
            extensions: Vec::new(),
            tcp_options: Vec::new(),
            padding: 0,
        }
    }

    /// Returns true if the addresses are IPv4.
    #[must_use]
    pub fn is_v4(&self) -> bool {
        self.src.is_v4()
    }

    /// Sets TTL or hop limit.
    #[must_use]
    pub const fn ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }

    /// Sets or clears DF (IPv4).
    #[must_use]
    pub const fn dont_fragment(mut self, set: bool) -> Self {
        self.dont_fragment = set;
        self
    }

    /// Sets the identification of the datagram.
    #[must_use]
    pub const fn identification(mut self, id: u32) -> Self {
        self.identification = id;
        self
    }

    /// Sets the transport checksum.
    #[must_use]
    pub const fn checksum(mut self, checksum: Checksum) -> Self {
        self.checksum = checksum;
        self
    }

    /// Leaves the transport checksum partial, as a veth does.
    #[must_use]
    pub const fn partial(self) -> Self {
        self.checksum(Checksum::Partial)
    }

    /// Adds IPv4 options. Their length must be a multiple of four.
    #[must_use]
    pub fn ip_options(mut self, options: &[u8]) -> Self {
        self.ip_options = options.to_vec();
        self
    }

    /// Adds an IPv6 extension header: its number, and its content after the next-header octet.
    #[must_use]
    pub fn extension(mut self, number: u8, rest: &[u8]) -> Self {
        self.extensions.push((number, rest.to_vec()));
        self
    }

    /// Adds TCP options. Their length must be a multiple of four.
    #[must_use]
    pub fn tcp_options(mut self, options: &[u8]) -> Self {
        self.tcp_options = options.to_vec();
        self
    }

    /// Adds an MSS option.
    #[must_use]
    pub fn mss(self, mss: u16) -> Self {
        let [a, b] = mss.to_be_bytes();
        self.tcp_options(&[2, 4, a, b])
    }

    /// Makes the packet a fragment at this offset in octets. `more` is its flag for more fragments. [`Packet::raw`] takes its data.
    #[must_use]
    pub const fn fragment(mut self, offset: u16, more: bool) -> Self {
        self.fragment = Some((offset, more));
        self.dont_fragment = false;
        self
    }

    /// Adds Ethernet padding of `len` octets.
    #[must_use]
    pub const fn padding(mut self, len: usize) -> Self {
        self.padding = len;
        self
    }

    /// Builds a UDP datagram.
    #[must_use]
    pub fn udp(&self, sport: u16, dport: u16, payload: &[u8]) -> Vec<u8> {
        let mut l4 = ports(sport, dport);
        l4.extend(((8 + payload.len()) as u16).to_be_bytes());
        l4.extend([0, 0]);
        l4.extend(payload);
        self.summed(Proto::UDP, l4, 6)
    }

    /// Builds a TCP segment.
    #[must_use]
    pub fn tcp(&self, sport: u16, dport: u16, flags: TcpFlags, seq: u32, ack: u32, payload: &[u8]) -> Vec<u8> {
        let mut l4 = ports(sport, dport);
        l4.extend(seq.to_be_bytes());
        l4.extend(ack.to_be_bytes());
        l4.extend([
            ((20 + self.tcp_options.len()) as u8 / 4) << 4,
            flags.0,
            0xff,
            0xff,
            0,
            0,
            0,
            0,
        ]);
        l4.extend(&self.tcp_options);
        l4.extend(payload);
        self.summed(Proto::TCP, l4, 16)
    }

    /// Builds an SCTP packet with this verification tag and these chunks.
    #[must_use]
    pub fn sctp(&self, sport: u16, dport: u16, tag: u32, chunks: &[u8]) -> Vec<u8> {
        let mut l4 = ports(sport, dport);
        l4.extend(tag.to_be_bytes());
        l4.extend([0; 4]);
        l4.extend(chunks);
        let crc = match self.checksum {
            Checksum::Full => crc32c(&l4),
            Checksum::Wrong => crc32c(&l4) ^ 1,
            Checksum::Partial | Checksum::Zero => 0,
        };
        l4[8..12].copy_from_slice(&crc.to_le_bytes());
        self.raw(Proto::SCTP, &l4)
    }

    /// Builds an ICMP or ICMPv6 message of the addresses' family. `rest` is the second word of its header.
    #[must_use]
    pub fn icmp(&self, kind: u8, code: u8, rest: [u8; 4], payload: &[u8]) -> Vec<u8> {
        let mut l4 = vec![kind, code, 0, 0];
        l4.extend(rest);
        l4.extend(payload);
        let proto = if self.src.is_v4() { Proto::ICMP } else { Proto::ICMPV6 };
        self.summed(proto, l4, 2)
    }

    /// Builds an echo request.
    #[must_use]
    pub fn echo_request(&self, id: u16, seq: u16, payload: &[u8]) -> Vec<u8> {
        self.icmp(if self.src.is_v4() { 8 } else { 128 }, 0, echo_word(id, seq), payload)
    }

    /// Builds an echo reply.
    #[must_use]
    pub fn echo_reply(&self, id: u16, seq: u16, payload: &[u8]) -> Vec<u8> {
        self.icmp(if self.src.is_v4() { 0 } else { 129 }, 0, echo_word(id, seq), payload)
    }

    /// Builds an ICMP error that quotes the packet in `frame`, a whole Ethernet frame.
    #[must_use]
    pub fn icmp_error(&self, kind: u8, code: u8, word: u32, frame: &[u8]) -> Vec<u8> {
        self.icmp(kind, code, word.to_be_bytes(), &frame[14..])
    }

    /// Builds a packet of any protocol with these octets behind the IP headers.
    #[must_use]
    pub fn raw(&self, proto: Proto, l4: &[u8]) -> Vec<u8> {
        let mut frame = [self.dst_mac.0, self.src_mac.0].concat();
        if self.src.is_v4() {
            frame.extend([8, 0]);
            frame.extend(self.v4_header(proto, l4.len()));
        } else {
            frame.extend([0x86, 0xdd]);
            frame.extend(self.v6_headers(proto, l4.len()));
        }
        frame.extend(l4);
        frame.resize(frame.len() + self.padding, 0xa5);
        frame
    }

    fn v4_header(&self, proto: Proto, len: usize) -> Vec<u8> {
        let header = 20 + self.ip_options.len();
        let (offset, more) = self.fragment.unwrap_or_default();
        let word = (offset / 8) | if more { 0x2000 } else { 0 } | if self.dont_fragment { 0x4000 } else { 0 };
        let mut ip = vec![0x40 | (header / 4) as u8, 0];
        ip.extend(((header + len) as u16).to_be_bytes());
        ip.extend((self.identification as u16).to_be_bytes());
        ip.extend(word.to_be_bytes());
        ip.extend([self.ttl, proto.0, 0, 0]);
        ip.extend(self.src.v4_octets());
        ip.extend(self.dst.v4_octets());
        ip.extend(&self.ip_options);
        let sum = !fold(naive_sum(&ip));
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        ip
    }

    fn v6_headers(&self, proto: Proto, len: usize) -> Vec<u8> {
        let mut extensions = self.extensions.clone();
        if let Some((offset, more)) = self.fragment {
            let mut rest = vec![0];
            rest.extend((offset & 0xfff8 | u16::from(more)).to_be_bytes());
            rest.extend(self.identification.to_be_bytes());
            extensions.push((44, rest));
        }
        let length: usize = extensions.iter().map(|(_, rest)| rest.len() + 1).sum();
        let mut ip = vec![0x60, 0, 0, 0];
        ip.extend(((length + len) as u16).to_be_bytes());
        ip.extend([extensions.first().map_or(proto.0, |e| e.0), self.ttl]);
        ip.extend(self.src.octets());
        ip.extend(self.dst.octets());
        for (n, (_, rest)) in extensions.iter().enumerate() {
            ip.push(extensions.get(n + 1).map_or(proto.0, |e| e.0));
            ip.extend(rest);
        }
        ip
    }

    fn pseudo(&self, proto: Proto, len: usize) -> u64 {
        if proto == Proto::ICMP {
            return 0;
        }
        let addresses = if self.src.is_v4() {
            [self.src.v4_octets(), self.dst.v4_octets()].concat()
        } else {
            [self.src.octets(), self.dst.octets()].concat()
        };
        naive_sum(&addresses) + u64::from(proto.0) + len as u64
    }

    fn summed(&self, proto: Proto, mut l4: Vec<u8>, field: usize) -> Vec<u8> {
        let pseudo = self.pseudo(proto, l4.len());
        let icmp = matches!(proto, Proto::ICMP | Proto::ICMPV6);
        let full = match !fold(pseudo + naive_sum(&l4)) {
            0 if proto == Proto::UDP => 0xffff,
            sum => sum,
        };
        let sum = match self.checksum {
            Checksum::Partial if !icmp => fold(pseudo),
            Checksum::Full | Checksum::Partial => full,
            Checksum::Zero => 0,
            Checksum::Wrong => full ^ 0x0101,
        };
        l4[field..field + 2].copy_from_slice(&sum.to_be_bytes());
        self.raw(proto, &l4)
    }
}

fn ports(sport: u16, dport: u16) -> Vec<u8> {
    [sport.to_be_bytes(), dport.to_be_bytes()].concat()
}

fn echo_word(id: u16, seq: u16) -> [u8; 4] {
    let ([a, b], [c, d]) = (id.to_be_bytes(), seq.to_be_bytes());
    [a, b, c, d]
}

fn naive_sum(bytes: &[u8]) -> u64 {
    bytes
        .chunks(2)
        .map(|c| u64::from(c[0]) << 8 | u64::from(*c.get(1).unwrap_or(&0)))
        .sum()
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Computes the CRC32c bit by bit.
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = !0u32;
    for &b in bytes {
        crc ^= u32::from(b);
        for _ in 0..8 {
            crc = if crc & 1 == 1 {
                (crc >> 1) ^ 0x82f6_3b78
            } else {
                crc >> 1
            };
        }
    }
    !crc
}
