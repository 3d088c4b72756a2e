//! The frontends that the node's own processes reach through the host port: node ports, load balancer and external addresses of Services,
//! and host ports of pods.
//!
//! The kernel delivers a packet to an address of the node locally. The agent's nftables table ([`crate::nft`]) therefore
//! sends packets for node ports to an address that only heddle has and that is routed to `heddle0`; the port stays the same.
//! Load balancer and external addresses get a route to `heddle0` ([`crate::plan`]). If the node holds such an address, the
//! kernel's local table comes before that route, and the nftables table maps each frontend at the address to an alias
//! ([`crate::external_aliases`]).

use std::collections::BTreeSet;
use std::net::IpAddr;

use heddle_model::{Protocol, Service, ServiceType};

/// A node port of a Service, or a host port of a pod, at every address of the node of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodePort {
    /// `true` for IPv4, `false` for IPv6.
    pub v4: bool,
    /// The protocol.
    pub protocol: Protocol,
    /// The port: `spec.ports[].nodePort` or `spec.containers[].ports[].hostPort`.
    pub port: u16,
}

/// A frontend at a load balancer's address, at an external address, or at the `hostIP` of a pod's host port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ExternalFrontend {
    /// The address.
    pub ip: IpAddr,
    /// The protocol.
    pub protocol: Protocol,
    /// The port.
    pub port: u16,
}

impl ExternalFrontend {
    /// Returns a Service's external frontends. `external_ips` is `true` if external addresses are served.
    pub fn of(service: &Service, external_ips: bool) -> impl Iterator<Item = Self> {
        let ports = service.ports.iter().filter(|_| service.is_proxied());
        ports.flat_map(move |port| {
            external_addresses(service, external_ips).map(|ip| Self {
                ip,
                protocol: port.protocol,
                port: port.port.get(),
            })
        })
    }
}

/// Returns the load balancer addresses that nodes serve themselves and, if they are served, the external addresses.
fn external_addresses(service: &Service, external_ips: bool) -> impl Iterator<Item = IpAddr> {
    let external = service.served_external_ips().filter(move |_| external_ips);
    service.served_balancers().chain(external)
}

/// The frontends of all Services, and the host ports without an address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frontends {
    /// The node ports.
    pub node_ports: BTreeSet<NodePort>,
    /// The host ports of local pods at every address of the node.
    pub host_ports: BTreeSet<NodePort>,
    /// The load balancer addresses that nodes serve themselves (`ipMode: VIP`) and, if they are served, the external addresses.
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
        self.addresses.extend(external_addresses(service, external_ips));
    }
}
