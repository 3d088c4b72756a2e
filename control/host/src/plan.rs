//! The host port's plan, computed from the configuration and the objects. This module changes and reads nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;

use heddle_model::NodeFacts;
use ipnet::IpNet;

use crate::external_aliases;
use crate::frontends::{ExternalFrontend, Frontends};
use crate::nft::Table;

/// The inputs of a plan.
#[derive(Debug)]
pub struct Inputs<'a> {
    /// This node.
    pub facts: &'a NodeFacts,
    /// The pod ranges of all nodes.
    pub node_ranges: &'a BTreeSet<IpNet>,
    /// The pod ranges of nodes on which Flannel runs.
    pub flannel_ranges: &'a BTreeSet<IpNet>,
    /// `clusterCIDRs` of the configuration.
    pub cluster_cidrs: &'a [IpNet],
    /// `serviceCIDRs` of the configuration.
    pub service_cidrs: &'a [IpNet],
    /// `nonMasqueradeCIDRs` of the configuration.
    pub non_masquerade_cidrs: &'a [IpNet],
    /// The ranges of ServiceCIDR objects.
    pub service_objects: &'a BTreeSet<IpNet>,
    /// The cluster addresses of all Services.
    pub service_addresses: &'a BTreeSet<IpAddr>,
    /// The node ports, load balancer addresses and external addresses of Services.
    pub frontends: &'a Frontends,
    /// The alias ports at which the node's processes reach external frontends whose address the node holds.
    pub external_aliases: &'a BTreeMap<ExternalFrontend, u16>,
    /// The addresses of all nodes.
    pub node_addresses: &'a BTreeSet<IpAddr>,
    /// The MTU of both ends, which is the uplink's.
    pub mtu: u16,
    /// `reservedPorts` of the configuration.
    pub reserved_ports: RangeInclusive<u16>,
}

/// The planned state of the host port: its addresses, routes, MTU and nftables table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// The addresses of the node's end.
    pub addresses: BTreeSet<IpAddr>,
    /// The routes: each range with the preferred source of the node's own traffic. The gateway is the family's.
    pub routes: BTreeMap<IpNet, IpAddr>,
    /// The MTU of both ends; 0 leaves it unchanged.
    pub mtu: u16,
    /// The nftables table.
    pub table: Table,
}

/// Returns the ranges of Service addresses: the configured ranges, or else the ranges of ServiceCIDR objects, or else each
/// address by itself.
#[must_use]
pub fn service_ranges(
    configured: &[IpNet],
    objects: &BTreeSet<IpNet>,
    addresses: &BTreeSet<IpAddr>,
) -> BTreeSet<IpNet> {
    if !configured.is_empty() {
        configured.iter().copied().collect()
    } else if !objects.is_empty() {
        objects.clone()
    } else {
        addresses.iter().map(|&address| IpNet::from(address)).collect()
    }
}

