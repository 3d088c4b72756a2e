//! The properties of the own node that follow from its Node object and the attached pods.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::node::Node;
use crate::pod_range;

/// The properties of the node on which an agent runs.
///
/// The plan of the host port, the compiler, the CNI plugin's answers and `heddle simulate` all take them from here. A node
/// whose object was deleted still runs, and so do its pods: whoever makes the facts gives them the object's last version.
/// Pods that were attached before `spec.podCIDRs` changed keep their addresses; these are
/// [`pods_elsewhere`](Self::pods_elsewhere).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// The last version of the Node object; `None` until there was one.
    pub node: Option<Arc<Node>>,
    /// The addresses of attached pods that lie in none of the node's pod ranges.
    pub pods_elsewhere: BTreeSet<IpAddr>,
    /// The addresses of the host port: of each pod range the first.
    pub host_addresses: Vec<IpAddr>,
    /// The addresses that host traffic to Services is masqueraded to: of each pod range the second, IPv4 first.
    pub masquerade_addresses: Vec<IpAddr>,
    /// The addresses, IPv4 and IPv6, at which the node's processes reach external frontends that the node itself holds.
    pub alias_addresses: [Option<IpAddr>; 2],
}

impl NodeFacts {
    /// Returns the facts of a node with these addresses of attached pods.
    ///
    /// An address that heddle keeps for itself may already belong to a pod, because the range was another one when the pod was
    /// attached. The pod keeps it, and heddle has none of this kind until the pod is gone.
    #[must_use]
    pub fn new(node: Option<Arc<Node>>, attached: impl IntoIterator<Item = IpAddr>) -> Self {
        let ranges: &[IpNet] = node.as_deref().map_or(&[], |node| &node.pod_cidrs);
        let attached: BTreeSet<IpAddr> = attached.into_iter().collect();
        let free = |ip: &IpAddr| !attached.contains(ip);
        let reserved = |address: fn(IpNet) -> Option<IpAddr>| {
            let mut all: Vec<IpAddr> = ranges.iter().filter_map(|&range| address(range)).filter(free).collect();
            all.sort_by_key(IpAddr::is_ipv6);
            all
        };
        let host_addresses = reserved(pod_range::host_address);
        let masquerade_addresses = reserved(pod_range::masquerade_address);
        let alias_addresses = pod_range::external_alias_addresses(ranges).map(|ip| ip.filter(free));
        let is_elsewhere = |ip: &IpAddr| !ranges.iter().any(|range| range.contains(ip));
        let pods_elsewhere = attached.iter().copied().filter(is_elsewhere).collect();
        Self {
            node,
            pods_elsewhere,
            host_addresses,
            masquerade_addresses,
            alias_addresses,
        }
    }

    /// Returns `spec.podCIDRs`.
    #[must_use]
    pub fn pod_cidrs(&self) -> &[IpNet] {
        self.node.as_deref().map_or(&[], |node| &node.pod_cidrs)
    }

    /// Returns the ranges that this node's pods have addresses of: `spec.podCIDRs`, and each pod elsewhere by itself.
    #[must_use]
    pub fn pod_ranges(&self) -> BTreeSet<IpNet> {
        let elsewhere = self.pods_elsewhere.iter().map(|&ip| IpNet::from(ip));
        self.pod_cidrs().iter().copied().chain(elsewhere).collect()
    }

    /// Returns the node's addresses of type `InternalIP`.
    #[must_use]
    pub fn internal_ips(&self) -> &[IpAddr] {
        self.node.as_deref().map_or(&[], |node| &node.internal_ips)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(ranges: &[&str]) -> Arc<Node> {
        Arc::new(Node {
            name: "n1".into(),
            labels: Default::default(),
            internal_ips: vec!["192.0.2.1".parse().unwrap()],
            external_ips: Vec::new(),
            vtep: None,
            flannel: None,
            pod_cidrs: ranges.iter().map(|range| range.parse().unwrap()).collect(),
            ready: true,
            draining: false,
        })
    }

    fn ips(all: &[&str]) -> Vec<IpAddr> {
        all.iter().map(|ip| ip.parse().unwrap()).collect()
    }

    #[test]
    fn reserved_addresses_are_the_first_of_the_ranges() {
        let facts = NodeFacts::new(Some(node(&["fd00:1::/64", "10.0.1.0/24"])), ips(&["10.0.1.9"]));
        assert_eq!(facts.host_addresses, ips(&["10.0.1.1", "fd00:1::1"]));
        assert_eq!(facts.masquerade_addresses, ips(&["10.0.1.2", "fd00:1::2"]));
        assert_eq!(
            facts.alias_addresses.map(Option::unwrap).to_vec(),
            ips(&["10.0.1.3", "fd00:1::3"])
        );
        assert!(facts.pods_elsewhere.is_empty());
        assert_eq!(facts.pod_ranges().len(), 2);
        let none = NodeFacts::new(None, []);
        assert_eq!(none, NodeFacts::default());
        assert!(none.pod_ranges().is_empty() && none.internal_ips().is_empty());
    }

    #[test]
    fn pods_of_an_earlier_range_stay_the_nodes() {
        let facts = NodeFacts::new(Some(node(&["10.0.9.0/24"])), ips(&["10.0.1.9", "10.0.9.4", "fd00::9"]));
        assert_eq!(
            facts.pods_elsewhere,
            ips(&["10.0.1.9", "fd00::9"]).into_iter().collect()
        );
        let ranges: Vec<String> = facts.pod_ranges().iter().map(ToString::to_string).collect();
        assert_eq!(ranges, ["10.0.1.9/32", "10.0.9.0/24", "fd00::9/128"]);
        assert_eq!(facts.pod_cidrs().len(), 1, "the earlier range is not the node's");
    }

    #[test]
    fn an_address_of_a_pod_is_not_reserved() {
        let attached = ips(&["10.0.1.129", "10.0.1.131"]);
        let facts = NodeFacts::new(Some(node(&["10.0.1.128/25"])), attached);
        assert!(facts.host_addresses.is_empty());
        assert_eq!(facts.masquerade_addresses, ips(&["10.0.1.130"]));
        assert_eq!(facts.alias_addresses, [None, None]);
    }
}
