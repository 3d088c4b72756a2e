//! A port of the node that leads to a pod.

use std::net::IpAddr;

use heddle_tables::FrontendKey;
use heddle_wire::Proto;

/// A port of the node that leads to a port of a local pod (`spec.containers[].ports[].hostPort`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodHostPort {
    /// The address and port of the node. [`FrontendKey::node_port`] stands for every address of the family.
    pub at: FrontendKey,
    /// The port of the pod.
    pub port: u16,
}

impl PodHostPort {
    /// Returns the host ports of one mapping. Without an address there is one of each family; 0.0.0.0 and `::` stand for every address of
    /// their family.
    pub fn of(host_ip: Option<IpAddr>, proto: Proto, host_port: u16, port: u16) -> impl Iterator<Item = Self> {
        let any = [true, false].map(|v4| FrontendKey::node_port(v4, proto, host_port));
        let one = host_ip.map(|ip| FrontendKey {
            ip: ip.into(),
            proto,
            port: host_port,
        });
        let any = any.into_iter().filter(move |_| host_ip.is_none());
        one.into_iter().chain(any).map(move |at| Self { at, port })
    }
}
