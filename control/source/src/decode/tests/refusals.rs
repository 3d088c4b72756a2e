//! Refusals and the names in them; defaults; the traffic that a refused policy closes.

use serde_json::json;

use super::*;

/// A policy of this spec.
pub(super) fn policy_of(spec: impl Into<Value>) -> Value {
    let metadata = json!({"namespace": "shop", "name": "p"});
    with_spec(
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata}),
        spec,
    )
}

fn with_spec(mut object: Value, spec: impl Into<Value>) -> Value {
    object["spec"] = spec.into();
    object
}

#[test]
fn policy_types_default_as_the_api_says() {
    let directions = |spec| {
        let Object::NetworkPolicy(policy) = object(&policy_of(spec)) else {
            panic!()
        };
        (
            policy.ingress.as_deref().map(<[_]>::len),
            policy.egress.as_deref().map(<[_]>::len),
        )
    };
    assert_eq!(directions(json!({})), (Some(0), None));
    assert_eq!(directions(json!(null)), (Some(0), None));
    assert_eq!(directions(json!({"podSelector": {}, "ingress": []})), (Some(0), None));
    assert_eq!(directions(json!({"ingress": [{}], "egress": []})), (Some(1), None));
    assert_eq!(directions(json!({"egress": [{}]})), (Some(0), Some(1)));
    assert_eq!(
        directions(json!({"policyTypes": [], "egress": [{}]})),
        (Some(0), Some(1))
    );
    assert_eq!(
        directions(json!({"policyTypes": ["Egress"], "ingress": [{}]})),
        (None, Some(0))
    );
    assert_eq!(
        directions(json!({"policyTypes": ["Ingress", "Egress"]})),
        (Some(0), Some(0))
    );
}

fn refused(value: &Value) -> (String, String) {
    let refusal = decode(value).unwrap_err();
    assert!(!refusal.message.is_empty());
    (refusal.field, refusal.value)
}

/// Checks that a part of an object is ignored, and returns the object.
pub(super) fn is_ignored(value: &Value, field: &str, shown: &str) -> Object {
    let Ok(Decoded::Partial(object, ignored)) = decode(value) else {
        panic!("nothing of {value} is ignored")
    };
    assert_eq!(
        (ignored.field.as_str(), ignored.value.as_str()),
        (field, shown),
        "{value}"
    );
    object
}

fn is_refused(value: &Value, field: &str, shown: &str) {
    assert_eq!(refused(value), (field.to_owned(), shown.to_owned()), "{value}");
}

#[test]
fn impossible_fields_of_policies_are_refused_by_name() {
    let rule = |rule: Value| policy_of(json!({"ingress": [rule]}));
    let port = |port: Value| rule(json!({"ports": [port]}));
    let peer = |peer: Value| rule(json!({"from": [peer]}));
    let select = |selector: Value| policy_of(json!({"podSelector": selector}));
    let expression = |expression: Value| select(json!({"matchExpressions": [expression]}));
    let at = "spec.ingress[0].ports[0]";
    is_refused(&port(json!({"port": 65537})), &format!("{at}.port"), "65537");
    is_refused(&port(json!({"port": 0})), &format!("{at}.port"), "0");
    is_refused(&port(json!({"port": -1})), &format!("{at}.port"), "-1");
    is_refused(&port(json!({"port": "80"})), &format!("{at}.port"), "\"80\"");
    is_refused(
        &port(json!({"port": 80, "endPort": 79})),
        &format!("{at}.endPort"),
        "79",
    );
    is_refused(
        &port(json!({"port": "web", "endPort": 79})),
        &format!("{at}.endPort"),
        "79",
    );
    is_refused(&port(json!({"endPort": 79})), &format!("{at}.endPort"), "79");
    is_refused(&port(json!({"protocol": "tcp"})), &format!("{at}.protocol"), "\"tcp\"");
    let at = "spec.ingress[0].from[0]";
    is_refused(&peer(json!({})), at, "{}");
    is_refused(
        &peer(json!({"ipBlock": {"cidr": "10.0.0.0"}})),
        &format!("{at}.ipBlock.cidr"),
        "\"10.0.0.0\"",
    );
    is_refused(
        &peer(json!({"ipBlock": {"except": []}})),
        &format!("{at}.ipBlock.cidr"),
        "",
    );
    let block = json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16", "11.0.0.0/16"]}});
    is_refused(&peer(block), &format!("{at}.ipBlock.except[1]"), "\"11.0.0.0/16\"");
    let both = json!({"ipBlock": {"cidr": "::/0"}, "podSelector": {}});
    assert_eq!(refused(&peer(both)).0, at);
    let at = "spec.podSelector.matchExpressions[0]";
    is_refused(
        &expression(json!({"key": "a", "operator": "Like"})),
        &format!("{at}.operator"),
        "\"Like\"",
    );
    assert_eq!(refused(&expression(json!({"key": "a", "operator": "In"}))).0, at);
    assert_eq!(
        refused(&expression(json!({"key": "a", "operator": "Exists", "values": ["x"]}))).0,
        at
    );
    assert_eq!(
        refused(&expression(json!({"operator": "Exists"}))).0,
        format!("{at}.key")
    );
    is_refused(
        &select(json!({"matchLabels": {"a": "b c"}})),
        "spec.podSelector.matchLabels.a",
        "\"b c\"",
    );
    is_refused(
        &select(json!({"matchLabels": {"a": 1}})),
        "spec.podSelector.matchLabels.a",
        "1",
    );
    is_refused(
        &select(json!({"matchLabels": {"a.b/c": 1}})),
        "spec.podSelector.matchLabels[\"a.b/c\"]",
        "1",
    );
    is_refused(
        &policy_of(json!({"policyTypes": ["Ingres"]})),
        "spec.policyTypes[0]",
        "\"Ingres\"",
    );
    is_refused(&policy_of(json!([])), "spec", "[]");
    // A misspelt field would otherwise open what it was to restrict.
    is_refused(&rule(json!({"form": []})), "spec.ingress[0].form", "[]");
}

