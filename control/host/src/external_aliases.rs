//! Addresses of load balancers and external ones, port by port, and the port of heddle's own by which the node's processes
//! reach each where the node itself holds the address. Pure.
//!
//! A frontend's port comes from what it is, also in the next agent: what the kernel goes on sending there by the rule of a
//! moment or an agent ago finds the same frontend or nobody. Only where two want one port, which comes first counts.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hasher;
use std::net::IpAddr;

use heddle_model::{Change, Changes, Cluster};
use heddle_wire::Ip;
use siphasher::sip::SipHasher13;

use crate::frontends::ExternalFrontend;

/// The ports that are given.
#[derive(Debug, Default)]
pub struct ExternalAliases {
    of: BTreeMap<ExternalFrontend, u16>,
    taken: BTreeSet<u16>,
}

impl ExternalAliases {
    /// All that are given.
    #[must_use]
    pub const fn all(&self) -> &BTreeMap<ExternalFrontend, u16> {
        &self.of
    }

    /// Follows what changed, `cluster` being the state afterwards: the frontends that have a port now or have none any more.
    pub fn follow(
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
                    (true, false) => news.extend(self.give(outer).map(|port| (outer, Some(port)))),
                    (false, true) => {
                        self.take_back(&outer);
                        news.push((outer, None));
                    }
                    (true, true) | (false, false) => {}
                }
            }
        }
        news
    }

    /// The first free port from the one that is its own; `None`: all are given.
    fn give(&mut self, outer: ExternalFrontend) -> Option<u16> {
        let own = own(&outer);
        let port = (own..=u16::MAX).chain(1..own).find(|port| !self.taken.contains(port))?;
        self.taken.insert(port);
        self.of.insert(outer, port);
        Some(port)
    }

    fn take_back(&mut self, outer: &ExternalFrontend) {
        if let Some(port) = self.of.remove(outer) {
            self.taken.remove(&port);
        }
    }
}

/// Of an address of IPv4 and one of IPv6: the one of this address's family.
#[must_use]
pub const fn of_family([v4, v6]: [Option<IpAddr>; 2], ip: IpAddr) -> Option<IpAddr> {
    if ip.is_ipv4() { v4 } else { v6 }
}

/// The port that a frontend has if nobody has it.
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
        let first = external_aliases.give(outer(80));
        external_aliases.give(outer(81));
        assert_eq!(ExternalAliases::default().give(outer(80)), first);
        external_aliases.take_back(&outer(80));
        assert_eq!(external_aliases.give(outer(80)), first);
        // A constant on purpose: after an upgrade it is to be the same.
        assert_eq!(first, Some(PORT));
    }

    const PORT: u16 = 11_822;

    #[test]
    fn every_port_is_given_once() {
        let mut external_aliases = ExternalAliases::default();
        let given: BTreeSet<u16> = (0..u16::MAX)
            .filter_map(|port| external_aliases.give(outer(port)))
            .collect();
        assert_eq!((given.len(), given.first()), (usize::from(u16::MAX), Some(&1)));
        assert_eq!(external_aliases.give(outer(u16::MAX)), None, "all are given");
        let port = external_aliases.all()[&outer(443)];
        external_aliases.take_back(&outer(443));
        assert_eq!(external_aliases.give(outer(u16::MAX)), Some(port));
    }
}
