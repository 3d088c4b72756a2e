//! The pod's side of an attachment. Each function runs its work on a thread inside the pod's network namespace.

use heddle_linux::route::PROTOCOL_BOOT;
use heddle_linux::sysctl::{IpVersion, write_interface};
use heddle_linux::{Link, LinuxError, Neighbor, Netlink, Netns, Route, ethtool};
use heddle_proto::{IfName, Prepared};
use ipnet::IpNet;

/// The features that `ethtool -K IF tx off` switches off on a veth. Without them the pod's kernel computes its
/// checksums itself.
const TX_CHECKSUMS: [&str; 2] = ["tx-checksum-ip-generic", "tx-checksum-sctp"];

use crate::kernel::KernelError;

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

/// Sets the interface's addresses, its gateway and its routes, and switches it and `lo` on. Returns the interface.
///
/// # Errors
/// The namespace cannot be entered, or the kernel refuses.
pub fn configure(netns: &Netns, ifname: &IfName, prepared: &Prepared, tx_off: bool) -> Result<Link, KernelError> {
    netns.enter(|| configure_here(ifname, prepared, tx_off))
}

/// Configures the interface in the calling thread's namespace.
fn configure_here(ifname: &IfName, prepared: &Prepared, tx_off: bool) -> Result<Link, KernelError> {
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
    if tx_off {
        ethtool::switch_off(&link, &TX_CHECKSUMS)?;
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
    find()
}
