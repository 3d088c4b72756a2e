//! The explanation of one connection: its verdict, the Service, the policies that select either side, and the deciding rule.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use heddle_model::{Cluster, ObjectKey, Pod, Protocol, Service as ServiceObject};
use heddle_tables::{Direction, FrontendKind};
use serde::Serialize;

use super::cluster_tables::ClusterTables;
use super::end_syntax::{Destination, NamedEnd, Port};
use super::path::{self, Path, Service};
use super::policy_selection::selecting;
use super::probe::{End, Probe, ProbeError, Transport, Verdict};
use super::resolve::{ResolvedProbe, resolve};

/// A connection cannot be explained.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExplainError {
    /// Nothing has that name.
    #[error("there is no {kind} {key}{others}")]
    Unknown {
        /// The kind of object.
        kind: &'static str,
        /// Under which name.
        key: ObjectKey,
        /// The existing objects of this kind.
        others: String,
    },
    /// A Service without an address of its own.
    #[error("Service {0} has no cluster address (it is headless or an ExternalName): name one of its pods")]
    NoAddress(ObjectKey),
    /// A name that no port has.
    #[error("{end} has no port named {name:?}{ports}")]
    NoPortName {
        /// The end.
        end: String,
        /// The name.
        name: String,
        /// The ports that it has.
        ports: String,
    },
    /// Both ends have addresses, but of different families.
    #[error("{from} and {to} have no addresses of the same family")]
    NoCommonFamily {
        /// The source.
        from: String,
        /// The destination.
        to: String,
    },
    /// The probe that it comes to cannot be answered.
    #[error(transparent)]
    Probe(#[from] ProbeError),
}

/// An end with its address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EndSeen {
    /// As it was named.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
    /// The pod that has the address.
    pub pod: Option<String>,
    /// That pod's node.
    pub node: Option<String>,
}

/// The Service that a connection goes through.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServiceSeen {
    /// `namespace/name`, with the port's name behind a colon where it has one.
    pub name: String,
    /// Which of its addresses was asked for.
    pub address: &'static str,
    /// The source ranges of the Service admit the client.
    pub admitted: bool,
}

/// One side of a connection, as policy judged it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Side {
    /// `egress` or `ingress`
    pub direction: &'static str,
    /// `namespace/name` of the pod.
    pub pod: String,
    /// The policies that select it for that direction, in the order in which they are asked.
    pub selected_by: Vec<String>,
    /// Policy allows it; none: policy was not evaluated, because the other side had refused.
    pub allowed: Option<bool>,
    /// The rule that decided.
    pub rule: Option<String>,
}

/// One path that a connection may take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PathSeen {
    /// Where it leads.
    pub to: SocketAddr,
    /// The pod there.
    pub pod: Option<String>,
    /// The node of that pod.
    pub node: Option<String>,
    /// How it ends.
    pub verdict: Verdict,
    /// The rule or reason that decided.
    pub policy: String,
    /// The source address is masqueraded.
    pub masquerade: bool,
    /// The verdict of policy on each side.
    pub sides: Vec<Side>,
}

/// A connection, explained.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// From where.
    pub from: EndSeen,
    /// To where.
    pub to: EndSeen,
    /// The protocol.
    pub protocol: &'static str,
    /// The port; none for an echo request.
    pub port: Option<u16>,
    /// The node where the first packet enters.
    pub entry: String,
    /// The verdict; none: it depends on the endpoint that the Service selects.
    pub verdict: Option<Verdict>,
    /// The Service that it goes through.
    pub service: Option<ServiceSeen>,
    /// Each possible path: one, or one for each endpoint of the Service.
    pub ways: Vec<PathSeen>,
}

