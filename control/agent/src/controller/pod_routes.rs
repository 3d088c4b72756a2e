//! The routes of a pod, each with the MTU of its path, so that the pod's kernel never sends larger packets than fit.
//!
//! Routes to pods of the same node and to Services have no MTU of their own: the interface's holds, also after a chained plugin
//! has lowered it (a route's MTU would outweigh it). Routes to pods of other nodes have the uplink's MTU less the
//! encapsulation, and the default route the uplink's MTU, each if it is below the interface's. If a Service leads to a backend on another
//! node, the dataplane clamps the MSS and answers too large packets with an ICMP error.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use heddle_compile::UplinkMtu;
use heddle_proto::{MAX_ROUTES, PreparedRoute};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use heddle_host::gateway_of;

/// The ranges that a pod's routes are computed from.
#[derive(Debug, Default)]
pub(super) struct Ranges {
    /// The pod ranges of this node.
    pub(super) own: BTreeSet<IpNet>,
    /// The other pod ranges of the cluster; they may contain this node's.
    pub(super) cluster: BTreeSet<IpNet>,
    /// The ranges of Service addresses.
    pub(super) services: BTreeSet<IpNet>,
}

/// Returns the routes of a pod with these addresses, the default routes last; at most as many as an attachment may have.
pub(super) fn compute(ranges: &Ranges, addresses: &[IpAddr], mtu: u32, uplink: UplinkMtu) -> Vec<PreparedRoute> {
    // An MTU of 0 is unknown and bounds nothing.
    let within = |bound: u16| if bound == 0 { mtu } else { mtu.min(bound.into()) };
    let mut sizes = BTreeMap::new();
    sizes.extend(ranges.cluster.iter().map(|&range| (range, within(uplink.overlay))));
    sizes.extend(ranges.services.iter().map(|&range| (range, mtu)));
    sizes.extend(ranges.own.iter().map(|&range| (range, mtu)));
    let defaults: BTreeSet<IpNet> = addresses.iter().map(|&ip| everything(ip)).collect();
    let route = |(dst, path): (IpNet, u32)| PreparedRoute {
        dst,
        via: gateway_of(dst.addr()),
        mtu: (path < mtu).then_some(path),
        src: None,
    };
    sizes
        .into_iter()
        .filter(|(range, _)| defaults.contains(&everything(range.addr())) && !defaults.contains(range))
        .take(MAX_ROUTES - defaults.len())
        .chain(defaults.iter().map(|&all| (all, within(uplink.direct))))
        .map(route)
        .collect()
}

/// Returns the range of all addresses of the family.
fn everything(ip: IpAddr) -> IpNet {
    match ip {
        IpAddr::V4(_) => IpNet::V4(Ipv4Net::default()),
        IpAddr::V6(_) => IpNet::V6(Ipv6Net::default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(list: &[&str]) -> BTreeSet<IpNet> {
        list.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn shown(ranges: &Ranges, addresses: &[&str], mtu: u32, uplink: UplinkMtu) -> Vec<String> {
        let addresses: Vec<IpAddr> = addresses.iter().map(|text| text.parse().unwrap()).collect();
        compute(ranges, &addresses, mtu, uplink)
            .iter()
            .map(|r| {
                let mtu = r.mtu.map_or(String::new(), |mtu| format!(" mtu {mtu}"));
                format!("{} via {}{mtu}", r.dst, r.via)
            })
            .collect()
    }

    fn ranges() -> Ranges {
        Ranges {
            own: nets(&["10.244.1.0/24", "fd00:0:0:1::/64"]),
            cluster: nets(&["10.244.1.0/24", "10.244.2.0/24", "fd00:0:0:2::/64"]),
            services: nets(&["10.96.0.0/16", "fd96::/108"]),
        }
    }

    #[test]
    fn each_path_has_its_mtu() {
        let both = ["10.244.1.5", "fd00:0:0:1::5"];
        assert_eq!(
            shown(&ranges(), &both, 61_000, UplinkMtu::new(1500, false)),
            [
                "10.96.0.0/16 via 169.254.1.1",
                "10.244.1.0/24 via 169.254.1.1",
                "10.244.2.0/24 via 169.254.1.1 mtu 1450",
                "fd00:0:0:1::/64 via fe80::1",
                "fd00:0:0:2::/64 via fe80::1 mtu 1450",
                "fd96::/108 via fe80::1",
                "0.0.0.0/0 via 169.254.1.1 mtu 1500",
                "::/0 via fe80::1 mtu 1500",
            ]
        );
    }

    #[test]
    fn one_family_and_a_small_interface() {
        assert_eq!(
            shown(&ranges(), &["10.244.1.5"], 1400, UplinkMtu::new(9000, true)),
            [
                "10.96.0.0/16 via 169.254.1.1",
                "10.244.1.0/24 via 169.254.1.1",
                "10.244.2.0/24 via 169.254.1.1",
                "0.0.0.0/0 via 169.254.1.1",
            ]
        );
    }

    #[test]
    fn over_ipv6_the_tunnel_takes_twenty_more() {
        let routes = shown(&ranges(), &["10.244.1.5"], 61_000, UplinkMtu::new(1500, true));
        assert_eq!(routes[2], "10.244.2.0/24 via 169.254.1.1 mtu 1430");
    }
}
