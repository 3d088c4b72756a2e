//! Policies of the cluster's administrators: read, refused, closed.

use heddle_model::{ClusterNetworkPolicy, ClusterPeer, PolicyPorts, RuleAction, Tier};
use serde_json::json;

use super::*;

fn of(spec: impl Into<Value>) -> Value {
    json!({
        "apiVersion": "policy.networking.k8s.io/v1alpha2",
        "kind": "ClusterNetworkPolicy",
        "metadata": {"name": "p"},
        "spec": spec.into(),
    })
}

/// With these rules, for every pod.
fn with(direction: &str, rules: Value) -> Value {
    let mut spec = json!({"tier": "Admin", "priority": 7, "subject": {"namespaces": {}}});
    spec[direction] = rules;
    of(spec)
}

fn read(value: &Value) -> Arc<ClusterNetworkPolicy> {
    match decode(value) {
        Ok(Decoded::Object(Object::ClusterNetworkPolicy(policy))) => policy,
        other => panic!("{other:?} from {value}"),
    }
}

fn closed(value: &Value) -> Arc<ClusterNetworkPolicy> {
    match decode(value).unwrap_err().closes.map(|object| *object) {
        Some(Object::ClusterNetworkPolicy(policy)) => policy,
        other => panic!("{other:?} from {value}"),
    }
}

#[test]
fn every_field_is_read() {
    let policy = read(&of(json!({
        "tier": "Baseline",
        "priority": 1000,
        "subject": {"pods": {
            "namespaceSelector": {"matchLabels": {"team": "a"}},
            "podSelector": {"matchExpressions": [{"key": "app", "operator": "Exists"}]},
        }},
        "ingress": [{"name": "in", "action": "Pass", "from": [{"namespaces": {"matchLabels": {"team": "b"}}}]}],
        "egress": [{
            "action": "Deny",
            "to": [{"nodes": {}}, {"networks": ["10.0.0.0/8", "fd00::/8"]}],
            "protocols": [
                {"tcp": {"destinationPort": {"number": 80}}},
                {"udp": {"destinationPort": {"range": {"start": 1, "end": 65535}}}},
                {"sctp": {}},
            ],
        }],
    })));
    assert_eq!(
        (policy.tier, policy.priority, policy.refused),
        (Tier::Baseline, 1000, false)
    );
    assert_eq!(
        (policy.subject.namespaces.to_string(), policy.subject.pods.to_string()),
        ("team=a".to_owned(), "app".to_owned())
    );
    let (ingress, egress) = (&policy.ingress[0], &policy.egress[0]);
    assert_eq!(
        (&*ingress.name, ingress.action, ingress.ports.len()),
        ("in", RuleAction::Pass, 0)
    );
    assert_eq!((egress.action, egress.peers.len()), (RuleAction::Deny, 3));
    let ports: Vec<String> = egress
        .ports
        .iter()
        .map(|p| format!("{} {:?}", p.protocol, p.ports))
        .collect();
    assert_eq!(ports.len(), 3, "{ports:?}");
    assert!(matches!(egress.ports[2].ports, PolicyPorts::Any));
}

#[test]
fn a_named_port_is_of_any_protocol_and_a_domain_name_matches_nobody() {
    let policy = read(&with(
        "egress",
        json!([
            {"action": "Accept", "to": [{"pods": {"namespaceSelector": {}, "podSelector": {}}}],
             "protocols": [{"destinationNamedPort": "web"}]},
            {"action": "Accept", "to": [{"networks": ["10.0.0.0/8"]}, {"domainNames": ["example.com"]}]},
        ]),
    ));
    assert_eq!(policy.egress[0].ports.len(), 3);
    assert!(policy.egress[1].peers.is_empty());
}

