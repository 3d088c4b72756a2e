//! Decodes addresses and ranges.

use std::net::IpAddr;

use heddle_model::{Protocol, UnknownProtocol};
use ipnet::IpNet;

use super::node::{Found, Node};

/// Reads an address that an interface can have: neither unspecified nor multicast nor IPv4-mapped.
pub(super) fn address(text: &str) -> Result<IpAddr, &'static str> {
    let ip: IpAddr = text.parse().map_err(|_| "is no IP address")?;
    if matches!(ip, IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some()) {
        return Err("is an IPv4 address written as IPv6: write it as IPv4");
    }
    if ip.is_unspecified() || ip.is_multicast() || ip == IpAddr::from([255; 4]) {
        return Err("is unspecified, multicast or broadcast: nobody can have it");
    }
    Ok(ip)
}

/// Reads an address that is neither loopback nor link-local.
pub(super) fn network_address(text: &str) -> Result<IpAddr, &'static str> {
    let ip = address(text)?;
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    if ip.is_loopback() || link_local {
        return Err("is a loopback or link-local address: it cannot be reached over the network");
    }
    Ok(ip)
}

/// Reads a range of addresses. Host bits are cut off, because the API server accepts them.
pub(super) fn range(text: &str) -> Result<IpNet, &'static str> {
    let net: IpNet = text
        .parse()
        .map_err(|_| "is no CIDR: write ADDRESS/LENGTH, as 10.0.0.0/8 or fd00::/8")?;
    if matches!(net, IpNet::V6(net) if net.addr().to_ipv4_mapped().is_some()) {
        return Err("is an IPv4 range written as IPv6: write it as IPv4");
    }
    Ok(net.trunc())
}

/// Reads `protocol`, by default TCP.
pub(super) fn protocol(node: Node<'_>) -> Found<'_, Protocol> {
    let read = |text: &str| {
        text.parse()
            .map_err(|_: UnknownProtocol| "is no known protocol: use TCP, UDP or SCTP")
    };
    Ok(node.parse_of("protocol", read)?.unwrap_or_default())
}

/// Reads a list with at most one entry of each family, as the API allows.
pub(super) fn one_of_each_family<'a, T>(
    nodes: impl Iterator<Item = Node<'a>>,
    read: impl Fn(Node<'a>) -> Found<'a, T>,
    is_v4: impl Fn(&T) -> bool,
) -> Found<'a, Vec<T>> {
    let mut out: Vec<T> = Vec::new();
    for node in nodes {
        let value = read(node)?;
        if out.iter().any(|other| is_v4(other) == is_v4(&value)) {
            return Err(node.fault("is the second of its family: there may be one for IPv4 and one for IPv6"));
        }
        out.push(value);
    }
    Ok(out)
}

/// Returns `true` if a list of conditions has the condition `Ready` with the status `True`.
pub(super) fn is_ready(status: Option<Node<'_>>) -> Found<'_, bool> {
    let Some(status) = status else { return Ok(false) };
    for condition in status.items("conditions")? {
        if condition.text_of("type")? == Some("Ready") {
            return Ok(condition.text_of("status")? == Some("True"));
        }
    }
    Ok(false)
}
