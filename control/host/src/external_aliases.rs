//! The alias ports of external frontends. If the node itself holds a load balancer or external address, or the `hostIP` of a pod's host
//! port, the kernel delivers packets to it locally. The nftables table therefore maps each frontend at the address to its alias: an address that only
//! heddle has, and a port for each frontend.
//!
//! The port is a hash of the frontend, so the next agent assigns the same one. Packets that the kernel still sends by an
//! older rule then reach the same frontend or none. If two frontends hash to one port, the second one gets the next free port.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hasher;
use std::net::IpAddr;

use heddle_model::{Change, Cluster};
use heddle_wire::Ip;
use siphasher::sip::SipHasher13;

use crate::frontends::ExternalFrontend;

/// The assigned alias ports.
#[derive(Debug, Default)]
pub struct ExternalAliases {
    ports: BTreeMap<ExternalFrontend, u16>,
    /// The ports in use.
    used: BTreeSet<u16>,
    /// The frontends of pods' host ports.
    host_ports: BTreeSet<ExternalFrontend>,
}

impl ExternalAliases {
    /// Returns all assigned ports.
    #[must_use]
    pub const fn all(&self) -> &BTreeMap<ExternalFrontend, u16> {
        &self.ports
    }

    /// Applies changes, and returns the frontends to which a port was assigned (`Some`) or whose port was released (`None`).
    /// `cluster` is the state after the changes.
    pub fn apply_changes(
        &mut self,
        cluster: &Cluster,
        changes: impl IntoIterator<Item: Borrow<Change>>,
        external_ips: bool,
    ) -> Vec<(ExternalFrontend, Option<u16>)> {
        let mut changed = Vec::new();
        for change in changes {
            let Change::Service(delta) = change.borrow() else {
                continue;
            };
            let both = [&delta.before, &delta.after].into_iter().flatten();
            let concerned: BTreeSet<ExternalFrontend> = both
                .flat_map(|service| ExternalFrontend::of(service, external_ips))
                .collect();
            changed.extend(self.update(cluster, concerned, external_ips));
        }
        changed
    }

    /// Sets the frontends of pods' host ports at single addresses, and returns the frontends as [`Self::apply_changes`] does.
    pub fn set_host_ports(
        &mut self,
        cluster: &Cluster,
        host_ports: &BTreeSet<ExternalFrontend>,
        external_ips: bool,
    ) -> Vec<(ExternalFrontend, Option<u16>)> {
        let before = std::mem::replace(&mut self.host_ports, host_ports.clone());
        let concerned: BTreeSet<ExternalFrontend> = before.symmetric_difference(host_ports).copied().collect();
        self.update(cluster, concerned, external_ips)
    }

    /// Assigns a port to each of these frontends that exists, and releases the ports of the others.
    fn update(
        &mut self,
        cluster: &Cluster,
        concerned: BTreeSet<ExternalFrontend>,
        external_ips: bool,
    ) -> Vec<(ExternalFrontend, Option<u16>)> {
        let mut changed = Vec::new();
        for frontend in concerned {
            // A pod or another Service may still have the frontend.
            let mut services = cluster.services_at(frontend.ip);
            let exists = self.host_ports.contains(&frontend)
                || services.any(|service| ExternalFrontend::of(service, external_ips).any(|other| other == frontend));
            match (exists, self.ports.contains_key(&frontend)) {
                (true, false) => changed.extend(self.assign(frontend).map(|port| (frontend, Some(port)))),
                (false, true) => {
                    self.release(&frontend);
                    changed.push((frontend, None));
                }
                (true, true) | (false, false) => {}
            }
        }
        changed
    }

    /// Assigns the first free port from the frontend's hash on; `None` if every port is in use.
    fn assign(&mut self, frontend: ExternalFrontend) -> Option<u16> {
        let first = hashed_port(&frontend);
        let port = (first..=u16::MAX)
            .chain(1..first)
            .find(|port| !self.used.contains(port))?;
        self.used.insert(port);
        self.ports.insert(frontend, port);
        Some(port)
    }

    /// Releases the port of a frontend.
    fn release(&mut self, frontend: &ExternalFrontend) {
        if let Some(port) = self.ports.remove(frontend) {
            self.used.remove(&port);
        }
    }
}

/// Returns the one of two addresses, IPv4 and IPv6, that has the family of `ip`.
#[must_use]
pub const fn of_family([v4, v6]: [Option<IpAddr>; 2], ip: IpAddr) -> Option<IpAddr> {
    if ip.is_ipv4() { v4 } else { v6 }
}

/// Returns the port that a frontend gets if it is free: a hash of its address, protocol and port.
fn hashed_port(frontend: &ExternalFrontend) -> u16 {
    let mut hasher = SipHasher13::new();
    hasher.write(&Ip::from(frontend.ip).octets());
    hasher.write(&[frontend.protocol.number()]);
    hasher.write(&frontend.port.to_be_bytes());
    1 + (hasher.finish() % u64::from(u16::MAX)) as u16
}

#[cfg(test)]
mod tests {
    use heddle_model::Protocol;

    use super::*;

    fn frontend(port: u16) -> ExternalFrontend {
        ExternalFrontend {
            ip: IpAddr::from([203, 0, 113, 5]),
            protocol: Protocol::Tcp,
            port,
        }
    }

    #[test]
    fn a_frontend_has_the_same_port_in_the_next_agent() {
        let mut external_aliases = ExternalAliases::default();
        let first = external_aliases.assign(frontend(80));
        external_aliases.assign(frontend(81));
        assert_eq!(ExternalAliases::default().assign(frontend(80)), first);
        external_aliases.release(&frontend(80));
        assert_eq!(external_aliases.assign(frontend(80)), first);
        // A constant, because the port must stay the same after an upgrade.
        assert_eq!(first, Some(PORT));
    }

    const PORT: u16 = 11_822;

    #[test]
    fn every_port_is_assigned_once() {
        let mut external_aliases = ExternalAliases::default();
        let ports: BTreeSet<u16> = (0..u16::MAX)
            .filter_map(|port| external_aliases.assign(frontend(port)))
            .collect();
        assert_eq!((ports.len(), ports.first()), (usize::from(u16::MAX), Some(&1)));
        assert_eq!(external_aliases.assign(frontend(u16::MAX)), None, "all are in use");
        let port = external_aliases.all()[&frontend(443)];
        external_aliases.release(&frontend(443));
        assert_eq!(external_aliases.assign(frontend(u16::MAX)), Some(port));
    }
}