#[test]
fn a_refused_policy_closes_what_can_be_read_of_it() {
    let closes = |spec: Value| {
        let Some(Object::NetworkPolicy(policy)) = decode(&policy_of(spec)).unwrap_err().closes.map(|object| *object)
        else {
            panic!()
        };
        assert!(policy.refused);
        let empty = |rules: &Option<Vec<_>>| rules.as_ref().map(Vec::is_empty);
        (
            policy.selector.to_string(),
            empty(&policy.ingress),
            empty(&policy.egress),
        )
    };
    let both = |selector: &str| (selector.to_owned(), Some(true), Some(true));
    let bad = json!([{"ports": [{"port": 65537}]}]);
    let select = json!({"matchLabels": {"app": "db"}});
    let spec = json!({"podSelector": select, "policyTypes": ["Ingress"], "ingress": bad});
    assert_eq!(closes(spec), ("app=db".to_owned(), Some(true), None));
    let spec = json!({"podSelector": select, "policyTypes": ["Egress"], "egress": bad});
    assert_eq!(closes(spec), ("app=db".to_owned(), None, Some(true)));
    assert_eq!(closes(json!({"podSelector": select, "egress": bad})), both("app=db"));
    assert_eq!(
        closes(json!({"podSelector": select, "policyTypes": ["Ingress", "Both"]})),
        both("app=db")
    );
    assert_eq!(closes(json!({"policyTypes": "Ingress"})), both(""));
    // An unreadable part of a selector narrows nothing.
    let operator = json!({"matchLabels": {"app": "db"}, "matchExpressions": [{"key": "x", "operator": "Like"}]});
    assert_eq!(
        closes(json!({"podSelector": operator})),
        ("app=db".to_owned(), Some(true), None)
    );
    assert_eq!(
        closes(json!({"podSelector": "app=db"})),
        (String::new(), Some(true), None)
    );
    assert_eq!(closes(json!(7)), (String::new(), Some(true), None));
}

/// A Service of this spec.
pub(super) fn service_of(spec: impl Into<Value>) -> Value {
    with_spec(
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}}),
        spec,
    )
}