#[test]
fn what_the_api_does_not_take_is_refused_by_field() {
    let is_refused = |value: &Value, field: &str| {
        let refusal = decode(value).unwrap_err();
        assert_eq!(refusal.field, field, "{value}");
        assert!(refusal.closes.is_some());
    };
    let edit = |key: &str, value: Value| {
        let mut spec = json!({"tier": "Admin", "priority": 7, "subject": {"namespaces": {}}});
        spec[key] = value;
        of(spec)
    };
    is_refused(&edit("tier", json!("admin")), "spec.tier");
    is_refused(&edit("priority", json!(1001)), "spec.priority");
    is_refused(&edit("priority", json!(null)), "spec.priority");
    is_refused(&edit("subject", json!({})), "spec.subject");
    is_refused(&edit("subject", json!({"namespaces": {}, "pods": {}})), "spec.subject");
    is_refused(&edit("ingres", json!([])), "spec.ingres");
    let many: Vec<Value> = (0..26)
        .map(|_| json!({"action": "Deny", "from": [{"namespaces": {}}]}))
        .collect();
    is_refused(&with("ingress", many.into()), "spec.ingress");
    let rule = |rule: Value| with("egress", json!([rule]));
    let at = "spec.egress[0]";
    is_refused(
        &rule(json!({"action": "Allow", "to": [{"namespaces": {}}]})),
        &format!("{at}.action"),
    );
    is_refused(&rule(json!({"action": "Deny", "to": []})), &format!("{at}.to"));
    is_refused(&rule(json!({"action": "Deny"})), &format!("{at}.to"));
    is_refused(&rule(json!({"action": "Deny", "to": [{}]})), &format!("{at}.to[0]"));
    let peer = |peer: Value| rule(json!({"action": "Deny", "to": [peer]}));
    is_refused(
        &peer(json!({"networks": ["10.0.0.0"]})),
        &format!("{at}.to[0].networks[0]"),
    );
    is_refused(
        &peer(json!({"domainNames": ["a.b"]})),
        &format!("{at}.to[0].domainNames"),
    );
    let ports = |ports: Value| rule(json!({"action": "Deny", "to": [{"namespaces": {}}], "protocols": [ports]}));
    let port = |port: Value| ports(json!({"tcp": {"destinationPort": port}}));
    let place = format!("{at}.protocols[0].tcp.destinationPort");
    is_refused(&port(json!({"number": 65536})), &format!("{place}.number"));
    is_refused(&port(json!({})), &place);
    is_refused(
        &port(json!({"range": {"start": 9, "end": 9}})),
        &format!("{place}.range.end"),
    );
    is_refused(&ports(json!({"icmp": {}})), &format!("{at}.protocols[0].icmp"));
    let named = json!([{"destinationNamedPort": "web"}]);
    is_refused(
        &rule(json!({"action": "Deny", "to": [{"nodes": {}}], "protocols": named})),
        at,
    );
    // Where traffic comes from is no matter of nodes and networks in this version.
    let from = with("ingress", json!([{"action": "Deny", "from": [{"networks": ["::/0"]}]}]));
    is_refused(&from, "spec.ingress[0].from[0].networks");
}

#[test]
fn a_refused_one_closes_its_subject_where_it_would_be_asked() {
    let bad = json!([{"action": "Allow", "from": [{"namespaces": {}}]}]);
    let mut spec = json!({"tier": "Baseline", "priority": 9, "subject": {"namespaces": {"matchLabels": {"a": "b"}}}});
    spec["ingress"] = bad;
    let policy = closed(&of(spec.clone()));
    assert_eq!(
        (policy.tier, policy.priority, policy.refused),
        (Tier::Baseline, 9, true)
    );
    assert_eq!((policy.ingress.len(), policy.egress.len()), (1, 0));
    assert_eq!(policy.subject.namespaces.to_string(), "a=b");
    let rule = &policy.ingress[0];
    assert_eq!((rule.action, rule.ports.len()), (RuleAction::Deny, 0));
    assert!(matches!(
        rule.peers[..],
        [ClusterPeer::Network(_), ClusterPeer::Network(_)]
    ));
    // Without a tier that can be read it is asked first of all; without rules, it may have meant either direction.
    spec["tier"] = json!("Top");
    spec["ingress"] = json!([]);
    let policy = closed(&of(spec));
    assert_eq!((policy.tier, policy.priority), (Tier::Admin, 0));
    assert_eq!((policy.ingress.len(), policy.egress.len()), (1, 1));
    assert_eq!(closed(&of(json!(7))).subject, heddle_model::PodSubject::default());
}
