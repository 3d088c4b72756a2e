//! CHECK: compares the pod's interface with the result of ADD.

use std::collections::HashMap;

use heddle_linux::{Link, Neighbor, Netlink, Netns, Route};
use heddle_proto::{AttachmentState, CniError, ErrorCode, NetnsPath, PortMapping};

use heddle_wire::MacAddr;
use ipnet::IpNet;

use crate::agent;
use crate::config::NetConf;
use crate::env::Target;
use crate::kernel::{KernelError, open_netns};
use crate::port_mappings;
use crate::result::{PrevInterface, PrevResult};
use crate::version::CniVersion;

/// Compares the pod's namespace with `prevResult`, and asks the agent for the state of the port.
///
/// # Errors
/// [`ErrorCode::CHECK_FAILED`] with the first difference; code 3 if the namespace or the attachment is gone; code 11 if no
/// agent answers.
pub async fn check_pod(conf: &NetConf, target: &Target, path: &NetnsPath) -> Result<(), CniError> {
    if conf.version < CniVersion::V0_4_0 {
        return Err(CniError::new(
            ErrorCode::INCOMPATIBLE_VERSION,
            format!(
                "cniVersion {:?} has no CHECK: set 0.4.0 or later",
                conf.version.as_str()
            ),
        ));
    }
    // The expected interface.
    let Some(expected) = &conf.prev_result else {
        return Err(CniError::new(
            ErrorCode::INVALID_CONFIG,
            "prevResult is missing: CHECK needs the result of ADD",
        ));
    };
    let expected = PrevResult::decode(expected)?;
    let (number, interface) = expected
        .interfaces
        .iter()
        .enumerate()
        .find(|(_, i)| i.name == target.ifname.as_str() && !i.sandbox.is_empty())
        .ok_or_else(|| {
            CniError::new(
                ErrorCode::INVALID_CONFIG,
                format!(
                    "prevResult has no interface {} of a container: CHECK needs the result of ADD",
                    target.ifname
                ),
            )
        })?;

    // The pod's side.
    let found = inspect(&open_netns(path)?, target)?;
    found.compare(&expected, number, interface, path)?;

    // The agent's side, and the node's end of the pair.
    let mut agent = agent::connect(conf).await?;
    let known = agent
        .attachment(&target.container, &target.ifname)
        .await
        .map_err(|e| agent::cni_error(&e))?;
    if known.state != AttachmentState::Forwarding {
        return Err(differs(format!(
            "the port of {} does not forward: it is {}",
            target.ifname, known.state
        ))
        .with_details(known.why));
    }
    let mappings = port_mappings::of(conf)?;
    if known.port_mappings != mappings {
        let shown = |mappings: &[PortMapping]| mappings.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        return Err(differs(format!(
            "the agent maps the node's ports [{}], and runtimeConfig.portMappings has [{}]",
            shown(&known.port_mappings),
            shown(&mappings)
        )));
    }
    let host = Netlink::open()
        .and_then(|netlink| netlink.link(known.host_ifname.as_str()))
        .map_err(KernelError::from)?;
    match host {
        Some(link) if known.host_ifindex.is_none_or(|index| index == link.index) && link.up => Ok(()),
        Some(link) if !link.up => Err(differs(format!(
            "the node's interface {} is switched off",
            known.host_ifname
        ))),
        _ => Err(differs(format!("the node's interface {} is gone", known.host_ifname))),
    }
}

/// Makes the error for a difference.
fn differs(msg: String) -> CniError {
    CniError::new(ErrorCode::CHECK_FAILED, msg)
}

/// The state of the pod's namespace.
struct Found {
    link: Option<Link>,
    addresses: Vec<IpNet>,
    neighbors: Vec<Neighbor>,
    routes: Vec<Route>,
}

/// Reads the state of the pod's namespace.
fn inspect(netns: &Netns, target: &Target) -> Result<Found, KernelError> {
    netns.enter(|| {
        let netlink = Netlink::open()?;
        let link = netlink.link(target.ifname.as_str())?;
        let (addresses, neighbors) = match &link {
            Some(link) => (netlink.addresses_of(link)?, netlink.neighbors_of(link)?),
            None => (Vec::new(), Vec::new()),
        };
        Ok(Found {
            link,
            addresses: addresses.into_iter().map(|address| address.address).collect(),
            neighbors,
            routes: netlink.routes()?,
        })
    })
}

impl Found {
    /// Compares with the result of ADD: the interface, its addresses with their gateways, and the routes.
    fn compare(
        &self,
        expected: &PrevResult,
        number: usize,
        interface: &PrevInterface,
        path: &NetnsPath,
    ) -> Result<(), CniError> {
        // The interface itself.
        let name = &interface.name;
        let Some(link) = &self.link else {
            return Err(differs(format!("{path} has no interface {name}")));
        };
        if !link.veth {
            return Err(differs(format!("interface {name} in {path} is no veth")));
        }
        if !link.up {
            return Err(differs(format!("interface {name} in {path} is switched off")));
        }
        let mac = link.mac.unwrap_or_default();
        if !interface.mac.is_empty() && !interface.mac.eq_ignore_ascii_case(&mac.to_string()) {
            return Err(differs(format!(
                "interface {name} has the Ethernet address {}, ADD gave {}",
                mac, interface.mac
            )));
        }
        if let Some(mtu) = interface.mtu.filter(|mtu| *mtu != link.mtu) {
            return Err(differs(format!(
                "interface {name} has MTU {}, ADD gave {mtu}",
                link.mtu
            )));
        }
        // Its addresses, each with a permanent neighbor entry for its gateway.
        for ip in expected
            .ips
            .iter()
            .filter(|ip| ip.interface.is_none_or(|i| i == number))
        {
            if !self.addresses.contains(&ip.address) {
                return Err(differs(format!(
                    "interface {name} does not have the address {}",
                    ip.address
                )));
            }
            if let Some(gateway) = ip.gateway.filter(|&address| {
                let mac = MacAddr::GATEWAY;
                !self.neighbors.contains(&Neighbor { address, mac })
            }) {
                return Err(differs(format!(
                    "interface {name} does not have the gateway {gateway} as a permanent neighbour with {}",
                    MacAddr::GATEWAY
                )));
            }
        }
        // The routes. They are grouped by destination, because ADD may have given thousands.
        let mut routes: HashMap<IpNet, Vec<&Route>> = HashMap::new();
        for route in &self.routes {
            routes.entry(route.destination).or_default().push(route);
        }
        for route in &expected.routes {
            let same = |r: &Route| {
                route.gw.is_none_or(|gw| r.gateway == Some(gw))
                    && route.mtu.is_none_or(|mtu| r.mtu == Some(mtu))
                    && (route.gw.is_none() || r.index == link.index)
            };
            if !routes
                .get(&route.dst.trunc())
                .is_some_and(|there| there.iter().any(|r| same(r)))
            {
                let via = route.gw.map_or_else(String::new, |gw| format!(" via {gw}"));
                return Err(differs(format!(
                    "the route to {}{via} that ADD gave is missing or changed",
                    route.dst
                )));
            }
        }
        Ok(())
    }
}