/// Explains the first packet of a connection. `node`: where it enters, if not where its ends are.
///
/// # Errors
/// An end or a port is not known, or nothing says where the packet enters.
pub fn explain(
    tables: &mut ClusterTables,
    from: &NamedEnd,
    to: &Destination,
    node: Option<&str>,
) -> Result<Explanation, ExplainError> {
    let cluster = tables.cluster();
    let (from_object, to_object) = (Found::of(cluster, from)?, Found::of(cluster, &to.end)?);
    let family = family(from, &from_object, to, &to_object)?;
    let (transport, port) = to_object.port(to, family)?;
    let probe = Probe {
        id: String::new(),
        src: from_object.end(family),
        dst: to_object.end(family),
        protocol: transport,
        port,
        node: None,
    };
    let asked = resolve(cluster, &probe, node)?;
    let service = Service::at(tables, &asked);
    let mut ways = Vec::new();
    for target in service.iter().flat_map(Service::targets) {
        let to = SocketAddr::new(target.dst.to_std(), target.dport);
        let path = path::walk(tables, &asked, Some(target));
        ways.push(seen(tables.cluster(), &asked, to, &path));
    }
    let admitted = service
        .as_ref()
        .is_none_or(|service| service.frontend.admits(heddle_wire::Ip::from(asked.from)));
    if ways.is_empty() || !admitted {
        // No endpoint is ever chosen.
        let path = path::walk(tables, &asked, None);
        ways = vec![seen(
            tables.cluster(),
            &asked,
            SocketAddr::new(asked.to, asked.port),
            &path,
        )];
    }
    let cluster = tables.cluster();
    let first = ways.first().map(|path| path.verdict);
    Ok(Explanation {
        from: end_seen(cluster, from.to_string(), asked.from, &probe.src),
        to: end_seen(cluster, to.end.to_string(), asked.to, &probe.dst),
        protocol: transport.as_str(),
        port,
        verdict: first.filter(|first| ways.iter().all(|path| path.verdict == *first)),
        service: service.map(|service| ServiceSeen {
            name: service.frontend.name.to_string(),
            address: match service.frontend.kind {
                FrontendKind::ClusterIp => "cluster address",
                FrontendKind::LoadBalancer => "load balancer's address",
                FrontendKind::ExternalIp => "external address",
                FrontendKind::NodePort => "node port",
            },
            admitted,
        }),
        ways,
        entry: asked.entry,
    })
}

