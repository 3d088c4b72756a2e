//! The agent's only nftables table. It masquerades the pods' traffic that leaves the node by one of the kernel's interfaces.
//! It also sends packets of the node's own processes to heddle, if their destination is a node port or a pod's host port at one of the
//! node's addresses, or a load balancer or external address that the node holds.
//!
//! This module writes the table's text; [`crate::nft_program`] hands it to `nft`, which replaces the whole table in one
//! transaction. It reads no rules of others.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;

use crate::frontends::{ExternalFrontend, NodePort};
use crate::well_known::INTERFACE;

/// The table's family and name.
pub const NAME: &str = "inet heddle";
/// IPv4's loopback addresses (RFC 1122, section 3.2.1.3).
const LOOPBACK: &str = "127.0.0.0/8";

/// The contents of the table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// The node's pod ranges, whose traffic is masqueraded.
    pub pod_ranges: BTreeSet<IpNet>,
    /// The destinations to which pods' traffic keeps its source: the cluster's pod and Service ranges, and the configured ranges
    /// outside of the cluster.
    pub unmasqueraded: BTreeSet<IpNet>,
    /// The source ports that the kernel must not choose, because heddle uses them.
    pub reserved: Option<RangeInclusive<u16>>,
    /// The node ports and host ports, which the node's processes reach at the node's own addresses.
    pub node_ports: BTreeSet<NodePort>,
    /// The ports among them that the node's processes also reach at IPv4's loopback addresses: host ports. (At `::1` the kernel
    /// lets no packet leave its interface.)
    pub loopback_ports: BTreeSet<NodePort>,
    /// The addresses, one of each family, to which packets for node ports are sent. Only heddle has them.
    pub node_port_targets: BTreeSet<IpAddr>,
    /// The frontends at load balancer and external addresses, and host ports at single addresses, each with the address and port to
    /// which packets of the node's processes are sent if the node holds the frontend's address. Only the kernel knows which addresses
    /// the node holds.
    pub external: BTreeMap<ExternalFrontend, (IpAddr, u16)>,
    /// The load balancer and external addresses. If the node holds one, the kernel chooses it as the source of packets to itself, to
    /// which a pod's answer would not come back. Such packets get an address of `node_addresses` as their source.
    pub external_addresses: BTreeSet<IpAddr>,
    /// One address of the node of each family.
    pub node_addresses: BTreeSet<IpAddr>,
}

/// Returns the table as text for `nft -f`. It replaces an existing table.
#[must_use]
pub fn ruleset(table: &Table) -> String {
    let mut text = String::new();
    // The table is added first, so that deleting it never fails. Writing to a String cannot fail.
    let _ = write!(text, "add table {NAME}\ndelete table {NAME}\ntable {NAME} {{\n");
    // The sets of ranges.
    for (name, v4) in [("4", true), ("6", false)] {
        for (set, ranges) in [("pods", &table.pod_ranges), ("unmasqueraded", &table.unmasqueraded)] {
            let of_family: Vec<String> = ranges
                .iter()
                .filter(|range| range.addr().is_ipv4() == v4)
                .map(ToString::to_string)
                .collect();
            let _ = write!(
                text,
                "  set {set}{name} {{ type ipv{name}_addr; flags interval; auto-merge;"
            );
            if !of_family.is_empty() {
                let _ = write!(text, " elements = {{ {} }}", of_family.join(", "));
            }
            text.push_str(" }\n");
        }
    }
    external_sets(table, &mut text);
    text.push_str("  chain postrouting {\n    type nat hook postrouting priority srcnat; policy accept;\n");
    // The masquerading rules. The kernel chooses source ports for TCP, UDP and SCTP only. It would replace a port below 1024
    // by another one below 1024 in any case.
    let ports = table.reserved.as_ref().map_or(String::new(), |range| {
        format!(":1024-{}", range.start().saturating_sub(1))
    });
    let masquerade = if ports.is_empty() {
        "masquerade".to_owned()
    } else {
        format!("masquerade to {ports}")
    };
    for (family, name) in [("ip", "4"), ("ip6", "6")] {
        let leaves = format!(
            "oifname != {{ \"{INTERFACE}\", \"lo\" }} {family} saddr @pods{name} {family} daddr != @unmasqueraded{name}"
        );
        let _ = writeln!(text, "    {leaves} meta l4proto {{ tcp, udp, sctp }} {masquerade}");
        let _ = writeln!(text, "    {leaves} masquerade");
    }
    source_rules(table, &ports, &mut text);
    text.push_str("  }\n");
    output_chain(table, &mut text);
    text.push_str("}\n");
    text
}

/// Returns a family's name in rules, and its suffix in the names of sets.
const fn family(v4: bool) -> (&'static str, &'static str) {
    if v4 { ("ip", "4") } else { ("ip6", "6") }
}

