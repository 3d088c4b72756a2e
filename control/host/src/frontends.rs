//! Frontends of Services for the node's own processes: node ports, and load balancer and external addresses. Pure: computed
//! from the Services.
//!
//! The kernel delivers a packet to an address of the node locally. The agent's nftables table ([`crate::nft`]) therefore
//! sends node ports to an address that only heddle has and that is routed to `heddle0`; the port stays. Addresses that the node does not
//! hold get a route there ([`crate::plan`]); where it does hold one, the kernel's local table comes before that route, and
//! the nftables table sends what is for their ports to another address of heddle's, a port for each ([`crate::external_aliases`]).

use std::collections::BTreeSet;
use std::net::IpAddr;

use heddle_model::{Protocol, Service, ServiceType};

/// A node port of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodePort {
    /// IPv4, or IPv6.
    pub v4: bool,
    /// Protocol.
    pub protocol: Protocol,
    /// `spec.ports[].nodePort`
    pub port: u16,
}

/// A frontend at a load balancer's address or at an external address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ExternalFrontend {
    /// The address.
    pub ip: IpAddr,
    /// Protocol.
    pub protocol: Protocol,
    /// The port.
    pub port: u16,
}

impl ExternalFrontend {
    /// Returns a Service's external frontends. `external_ips` is `true` if external addresses are served.
    pub fn of(service: &Service, external_ips: bool) -> impl Iterator<Item = Self> {
        let ports = service.ports.iter().filter(|_| service.is_proxied());
        ports.flat_map(move |port| {
            outer_addresses(service, external_ips).map(|ip| Self {
                ip,
                protocol: port.protocol,
                port: port.port.get(),
            })
        })
    }
}

/// Load balancer addresses that nodes serve themselves and, where they are served, external ones.
fn outer_addresses(service: &Service, external_ips: bool) -> impl Iterator<Item = IpAddr> {
    let external = service.external_ips.iter().filter(move |_| external_ips);
    service.served_balancers().chain(external.copied())
}

/// The frontends of all Services.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frontends {
    /// Node ports.
    pub node_ports: BTreeSet<NodePort>,
    /// Load balancer addresses that nodes serve themselves (`ipMode: VIP`) and, where they are served, external ones.
    pub addresses: BTreeSet<IpAddr>,
}

impl Frontends {
    /// Adds a Service's frontends. `external_ips` is `true` if external addresses are served.
    pub fn add(&mut self, service: &Service, external_ips: bool) {
        if !service.is_proxied() {
            return;
        }
        let families = BTreeSet::from_iter(service.cluster_ips.get().iter().map(IpAddr::is_ipv4));
        if matches!(service.service_type, ServiceType::NodePort | ServiceType::LoadBalancer) {
            let ports = service.ports.iter().filter_map(|p| Some((p.protocol, p.node_port?)));
            self.node_ports.extend(ports.flat_map(|(protocol, port)| {
                families.iter().map(move |&v4| NodePort {
                    v4,
                    protocol,
                    port: port.get(),
                })
            }));
        }
        self.addresses.extend(outer_addresses(service, external_ips));
    }
}
