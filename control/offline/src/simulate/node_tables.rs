//! The compiled tables of a node, under the rules of its agent's configuration.

use heddle_compile::NodeConfig;
use heddle_config::Config;
use heddle_tables::{Masquerade, Prefix};
use heddle_wire::Ip;
use ipnet::IpNet;

use super::rules::Rules;

/// Returns the configuration of a node's compiler, with the keys of the agent's configuration that affect connections.
#[must_use]
pub fn node_config(node: &str, rules: &Rules) -> NodeConfig {
    let ports = Config::default().reserved_ports;
    NodeConfig {
        external_ips: rules.external_ips,
        service_cidrs: rules.service_cidrs.iter().copied().map(prefix).collect(),
        masquerade: Masquerade {
            ports: (ports.first, ports.last),
            ..Masquerade::default()
        },
        ..NodeConfig::named(node)
    }
}

fn prefix(range: IpNet) -> Prefix {
    Prefix::new(Ip::from(range.network()), range.prefix_len())
}
