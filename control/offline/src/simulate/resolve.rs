//! Resolves the ends of a probe to addresses, and finds the node where its packet enters.

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
    /// The destination port; 0 for an echo request.
    pub port: u16,
    /// The node where the packet enters.
    pub entry: String,
}

/// Finds the addresses of both ends, and the node where the packet enters. `node` is the entry
/// node for probes that name none.
///
/// # Errors
/// An end does not exist, the ends are of different families, or the entry node is not given and cannot be derived.
pub fn resolve(cluster: &Cluster, probe: &Probe, node: Option<&str>) -> Result<ResolvedProbe, ProbeError> {
    let (from, to) = (address(cluster, &probe.src)?, address(cluster, &probe.dst)?);
    if from.is_ipv4() != to.is_ipv4() {
        return Err(ProbeError::Mixed { from, to });
    }
    // The destination port.
    let port = match probe.port {
        _ if !probe.protocol.has_ports() => 0,
        Some(port) if port > 0 => port,
        _ => return Err(ProbeError::NoPort(probe.protocol)),
    };

    // The entry node: the given one, or else the node of the source pod, the destination pod, the source or the destination.
    let of_pod = |end: &End, ip: IpAddr| -> Option<String> {
        // A pod of the host's network cannot be found by its address, which is the node's.
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
        // A node that does not exist has no tables.
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

/// Finds a pod by `namespace/name`.
fn pod_named<'a>(cluster: &'a Cluster, name: &str) -> Option<&'a Pod> {
    let (namespace, name) = name.split_once('/')?;
    cluster.pod(&ObjectKey::new(namespace, name)).map(|pod| &**pod)
}

/// Returns the address of an end, of the family that it asks for.
fn address(cluster: &Cluster, end: &End) -> Result<IpAddr, ProbeError> {
    let (ips, family): (&[IpAddr], _) = match end {
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
