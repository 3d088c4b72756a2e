//! The compiled tables of a node, under the rules of its agent's configuration.

use heddle_compile::{NodeConfig, prefixes};
use heddle_config::Config;

use super::rules::Rules;

/// Returns the configuration of a node's compiler, with the keys of the agent's configuration that affect connections.
#[must_use]
pub fn node_config(node: &str, rules: &Rules) -> NodeConfig {
    let ports = Config::default().reserved_ports;
    NodeConfig {
        external_ips: rules.external_ips,
        external_forwarding: rules.external_forwarding,
        tunnel: rules.tunnel,
        flannel: rules.flannel,
        service_cidrs: prefixes(&rules.service_cidrs),
        unmasqueraded: prefixes(&rules.non_masquerade_cidrs),
        masquerade_ports: (ports.first, ports.last),
        ..NodeConfig::named(node)
    }
}
