//! The host port: the pair of interfaces, and the reconciliation of its addresses, routes and nftables table with a plan.
//!
//! [`HostPort::apply`] compares the plan with a dump of the kernel's state ([`crate::observe`]), never with its own earlier
//! steps, so changes by others are undone. A failed step is reported, and the other steps are done all the same.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use heddle_linux::{Link, Neighbor, link_index};
use heddle_wire::MacAddr;
use ipnet::IpNet;
use nix::libc::{EEXIST, EINVAL};

use crate::error::HostError;
use crate::links;
use crate::netlink::Handle;
use crate::nft::{self, Table};
use crate::nft_program::Nft;
use crate::observe::{Observed, observe, route};
use crate::plan::Plan;
use crate::sysctl::{self, SysctlValue};
use crate::well_known::{GATEWAY_V4, GATEWAY_V6, INTERFACE, PEER};

/// The outcome of one comparison of the kernel's state with a plan.
#[derive(Debug, Default)]
pub struct Applied {
    /// A line for each difference that was found and is removed now.
    pub changed: Vec<String>,
    /// The steps that failed; their differences remain.
    pub failures: Vec<HostError>,
}

impl Applied {
    /// Records a step: its failure, or the difference that it removed.
    pub(crate) fn step(&mut self, outcome: Result<(), HostError>, changed: impl FnOnce() -> String) {
        match outcome {
            Ok(()) => self.changed.push(changed()),
            Err(e) => self.failures.push(e),
        }
    }
}

/// The host port in this network namespace.
#[derive(Debug)]
pub struct HostPort {
    netlink: Handle,
    link: Link,
    peer: Link,
    mac: MacAddr,
    nft: Nft,
    /// The table that was written last, with the listing that `nft` gave for it. Another listing means that somebody has
    /// changed the table.
    written: Option<(Table, String)>,
    /// Preferred sources that the kernel refused because they are no addresses of this machine.
    refused_sources: BTreeSet<IpAddr>,
}

impl HostPort {
    /// Creates the pair with this number of queues and this MTU, or takes over an existing pair with the MTU that it has. Both
    /// ends are up afterwards.
    ///
    /// # Errors
    /// The kernel refuses, or another interface has one of the names.
    pub fn open(netlink: Handle, queues: u32, mtu: u32, nft: Nft) -> Result<Self, HostError> {
        let links::Pair { link, peer } = links::ensure_pair(&netlink, INTERFACE, PEER, queues, mtu)?;
        let mac = link
            .mac
            .ok_or_else(|| HostError::InTheWay(format!("interface {INTERFACE} has no Ethernet address")))?;
        for (key, value) in sysctl::of_ends()? {
            heddle_linux::sysctl::write(&key, value)?;
        }
        netlink.set_up(&peer)?;
        netlink.set_up(&link)?;
        Ok(Self {
            netlink,
            link,
            peer,
            mac,
            nft,
            written: None,
            refused_sources: BTreeSet::new(),
        })
    }

    /// Returns the Ethernet address of the node's end.
    #[must_use]
    pub const fn mac(&self) -> MacAddr {
        self.mac
    }

    /// Returns the interface index of the node's end.
    #[must_use]
    pub const fn index(&self) -> u32 {
        self.link.index
    }

    /// Returns the interface index of the dataplane's end.
    #[must_use]
    pub const fn peer_index(&self) -> u32 {
        self.peer.index
    }

    /// Returns the netlink connection.
    #[must_use]
    pub const fn handle(&self) -> &Handle {
        &self.netlink
    }

    /// Returns `false` if the kernel reports that one of the ends is gone. An error of the kernel counts as unknown, and so as
    /// `true`.
    #[must_use]
    pub fn exists(&self) -> bool {
        [&self.link, &self.peer]
            .iter()
            .all(|link| !link_index(&link.name).is_ok_and(|index| index != Some(link.index)))
    }