/// Returns the table's external frontends of a family, with their targets.
fn external(table: &Table, v4: bool) -> impl Iterator<Item = (&ExternalFrontend, &(IpAddr, u16))> {
    let of_family = move |(frontend, (to, _)): &(&ExternalFrontend, &(IpAddr, u16))| {
        frontend.ip.is_ipv4() == v4 && to.is_ipv4() == v4
    };
    table.external.iter().filter(of_family)
}

/// Returns the load balancer and external addresses of a family.
fn external_addresses(table: &Table, v4: bool) -> impl Iterator<Item = &IpAddr> {
    table.external_addresses.iter().filter(move |ip| ip.is_ipv4() == v4)
}

/// Returns true if the node's processes reach a frontend at a loopback address.
fn serves_loopback(table: &Table) -> bool {
    let mut external = external(table, true);
    !table.loopback_ports.is_empty() || external.any(|(frontend, _)| frontend.ip.is_loopback())
}

/// Adds the rules that replace the source of packets to heddle by the node's address, if the source is an external or a loopback
/// address.
fn source_rules(table: &Table, ports: &str, text: &mut String) {
    for address in &table.node_addresses {
        let v4 = address.is_ipv4();
        let (family, name) = family(v4);
        let to = if v4 || ports.is_empty() {
            address.to_string()
        } else {
            format!("[{address}]")
        };
        let mut sources = Vec::new();
        if external_addresses(table, v4).next().is_some() {
            sources.push(format!("@outer{name}"));
        }
        if v4 && serves_loopback(table) {
            sources.push(LOOPBACK.to_owned());
        }
        for source in sources {
            let from = format!("oifname \"{INTERFACE}\" {family} saddr {source} meta l4proto {{ tcp, udp, sctp }}");
            let _ = writeln!(text, "    {from} snat {family} to {to}{ports}");
        }
    }
}

/// Adds the sets of load balancer and external addresses, and the maps of their ports.
fn external_sets(table: &Table, text: &mut String) {
    for v4 in [true, false] {
        let (_, name) = family(v4);
        let addresses: Vec<String> = external_addresses(table, v4).map(ToString::to_string).collect();
        if !addresses.is_empty() {
            let addresses = addresses.join(", ");
            let _ = writeln!(
                text,
                "  set outer{name} {{ type ipv{name}_addr; elements = {{ {addresses} }} }}"
            );
        }
        let ports: Vec<String> = external(table, v4)
            .map(|(frontend, (ip, port))| {
                let protocol = frontend.protocol.as_str().to_ascii_lowercase();
                format!("{} . {protocol} . {} : {ip} . {port}", frontend.ip, frontend.port)
            })
            .collect();
        if ports.is_empty() {
            continue;
        }
        let _ = writeln!(
            text,
            "  map outerports{name} {{ type \
             ipv{name}_addr . inet_proto . inet_service : ipv{name}_addr . inet_service; elements = {{ {} }} }}",
            ports.join(", ")
        );
    }
}

/// Adds the chain for packets of the node's own processes to addresses that the node holds. As in kube-proxy's nftables mode, node
/// ports are not served at loopback addresses. Host ports are, as with the reference plugin `portmap`.
fn output_chain(table: &Table, text: &mut String) {
    let mut chain = String::new();
    for v4 in [true, false] {
        let (family, name) = family(v4);
        if external(table, v4).next().is_some() {
            let _ = writeln!(
                chain,
                "    fib daddr type local dnat {family} to {family} daddr . meta l4proto . th dport map @outerports{name}"
            );
        }
    }
    for to in &table.node_port_targets {
        let (family, name) = family(to.is_ipv4());
        let loopback = if to.is_ipv4() { LOOPBACK } else { "::1" };
        let sets = [
            ("loopbackports", &table.loopback_ports, format!("daddr {loopback}")),
            ("nodeports", &table.node_ports, format!("daddr != {loopback}")),
        ];
        for (set, ports, at) in sets {
            let ports: Vec<String> = ports
                .iter()
                .filter(|port| port.v4 == to.is_ipv4())
                .map(|port| format!("{} . {}", port.protocol.as_str().to_ascii_lowercase(), port.port))
                .collect();
            if ports.is_empty() {
                continue;
            }
            let _ = writeln!(
                text,
                "  set {set}{name} {{ type inet_proto . inet_service; elements = {{ {} }} }}",
                ports.join(", ")
            );
            let _ = writeln!(
                chain,
                "    {family} {at} fib daddr type local meta l4proto . th dport @{set}{name} dnat {family} to {to}"
            );
        }
    }
    if !chain.is_empty() {
        let _ = write!(
            text,
            "  chain output {{\n    type nat hook output priority -100; policy accept;\n{chain}  }}\n"
        );
    }
}

#[cfg(test)]
mod tests {
    use heddle_model::Protocol;

    use super::*;

