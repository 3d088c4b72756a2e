//! Finds kube-proxy: its rules in the kernel, and its ports. heddle serves Services without it. Both work side by side, but rules
//! that a stopped kube-proxy has left behind lead the node's own connections to endpoints that may be gone.

use std::fs;

use heddle_host::sysctl;

use super::program::{legacy_with_table, run};

/// kube-proxy's ports for metrics and for its own health.
const PORTS: [u16; 2] = [10249, 10256];
/// The state of a listening socket in /proc/net/tcp (TCP_LISTEN, include/net/tcp_states.h).
const LISTEN: &str = "0A";

/// The traces of kube-proxy on a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Traces {
    /// The tables, chains and interfaces of its rules.
    pub rules: Vec<String>,
    /// `true` if a process serves one of its ports.
    pub is_running: bool,
}

/// Looks for kube-proxy in this network namespace. `ruleset` is the output of `nft list ruleset`.
#[must_use]
pub fn traces(ruleset: &str) -> Traces {
    let mut rules = rules_in(ruleset);
    for program in legacy_with_table("nat") {
        if run(program, &["-t", "nat", "-S", "KUBE-SERVICES"]).is_ok() {
            rules.push(format!("{program} KUBE-SERVICES"));
        }
    }
    if sysctl::read("net/ipv4/conf/kube-ipvs0/forwarding").is_ok() {
        rules.push("interface kube-ipvs0".to_owned());
    }
    let listens = |file| fs::read_to_string(file).is_ok_and(|sockets| listens_at(&sockets, &PORTS));
    Traces {
        rules,
        is_running: listens("/proc/net/tcp") || listens("/proc/net/tcp6"),
    }
}

/// Returns kube-proxy's rules in the output of `nft list ruleset`: its tables in the mode `nftables`, and its chain KUBE-SERVICES in
/// the table `nat` of iptables-nft. Other chains named KUBE-... are the kubelet's.
fn rules_in(listing: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut table = "";
    for line in listing.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("table ") {
            table = name.trim_end_matches('{').trim();
            if matches!(table, "ip kube-proxy" | "ip6 kube-proxy") {
                found.push(format!("table {table}"));
            }
        } else if line.trim_end_matches('{').trim() == "chain KUBE-SERVICES" && matches!(table, "ip nat" | "ip6 nat") {
            found.push(format!("table {table}, chain KUBE-SERVICES"));
        }
    }
    found
}

/// Returns `true` if a socket in the contents of /proc/net/tcp listens at one of these ports. The columns are number, local address,
/// remote address and state; the port is in hexadecimal behind the address.
fn listens_at(sockets: &str, ports: &[u16]) -> bool {
    sockets.lines().skip(1).any(|line| {
        let mut columns = line.split_ascii_whitespace();
        let port = columns.nth(1).and_then(|local| local.rsplit_once(':'));
        let port = port.and_then(|(_, port)| u16::from_str_radix(port, 16).ok());
        columns.nth(1) == Some(LISTEN) && port.is_some_and(|port| ports.contains(&port))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_of_each_mode_are_found_and_the_kubelets_are_not() {
        let listing = "table ip mangle {\n\tchain KUBE-KUBELET-CANARY {\n\t}\n}\n\
            table ip nat {\n\tchain KUBE-SERVICES {\n\t}\n\tchain KUBE-SERVICES-X {\n\t}\n}\n\
            table ip6 kube-proxy {\n\tchain services {\n\t}\n}\n\
            table ip other {\n\tchain KUBE-SERVICES {\n\t}\n}\n";
        assert_eq!(
            rules_in(listing),
            ["table ip nat, chain KUBE-SERVICES", "table ip6 kube-proxy"]
        );
        assert!(rules_in("").is_empty());
    }

    #[test]
    fn only_listening_sockets_count() {
        let of = |port: &str, state: &str| {
            format!(
                "  sl  local_address rem_address   st\n   0: 0100007F:{port} 00000000:0000 {state} 00000000:00000000\n"
            )
        };
        assert!(listens_at(&of("2809", "0A"), &PORTS));
        assert!(!listens_at(&of("2809", "01"), &PORTS));
        assert!(!listens_at(&of("1F90", "0A"), &PORTS));
        assert!(listens_at(&of("2810", "0A"), &PORTS));
        assert!(!listens_at("", &PORTS));
    }
}
