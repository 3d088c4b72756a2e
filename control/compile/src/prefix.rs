//! The model's networks as the prefixes of the tables.

use heddle_tables::Prefix;
use heddle_wire::Ip;
use ipnet::IpNet;

/// Returns a network as a prefix. `None` for an IPv6 network within the IPv4-mapped range (RFC 4291 section 2.5.5.2):
/// no packet carries such an address.
#[must_use]
pub(crate) fn to_prefix(net: IpNet) -> Option<Prefix> {
    let addr = Ip::from(net.network());
    let same_family = matches!(net, IpNet::V4(_)) == addr.is_v4();
    same_family.then(|| Prefix::new(addr, net.prefix_len()))
}

/// Returns configured networks as prefixes, without those that no packet's address lies in.
#[must_use]
pub fn prefixes(nets: &[IpNet]) -> Vec<Prefix> {
    nets.iter().filter_map(|&net| to_prefix(net)).collect()
}
