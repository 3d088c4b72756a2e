//! Decodes ClusterNetworkPolicies (`policy.networking.k8s.io/v1alpha2`).
//!
//! The API server checks them by the validation rules of the CRD. This file does too, because manifests in a folder have
//! not passed an API server. As for NetworkPolicies, an unknown field is an error: it would restrict something that heddle
//! would allow.
//!
//! `domainNames` is experimental in the API, for Accept rules alone, and needs an implementation that reads DNS answers,
//! which heddle does not. As the API requires then ("fail closed"), such a rule matches no traffic.

use std::sync::Arc;

use heddle_model::{
    ClusterNetworkPolicy, ClusterPeer, ClusterRule, NetworkPolicy, ObjectKey, PodSubject, PolicyPort, PolicyPorts,
    PortRange, Protocol, RuleAction, Tier,
};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde_json::Value;

use super::meta::{Meta, check_port_name};
use super::net;
use super::node::{Found, Node};
use super::policy::{only, peer_selector};
use super::selector::readable;

/// The most rules in a direction, peers or protocols in a rule, and networks in a peer.
const MAX_ENTRIES: usize = 25;
/// The most characters of a rule's name.
const LONGEST_NAME: usize = 100;

pub(super) fn policy<'a>(root: Node<'a>, meta: &Meta<'a>) -> Found<'a, ClusterNetworkPolicy> {
    let spec = root.need("spec")?;
    only(spec, &["tier", "priority", "subject", "ingress", "egress"])?;
    let rules = |direction, side| bounded(spec, direction, |node| rule(node, side));
    Ok(ClusterNetworkPolicy {
        name: meta.name(),
        tier: spec.need("tier")?.parse(str::parse)?,
        priority: priority(spec.need("priority")?)?,
        subject: subject(spec.need("subject")?)?,
        ingress: rules("ingress", "from")?,
        egress: rules("egress", "to")?,
        refused: false,
    })
}

/// Returns a policy that takes the place of a refused one. It has the same tier and priority (first in the Admin
/// tier if they cannot be read) and denies everything to and from the pods of the subject, as far as that can be read, in
/// the directions that have rules. If no rules can be found, it denies both directions.
pub(super) fn closing(root: &Value, key: &ObjectKey) -> ClusterNetworkPolicy {
    let spec = root.get("spec").unwrap_or(&Value::Null);
    let tier = spec
        .get("tier")
        .and_then(Value::as_str)
        .and_then(|text| text.parse().ok());
    let priority = spec.get("priority").and_then(|value| priority(Node(value)).ok());
    let speaks = |direction: &str| {
        let rules = spec.get(direction).filter(|rules| !rules.is_null());
        rules.is_some_and(|rules| rules.as_array().is_none_or(|rules| !rules.is_empty()))
    };
    let neither = !speaks("ingress") && !speaks("egress");
    ClusterNetworkPolicy {
        name: Arc::clone(&key.name),
        tier: tier.unwrap_or(Tier::Admin),
        priority: priority.filter(|_| tier.is_some()).unwrap_or(0),
        subject: readable_subject(spec.get("subject").unwrap_or(&Value::Null)),
        ingress: closed(neither || speaks("ingress")),
        egress: closed(neither || speaks("egress")),
        refused: true,
    }
}

/// Returns a policy that isolates pods of all namespaces as a closing NetworkPolicy isolates them in one. In the Baseline
/// tier it leaves the decision to NetworkPolicies, where a pod has any.
pub(super) fn in_all_namespaces(policy: &NetworkPolicy) -> ClusterNetworkPolicy {
    ClusterNetworkPolicy {
        name: Arc::clone(&policy.key.name),
        tier: Tier::Baseline,
        priority: 0,
        subject: PodSubject {
            pods: policy.selector.clone(),
            ..PodSubject::default()
        },
        ingress: closed(policy.ingress.is_some()),
        egress: closed(policy.egress.is_some()),
        refused: true,
    }
}