#[test]
fn impossible_fields_of_services_are_refused_by_name() {
    let with = |key: &str, value: Value| {
        let mut spec = json!({"clusterIP": "10.96.0.1", "ports": [{"port": 80}]});
        spec[key] = value;
        service_of(spec)
    };
    let Object::Service(default) = object(&with("type", json!(null))) else {
        panic!()
    };
    assert_eq!(default.key.namespace.as_ref(), "default");
    is_refused(&with("ports", json!([])), "spec.ports", "");
    is_refused(&service_of(json!({})), "spec.ports", "");
    is_refused(&with("ports", json!([{"port": 65537}])), "spec.ports[0].port", "65537");
    is_refused(&with("ports", json!([{"name": "a"}])), "spec.ports[0].port", "");
    is_refused(
        &with("ports", json!([{"port": 1}, {"port": 2}])),
        "spec.ports[0].name",
        "",
    );
    let twice = json!([{"name": "a", "port": 1}, {"name": "b", "port": 1}]);
    is_refused(&with("ports", twice), "spec.ports[1].port", "1");
    let node_port = |name: &str, port: u16| json!({"name": name, "port": port, "nodePort": 30_080});
    let mut same_node_port = with("ports", json!([node_port("a", 80), node_port("b", 81)]));
    same_node_port["spec"]["type"] = json!("NodePort");
    is_refused(&same_node_port, "spec.ports[1].nodePort", "30080");
    is_refused(
        &with("ports", json!([{"port": 1, "targetPort": 70000}])),
        "spec.ports[0].targetPort",
        "70000",
    );
    is_refused(
        &with("ports", json!([{"port": 1, "protocol": "ICMP"}])),
        "spec.ports[0].protocol",
        "\"ICMP\"",
    );
    is_refused(&with("clusterIP", json!("10.96.0")), "spec.clusterIP", "\"10.96.0\"");
    is_refused(
        &with("clusterIPs", json!(["10.96.0.1", "10.96.0.2"])),
        "spec.clusterIPs[1]",
        "\"10.96.0.2\"",
    );
    is_refused(&with("type", json!("Balancer")), "spec.type", "\"Balancer\"");
    is_refused(
        &with("externalIPs", json!(["127.0.0.1"])),
        "spec.externalIPs[0]",
        "\"127.0.0.1\"",
    );
    is_refused(
        &with("externalTrafficPolicy", json!("Loc")),
        "spec.externalTrafficPolicy",
        "\"Loc\"",
    );
    is_refused(
        &with("loadBalancerSourceRanges", json!(["x"])),
        "spec.loadBalancerSourceRanges[0]",
        "\"x\"",
    );
    let mut affinity = with("sessionAffinity", json!("ClientIP"));
    affinity["spec"]["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": 86_401}});
    is_refused(&affinity, "spec.sessionAffinityConfig.clientIP.timeoutSeconds", "86401");
    // Neither of these needs ports.
    object(&service_of(json!({"clusterIP": "None"})));
    object(&service_of(
        json!({"type": "ExternalName", "externalName": "example.com"}),
    ));
}

#[test]
fn preferences_and_timeouts_of_services_are_read_as_the_api_spells_them() {
    let with = |key: &str, value: Value| {
        let mut spec = json!({"clusterIP": "10.96.0.1", "ports": [{"port": 80, "appProtocol": "kubernetes.io/h2c"}]});
        spec[key] = value;
        let Object::Service(service) = object(&service_of(spec)) else {
            panic!()
        };
        service
    };
    for (text, preference) in [
        ("PreferClose", Some(TrafficDistribution::PreferSameZone)),
        ("PreferSameZone", Some(TrafficDistribution::PreferSameZone)),
        ("PreferSameNode", Some(TrafficDistribution::PreferSameNode)),
        // One that is not known yet is none: the API server decides what there is.
        ("PreferElsewhere", None),
    ] {
        assert_eq!(
            with("trafficDistribution", json!(text)).traffic_distribution,
            preference
        );
    }
    let affinity = |config: Value| {
        let spec = json!({"clusterIP": "10.96.0.1", "ports": [{"port": 80}], "sessionAffinity": "ClientIP",
            "sessionAffinityConfig": config});
        let Object::Service(service) = object(&service_of(spec)) else {
            panic!()
        };
        service.session_affinity
    };
    for (config, timeout_seconds) in [
        (json!({"clientIP": {"timeoutSeconds": 86_400}}), 86_400),
        (json!({"clientIP": {"timeoutSeconds": 1}}), 1),
        (json!({}), 10_800),
    ] {
        assert_eq!(affinity(config), SessionAffinity::ClientIp { timeout_seconds });
    }
}

