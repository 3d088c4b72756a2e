//! Decodes NetworkPolicies.
//!
//! Unlike in other objects, an unknown field is an error here. A misspelt `from` would open a rule to everyone, and a field of
//! a newer API may restrict traffic that heddle would allow.

use heddle_model::{
    IpBlock, LabelSelector, NetworkPolicy, ObjectKey, Peer, PolicyPort, PolicyPorts, PolicyRule, PortRange,
};
use ipnet::IpNet;
use serde_json::Value;

use super::meta::{Meta, check_port_name};
use super::net;
use super::node::{Found, Node};
use super::selector::{readable, selector};

pub(super) fn policy<'a>(root: Node<'a>, meta: &Meta<'a>) -> Found<'a, NetworkPolicy> {
    let mut policy = NetworkPolicy {
        key: meta.key.clone(),
        selector: LabelSelector::everything(),
        ingress: Some(Vec::new()),
        egress: None,
        refused: false,
    };
    let Some(spec) = root.get("spec")? else {
        return Ok(policy);
    };
    only(spec, &["podSelector", "policyTypes", "ingress", "egress"])?;
    policy.selector = peer_selector(spec, "podSelector")?.unwrap_or_default();
    let rules = |direction, side| {
        spec.items(direction)?
            .map(|node| rule(node, side))
            .collect::<Found<'a, Vec<_>>>()
    };
    let (ingress, egress) = (rules("ingress", "from")?, rules("egress", "to")?);
    let (mut has_ingress, mut has_egress) = (false, false);
    let types = spec.items("policyTypes")?;
    if types.len() == 0 {
        // The API's default.
        (has_ingress, has_egress) = (true, !egress.is_empty());
    }
    for name in types {
        match name.text()? {
            "Ingress" => has_ingress = true,
            "Egress" => has_egress = true,
            _ => return Err(name.fault("is no policy type: use Ingress and Egress")),
        }
    }
    policy.ingress = has_ingress.then_some(ingress);
    policy.egress = has_egress.then_some(egress);
    Ok(policy)
}

/// Returns a policy that takes the place of a refused one: it denies all traffic of the pods that the refused one selects,
/// as far as that can be read, in its directions.
pub(super) fn closing(root: &Value, key: &ObjectKey) -> NetworkPolicy {
    let spec = root.get("spec").unwrap_or(&Value::Null);
    let selector = spec
        .get("podSelector")
        .map(|value| readable(Node(value)))
        .unwrap_or_default();
    let absent_or_empty = |value: &Value| value.is_null() || value.as_array().is_some_and(Vec::is_empty);
    let types = spec.get("policyTypes").unwrap_or(&Value::Null);
    let (ingress, egress) = if absent_or_empty(types) {
        (true, spec.get("egress").is_some_and(|rules| !absent_or_empty(rules)))
    } else {
        // A type that cannot be read may mean either direction.
        let only = |name: &str| {
            types
                .as_array()
                .is_some_and(|types| !types.is_empty() && types.iter().all(|entry| entry == name))
        };
        (!only("Egress"), !only("Ingress"))
    };
    let closed = |closed: bool| closed.then(Vec::new);
    NetworkPolicy {
        key: key.clone(),
        selector,
        ingress: closed(ingress),
        egress: closed(egress),
        refused: true,
    }
}

pub(super) fn only<'a>(node: Node<'a>, known: &[&str]) -> Found<'a, ()> {
    let Value::Object(fields) = node.0 else {
        return Err(node.fault("must be an object"));
    };
    match fields
        .iter()
        .find(|(key, value)| !known.contains(&key.as_str()) && !value.is_null())
    {
        None => Ok(()),
        Some((_, value)) => Err(Node(value).fault(format!(
            "this field is not known, and ignoring it could allow too much: known are {}",
            known.join(", ")
        ))),
    }
}

fn rule<'a>(node: Node<'a>, side: &'static str) -> Found<'a, PolicyRule> {
    only(node, &[side, "ports"])?;
    Ok(PolicyRule {
        peers: node.items(side)?.map(peer).collect::<Found<'a, _>>()?,
        ports: node.items("ports")?.map(port).collect::<Found<'a, _>>()?,
    })
}

fn peer(node: Node<'_>) -> Found<'_, Peer> {
    only(node, &["podSelector", "namespaceSelector", "ipBlock"])?;
    let (pods, namespaces) = (
        peer_selector(node, "podSelector")?,
        peer_selector(node, "namespaceSelector")?,
    );
    match (node.get("ipBlock")?, pods, namespaces) {
        (Some(_), Some(_), _) | (Some(_), _, Some(_)) => {
            Err(node.fault("has an ipBlock and a selector: a peer is either an ipBlock or pods"))
        }
        (Some(block), None, None) => Ok(Peer::Block(ip_block(block)?)),
        (None, None, None) => {
            Err(node.fault("is empty: a peer needs a podSelector, a namespaceSelector or an ipBlock"))
        }
        (None, pods, namespaces) => Ok(Peer::Pods {
            namespaces,
            pods: pods.unwrap_or_default(),
        }),
    }
}

pub(super) fn peer_selector<'a>(node: Node<'a>, key: &'static str) -> Found<'a, Option<LabelSelector>> {
    let Some(node) = node.get(key)? else { return Ok(None) };
    only(node, &["matchLabels", "matchExpressions"])?;
    selector(node).map(Some)
}

fn ip_block(node: Node<'_>) -> Found<'_, IpBlock> {
    only(node, &["cidr", "except"])?;
    let cidr: IpNet = node.need("cidr")?.parse(net::range)?;
    let mut holes = Vec::new();
    for except in node.items("except")? {
        let hole = except.parse(net::range)?;
        // Checked one by one, so that the message names the wrong one.
        IpBlock::new(cidr, [hole]).map_err(|error| except.fault(error))?;
        holes.push(hole);
    }
    IpBlock::new(cidr, holes).map_err(|error| node.fault(error))
}

fn port(node: Node<'_>) -> Found<'_, PolicyPort> {
    only(node, &["protocol", "port", "endPort"])?;
    let end = node.get("endPort")?;
    let ports = match (node.get("port")?, end) {
        (None, None) => PolicyPorts::Any,
        (None, Some(end)) => return Err(end.fault("endPort needs a port")),
        (Some(Node(Value::String(_))), Some(end)) => return Err(end.fault("endPort needs a port that is a number")),
        (Some(name @ Node(Value::String(_))), None) => PolicyPorts::Name(name.parse(check_port_name)?),
        (Some(first), None) => PolicyPorts::Range(first.port()?.into()),
        (Some(first), Some(last)) => {
            let range = PortRange::new(first.port()?, last.port()?);
            PolicyPorts::Range(range.map_err(|error| last.fault(error))?)
        }
    };
    Ok(PolicyPort {
        protocol: net::protocol(node)?,
        ports,
    })
}