/// Returns the policy in place of a file that cannot be read and may have any policy: it denies everything to and from all
/// pods.
pub(crate) fn closing_everything(name: &str) -> ClusterNetworkPolicy {
    ClusterNetworkPolicy {
        name: name.into(),
        tier: Tier::Admin,
        priority: 0,
        subject: PodSubject::default(),
        ingress: closed(true),
        egress: closed(true),
        refused: true,
    }
}

/// Returns a rule that denies everything, or none.
fn closed(closed: bool) -> Vec<ClusterRule> {
    let rule = || ClusterRule {
        name: "".into(),
        action: RuleAction::Deny,
        peers: vec![
            ClusterPeer::Network(IpNet::V4(Ipv4Net::default())),
            ClusterPeer::Network(IpNet::V6(Ipv6Net::default())),
        ],
        ports: Vec::new(),
    };
    closed.then(rule).into_iter().collect()
}

fn priority(node: Node<'_>) -> Found<'_, u16> {
    let number = node.0.as_u64().and_then(|number| u16::try_from(number).ok());
    let most = ClusterNetworkPolicy::MAX_PRIORITY;
    number
        .filter(|number| *number <= most)
        .ok_or_else(|| node.fault(format!("must be a number from 0 to {most}")))
}

/// Reads a list of at most [`MAX_ENTRIES`] entries.
fn bounded<'a, T>(node: Node<'a>, key: &'static str, read: impl Fn(Node<'a>) -> Found<'a, T>) -> Found<'a, Vec<T>> {
    let items = node.items(key)?;
    if items.len() > MAX_ENTRIES {
        let list = node.need(key)?;
        return Err(list.fault(format!(
            "has more than {MAX_ENTRIES} entries, the most that the API takes"
        )));
    }
    items.map(read).collect()
}

/// Returns the one field that is present of fields that exclude each other.
fn one_of<'a>(node: Node<'a>, known: &[&'static str]) -> Found<'a, &'static str> {
    only(node, known)?;
    let mut there = None;
    for key in known {
        if node.get(key)?.is_some() && there.replace(*key).is_some() {
            return Err(node.fault(format!("has two of {}: exactly one may be set", known.join(", "))));
        }
    }
    there.ok_or_else(|| node.fault(format!("needs one of {}", known.join(", "))))
}

