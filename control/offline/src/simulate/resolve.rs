//! From the ends of a probe, as they are written, to addresses and the node where its packet enters.

use std::net::IpAddr;

use heddle_model::{Cluster, ObjectKey, Pod};
use heddle_wire::Proto;

use super::probe::{End, Probe, ProbeError};

/// A probe whose ends are addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedProbe {
    /// The source's address.
    pub from: IpAddr,
    /// The destination's address.
    pub to: IpAddr,
    /// The protocol.
    pub proto: Proto,
    /// The port at the destination; 0 for an echo.
    pub port: u16,
    /// The node where the packet enters.
    pub entry: String,
}

/// Finds the addresses of both ends, and the node where the packet enters. `node` is the entry
/// node for probes that name none.
///
/// # Errors
/// An end is not known, the ends are of different families, or nothing says where the packet enters.
pub fn resolve(cluster: &Cluster, probe: &Probe, node: Option<&str>) -> Result<ResolvedProbe, ProbeError> {
    let (from, to) = (address(cluster, &probe.src)?, address(cluster, &probe.dst)?);
    if from.is_ipv4() != to.is_ipv4() {
        return Err(ProbeError::Mixed { from, to });
    }
    let port = match probe.port {
        _ if !probe.protocol.has_ports() => 0,
        Some(port) if port > 0 => port,
        _ => return Err(ProbeError::NoPort(probe.protocol)),
    };
    let of_pod = |end: &End, ip: IpAddr| -> Option<String> {
        // A pod of the host's network has no address by which it could be found.
        let pod = match end {
            End::Pod { pod, .. } => pod_named(cluster, pod),
            End::Node { .. } | End::Ip { .. } => cluster.pod_at(ip).map(|pod| &**pod),
        };
        pod?.node.as_deref().map(str::to_owned)
    };
    let of_node = |end: &End| match end {
        End::Node { node, .. } => Some(node.clone()),
        End::Pod { .. } | End::Ip { .. } => None,
    };
    let named = probe.node.as_deref().or(node).map(str::to_owned);
    let entry = match named {
        // An unknown node has no tables that could answer.
        Some(name) if cluster.node(&name).is_none() && cluster.pods_on(&name).next().is_none() => {
            return Err(ProbeError::NoEntryNode(name));
        }
        known => known,
    };
    let entry = entry
        .or_else(|| of_pod(&probe.src, from))
        .or_else(|| of_pod(&probe.dst, to))
        .or_else(|| of_node(&probe.src))
        .or_else(|| of_node(&probe.dst));
    Ok(ResolvedProbe {
        from,
        to,
        proto: probe.protocol.proto(),
        port,
        entry: entry.ok_or(ProbeError::NoEntry)?,
    })
}

fn pod_named<'a>(cluster: &'a Cluster, name: &str) -> Option<&'a Pod> {
    let (namespace, name) = name.split_once('/')?;
    cluster.pod(&ObjectKey::new(namespace, name)).map(|pod| &**pod)
}

fn address(cluster: &Cluster, end: &End) -> Result<IpAddr, ProbeError> {
    let (ips, family) = match end {
        End::Ip { ip } => return Ok(*ip),
        End::Pod { pod, family } => {
            let found = pod_named(cluster, pod).filter(|pod| !pod.is_terminated());
            let found = found.ok_or_else(|| ProbeError::NoPod(pod.clone()))?;
            (&found.ips, family)
        }
        End::Node { node, family } => {
            let found = cluster.node(node).ok_or_else(|| ProbeError::NoNode(node.clone()))?;
            (&found.internal_ips, family)
        }
    };
    let of_family = |ip: &&IpAddr| family.is_none_or(|family| ip.is_ipv4() == (family == 4));
    let missing = || match family {
        Some(family) => ProbeError::NoFamily(end.clone(), *family),
        None => match end {
            End::Pod { pod, .. } => ProbeError::NoPod(pod.clone()),
            other => ProbeError::NoNode(other.to_string()),
        },
    };
    ips.iter().find(of_family).copied().ok_or_else(missing)
}