    #[test]
    fn the_table_for_both_families() {
        let table = Table {
            pod_ranges: BTreeSet::from(["10.0.1.0/24".parse().unwrap()]),
            unmasqueraded: BTreeSet::from(["10.0.0.0/16".parse().unwrap(), "fd00::/48".parse().unwrap()]),
            reserved: Some(61_000..=65_535),
            node_ports: [
                (true, Protocol::Tcp, 30_080),
                (true, Protocol::Sctp, 30_099),
                (false, Protocol::Udp, 30_053),
            ]
            .into_iter()
            .map(|(v4, protocol, port)| NodePort { v4, protocol, port })
            .collect(),
            loopback_ports: BTreeSet::from([NodePort {
                v4: true,
                protocol: Protocol::Tcp,
                port: 30_080,
            }]),
            node_port_targets: BTreeSet::from(["10.0.1.2".parse().unwrap(), "fd00::2".parse().unwrap()]),
            external: [
                ("203.0.113.5", Protocol::Tcp, 80, "10.0.1.3", 1),
                ("203.0.113.5", Protocol::Udp, 53, "10.0.1.3", 2),
                ("2001:db8:5::5", Protocol::Sctp, 99, "fd00::3", 3),
            ]
            .into_iter()
            .map(|(ip, protocol, port, to, at)| {
                let ip = ip.parse().unwrap();
                (ExternalFrontend { ip, protocol, port }, (to.parse().unwrap(), at))
            })
            .collect(),
            external_addresses: ["203.0.113.5", "2001:db8:5::5"].map(|ip| ip.parse().unwrap()).into(),
            node_addresses: BTreeSet::from(["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()]),
        };
        let expected = r#"add table inet heddle
delete table inet heddle
table inet heddle {
  set pods4 { type ipv4_addr; flags interval; auto-merge; elements = { 10.0.1.0/24 } }
  set unmasqueraded4 { type ipv4_addr; flags interval; auto-merge; elements = { 10.0.0.0/16 } }
  set pods6 { type ipv6_addr; flags interval; auto-merge; }
  set unmasqueraded6 { type ipv6_addr; flags interval; auto-merge; elements = { fd00::/48 } }
  set outer4 { type ipv4_addr; elements = { 203.0.113.5 } }
  map outerports4 { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; elements = { 203.0.113.5 . tcp . 80 : 10.0.1.3 . 1, 203.0.113.5 . udp . 53 : 10.0.1.3 . 2 } }
  set outer6 { type ipv6_addr; elements = { 2001:db8:5::5 } }
  map outerports6 { type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service; elements = { 2001:db8:5::5 . sctp . 99 : fd00::3 . 3 } }
  chain postrouting {
    type nat hook postrouting priority srcnat; policy accept;
    oifname != { "heddle0", "lo" } ip saddr @pods4 ip daddr != @unmasqueraded4 meta l4proto { tcp, udp, sctp } masquerade to :1024-60999
    oifname != { "heddle0", "lo" } ip saddr @pods4 ip daddr != @unmasqueraded4 masquerade
    oifname != { "heddle0", "lo" } ip6 saddr @pods6 ip6 daddr != @unmasqueraded6 meta l4proto { tcp, udp, sctp } masquerade to :1024-60999
    oifname != { "heddle0", "lo" } ip6 saddr @pods6 ip6 daddr != @unmasqueraded6 masquerade
    oifname "heddle0" ip saddr @outer4 meta l4proto { tcp, udp, sctp } snat ip to 192.0.2.1:1024-60999
    oifname "heddle0" ip saddr 127.0.0.0/8 meta l4proto { tcp, udp, sctp } snat ip to 192.0.2.1:1024-60999
    oifname "heddle0" ip6 saddr @outer6 meta l4proto { tcp, udp, sctp } snat ip6 to [2001:db8::1]:1024-60999
  }
  set loopbackports4 { type inet_proto . inet_service; elements = { tcp . 30080 } }
  set nodeports4 { type inet_proto . inet_service; elements = { tcp . 30080, sctp . 30099 } }
  set nodeports6 { type inet_proto . inet_service; elements = { udp . 30053 } }
  chain output {
    type nat hook output priority -100; policy accept;
    fib daddr type local dnat ip to ip daddr . meta l4proto . th dport map @outerports4
    fib daddr type local dnat ip6 to ip6 daddr . meta l4proto . th dport map @outerports6
    ip daddr 127.0.0.0/8 fib daddr type local meta l4proto . th dport @loopbackports4 dnat ip to 10.0.1.2
    ip daddr != 127.0.0.0/8 fib daddr type local meta l4proto . th dport @nodeports4 dnat ip to 10.0.1.2
    ip6 daddr != ::1 fib daddr type local meta l4proto . th dport @nodeports6 dnat ip6 to fd00::2
  }
}
"#;
        assert_eq!(ruleset(&table), expected);
    }
}