fn subject(node: Node<'_>) -> Found<'_, PodSubject> {
    let key = one_of(node, &["namespaces", "pods"])?;
    pods(node, key)
}

/// Reads `namespaces` or `pods` of a subject or a peer.
fn pods<'a>(node: Node<'a>, key: &'static str) -> Found<'a, PodSubject> {
    if key == "namespaces" {
        return Ok(PodSubject {
            namespaces: peer_selector(node, key)?.unwrap_or_default(),
            ..PodSubject::default()
        });
    }
    let both = node.need(key)?;
    only(both, &["namespaceSelector", "podSelector"])?;
    Ok(PodSubject {
        namespaces: peer_selector(both, "namespaceSelector")?.unwrap_or_default(),
        pods: peer_selector(both, "podSelector")?.unwrap_or_default(),
    })
}

fn readable_subject(subject: &Value) -> PodSubject {
    let of = |at: Option<&Value>| at.map(|value| readable(Node(value))).unwrap_or_default();
    let pods = subject.get("pods");
    PodSubject {
        namespaces: of(subject
            .get("namespaces")
            .or_else(|| pods.and_then(|pods| pods.get("namespaceSelector")))),
        pods: of(pods.and_then(|pods| pods.get("podSelector"))),
    }
}

fn rule<'a>(node: Node<'a>, side: &'static str) -> Found<'a, ClusterRule> {
    only(node, &["name", "action", side, "protocols"])?;
    let name = match node.get("name")? {
        None => "",
        Some(name) => name.parse(|text| match text.chars().count() {
            0..=LONGEST_NAME => Ok(text),
            _ => Err(format!("is longer than {LONGEST_NAME} characters")),
        })?,
    };
    let action = node.need("action")?.parse(|text| match text {
        "Accept" => Ok(RuleAction::Accept),
        "Deny" => Ok(RuleAction::Deny),
        "Pass" => Ok(RuleAction::Pass),
        _ => Err("is no known action: use Accept, Deny or Pass"),
    })?;
    let listed = bounded(node, side, |entry| peers(entry, side == "to", action))?;
    if listed.is_empty() {
        return Err(node.need(side)?.fault("is empty: a rule needs at least one peer"));
    }
    // One peer that cannot be judged keeps the whole rule from matching, as the API requires.
    let unknown = listed.iter().any(Option::is_none);
    let peers: Vec<ClusterPeer> = listed.into_iter().flatten().flatten().collect();
    let ports = bounded(node, "protocols", protocol)?;
    let nameless = |peer: &ClusterPeer| !matches!(peer, ClusterPeer::Pods(_));
    let named = |port: &PolicyPort| matches!(port.ports, PolicyPorts::Name(_));
    if (unknown || peers.iter().any(nameless)) && ports.iter().flatten().any(named) {
        return Err(node.fault("has a destinationNamedPort and peers that are no pods, which have no named ports"));
    }
    Ok(ClusterRule {
        name: name.into(),
        action,
        peers: if unknown { Vec::new() } else { peers },
        ports: ports.into_iter().flatten().collect(),
    })
}

/// Returns the peers of one entry; `None` if the entry matches peers that heddle cannot know.
fn peers(node: Node<'_>, egress: bool, action: RuleAction) -> Found<'_, Option<Vec<ClusterPeer>>> {
    let known: &[&'static str] = if egress {
        &["namespaces", "pods", "nodes", "networks", "domainNames"]
    } else {
        &["namespaces", "pods"]
    };
    Ok(Some(match one_of(node, known)? {
        "nodes" => vec![ClusterPeer::Nodes(peer_selector(node, "nodes")?.unwrap_or_default())],
        "networks" => {
            let networks = bounded(node, "networks", |entry| entry.parse(net::range))?;
            if networks.is_empty() {
                return Err(node
                    .need("networks")?
                    .fault("is empty: a peer needs at least one network"));
            }
            networks.into_iter().map(ClusterPeer::Network).collect()
        }
        "domainNames" if action == RuleAction::Accept => return Ok(None),
        "domainNames" => {
            let names = node.need("domainNames")?;
            return Err(names.fault("domain names may stand in Accept rules alone"));
        }
        key => vec![ClusterPeer::Pods(pods(node, key)?)],
    }))
}

/// Returns the ports of one entry of `protocols`. A name means a port of that name of any protocol.
fn protocol(node: Node<'_>) -> Found<'_, Vec<PolicyPort>> {
    let key = one_of(node, &["tcp", "udp", "sctp", "destinationNamedPort"])?;
    let protocol = match key {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        _ => {
            let name = node.need(key)?.parse(check_port_name)?;
            let of = |protocol| PolicyPort {
                protocol,
                ports: PolicyPorts::Name(Arc::clone(&name)),
            };
            return Ok([Protocol::Tcp, Protocol::Udp, Protocol::Sctp].map(of).into());
        }
    };
    let matched = node.need(key)?;
    only(matched, &["destinationPort"])?;
    let ports = match matched.get("destinationPort")? {
        None => PolicyPorts::Any,
        Some(port) => PolicyPorts::Range(match one_of(port, &["number", "range"])? {
            "number" => port.need("number")?.port()?.into(),
            _ => {
                let range = port.need("range")?;
                only(range, &["start", "end"])?;
                let (start, end) = (range.need("start")?, range.need("end")?);
                let (first, last) = (start.port()?, end.port()?);
                if first >= last {
                    return Err(end.fault("must be greater than start"));
                }
                PortRange::new(first, last).map_err(|error| end.fault(error))?
            }
        }),
    };
    Ok(vec![PolicyPort { protocol, ports }])
}
