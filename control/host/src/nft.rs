//! The agent's one nftables table: pods' traffic that leaves the node by an interface of the kernel's is masqueraded, and
//! what the node's own processes send to node ports of its addresses, and to load balancer and external addresses that the
//! node holds, goes to heddle.
//!
//! This module writes the table's text; [`crate::nft_program`] hands it to `nft`, which replaces the whole table in one
//! transaction. Rules of others are not read.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;

use crate::frontends::{ExternalFrontend, NodePort};
use crate::well_known::INTERFACE;

/// The table's family and name.
pub const NAME: &str = "inet heddle";

/// The contents of the table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// The node's pod ranges: what they send is masqueraded.
    pub sources: BTreeSet<IpNet>,
    /// The cluster's pod and Service ranges: traffic to them keeps its source.
    pub inside: BTreeSet<IpNet>,
    /// Ports that the kernel must not choose: what comes back to them is heddle's.
    pub reserved: Option<RangeInclusive<u16>>,
    /// Node ports that processes of the node reach at its own addresses, ...
    pub node_ports: BTreeSet<NodePort>,
    /// ... and where they are sent instead: an address of each family that only heddle has.
    pub node_ports_at: BTreeSet<IpAddr>,
    /// Frontends at load balancer and external addresses, and where processes of the node are sent instead if the node
    /// holds the address: only the kernel knows that.
    pub outer: BTreeMap<ExternalFrontend, (IpAddr, u16)>,
    /// An address of the node of each family: what is sent so has the address that it was for as its source, which is
    /// nobody's as far as pods know.
    pub own: BTreeSet<IpAddr>,
}

/// The table as `nft -f` reads it; it replaces the one that is there.
#[must_use]
pub fn ruleset(table: &Table) -> String {
    let mut text = String::new();
    // Adding it first makes deleting it always right. Writing to a String cannot fail.
    let _ = write!(text, "add table {NAME}\ndelete table {NAME}\ntable {NAME} {{\n");
    for (name, v4) in [("4", true), ("6", false)] {
        for (set, ranges) in [("pods", &table.sources), ("inside", &table.inside)] {
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
    outer_sets(table, &mut text);
    text.push_str("  chain postrouting {\n    type nat hook postrouting priority srcnat; policy accept;\n");
    // The kernel chooses source ports for these three only; below 1024 it would stay below 1024 anyway.
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
            "oifname != {{ \"{INTERFACE}\", \"lo\" }} {family} saddr @pods{name} {family} daddr != @inside{name}"
        );
        let _ = writeln!(text, "    {leaves} meta l4proto {{ tcp, udp, sctp }} {masquerade}");
        let _ = writeln!(text, "    {leaves} masquerade");
    }
    sources(table, &ports, &mut text);
    text.push_str("  }\n");
    output(table, &mut text);
    text.push_str("}\n");
    text
}

/// The family's name in rules and in names of sets.
const fn family(v4: bool) -> (&'static str, &'static str) {
    if v4 { ("ip", "4") } else { ("ip6", "6") }
}

/// The table's load balancer and external addresses of a family, with where each of their ports leads.
fn outer(table: &Table, v4: bool) -> impl Iterator<Item = (&ExternalFrontend, &(IpAddr, u16))> {
    let of_family =
        move |(outer, (to, _)): &(&ExternalFrontend, &(IpAddr, u16))| outer.ip.is_ipv4() == v4 && to.is_ipv4() == v4;
    table.outer.iter().filter(of_family)
}

/// Adds the rules that give the node's address to packets for heddle that have an external address as their source.
fn sources(table: &Table, ports: &str, text: &mut String) {
    for own in &table.own {
        let (family, name) = family(own.is_ipv4());
        if outer(table, own.is_ipv4()).next().is_none() {
            continue;
        }
        let own = if own.is_ipv4() || ports.is_empty() {
            own.to_string()
        } else {
            format!("[{own}]")
        };
        let _ = writeln!(
            text,
            "    oifname \"{INTERFACE}\" {family} saddr @outer{name} meta l4proto {{ tcp, udp, sctp }} snat {family} to {own}{ports}"
        );
    }
}

/// The sets of load balancer and external addresses, and the map of their ports.
fn outer_sets(table: &Table, text: &mut String) {
    for v4 in [true, false] {
        let (_, name) = family(v4);
        let addresses: BTreeSet<String> = outer(table, v4).map(|(outer, _)| outer.ip.to_string()).collect();
        if addresses.is_empty() {
            continue;
        }
        let addresses: Vec<String> = addresses.into_iter().collect();
        let ports: Vec<String> = outer(table, v4)
            .map(|(outer, (ip, port))| {
                let protocol = outer.protocol.as_str().to_ascii_lowercase();
                format!("{} . {protocol} . {} : {ip} . {port}", outer.ip, outer.port)
            })
            .collect();
        let _ = write!(
            text,
            "  set outer{name} {{ type ipv{name}_addr; elements = {{ {} }} }}\n  map outerports{name} {{ type \
             ipv{name}_addr . inet_proto . inet_service : ipv{name}_addr . inet_service; elements = {{ {} }} }}\n",
            addresses.join(", "),
            ports.join(", ")
        );
    }
}