#[test]
fn impossible_fields_of_slices_and_pods_are_refused_or_ignored_by_name() {
    let slice = |endpoints: Value| {
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "s"},
            "addressType": "IPv4", "endpoints": endpoints})
    };
    let mixed = slice(json!([{"addresses": ["10.0.0.1"]}, {"addresses": ["fd00::1"]}]));
    is_ignored(&mixed, "endpoints[1].addresses[0]", "\"fd00::1\"");
    is_ignored(
        &slice(json!([{"addresses": ["web"]}])),
        "endpoints[0].addresses[0]",
        "\"web\"",
    );
    is_ignored(
        &slice(json!([{"addresses": ["::ffff:1.2.3.4"]}])),
        "endpoints[0].addresses[0]",
        "\"::ffff:1.2.3.4\"",
    );
    is_ignored(&slice(json!([{"addresses": []}])), "endpoints[0].addresses", "");
    let mut wrong = slice(json!([]));
    wrong["addressType"] = json!("IPv5");
    is_refused(&wrong, "addressType", "\"IPv5\"");

    let pod = |spec: Value, status: Value| json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": spec, "status": status});
    let port = |port: Value| pod(json!({"containers": [{"ports": [port]}]}), json!({}));
    is_ignored(
        &port(json!({"containerPort": 65537})),
        "spec.containers[0].ports[0].containerPort",
        "65537",
    );
    is_ignored(
        &port(json!({"containerPort": 1, "hostPort": 70000})),
        "spec.containers[0].ports[0].hostPort",
        "70000",
    );
    is_ignored(
        &port(json!({"containerPort": 1, "hostPort": 1, "hostIP": "node-1"})),
        "spec.containers[0].ports[0].hostIP",
        "\"node-1\"",
    );
    let name = json!({"containerPort": 1, "name": "Web"});
    is_ignored(&port(name), "spec.containers[0].ports[0].name", "\"Web\"");
    is_ignored(
        &pod(json!({"hostNetwork": "yes"}), json!({})),
        "spec.hostNetwork",
        "\"yes\"",
    );
    is_ignored(
        &pod(json!({}), json!({"podIP": "10.0.0.256"})),
        "status.podIP",
        "\"10.0.0.256\"",
    );
    is_ignored(
        &pod(json!({}), json!({"podIP": "0.0.0.0"})),
        "status.podIP",
        "\"0.0.0.0\"",
    );
    let two = json!({"podIPs": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}]});
    is_ignored(&pod(json!({}), two), "status.podIPs[1].ip", "\"10.0.0.2\"");
    is_ignored(
        &pod(json!({}), json!({"phase": "Walking"})),
        "status.phase",
        "\"Walking\"",
    );
    let mut labels = pod(json!({}), json!({}));
    labels["metadata"]["labels"] = json!({"a": "b c"});
    is_ignored(&labels, "metadata.labels.a", "\"b c\"");
}

#[test]
fn other_kinds_are_no_error_and_other_versions_of_ours_are() {
    let of = |version: &str, kind: &str| json!({"apiVersion": version, "kind": kind, "metadata": {"name": "x"}});
    assert_eq!(
        decode(&of("apps/v1", "Deployment")),
        Ok(Decoded::Other("apps/v1 Deployment".to_owned()))
    );
    assert_eq!(
        decode(&of("serving.knative.dev/v1", "Service")).map(|d| matches!(d, Decoded::Other(_))),
        Ok(true)
    );
    let refusal = decode(&of("networking.k8s.io/v2", "NetworkPolicy")).unwrap_err();
    assert_eq!((refusal.field.as_str(), refusal.closes.is_some()), ("apiVersion", true));
    is_refused(&json!("text"), "", "\"text\"");
    is_refused(&json!({"kind": "Pod"}), "apiVersion", "");
    is_refused(
        &json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "A_b"}}),
        "metadata.name",
        "\"A_b\"",
    );
    let namespace = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "namespace": "a.b"}});
    is_refused(&namespace, "metadata.namespace", "\"a.b\"");
}

/// The policy that a refused document without a readable header closes by: its kind, namespace and selector.
pub(super) fn closes_of(value: &Value) -> Option<String> {
    let refusal = decode(value).err()?;
    assert_eq!(refusal.object, None, "{value}");
    Some(match *refusal.closes? {
        Object::NetworkPolicy(policy) => {
            assert!(policy.refused && policy.ingress.is_some());
            format!("{} {}", policy.key.namespace, policy.selector)
        }
        Object::ClusterNetworkPolicy(policy) => {
            assert!(policy.refused && !policy.ingress.is_empty());
            format!("{} {}", policy.tier, policy.subject.pods)
        }
        other => panic!("{other:?}"),
    })
}
