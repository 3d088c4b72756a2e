//! Decodes addresses and ranges.

use std::borrow::Cow;
use std::net::IpAddr;

use heddle_model::{Protocol, UnknownProtocol};
use ipnet::IpNet;

use super::node::{Fault, Found, Node};

/// Reads an address that an interface can have: neither unspecified nor multicast nor IPv4-mapped.
pub(super) fn address(text: &str) -> Result<IpAddr, &'static str> {
    let ip: IpAddr = without_leading_zeros(text).parse().map_err(|_| "is no IP address")?;
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
    let net: IpNet = without_leading_zeros(text)
        .parse()
        .map_err(|_| "is no CIDR: write ADDRESS/LENGTH, as 10.0.0.0/8 or fd00::/8")?;
    if matches!(net, IpNet::V6(net) if net.addr().to_ipv4_mapped().is_some()) {
        return Err("is an IPv4 range written as IPv6: write it as IPv4");
    }
    Ok(net.trunc())
}

/// Reads `protocol`, by default TCP; also where it is empty, as the API does.
pub(super) fn protocol(node: Node<'_>) -> Found<'_, Protocol> {
    let read = |text: &str| match text {
        "" => Ok(Protocol::default()),
        _ => text
            .parse()
            .map_err(|_: UnknownProtocol| "is no known protocol: use TCP, UDP or SCTP"),
    };
    Ok(node.parse_of("protocol", read)?.unwrap_or_default())
}

/// Returns the fault of a second address or range of one family.
pub(super) fn second_of_family(node: Node<'_>) -> Fault<'_> {
    node.fault("is the second of its family: there may be one for IPv4 and one for IPv6")
}

/// Returns an address or a range without leading zeros in its decimal numbers. Kubernetes reads `010.0.0.1` as `10.0.0.1`.
fn without_leading_zeros(text: &str) -> Cow<'_, str> {
    // The decimal part: an IPv4 address, alone or at the end of an IPv6 address, and a length.
    let begin = if text.contains('.') {
        text.rfind(':').map_or(0, |at| at + 1)
    } else {
        text.rfind('/').unwrap_or(text.len())
    };
    let (head, decimal) = text.split_at(begin);
    let has_leading_zero = |number: &str| number.len() > 1 && number.starts_with('0');
    if !decimal.split(['.', '/']).any(has_leading_zero) {
        return Cow::Borrowed(text);
    }
    let strip = |number: &str| match number.trim_start_matches('0') {
        "" if !number.is_empty() => "0".to_owned(),
        rest => rest.to_owned(),
    };
    let numbers = |text: &str| text.split('.').map(strip).collect::<Vec<_>>().join(".");
    let parts: Vec<String> = decimal.split('/').map(numbers).collect();
    Cow::Owned(format!("{head}{}", parts.join("/")))
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
            return Err(second_of_family(node));
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