/// Computes the plan. The controller calls it whenever a node, a Service or a ServiceCIDR changes.
#[must_use]
pub fn compute(inputs: &Inputs<'_>) -> Plan {
    let facts = inputs.facts;
    let addresses: BTreeSet<IpAddr> = facts.host_addresses.iter().copied().collect();
    // The ranges that are routed to heddle: pods and Services of the whole cluster.
    let mut pods = facts.pod_ranges();
    if inputs.cluster_cidrs.is_empty() {
        pods.extend(inputs.node_ranges);
    } else {
        pods.extend(inputs.cluster_cidrs);
    }
    let services = service_ranges(inputs.service_cidrs, inputs.service_objects, inputs.service_addresses);
    let cluster_ranges = without_covered(pods.iter().chain(&services).copied().collect());
    let source_of = |range: &IpNet| {
        let same_family = |ip: &&IpAddr| ip.is_ipv4() == range.addr().is_ipv4();
        facts
            .internal_ips()
            .iter()
            .find(same_family)
            .or_else(|| addresses.iter().find(same_family))
            .copied()
    };
    // A family without an address on this node gets no routes, because the node could not send in it.
    let mut routes: BTreeMap<IpNet, IpAddr> = cluster_ranges
        .iter()
        .filter_map(|range| Some((*range, source_of(range)?)))
        .collect();
    // A node with Flannel answers by its tunnel only if the reply goes to a pod range. So the node itself uses the host port's
    // address there, as Flannel does.
    routes.extend(inputs.flannel_ranges.iter().filter_map(|range| {
        let same_family = |ip: &&IpAddr| ip.is_ipv4() == range.addr().is_ipv4();
        Some((*range, *addresses.iter().find(same_family)?))
    }));
    // Load balancer and external addresses are routed to heddle too, except for the addresses of nodes: a route to heddle
    // would cut that node off.
    let without_nodes = inputs.frontends.addresses.difference(inputs.node_addresses);
    routes.extend(
        without_nodes
            .map(|&address| IpNet::from(address))
            .filter(|address| !cluster_ranges.iter().any(|range| range.contains(address)))
            .filter_map(|address| Some((address, source_of(&address)?))),
    );
    // The table.
    let alias_addresses = facts.alias_addresses;
    let external_aliases = inputs.external_aliases.iter();
    let external = external_aliases.filter_map(|(frontend, port)| {
        Some((
            *frontend,
            (external_aliases::of_family(alias_addresses, frontend.ip)?, *port),
        ))
    });
    let table = Table {
        external: external.collect(),
        external_addresses: inputs.frontends.addresses.clone(),
        node_addresses: alias_addresses
            .into_iter()
            .flatten()
            .filter_map(|at| source_of(&IpNet::from(at)))
            .collect(),
        pod_ranges: facts.pod_ranges(),
        unmasqueraded: without_covered(
            cluster_ranges
                .into_iter()
                .chain(inputs.non_masquerade_cidrs.iter().copied())
                .collect(),
        ),
        reserved: Some(inputs.reserved_ports.clone()),
        node_ports: &inputs.frontends.node_ports | &inputs.frontends.host_ports,
        loopback_ports: inputs
            .frontends
            .host_ports
            .iter()
            .filter(|port| port.v4)
            .copied()
            .collect(),
        node_port_targets: facts.masquerade_addresses.iter().copied().collect(),
    };
    Plan {
        addresses,
        routes,
        mtu: inputs.mtu,
        table,
    }
}

