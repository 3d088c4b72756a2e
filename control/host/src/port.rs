//! The host port: the pair of interfaces, and the reconciliation of its addresses, routes and nftables table with a plan.
//!
//! [`HostPort::apply`] compares the plan with a dump of the kernel's state ([`crate::observe`]), never with its own earlier
//! steps, so changes by others are undone. A failed step is reported, and the other steps are done all the same.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use heddle_linux::{Link, Neighbor, link_index, sysctl};
use heddle_wire::MacAddr;
use ipnet::IpNet;
use nix::libc::{EEXIST, EINVAL};

use crate::error::HostError;
use crate::links;
use crate::netlink::Handle;
use crate::nft::Table;
use crate::nft_program::Nft;
use crate::observe::{Observed, observe, route};
use crate::plan::Plan;
use crate::sysctl::HOST_INTERFACE;
use crate::well_known::{GATEWAY_V4, GATEWAY_V6, INTERFACE, PEER};

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
        let has_ipv6 = sysctl::has_ipv6()?;
        for (key, value) in HOST_INTERFACE {
            if has_ipv6 || !key.starts_with("net/ipv6/") {
                sysctl::write(&key.replace("IFACE", INTERFACE), value)?;
            }
        }
        sysctl::write_if_present(&format!("net/ipv6/conf/{PEER}/disable_ipv6"), "1")?;
        netlink.set_up(&peer)?;
        netlink.set_up(&link)?;
        for address in [IpAddr::V4(GATEWAY_V4), IpAddr::V6(GATEWAY_V6)] {
            if has_ipv6 || address.is_ipv4() {
                let mac = MacAddr::GATEWAY;
                netlink.set_neighbor(&link, Neighbor { address, mac })?;
            }
        }
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

    /// Brings the kernel's state to the plan; only differences are changed. Returns the steps that failed.
    pub async fn apply(&mut self, plan: &Plan) -> Vec<HostError> {
        let mut failures = Vec::new();
        let observed = match observe(&self.netlink) {
            Ok(observed) => observed,
            Err(e) => return vec![e],
        };
        for (seen, known) in [(&observed.link, &mut self.link), (&observed.peer, &mut self.peer)] {
            if let Some(seen) = seen {
                known.mtu = seen.mtu;
            }
        }
        if plan.mtu > 0
            && let Err(e) = self.set_mtu(plan.mtu.into())
        {
            failures.push(e);
        }
        // Addresses before routes, because the kernel accepts only an address of this machine as a preferred source.
        let removed = self.reconcile_addresses(plan, &observed, &mut failures);
        let mut routes = observed.routes;
        if removed {
            // Together with an address, the kernel removes the routes that have it as their preferred source.
            match observe(&self.netlink) {
                Ok(now) => routes = now.routes,
                Err(e) => failures.push(e),
            }
        }
        self.reconcile_routes(plan, &routes, &mut failures);
        // Last, because `nft` is the only step that waits for a child process.
        if let Err(e) = self.reconcile_table(&plan.table).await {
            failures.push(e);
        }
        failures
    }

    /// Removes addresses that are not planned and adds those that are missing. Returns `true` if one was removed.
    fn reconcile_addresses(&self, plan: &Plan, observed: &Observed, failures: &mut Vec<HostError>) -> bool {
        let wanted: BTreeSet<IpNet> = plan.addresses.iter().map(|&address| IpNet::from(address)).collect();
        let seen: BTreeSet<IpNet> = observed.addresses.iter().copied().collect();
        let gone: Vec<IpNet> = seen.difference(&wanted).copied().collect();
        for &address in &gone {
            if let Err(e) = self.netlink.remove_address(&self.link, address) {
                failures.push(e.into());
            }
        }
        for &address in wanted.difference(&seen) {
            if let Err(e) = self.netlink.add_address(&self.link, address) {
                failures.push(e.into());
            }
        }
        !gone.is_empty()
    }

    /// Adds a route with its source for each planned range, and removes heddle's other routes. A source that is no address of
    /// this machine is replaced by the host port's address.
    fn reconcile_routes(
        &mut self,
        plan: &Plan,
        observed: &BTreeMap<IpNet, Option<IpAddr>>,
        failures: &mut Vec<HostError>,
    ) {
        // Remove routes that are not planned.
        for (&range, &source) in observed.iter().filter(|(range, _)| !plan.routes.contains_key(*range)) {
            if let Err(e) = self.netlink.remove_route(&route(&self.link, range, source)) {
                failures.push(e.into());
            }
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
                failures.push(e.into());
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
            match added {
                Err(e) if e.errno() == Some(EEXIST) => failures.push(HostError::InTheWay(format!(
                    "there is a route to {range} that is not heddle's: remove it, or the node's processes reach that range by it"
                ))),
                Err(e) => failures.push(e.into()),
                Ok(()) => {}
            }
        }
    }

    /// Replaces the nftables table, unless it is the planned table and nobody has changed it since it was written.
    async fn reconcile_table(&mut self, table: &Table) -> Result<(), HostError> {
        if let Some((written, listing)) = &self.written
            && written == table
            && self.nft.list().await?.as_ref() == Some(listing)
        {
            return Ok(());
        }
        self.written = None;
        self.nft.replace(table).await?;
        self.written = self.nft.list().await?.map(|listing| (table.clone(), listing));
        Ok(())
    }
}
