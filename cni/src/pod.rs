//! The pod's side of an attachment. Everything here runs on a thread inside the pod's network namespace.

use heddle_proto::{IfName, Prepared};

use crate::kernel::{KernelError, runtime};
use crate::netns::Netns;
use crate::rtnl::{Link, Rtnl};
use crate::{ethtool, sysctl};

/// What the namespace has under a name.
///
/// # Errors
/// The namespace cannot be entered, or the kernel's.
pub fn find(netns: &Netns, ifname: &IfName) -> Result<Option<Link>, KernelError> {
    netns.enter(|| runtime()?.block_on(async { Rtnl::open()?.link(ifname.as_str()).await }))
}

/// Deletes a veth end, and so the other end too. What is no veth is left alone: heddle did not make it.
///
/// # Errors
/// The namespace cannot be entered, or the kernel's.
pub fn delete(netns: &Netns, ifname: &IfName) -> Result<(), KernelError> {
    netns.enter(|| {
        runtime()?.block_on(async {
            let rtnl = Rtnl::open()?;
            match rtnl.link(ifname.as_str()).await? {
                Some(link) if link.veth => rtnl.delete(&link).await,
                _ => Ok(()),
            }
        })
    })
}

/// Gives the interface its addresses, the gateway and the routes, and switches it and `lo` on.
///
/// # Errors
/// The namespace cannot be entered, or the kernel's.
pub fn configure(netns: &Netns, ifname: &IfName, prepared: &Prepared, tx_off: bool) -> Result<Link, KernelError> {
    netns.enter(|| runtime()?.block_on(configure_here(ifname, prepared, tx_off)))
}

async fn configure_here(ifname: &IfName, prepared: &Prepared, tx_off: bool) -> Result<Link, KernelError> {
    let rtnl = Rtnl::open()?;
    let missing = |name: &str| {
        KernelError::step(format!("finding interface {name} in the pod's namespace"))(
            std::io::ErrorKind::NotFound.into(),
        )
    };
    if let Some(lo) = rtnl.link("lo").await? {
        rtnl.up(&lo).await?;
    }
    let link = rtnl
        .link(ifname.as_str())
        .await?
        .ok_or_else(|| missing(ifname.as_str()))?;

    // No router is to be listened to (decision: the gateway exists only in heddle, and the routes are static), and no
    // address of this interface has a rival, so none waits for duplicate address detection (RFC 4862, section 5.4).
    sysctl::set_ipv6(
        &link.name,
        &[("accept_ra", "0"), ("autoconf", "0"), ("accept_dad", "0")],
    )?;
    if prepared.addresses.iter().any(|a| a.address.is_ipv6()) {
        sysctl::set_ipv6(&link.name, &[("disable_ipv6", "0")])?;
    }
    if tx_off {
        ethtool::tx_off(&link)?;
    }
    rtnl.up(&link).await?;
    for address in &prepared.addresses {
        rtnl.add_address(&link, address.address).await?;
    }
    let mut gateways: Vec<_> = prepared.addresses.iter().map(|a| a.gateway).collect();
    gateways.dedup();
    for gateway in gateways {
        rtnl.add_neighbour(&link, gateway, prepared.gateway_mac).await?;
        rtnl.add_link_route(&link, gateway).await?;
    }
    for route in &prepared.routes {
        rtnl.add_route(&link, route).await?;
    }
    rtnl.link(ifname.as_str())
        .await?
        .ok_or_else(|| missing(ifname.as_str()))
}