/// The object that a name refers to.
enum Found<'a> {
    Pod(&'a Pod),
    Service(&'a ServiceObject),
    Node(&'a str, &'a [IpAddr]),
    Ip(IpAddr),
}

impl<'a> Found<'a> {
    fn of(cluster: &'a Cluster, named: &'a NamedEnd) -> Result<Self, ExplainError> {
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

    fn addresses(&self) -> &[IpAddr] {
        match self {
            Self::Pod(pod) => &pod.ips,
            Self::Service(service) => service.cluster_ips.get(),
            Self::Node(_, ips) => ips,
            Self::Ip(ip) => std::slice::from_ref(ip),
        }
    }

    fn end(&self, family: u8) -> End {
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

    /// The requested end.
    fn port(&self, goal: &Destination, family: u8) -> Result<(Transport, Option<u16>), ExplainError> {
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
                let speaks = |protocol| goal.transport.is_none_or(|wanted| wanted == transport(protocol));
                let ports = self.ports();
                let found = ports.iter().find(|port| port.0 == *name && speaks(port.1));
                let missing = || ExplainError::NoPortName {
                    end: goal.end.to_string(),
                    name: name.clone(),
                    ports: list("; its ports are", ports.iter().map(|port| port.0.clone())),
                };
                let (_, protocol, number) = found.ok_or_else(missing)?;
                Ok((transport(*protocol), Some(*number)))
            }
        }
    }

    /// Its ports with a name.
    fn ports(&self) -> Vec<(String, Protocol, u16)> {
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

pub(super) const fn transport(protocol: Protocol) -> Transport {
    match protocol {
        Protocol::Tcp => Transport::Tcp,
        Protocol::Udp => Transport::Udp,
        Protocol::Sctp => Transport::Sctp,
    }
}

/// The family of the first address of the destination that the source can reach.
fn family(
    from: &NamedEnd,
    from_object: &Found<'_>,
    to: &Destination,
    to_object: &Found<'_>,
) -> Result<u8, ExplainError> {
    for (named, object) in [(from, from_object), (&to.end, to_object)] {
        if object.addresses().is_empty() {
            return Err(match object {
                Found::Service(service) => ExplainError::NoAddress(service.key.clone()),
                Found::Node(node, _) => ProbeError::NoNode((*node).to_owned()).into(),
                Found::Pod(_) | Found::Ip(_) => ProbeError::NoPod(named.to_string()).into(),
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

/// A list for people that stays short, behind its introduction; nothing where there is nothing.
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

/// Lists the existing names of a namespace, for an error.
fn others(cluster: &Cluster, namespace: &str) -> String {
    let pods = cluster.pods_in(namespace).map(|pod| pod.key.to_string());
    let there = list("; pods there are", pods);
    if there.is_empty() && cluster.namespace(namespace).is_none() {
        let namespaces = cluster.namespaces().map(|namespace| namespace.name.to_string());
        return list("; there is no such namespace either: there are", namespaces);
    }
    there
}

fn end_seen(cluster: &Cluster, name: String, address: IpAddr, end: &End) -> EndSeen {
    let pod = match end {
        End::Pod { pod, .. } => pod
            .split_once('/')
            .and_then(|(namespace, name)| cluster.pod(&ObjectKey::new(namespace, name))),
        End::Node { .. } | End::Ip { .. } => cluster.pod_at(address),
    };
    EndSeen {
        name,
        address,
        pod: pod.map(|pod| pod.key.to_string()),
        node: pod.and_then(|pod| pod.node.as_deref()).map(str::to_owned),
    }
}

fn seen(cluster: &Cluster, asked: &ResolvedProbe, to: SocketAddr, path: &Path) -> PathSeen {
    let pod = cluster.pod_at(to.ip());
    let judged = |direction| path.judged.iter().find(move |judged| judged.direction == direction);
    let side = |pod: Option<&std::sync::Arc<Pod>>, direction: Direction| {
        // Where no side was asked, there is nothing to say about them.
        let pod = pod.filter(|_| !path.judged.is_empty())?;
        let judged = judged(direction);
        Some(Side {
            direction: direction.as_str(),
            pod: pod.key.to_string(),
            selected_by: selecting(cluster, pod, direction).map(|policy| policy.text).collect(),
            allowed: judged.map(|judged| judged.allowed),
            rule: judged.and_then(|judged| judged.rule.clone()),
        })
    };
    let sides = [
        side(cluster.pod_at(asked.from), Direction::Egress),
        side(pod, Direction::Ingress),
    ];
    PathSeen {
        to,
        pod: pod.map(|pod| pod.key.to_string()),
        node: pod.and_then(|pod| pod.node.as_deref()).map(str::to_owned),
        verdict: path.verdict,
        policy: path.why(),
        masquerade: path.masquerade,
        sides: sides.into_iter().flatten().collect(),
    }
}

impl fmt::Display for EndSeen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        let address = self.address.to_string();
        let mut more: Vec<String> = Vec::new();
        if self.name != address {
            more.push(address);
        }
        if let Some(pod) = self.pod.as_ref().filter(|pod| **pod != self.name) {
            more.push(format!("pod {pod}"));
        }
        more.extend(self.node.iter().map(|node| format!("on {node}")));
        if more.is_empty() {
            return Ok(());
        }
        write!(f, " ({})", more.join(" "))
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let port = self.port.map(|port| format!(" {port}")).unwrap_or_default();
        let verdict = self.verdict.map_or("depends on the endpoint", Verdict::as_str);
        writeln!(f, "{} -> {}, {}{port}: {verdict}", self.from, self.to, self.protocol)?;
        if let Some(service) = &self.service {
            writeln!(
                f,
                "  {} of Service {}, seen from node {}",
                service.address, service.name, self.entry
            )?;
            if !service.admitted {
                writeln!(f, "    its loadBalancerSourceRanges do not admit {}", self.from.address)?;
            }
        }
        for path in &self.ways {
            let mut indent = "  ";
            if self.service.is_some() && path.to.ip() != self.to.address || self.ways.len() > 1 {
                let pod = path
                    .pod
                    .as_deref()
                    .map(|pod| format!(", pod {pod}"))
                    .unwrap_or_default();
                let node = path
                    .node
                    .as_deref()
                    .map(|node| format!(" on {node}"))
                    .unwrap_or_default();
                writeln!(f, "  endpoint {}{pod}{node}: {}", path.to, path.verdict.as_str())?;
                indent = "    ";
            }
            for side in &path.sides {
                side.write(f, indent)?;
            }
            if path.masquerade {
                writeln!(f, "{indent}the source address is replaced on the way (masquerade)")?;
            }
            writeln!(f, "{indent}decided: {}", path.policy)?;
        }
        Ok(())
    }
}

impl Side {
    fn write(&self, f: &mut fmt::Formatter<'_>, indent: &str) -> fmt::Result {
        let nothing = if self.selected_by.is_empty() {
            "no policy selects it"
        } else {
            "no rule matches"
        };
        let rule = self.rule.as_deref().unwrap_or(nothing);
        let verdict = match self.allowed {
            Some(true) => "allowed: ",
            Some(false) => "denied: ",
            None => "not asked; ",
        };
        let rule = if self.allowed.is_none() && !self.selected_by.is_empty() {
            "the other side had decided"
        } else {
            rule
        };
        writeln!(f, "{indent}{} of {}: {verdict}{rule}", self.direction, self.pod)?;
        if self.selected_by.is_empty() {
            return Ok(());
        }
        writeln!(f, "{indent}  selected by {}", self.selected_by.join(", "))
    }
}