/// Adds the chain for packets of the node's own processes to addresses that the node holds. Node ports leave loopback addresses out, as kube-proxy's
/// nftables mode leaves them: an answer to them could not come back.
fn output(table: &Table, text: &mut String) {
    let mut chain = String::new();
    for v4 in [true, false] {
        let (family, name) = family(v4);
        if outer(table, v4).next().is_some() {
            let _ = writeln!(
                chain,
                "    fib daddr type local dnat {family} to {family} daddr . meta l4proto . th dport map @outerports{name}"
            );
        }
    }
    for to in &table.node_ports_at {
        let (family, name) = family(to.is_ipv4());
        let loopback = if to.is_ipv4() { "127.0.0.0/8" } else { "::1" };
        let ports: Vec<String> = table
            .node_ports
            .iter()
            .filter(|port| port.v4 == to.is_ipv4())
            .map(|port| format!("{} . {}", port.protocol.as_str().to_ascii_lowercase(), port.port))
            .collect();
        if ports.is_empty() {
            continue;
        }
        let _ = writeln!(
            text,
            "  set nodeports{name} {{ type inet_proto . inet_service; elements = {{ {} }} }}",
            ports.join(", ")
        );
        let _ = writeln!(
            chain,
            "    {family} daddr != {loopback} fib daddr type local meta l4proto . th dport @nodeports{name} dnat {family} to {to}"
        );
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
            sources: BTreeSet::from(["10.0.1.0/24".parse().unwrap()]),
            inside: BTreeSet::from(["10.0.0.0/16".parse().unwrap(), "fd00::/48".parse().unwrap()]),
            reserved: Some(61_000..=65_535),
            node_ports: [
                (true, Protocol::Tcp, 30_080),
                (true, Protocol::Sctp, 30_099),
                (false, Protocol::Udp, 30_053),
            ]
            .into_iter()
            .map(|(v4, protocol, port)| NodePort { v4, protocol, port })
            .collect(),
            node_ports_at: BTreeSet::from(["10.0.1.2".parse().unwrap(), "fd00::2".parse().unwrap()]),
            outer: [
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
            own: BTreeSet::from(["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()]),
        };
        let expected = r#"add table inet heddle
delete table inet heddle
table inet heddle {
  set pods4 { type ipv4_addr; flags interval; auto-merge; elements = { 10.0.1.0/24 } }
  set inside4 { type ipv4_addr; flags interval; auto-merge; elements = { 10.0.0.0/16 } }
  set pods6 { type ipv6_addr; flags interval; auto-merge; }
  set inside6 { type ipv6_addr; flags interval; auto-merge; elements = { fd00::/48 } }
  set outer4 { type ipv4_addr; elements = { 203.0.113.5 } }
  map outerports4 { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; elements = { 203.0.113.5 . tcp . 80 : 10.0.1.3 . 1, 203.0.113.5 . udp . 53 : 10.0.1.3 . 2 } }
  set outer6 { type ipv6_addr; elements = { 2001:db8:5::5 } }
  map outerports6 { type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service; elements = { 2001:db8:5::5 . sctp . 99 : fd00::3 . 3 } }
  chain postrouting {
    type nat hook postrouting priority srcnat; policy accept;
    oifname != { "heddle0", "lo" } ip saddr @pods4 ip daddr != @inside4 meta l4proto { tcp, udp, sctp } masquerade to :1024-60999
    oifname != { "heddle0", "lo" } ip saddr @pods4 ip daddr != @inside4 masquerade
    oifname != { "heddle0", "lo" } ip6 saddr @pods6 ip6 daddr != @inside6 meta l4proto { tcp, udp, sctp } masquerade to :1024-60999
    oifname != { "heddle0", "lo" } ip6 saddr @pods6 ip6 daddr != @inside6 masquerade
    oifname "heddle0" ip saddr @outer4 meta l4proto { tcp, udp, sctp } snat ip to 192.0.2.1:1024-60999
    oifname "heddle0" ip6 saddr @outer6 meta l4proto { tcp, udp, sctp } snat ip6 to [2001:db8::1]:1024-60999
  }
  set nodeports4 { type inet_proto . inet_service; elements = { tcp . 30080, sctp . 30099 } }
  set nodeports6 { type inet_proto . inet_service; elements = { udp . 30053 } }
  chain output {
    type nat hook output priority -100; policy accept;
    fib daddr type local dnat ip to ip daddr . meta l4proto . th dport map @outerports4
    fib daddr type local dnat ip6 to ip6 daddr . meta l4proto . th dport map @outerports6
    ip daddr != 127.0.0.0/8 fib daddr type local meta l4proto . th dport @nodeports4 dnat ip to 10.0.1.2
    ip6 daddr != ::1 fib daddr type local meta l4proto . th dport @nodeports6 dnat ip6 to fd00::2
  }
}
"#;
        assert_eq!(ruleset(&table), expected);
    }
}
