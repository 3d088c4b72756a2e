//! The host port: a pair of interfaces, and the plan applied to it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use heddle_wire::MacAddr;
use nix::net::if_::if_nametoindex;
use rtnetlink::Handle;

use crate::error::HostError;
use crate::nft_program::Nft;
use crate::plan::Plan;
use crate::{GATEWAY_V4, GATEWAY_V6, INTERFACE, PEER, links, nft, routes, sysctl};

/// The host port as it stands in this network namespace.
#[derive(Debug)]
pub struct HostPort {
    handle: Handle,
    index: u32,
    mac: MacAddr,
    peer_index: u32,
    mtu: Option<u32>,
    addresses: BTreeSet<IpAddr>,
    routes: routes::Routes,
    nft: Nft,
    table: Option<nft::Table>,
}

impl HostPort {
    /// Makes the pair with one queue for each worker and this MTU, or takes over the one that is there, with the MTU that
    /// it has; both ends are up.
    ///
    /// # Errors
    /// The kernel refuses, or something else has the name.
    pub async fn open(handle: Handle, queues: u32, mtu: u32, nft: Nft) -> Result<Self, HostError> {
        let pair = links::ensure_pair(&handle, INTERFACE, PEER, queues, mtu).await?;
        for (key, value) in sysctl::HOST_INTERFACE {
            sysctl::write(&key.replace("IFACE", INTERFACE), value)?;
        }
        sysctl::write_optional(&format!("net/ipv6/conf/{PEER}/disable_ipv6"), "1")?;
        links::set_up(&handle, pair.peer_index).await?;
        links::set_up(&handle, pair.index).await?;
        for gateway in [IpAddr::V4(GATEWAY_V4), IpAddr::V6(GATEWAY_V6)] {
            if gateway.is_ipv4() || sysctl::has_ipv6() {
                routes::permanent_neighbour(&handle, pair.index, gateway, MacAddr::GATEWAY).await?;
            }
        }
        let addresses = links::addresses(&handle, pair.index).await?;
        let routes = routes::Routes::read(&handle, pair.index).await?;
        Ok(Self {
            handle,
            index: pair.index,
            mac: pair.mac,
            peer_index: pair.peer_index,
            mtu: None,
            addresses,
            routes,
            nft,
            table: None,
        })
    }

    /// The Ethernet address of the node's end.
    #[must_use]
    pub const fn mac(&self) -> MacAddr {
        self.mac
    }

    /// Gives both ends this MTU: that of the uplink, since what a process of the node sends to a pod of this node or of
    /// another one takes routes of the same interface.
    ///
    /// # Errors
    /// The kernel refuses.
    pub async fn set_mtu(&mut self, mtu: u32) -> Result<(), HostError> {
        if self.mtu == Some(mtu) {
            return Ok(());
        }
        for (index, name) in [(self.index, INTERFACE), (self.peer_index, PEER)] {
            links::set_mtu(&self.handle, index, name, mtu).await?;
        }
        self.mtu = Some(mtu);
        Ok(())
    }

    /// The netlink connection.
    #[must_use]
    pub const fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Whether both ends are still there.
    #[must_use]
    pub fn is_there(&self) -> bool {
        let has = |name: &str, index: u32| if_nametoindex(name).is_ok_and(|now| now == index);
        has(INTERFACE, self.index) && has(PEER, self.peer_index)
    }

    /// The interface index of the node's end.
    #[must_use]
    pub const fn index(&self) -> u32 {
        self.index
    }

    /// The interface index of the dataplane's end.
    #[must_use]
    pub const fn peer_index(&self) -> u32 {
        self.peer_index
    }

    /// Makes addresses, routes and the nftables table what the plan says; only what differs is touched. It does as much
    /// as it can and returns all that failed.
    pub async fn apply(&mut self, plan: &Plan) -> Vec<HostError> {
        let mut failed = Vec::new();
        if plan.mtu > 0
            && let Err(e) = self.set_mtu(plan.mtu.into()).await
        {
            failed.push(e);
        }
        for &gone in self
            .addresses
            .difference(&plan.addresses)
            .copied()
            .collect::<Vec<_>>()
            .iter()
        {
            match links::remove_address(&self.handle, self.index, gone).await {
                Ok(()) => {
                    self.addresses.remove(&gone);
                    // The kernel removes the routes whose preferred source has gone.
                    match routes::Routes::read(&self.handle, self.index).await {
                        Ok(routes) => self.routes = routes,
                        Err(e) => failed.push(e),
                    }
                }
                Err(e) => failed.push(e),
            }
        }
        for &new in plan.addresses.difference(&self.addresses.clone()) {
            match links::add_address(&self.handle, self.index, new).await {
                Ok(()) => {
                    self.addresses.insert(new);
                }
                Err(e) => failed.push(e),
            }
        }
        failed.extend(self.routes.apply(&self.handle, &plan.routes, &self.addresses).await);
        if self.table.as_ref() != Some(&plan.table) {
            match self.nft.replace(&plan.table).await {
                Ok(()) => self.table = Some(plan.table.clone()),
                Err(e) => failed.push(e),
            }
        }
        failed
    }
}
