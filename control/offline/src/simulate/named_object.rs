//! Finds the objects that the ends of a connection name, with their addresses and ports.

use std::net::IpAddr;

use heddle_model::{Cluster, Pod, Protocol, Service};

use super::end_syntax::{Destination, NamedEnd, Port};
use super::explain_error::ExplainError;
use super::probe::{End, ProbeError, Transport};

/// The object that a name refers to.
pub(super) enum NamedObject<'a> {
    Pod(&'a Pod),
    Service(&'a Service),
    /// A node's name and internal addresses.
    Node(&'a str, &'a [IpAddr]),
    Ip(IpAddr),
}

impl<'a> NamedObject<'a> {
    /// Finds the object.
    pub(super) fn find(cluster: &'a Cluster, named: &'a NamedEnd) -> Result<Self, ExplainError> {
        let pod = |key| cluster.pod(key).map(|pod| Self::Pod(pod));
        let service = |key| cluster.service(key).map(|service| Self::Service(service));
        let (found, kind, key) = match named {
            NamedEnd::Either(key) => (pod(key).or_else(|| service(key)), "pod or Service", key),
            NamedEnd::Pod(key) => (pod(key), "pod", key),
            NamedEnd::Service(key) => (service(key), "Service", key),
            NamedEnd::Node(name) => {
                let node = cluster.node(name).ok_or_else(|| ProbeError::NoNode(name.clone()))?;
                return Ok(Self::Node(name, &node.internal_ips));
            }
            NamedEnd::Ip(ip) => return Ok(Self::Ip(*ip)),
        };
        found.ok_or_else(|| ExplainError::Unknown {
            kind,
            key: key.clone(),
            others: others(cluster, &key.namespace),
        })
    }

    /// Returns the object's addresses.
    fn addresses(&self) -> &[IpAddr] {
        match self {
            Self::Pod(pod) => &pod.ips,
            Self::Service(service) => service.cluster_ips.get(),
            Self::Node(_, ips) => ips,
            Self::Ip(ip) => std::slice::from_ref(ip),
        }
    }

    /// Returns the object as an end of a probe, with an address of this family.
    pub(super) fn end(&self, family: u8) -> End {
        let of_family = |ip: &&IpAddr| ip.is_ipv4() == (family == 4);
        match self {
            Self::Pod(pod) => End::Pod {
                pod: pod.key.to_string(),
                family: Some(family),
            },
            Self::Node(node, _) => End::Node {
                node: (*node).to_owned(),
                family: Some(family),
            },
            Self::Service(_) | Self::Ip(_) => {
                let ip = self.addresses().iter().find(of_family);
                End::Ip {
                    ip: ip.copied().unwrap_or(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED)),
                }
            }
        }
    }

    /// Returns protocol and port of a destination; the port is `None` for an echo request.
    pub(super) fn port(&self, goal: &Destination, family: u8) -> Result<(Transport, Option<u16>), ExplainError> {
        match &goal.port {
            Port::Echo => Ok((
                if family == 4 {
                    Transport::Icmp
                } else {
                    Transport::Icmpv6
                },
                None,
            )),
            Port::Number(number) => Ok((goal.transport.unwrap_or(Transport::Tcp), Some(*number))),
            Port::Name(name) => {
                let matches = |protocol| goal.transport.is_none_or(|wanted| wanted == Transport::from(protocol));
                let ports = self.named_ports();
                let found = ports.iter().find(|port| port.0 == *name && matches(port.1));
                let missing = || ExplainError::NoPortName {
                    end: goal.end.to_string(),
                    name: name.clone(),
                    ports: list("; its named ports are", ports.iter().map(|port| port.0.clone())),
                };
                let (_, protocol, number) = found.ok_or_else(missing)?;
                Ok((Transport::from(*protocol), Some(*number)))
            }
        }
    }

    /// Returns the object's ports that have a name.
    fn named_ports(&self) -> Vec<(String, Protocol, u16)> {
        match self {
            Self::Pod(pod) => {
                let named = pod.ports.iter().filter_map(|port| Some((port.name.as_ref()?, port)));
                named
                    .map(|(name, port)| (name.to_string(), port.protocol, port.number.get()))
                    .collect()
            }
            Self::Service(service) => {
                let named = service.ports.iter().filter(|port| !port.name.is_empty());
                named
                    .map(|port| (port.name.to_string(), port.protocol, port.port.get()))
                    .collect()
            }
            Self::Node(..) | Self::Ip(_) => Vec::new(),
        }
    }
}

/// Returns the family of the connection: the family of the first destination address for which the source has an
/// address too.
pub(super) fn common_family(
    from: &NamedEnd,
    from_object: &NamedObject<'_>,
    to: &Destination,
    to_object: &NamedObject<'_>,
) -> Result<u8, ExplainError> {
    for (named, object) in [(from, from_object), (&to.end, to_object)] {
        if object.addresses().is_empty() {
            return Err(match object {
                NamedObject::Service(service) => ExplainError::NoAddress(service.key.clone()),
                NamedObject::Node(node, _) => ProbeError::NoNode((*node).to_owned()).into(),
                NamedObject::Pod(_) | NamedObject::Ip(_) => ProbeError::NoPod(named.to_string()).into(),
            });
        }
    }
    let sources = from_object.addresses();
    let reachable = to_object
        .addresses()
        .iter()
        .find(|to| sources.iter().any(|from| from.is_ipv4() == to.is_ipv4()));
    match reachable {
        Some(ip) => Ok(if ip.is_ipv4() { 4 } else { 6 }),
        None => Err(ExplainError::NoCommonFamily {
            from: from.to_string(),
            to: to.end.to_string(),
        }),
    }
}

/// Returns the introduction and the first names of a list, or an empty text for an empty list.
fn list(introduction: &str, all: impl Iterator<Item = String>) -> String {
    const SHOWN: usize = 8;
    let mut all: Vec<String> = all.collect();
    if all.is_empty() {
        return String::new();
    }
    let more = all.len().saturating_sub(SHOWN);
    all.truncate(SHOWN);
    let rest = if more > 0 {
        format!(" and {more} more")
    } else {
        String::new()
    };
    format!("{introduction} {}{rest}", all.join(", "))
}

/// Lists the existing pods of a namespace for an error, or the namespaces if this one does not exist.
fn others(cluster: &Cluster, namespace: &str) -> String {
    let pods = cluster.pods_in(namespace).map(|pod| pod.key.to_string());
    let there = list("; the pods there are", pods);
    if there.is_empty() && cluster.namespace(namespace).is_none() {
        let namespaces = cluster.namespaces().map(|namespace| namespace.name.to_string());
        return list(
            "; the namespace does not exist either; the namespaces there are",
            namespaces,
        );
    }
    there
}
