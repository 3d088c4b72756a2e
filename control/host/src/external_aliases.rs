//! Alias ports of external frontends. Where the node itself holds a load balancer's or an external address, the node's
//! processes reach each of its frontends at an address of heddle's own, by a port of its own: the alias. Pure.
//!
//! The port is a hash of the frontend, so the next agent assigns the same one: packets that the kernel still sends by an
//! older rule find the same frontend or none. If two frontends hash to one port, the second gets the next free one.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hasher;
use std::net::IpAddr;

use heddle_model::{Change, Changes, Cluster};
use heddle_wire::Ip;
use siphasher::sip::SipHasher13;

use crate::frontends::ExternalFrontend;

/// The assigned alias ports.
#[derive(Debug, Default)]
pub struct ExternalAliases {
    of: BTreeMap<ExternalFrontend, u16>,
    taken: BTreeSet<u16>,
}

impl ExternalAliases {
    /// Returns all assigned ports.
    #[must_use]
    pub const fn all(&self) -> &BTreeMap<ExternalFrontend, u16> {
        &self.of
    }

    /// Applies changes, after which the cluster is `cluster`, and returns the frontends that got a port (`Some`) or lost theirs.
    pub fn apply_changes(
        &mut self,
        cluster: &Cluster,
        changes: &Changes,
        external_ips: bool,
    ) -> Vec<(ExternalFrontend, Option<u16>)> {
        let mut news = Vec::new();
        for change in &changes.objects {
            let Change::Service(delta) = change else { continue };
            let both = [&delta.before, &delta.after].into_iter().flatten();
            let concerned: BTreeSet<ExternalFrontend> = both
                .flat_map(|service| ExternalFrontend::of(service, external_ips))
                .collect();
            for outer in concerned {
                let mut there = cluster.services_at(outer.ip);
                let wanted =
                    there.any(|service| ExternalFrontend::of(service, external_ips).any(|other| other == outer));
                match (wanted, self.of.contains_key(&outer)) {
                    (true, false) => news.extend(self.assign(outer).map(|port| (outer, Some(port)))),
                    (false, true) => {
                        self.unassign(&outer);
                        news.push((outer, None));
                    }
                    (true, true) | (false, false) => {}
                }
            }
        }
        news
    }

    /// Assigns the first free port at or after the frontend's own; `None` if all are taken.
    fn assign(&mut self, outer: ExternalFrontend) -> Option<u16> {
        let own = own(&outer);
        let port = (own..=u16::MAX).chain(1..own).find(|port| !self.taken.contains(port))?;
        self.taken.insert(port);
        self.of.insert(outer, port);
        Some(port)
    }

    fn unassign(&mut self, outer: &ExternalFrontend) {
        if let Some(port) = self.of.remove(outer) {
            self.taken.remove(&port);
        }
    }
}

/// Returns the address of the same family as `ip`.
#[must_use]
pub const fn of_family([v4, v6]: [Option<IpAddr>; 2], ip: IpAddr) -> Option<IpAddr> {
    if ip.is_ipv4() { v4 } else { v6 }
}

/// Returns the port that a frontend gets if it is free.
fn own(outer: &ExternalFrontend) -> u16 {
    let mut hasher = SipHasher13::new();
    hasher.write(&Ip::from(outer.ip).octets());
    hasher.write(&[outer.protocol.number()]);
    hasher.write(&outer.port.to_be_bytes());
    1 + (hasher.finish() % u64::from(u16::MAX)) as u16
}

#[cfg(test)]
mod tests {
    use heddle_model::Protocol;

    use super::*;

    fn outer(port: u16) -> ExternalFrontend {
        ExternalFrontend {
            ip: IpAddr::from([203, 0, 113, 5]),
            protocol: Protocol::Tcp,
            port,
        }
    }

    #[test]
    fn a_frontend_has_the_same_port_in_the_next_agent() {
        let mut external_aliases = ExternalAliases::default();
        let first = external_aliases.assign(outer(80));
        external_aliases.assign(outer(81));
        assert_eq!(ExternalAliases::default().assign(outer(80)), first);
        external_aliases.unassign(&outer(80));
        assert_eq!(external_aliases.assign(outer(80)), first);
        // A constant on purpose: after an upgrade it is to be the same.
        assert_eq!(first, Some(PORT));
    }

    const PORT: u16 = 11_822;

    #[test]
    fn every_port_is_given_once() {
        let mut external_aliases = ExternalAliases::default();
        let given: BTreeSet<u16> = (0..u16::MAX)
            .filter_map(|port| external_aliases.assign(outer(port)))
            .collect();
        assert_eq!((given.len(), given.first()), (usize::from(u16::MAX), Some(&1)));
        assert_eq!(external_aliases.assign(outer(u16::MAX)), None, "all are given");
        let port = external_aliases.all()[&outer(443)];
        external_aliases.unassign(&outer(443));
        assert_eq!(external_aliases.assign(outer(u16::MAX)), Some(port));
    }
}