    /// Sets the MTU of both ends. The plan has the uplink's MTU, because packets of the node's processes to pods of other nodes
    /// leave by the same interface as packets to pods of this node.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn set_mtu(&mut self, mtu: u32) -> Result<(), HostError> {
        for link in [&mut self.link, &mut self.peer] {
            if link.mtu != mtu {
                self.netlink.set_mtu(link, mtu)?;
                link.mtu = mtu;
            }
        }
        Ok(())
    }

    /// Brings the kernel's state to the plan; only differences are changed.
    ///
    /// The nftables table is compared if `with_table` is `true`, if the plan has another one, and if the last attempt to write
    /// it failed: the comparison costs a child process.
    pub async fn apply(&mut self, plan: &Plan, with_table: bool) -> Applied {
        let mut applied = Applied::default();
        if let Err(e) = self.reconcile_network(plan, &mut applied) {
            applied.failures.push(e);
        }
        // Last, because `nft` is the only step that waits for a child process.
        let is_written = self.written.as_ref().is_some_and(|(table, _)| *table == plan.table);
        if with_table || !is_written {
            match self.reconcile_table(&plan.table).await {
                Ok(true) => applied.changed.push(format!(
                    "nftables table {} was missing or changed: written again",
                    nft::NAME
                )),
                Ok(false) => {}
                Err(e) => applied.failures.push(e),
            }
        }
        applied
    }

    /// Brings links, sysctls, addresses, neighbors and routes to the plan. An error ends it; failures of single steps do not.
    fn reconcile_network(&mut self, plan: &Plan, applied: &mut Applied) -> Result<(), HostError> {
        let mut observed = observe(&self.netlink)?;
        // Links first: with a link that is down, the kernel has removed addresses, neighbors and routes.
        if self.reconcile_links(plan, &observed, applied) {
            observed = observe(&self.netlink)?;
        }
        Self::reconcile_sysctls(&observed, applied);
        // Addresses before neighbors and routes: the kernel accepts only an address of this machine as a preferred source, and
        // together with an address it removes the routes with it as their source, with the last one all routes and neighbors.
        if self.reconcile_addresses(plan, &observed, applied) {
            observed = observe(&self.netlink)?;
        }
        self.reconcile_neighbors(&observed, applied)?;
        self.reconcile_routes(plan, &observed.routes, applied);
        Ok(())
    }

    /// Sets both ends up, sets their MTU, and notes the MAC that the node's end has now. Returns `true` if an end was down.
    fn reconcile_links(&mut self, plan: &Plan, observed: &Observed, applied: &mut Applied) -> bool {
        let mut was_down = false;
        if let Some(mac) = observed.link.as_ref().and_then(|link| link.mac)
            && mac != self.mac
        {
            applied.changed.push(format!(
                "interface {INTERFACE} has another Ethernet address, {mac} instead of {}: packets for the node get the new one",
                self.mac
            ));
            self.mac = mac;
        }
        for (seen, known) in [(&observed.peer, &mut self.peer), (&observed.link, &mut self.link)] {
            // The task re-creates a pair that has lost an end.
            let Some(seen) = seen.as_ref().filter(|seen| seen.index == known.index) else {
                continue;
            };
            known.mtu = seen.mtu;
            if !seen.up {
                was_down = true;
                applied.step(self.netlink.set_up(known).map_err(HostError::from), || {
                    format!("interface {} was down: set up", known.name)
                });
            }
        }
        if plan.mtu > 0 {
            let before = (self.link.mtu, self.peer.mtu);
            let set = self.set_mtu(plan.mtu.into());
            if before != (self.link.mtu, self.peer.mtu) || set.is_err() {
                applied.step(set, || {
                    format!("the MTU of {INTERFACE} or {PEER} was another one: set to {}", plan.mtu)
                });
            }
        }
        was_down
    }

    /// Sets the sysctls of both ends that have another value.
    fn reconcile_sysctls(observed: &Observed, applied: &mut Applied) {
        for SysctlValue { key, planned, now } in observed.sysctls.iter().filter(|sysctl| sysctl.differs()) {
            let written = heddle_linux::sysctl::write(key, planned).map_err(HostError::from);
            let now = now.as_deref().unwrap_or_default();
            applied.step(written, || format!("sysctl {key} was {now}: set to {planned}"));
        }
    }

    /// Removes addresses that are not planned and adds those that are missing. Returns `true` if one was removed or added.
    fn reconcile_addresses(&self, plan: &Plan, observed: &Observed, applied: &mut Applied) -> bool {
        let wanted: BTreeSet<IpNet> = plan.addresses.iter().map(|&address| IpNet::from(address)).collect();
        let seen: BTreeSet<IpNet> = observed.addresses.iter().copied().collect();
        for &address in seen.difference(&wanted) {
            let removed = self.netlink.remove_address(&self.link, address);
            applied.step(removed.map(drop).map_err(HostError::from), || {
                format!("interface {INTERFACE} had the address {address}, which is not planned: removed")
            });
        }
        for &address in wanted.difference(&seen) {
            let added = self.netlink.add_address(&self.link, address).map_err(HostError::from);
            applied.step(added, || {
                format!("interface {INTERFACE} lacked the address {address}: added")
            });
        }
        seen != wanted
    }

    /// Sets the gateways' neighbor entries that are missing or have another MAC.
    fn reconcile_neighbors(&self, observed: &Observed, applied: &mut Applied) -> Result<(), HostError> {
        let has_ipv6 = heddle_linux::sysctl::has_ipv6()?;
        for address in [IpAddr::V4(GATEWAY_V4), IpAddr::V6(GATEWAY_V6)] {
            let mac = MacAddr::GATEWAY;
            let neighbor = Neighbor { address, mac };
            if (has_ipv6 || address.is_ipv4()) && !observed.neighbors.contains(&neighbor) {
                let set = self.netlink.set_neighbor(&self.link, neighbor).map_err(HostError::from);
                applied.step(set, || {
                    format!("interface {INTERFACE} lacked the neighbor {address}: added")
                });
            }
        }
        Ok(())
    }

    /// Adds a route with its source for each planned range, and removes heddle's other routes. A source that is no address of
    /// this machine is replaced by the host port's address.
    fn reconcile_routes(&mut self, plan: &Plan, observed: &BTreeMap<IpNet, Option<IpAddr>>, applied: &mut Applied) {
        // Remove routes that are not planned.
        for (&range, &source) in observed.iter().filter(|(range, _)| !plan.routes.contains_key(*range)) {
            let removed = self.netlink.remove_route(&route(&self.link, range, source));
            applied.step(removed.map(drop).map_err(HostError::from), || {
                format!("there was a route of heddle to {range}, which is not planned: removed")
            });
        }
        // Add the planned routes, and replace routes with another source.
        for (&range, &source) in &plan.routes {
            let fallback = plan
                .addresses
                .iter()
                .find(|ip| ip.is_ipv4() == source.is_ipv4())
                .copied();
            let chosen = if self.refused_sources.contains(&source) {
                fallback
            } else {
                Some(source)
            };
            let existing = observed.get(&range);
            if existing == Some(&chosen) {
                continue;
            }
            if let Some(&source) = existing
                && let Err(e) = self.netlink.remove_route(&route(&self.link, range, source))
            {
                applied.failures.push(e.into());
                continue;
            }
            let mut added = self.netlink.add_route(&route(&self.link, range, chosen));
            // The preferred source must be local (fib_valid_prefsrc, ip6_route_info_create).
            let is_refused_source = added.as_ref().is_err_and(|e| e.errno() == Some(EINVAL));
            if is_refused_source && chosen == Some(source) && fallback != chosen {
                if self.refused_sources.insert(source) {
                    tracing::warn!(
                        address = %source,
                        "the Node's InternalIP is no address of this machine, so host traffic to pods and Services gets the host port's address as its source"
                    );
                }
                added = self.netlink.add_route(&route(&self.link, range, fallback));
            }
            let added = added.map_err(|e| match e.errno() {
                Some(EEXIST) => HostError::InTheWay(format!(
                    "there is a route to {range} that is not heddle's: remove it, or the node's processes reach that range by it"
                )),
                _ => e.into(),
            });
            applied.step(added, || {
                format!("the route to {range} was missing or had another source: added")
            });
        }
    }

    /// Replaces the nftables table, unless it is the planned table and nobody has changed it since it was written. Returns
    /// `true` if it was replaced.
    async fn reconcile_table(&mut self, table: &Table) -> Result<bool, HostError> {
        if let Some((written, listing)) = &self.written
            && written == table
            && self.nft.list().await?.as_ref() == Some(listing)
        {
            return Ok(false);
        }
        self.written = None;
        self.nft.replace(table).await?;
        self.written = self.nft.list().await?.map(|listing| (table.clone(), listing));
        Ok(true)
    }
}