/// Returns the ranges without every range that lie in another one.
fn without_covered(ranges: BTreeSet<IpNet>) -> BTreeSet<IpNet> {
    let mut kept: BTreeSet<IpNet> = BTreeSet::new();
    let mut by_size: Vec<IpNet> = ranges.into_iter().collect();
    by_size.sort_by_key(IpNet::prefix_len);
    // A covering range has a shorter prefix of the same address, so at most 128 lookups find it.
    for range in by_size {
        let covered = (0..range.prefix_len())
            .filter_map(|len| IpNet::new(range.addr(), len).ok())
            .any(|wider| kept.contains(&wider.trunc()));
        if !covered {
            kept.insert(range);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use heddle_model::Node;

    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn node() -> Node {
        Node {
            name: Arc::from("n1"),
            labels: Default::default(),
            internal_ips: vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
            external_ips: Vec::new(),
            vtep: None,
            flannel: None,
            pod_cidrs: vec![net("10.0.1.0/24"), net("fd00:0:0:1::/64")],
            ready: true,
            draining: false,
        }
    }

    fn facts(node: &Node) -> NodeFacts {
        NodeFacts::new(Some(Arc::new(node.clone())), [])
    }

    /// The inputs of a plan besides the facts of the node.
    #[derive(Default)]
    struct Given {
        node_ranges: BTreeSet<IpNet>,
        flannel_ranges: BTreeSet<IpNet>,
        cluster_cidrs: Vec<IpNet>,
        service_cidrs: Vec<IpNet>,
        non_masquerade_cidrs: Vec<IpNet>,
        service_objects: BTreeSet<IpNet>,
        service_addresses: BTreeSet<IpAddr>,
        frontends: Frontends,
        external_aliases: BTreeMap<ExternalFrontend, u16>,
        node_addresses: BTreeSet<IpAddr>,
    }

    impl Given {
        fn plan(&self, facts: &NodeFacts) -> Plan {
            compute(&Inputs {
                facts,
                node_ranges: &self.node_ranges,
                flannel_ranges: &self.flannel_ranges,
                cluster_cidrs: &self.cluster_cidrs,
                service_cidrs: &self.service_cidrs,
                non_masquerade_cidrs: &self.non_masquerade_cidrs,
                service_objects: &self.service_objects,
                service_addresses: &self.service_addresses,
                frontends: &self.frontends,
                external_aliases: &self.external_aliases,
                node_addresses: &self.node_addresses,
                mtu: 1500,
                reserved_ports: 61_000..=65_535,
            })
        }
    }

    fn plan(node: &Node, cluster: &[IpNet], services: &[IpNet], objects: &[IpNet], addresses: &[&str]) -> Plan {
        let given = Given {
            node_ranges: BTreeSet::from([net("10.0.1.0/24"), net("10.0.2.0/24"), net("fd00:0:0:1::/64")]),
            cluster_cidrs: cluster.to_vec(),
            service_cidrs: services.to_vec(),
            service_objects: objects.iter().copied().collect(),
            service_addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
            ..Given::default()
        };
        given.plan(&facts(node))
    }

    fn shown(plan: &Plan) -> Vec<String> {
        plan.routes
            .iter()
            .map(|(range, src)| format!("{range} src {src}"))
            .collect()
    }

    #[test]
    fn without_configuration_nodes_and_services_have_routes_of_their_own() {
        let plan = plan(&node(), &[], &[], &[], &["10.96.0.1", "fd01::1"]);
        assert_eq!(
            shown(&plan),
            [
                "10.0.1.0/24 src 192.0.2.1",
                "10.0.2.0/24 src 192.0.2.1",
                "10.96.0.1/32 src 192.0.2.1",
                "fd00:0:0:1::/64 src 2001:db8::1",
                "fd01::1/128 src 2001:db8::1",
            ]
        );
        let addresses: Vec<String> = plan.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["10.0.1.1", "fd00:0:0:1::1"]);
    }

    #[test]
    fn the_node_reaches_pods_of_flannels_nodes_with_the_host_ports_address() {
        let flannel_ranges = BTreeSet::from([net("10.0.2.0/24"), net("fd00:0:0:2::/64")]);
        let plan = |cluster_cidrs: &[IpNet]| {
            Given {
                node_ranges: BTreeSet::from([net("10.0.1.0/24"), net("10.0.2.0/24"), net("10.0.3.0/24")]),
                flannel_ranges: flannel_ranges.clone(),
                cluster_cidrs: cluster_cidrs.to_vec(),
                service_cidrs: vec![net("10.96.0.0/16")],
                ..Given::default()
            }
            .plan(&facts(&node()))
        };
        let routes = [
            "10.0.1.0/24 src 192.0.2.1",
            "10.0.2.0/24 src 10.0.1.1",
            "10.0.3.0/24 src 192.0.2.1",
            "10.96.0.0/16 src 192.0.2.1",
            "fd00:0:0:1::/64 src 2001:db8::1",
            "fd00:0:0:2::/64 src fd00:0:0:1::1",
        ];
        assert_eq!(shown(&plan(&[])), routes);
        // A range in a configured one has a route of its own too.
        let configured = shown(&plan(&[net("10.0.0.0/16")]));
        assert!(configured.contains(&"10.0.0.0/16 src 192.0.2.1".to_owned()));
        assert!(configured.contains(&routes[1].to_owned()), "{configured:?}");
    }

    #[test]
    fn pods_of_an_earlier_range_keep_their_route_and_their_masquerade() {
        let mut moved = node();
        moved.pod_cidrs = vec![net("10.0.7.0/24")];
        let facts = NodeFacts::new(
            Some(Arc::new(moved)),
            ["10.0.1.9", "10.0.7.9"].map(|ip| ip.parse().unwrap()),
        );
        let plan = Given {
            node_ranges: BTreeSet::from([net("10.0.7.0/24")]),
            service_cidrs: vec![net("10.96.0.0/16")],
            ..Given::default()
        }
        .plan(&facts);
        assert_eq!(
            shown(&plan),
            [
                "10.0.1.9/32 src 192.0.2.1",
                "10.0.7.0/24 src 192.0.2.1",
                "10.96.0.0/16 src 192.0.2.1"
            ]
        );
        assert_eq!(
            plan.table.pod_ranges,
            BTreeSet::from([net("10.0.1.9/32"), net("10.0.7.0/24")])
        );
        let addresses: Vec<String> = plan.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["10.0.7.1"]);
    }

    #[test]
    fn objects_and_configuration_take_the_place_of_single_addresses() {
        let objects = plan(&node(), &[], &[], &[net("10.96.0.0/16")], &["10.96.0.1"]);
        assert!(
            objects.routes.contains_key(&net("10.96.0.0/16")) && !objects.routes.contains_key(&net("10.96.0.1/32"))
        );
        let configured = plan(
            &node(),
            &[net("10.0.0.0/16")],
            &[net("10.97.0.0/16")],
            &[net("10.96.0.0/16")],
            &["10.96.0.1"],
        );
        let routes: Vec<String> = configured.routes.keys().map(ToString::to_string).collect();
        assert_eq!(
            routes,
            ["10.0.0.0/16", "10.97.0.0/16", "fd00:0:0:1::/64"],
            "covered ranges are dropped"
        );
    }

    #[test]
    fn ranges_without_masquerade_join_the_clusters_and_get_no_route() {
        let facts = facts(&node());
        let of = |ranges: &[IpNet]| {
            Given {
                cluster_cidrs: vec![net("10.0.0.0/16")],
                service_cidrs: vec![net("10.96.0.0/16")],
                non_masquerade_cidrs: ranges.to_vec(),
                ..Given::default()
            }
            .plan(&facts)
        };
        let without = of(&[]);
        let inside = ["10.0.0.0/16", "10.96.0.0/16", "fd00:0:0:1::/64"].map(net);
        assert_eq!(without.table.unmasqueraded, BTreeSet::from(inside));
        let with = of(&["172.16.0.0/12", "10.0.0.0/8", "2001:db8:64::/48"].map(net));
        let all = ["10.0.0.0/8", "172.16.0.0/12", "2001:db8:64::/48", "fd00:0:0:1::/64"].map(net);
        assert_eq!(with.table.unmasqueraded, BTreeSet::from(all));
        assert_eq!(shown(&with), shown(&without));
        // Another value is another plan, so the host task writes the table again.
        assert_ne!(with, without);
        let everything = of(&["0.0.0.0/0", "::/0"].map(net));
        assert_eq!(
            everything.table.unmasqueraded,
            BTreeSet::from(["0.0.0.0/0", "::/0"].map(net))
        );
    }

    #[test]
    fn a_family_without_address_of_the_node_uses_the_host_ports_or_has_no_route() {
        let mut v4_only = node();
        v4_only.internal_ips.truncate(1);
        assert_eq!(
            plan(&v4_only, &[], &[], &[], &[]).routes[&net("fd00:0:0:1::/64")],
            "fd00:0:0:1::1".parse::<IpAddr>().unwrap()
        );
        v4_only.pod_cidrs.truncate(1);
        let plan = plan(&v4_only, &[], &[], &[], &["fd01::1"]);
        assert!(
            plan.routes
                .keys()
                .all(|range| range.addr().is_ipv4() || range == &net("fd00:0:0:1::/64"))
        );
        assert!(!plan.routes.contains_key(&net("fd01::1/128")));
    }

    #[test]
    fn addresses_of_load_balancers_are_routed_to_heddle_unless_they_are_a_nodes() {
        let frontends = Frontends {
            addresses: ["203.0.113.5", "192.0.2.2", "10.96.0.9", "2001:db8:1::5"]
                .map(|a| a.parse().unwrap())
                .into(),
            ..Frontends::default()
        };
        let frontend = |ip: &str, port| ExternalFrontend {
            ip: ip.parse().unwrap(),
            protocol: heddle_model::Protocol::Tcp,
            port,
        };
        let external_aliases = BTreeMap::from([(frontend("192.0.2.2", 80), 1), (frontend("2001:db8:1::5", 443), 2)]);
        let plan = Given {
            external_aliases,
            service_cidrs: vec![net("10.96.0.0/16")],
            frontends,
            node_addresses: BTreeSet::from(["192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap()]),
            ..Given::default()
        }
        .plan(&facts(&node()));
        assert_eq!(
            shown(&plan),
            [
                "10.0.1.0/24 src 192.0.2.1",
                "10.96.0.0/16 src 192.0.2.1",
                "203.0.113.5/32 src 192.0.2.1",
                "2001:db8:1::5/128 src 2001:db8::1",
                "fd00:0:0:1::/64 src 2001:db8::1",
            ]
        );
        let at: Vec<String> = plan.table.node_port_targets.iter().map(ToString::to_string).collect();
        assert_eq!(at, ["10.0.1.2", "fd00:0:0:1::2"]);
        // The table has all frontends, because only the kernel knows which of the addresses the node holds.
        let external: Vec<String> = plan
            .table
            .external
            .iter()
            .map(|(of, (ip, port))| format!("{}:{} at {ip}:{port}", of.ip, of.port))
            .collect();
        assert_eq!(
            external,
            ["192.0.2.2:80 at 10.0.1.3:1", "2001:db8:1::5:443 at fd00:0:0:1::3:2"]
        );
        let node_addresses: Vec<String> = plan.table.node_addresses.iter().map(ToString::to_string).collect();
        assert_eq!(node_addresses, ["192.0.2.1", "2001:db8::1"]);
    }
}
