//! The keys and values of the maps of `src/bpf/uplink.bpf.c`, as the program's structs are laid out in memory.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use heddle_wire::MacAddr;
use ipnet::IpNet;

/// The bits of an address that contain its family, before the octets.
const FAMILY_BITS: u32 = 32;

/// Returns a `struct address`: the family as a number of the machine, and 16 octets. IPv4 addresses fill the first four.
fn address(address: IpAddr) -> [u8; 20] {
    let mut key = [0; 20];
    let (family, octets) = key.split_at_mut(4);
    match address {
        IpAddr::V4(v4) => {
            family.copy_from_slice(&4u32.to_ne_bytes());
            octets[..4].copy_from_slice(&v4.octets());
        }
        IpAddr::V6(v6) => {
            family.copy_from_slice(&6u32.to_ne_bytes());
            octets.copy_from_slice(&v6.octets());
        }
    }
    key
}

/// Returns the key of an address in `addresses`.
pub(super) fn address_key(ip: IpAddr) -> Vec<u8> {
    address(ip).to_vec()
}

/// Returns the key of a network in an LPM map, a `struct network`. The host bits are cleared, so that a network has one key.
pub(super) fn network_key(network: IpNet) -> Vec<u8> {
    let bits = FAMILY_BITS + u32::from(network.prefix_len());
    [&bits.to_ne_bytes()[..], &address(network.network())].concat()
}

/// Returns the key of a frontend, a `struct frontend`.
pub(super) fn frontend_key((ip, protocol, port): (IpAddr, u8, u16)) -> Vec<u8> {
    [&address(ip)[..], &[protocol, 0], &port.to_be_bytes()].concat()
}

/// Returns the key of a node that forwards connections, a `struct forwarder`.
pub(super) fn forwarder_key((ip, mac): (IpAddr, MacAddr)) -> Vec<u8> {
    [&address(ip)[..], &mac.0, &[0, 0]].concat()
}

/// Returns the entry of `config`, a `struct config`. A range that contains no port but 0 is no range.
pub(super) fn config_value(tunnel_port: Option<u16>, masquerade: Option<&RangeInclusive<u16>>) -> [u8; 8] {
    let (first, last) = masquerade.map_or((0, 0), |range| ((*range.start()).max(1), *range.end()));
    let (first, last) = if first <= last { (first, last) } else { (0, 0) };
    let mut value = [0; 8];
    for (slot, number) in value.chunks_exact_mut(2).zip([tunnel_port.unwrap_or(0), first, last]) {
        slot.copy_from_slice(&number.to_ne_bytes());
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn family(number: u32) -> Vec<u8> {
        number.to_ne_bytes().to_vec()
    }

    #[test]
    fn an_address_has_its_family_first() {
        let v4 = address_key("10.1.2.3".parse().unwrap());
        assert_eq!(v4, [family(4), vec![10, 1, 2, 3], vec![0; 12]].concat());
        let v6 = address_key("fd00::1".parse().unwrap());
        assert_eq!(v6, [family(6), vec![0xfd], vec![0; 14], vec![1]].concat());
        assert_ne!(v4, address_key("::ffff:10.1.2.3".parse().unwrap()));
        assert_ne!(
            address_key("0.0.0.0".parse().unwrap()),
            address_key("::".parse().unwrap())
        );
    }

    #[test]
    fn a_network_has_one_key() {
        let key = network_key("10.1.2.3/16".parse().unwrap());
        assert_eq!(key, network_key("10.1.0.0/16".parse().unwrap()));
        assert_eq!(
            key,
            [48u32.to_ne_bytes().to_vec(), family(4), vec![10, 1], vec![0; 14]].concat()
        );
        let all = network_key("::/0".parse().unwrap());
        assert_eq!(all, [32u32.to_ne_bytes().to_vec(), family(6), vec![0; 16]].concat());
        assert_eq!(network_key("fd00::1/128".parse().unwrap())[..4], 160u32.to_ne_bytes());
    }

    #[test]
    fn a_frontends_port_is_in_network_order() {
        let key = frontend_key(("10.0.0.1".parse().unwrap(), 6, 0x1234));
        assert_eq!(key.len(), 24);
        assert_eq!(key[20..], [6, 0, 0x12, 0x34]);
    }

    #[test]
    fn a_forwarder_has_its_mac_behind_its_address() {
        let key = forwarder_key(("10.0.0.1".parse().unwrap(), MacAddr([2, 0, 0, 0, 0, 9])));
        assert_eq!(key[..20], address_key("10.0.0.1".parse().unwrap()));
        assert_eq!(key[20..], [2, 0, 0, 0, 0, 9, 0, 0]);
    }

    #[test]
    fn the_configuration_is_one_word() {
        let value = |tunnel, range: Option<RangeInclusive<u16>>| {
            let value = config_value(tunnel, range.as_ref());
            [0, 2, 4, 6].map(|at| u16::from_ne_bytes([value[at], value[at + 1]]))
        };
        assert_eq!(value(None, None), [0; 4]);
        assert_eq!(value(Some(4789), Some(60_000..=65_535)), [4789, 60_000, 65_535, 0]);
        assert_eq!(value(None, Some(0..=9)), [0, 1, 9, 0]);
        assert_eq!(value(None, Some(0..=0)), [0; 4]);
        assert_eq!(value(None, Some(RangeInclusive::new(9, 8))), [0; 4]);
    }
}
