//! Datagrams in fragments, and put together again.

use heddle_wire::testing::{Packet, assert_valid, reassemble};
use heddle_wire::{Ip, Proto};

use crate::tables::Party;

/// Behind Ethernet and the IP header.
const fn headers(v4: bool) -> usize {
    if v4 { 34 } else { 54 }
}

/// Cuts a whole packet, made by `packet` from `base`, into fragments of `size` octets of data, a multiple of eight.
pub fn cut(base: &Packet, id: u32, size: usize, packet: impl Fn(&Packet) -> Vec<u8>) -> Vec<Vec<u8>> {
    let whole = packet(base);
    let data = &whole[headers(base.is_v4())..];
    let proto = Proto(whole[if base.is_v4() { 23 } else { 20 }]);
    let base = base.clone().identification(id);
    let count = data.len().div_ceil(size);
    let part = |(n, part): (usize, &[u8])| base.clone().fragment((n * size) as u16, n + 1 < count).raw(proto, part);
    data.chunks(size).enumerate().map(part).collect()
}

/// A UDP datagram in fragments.
pub fn udp(from: &Party, dst: Ip, ports: (u16, u16), id: u32, size: usize, payload: &[u8]) -> Vec<Vec<u8>> {
    cut(&from.to(dst), id, size, |base| base.udp(ports.0, ports.1, payload))
}

/// Puts fragments together, in whatever order they are: the whole packet, every checksum of which is verified.
#[track_caller]
pub fn joined(fragments: &[Vec<u8>]) -> Vec<u8> {
    let Some(whole) = reassemble(fragments) else {
        panic!("a fragment is missing, or two overlap: {fragments:02x?}");
    };
    assert_valid(&whole);
    whole
}
