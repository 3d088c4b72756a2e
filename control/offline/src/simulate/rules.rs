//! The part of the agents' configuration that affects the verdicts of `heddle simulate`.

use heddle_compile::TunnelConfig;
use heddle_config::Config;
use heddle_model::ExternalForwarding;
use heddle_tables::Tunnel;
use ipnet::IpNet;

/// The keys of the agents' configuration that affect verdicts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// `externalIPs`: serves the externalIPs of Services.
    pub external_ips: bool,
    /// `externalForwarding`: the way of connections from outside to backends on other nodes.
    pub external_forwarding: ExternalForwarding,
    /// `serviceCIDRs`: the ranges of Service addresses; empty: the ranges of the ServiceCIDR objects.
    pub service_cidrs: Vec<IpNet>,
    /// `nonMasqueradeCIDRs`: the ranges outside of the cluster that see the pods' own addresses.
    pub non_masquerade_cidrs: Vec<IpNet>,
    /// `tunnel` and `vxlan`: the way to pods of other nodes.
    pub tunnel: TunnelConfig,
    /// `flannelAnnotations`: nodes without heddle are reached as Flannel's annotations say.
    pub flannel: bool,
}

impl Default for Rules {
    /// The rules of kube-proxy: external addresses are served. An agent serves them only if its configuration enables it.
    fn default() -> Self {
        Self {
            external_ips: true,
            external_forwarding: ExternalForwarding::default(),
            service_cidrs: Vec::new(),
            non_masquerade_cidrs: Vec::new(),
            tunnel: TunnelConfig::default(),
            flannel: false,
        }
    }
}

impl From<&Config> for Rules {
    fn from(config: &Config) -> Self {
        Self {
            external_ips: config.external_ips,
            external_forwarding: config.external_forwarding,
            service_cidrs: config.service_cidrs.clone(),
            non_masquerade_cidrs: config.non_masquerade_cidrs.clone(),
            tunnel: TunnelConfig {
                mode: config.tunnel,
                network: Tunnel {
                    vni: config.vxlan.vni,
                    port: config.vxlan.port,
                },
            },
            flannel: config.flannel_annotations,
        }
    }
}
