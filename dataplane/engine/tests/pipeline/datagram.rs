//! Helpers for datagrams in fragments: cutting, sending in any order, joining the fragments that arrived.

use heddle_wire::testing::{Packet, assert_valid, reassemble};
use heddle_wire::{Ip, Parsed, Proto, parse};

use crate::tables::Party;
use crate::world::World;

/// The addresses of the Service that [`serve`](crate::services::serve) makes.
pub const SERVICE: [&str; 2] = ["10.96.0.10", "fd96::10"];

/// The length of the Ethernet and the IP header.
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

/// Joins fragments in any order and returns the whole packet. Asserts that all checksums are correct.
#[track_caller]
pub fn joined(fragments: &[Vec<u8>]) -> Vec<u8> {
    let Some(whole) = reassemble(fragments) else {
        panic!("a fragment is missing, or two overlap: {fragments:02x?}");
    };
    assert_valid(&whole);
    whole
}

/// Sends fragments in the order of the indices `order`, all in one turn or one in each turn.
pub fn push(w: &mut World, from: &Party, fragments: &[Vec<u8>], order: &[usize], at_once: bool) {
    for n in order {
        w.push(from, &fragments[*n]);
        if !at_once {
            w.step();
        }
    }
    w.step();
}

/// Asserts that `count` fragments went from one party to another and were counted. Returns the datagram that they make.
#[track_caller]
pub fn arrived(w: &mut World, from: &Party, to: &Party, count: usize) -> (Vec<u8>, Parsed) {
    let fragments: Vec<Vec<u8>> = (0..count).map(|_| w.pop(to)).collect();
    w.changed(&[
        &format!("{} rx {count}", from.name),
        &format!("{} forwarded {count}", from.name),
        &format!("{} tx {count}", to.name),
    ]);
    let whole = joined(&fragments);
    let parsed = parse(&whole, whole.len()).unwrap();
    (whole, parsed)
}

/// Returns addresses and ports.
pub fn tuple(p: &Parsed) -> (Ip, Ip, u16, u16) {
    (p.src, p.dst, p.sport, p.dport)
}
