//! The pod's side of an attachment. Each function runs its work on a thread inside the pod's network namespace.

use heddle_linux::route::PROTOCOL_BOOT;
use heddle_linux::sysctl::{IpVersion, write_interface};
use heddle_linux::{Link, LinuxError, Neighbor, Netlink, Netns, Route};
use heddle_proto::{IfName, Prepared};
use ipnet::IpNet;

use crate::kernel::KernelError;
use crate::offloads;

/// The pod's end of an attachment after its configuration.
#[derive(Debug)]
pub struct PodEnd {
    /// The interface.
    pub link: Link,
    /// True if the pod's kernel passes on nothing larger than the MTU but TCP segments.
    pub tcp_segments_only: bool,
}

/// Finds an interface in the pod's namespace.
///
/// # Errors
/// The namespace cannot be entered, or the kernel refuses.
pub fn find(netns: &Netns, ifname: &IfName) -> Result<Option<Link>, KernelError> {
    netns.enter(|| Ok(Netlink::open()?.link(ifname.as_str())?))
}

/// Deletes a veth end, and so the other end too. An interface that is no veth is left alone: heddle did not create it.
///
/// # Errors
/// The namespace cannot be entered, or the kernel refuses.
pub fn delete(netns: &Netns, ifname: &IfName) -> Result<(), KernelError> {
    netns.enter(|| {
        let netlink = Netlink::open()?;
        if let Some(link) = netlink.link(ifname.as_str())?.filter(|link| link.veth) {
            netlink.delete_link(&link)?;
        }
        Ok(())
    })
}

/// Sets the interface's offloads, addresses, gateway and routes, and switches it and `lo` on.
///
/// # Errors
/// The namespace cannot be entered, or the kernel refuses.
pub fn configure(netns: &Netns, ifname: &IfName, prepared: &Prepared, tx_off: bool) -> Result<PodEnd, KernelError> {
    netns.enter(|| configure_here(ifname, prepared, tx_off))
}

/// Configures the interface in the calling thread's namespace.
fn configure_here(ifname: &IfName, prepared: &Prepared, tx_off: bool) -> Result<PodEnd, KernelError> {
    let netlink = Netlink::open()?;
    let find = || {
        netlink
            .link(ifname.as_str())?
            .ok_or_else(|| KernelError::vanished(&format!("{ifname} in the pod's namespace")))
    };
    if let Some(lo) = netlink.link("lo")? {
        netlink.set_up(&lo)?;
    }
    let link = find()?;

    // Before the interface is up: ignore router advertisements, because the gateway exists only in heddle and the
    // plugin sets all routes. Skip duplicate address detection (RFC 4862, section 5.4), because heddle gives no address
    // twice.
    let quiet = [("accept_ra", "0"), ("autoconf", "0"), ("accept_dad", "0")];
    write_interface(IpVersion::V6, &link.name, &quiet)?;
    if prepared.addresses.iter().any(|a| a.address.is_ipv6()) {
        write_interface(IpVersion::V6, &link.name, &[("disable_ipv6", "0")])?;
    }
    // Now, because the driver refuses changes of segmentation while the agent's program runs in native mode.
    let tcp_segments_only = match prepared.max_segment {
        Some(max) => offloads::tcp_segments_only(&netlink, &link, max)?,
        None => false,
    };
    if tx_off {
        offloads::no_checksums(&link)?;
    }
    netlink.set_up(&link)?;
    for address in &prepared.addresses {
        netlink.add_address(&link, IpNet::from(address.address))?;
    }

    // Set each gateway before the routes through it: the kernel refuses a route whose gateway is not reachable.
    let mut gateways: Vec<_> = prepared.addresses.iter().map(|a| a.gateway).collect();
    gateways.dedup();
    let route = |destination: IpNet| Route {
        destination,
        gateway: None,
        index: link.index,
        source: None,
        mtu: None,
        protocol: PROTOCOL_BOOT,
    };
    for address in gateways {
        let mac = prepared.gateway_mac;
        netlink.set_neighbor(&link, Neighbor { address, mac })?;
        netlink.add_route(&route(IpNet::from(address)))?;
    }
    for prepared in &prepared.routes {
        let planned = Route {
            gateway: Some(prepared.via),
            source: prepared.src,
            mtu: prepared.mtu,
            ..route(prepared.dst)
        };
        netlink.add_route(&planned).map_err(|e| LinuxError {
            step: format!("{} on {}", e.step, link.name),
            source: e.source,
        })?;
    }
    // Read the interface again: now it is up.
    Ok(PodEnd {
        link: find()?,
        tcp_segments_only,
    })
}
