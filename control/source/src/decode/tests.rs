//! Each kind decoded from the API's own types, what is refused and under which name, and that nothing panics.

use heddle_model::{
    AddressType, ClusterIps, IngressMode, IpBlock, LabelSelector, LoadBalancing, ObjectKey, Peer, PodPhase,
    PolicyPorts, PortNumber, Protocol, Requirement, SessionAffinity, TargetPort, TrafficDistribution, TrafficPolicy,
};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::api::networking::v1 as networking;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use proptest::prelude::*;
use serde_json::json;

use super::*;

fn object(value: &impl k8s_openapi::serde::Serialize) -> Object {
    let value = serde_json::to_value(value).unwrap();
    match decode(&value) {
        Ok(Decoded::Object(object)) => object,
        other => panic!("{other:?} from {value}"),
    }
}

fn metadata(name: &str, labels: &[(&str, &str)]) -> meta::ObjectMeta {
    let owned = |(key, value): &(&str, &str)| (key.to_string(), value.to_string());
    meta::ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some("shop".to_owned()),
        labels: Some(labels.iter().map(owned).collect()),
        ..Default::default()
    }
}

fn text(text: &str) -> Option<String> {
    Some(text.to_owned())
}

fn port(number: u16) -> PortNumber {
    PortNumber::new(number).unwrap()
}

fn ip(text: &str) -> std::net::IpAddr {
    text.parse().unwrap()
}

#[test]
fn a_pod_as_the_api_has_it() {
    let ports = |name: &str, number, protocol: Option<&str>| {
        Some(vec![core::ContainerPort {
            name: text(name),
            container_port: number,
            protocol: protocol.map(str::to_owned),
            ..Default::default()
        }])
    };
    let container = |ports, restart: Option<&str>| core::Container {
        name: "c".to_owned(),
        ports,
        restart_policy: restart.map(str::to_owned),
        ..Default::default()
    };
    let condition = |kind: &str, status: &str| core::PodCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        ..Default::default()
    };
    let pod = core::Pod {
        metadata: meta::ObjectMeta {
            uid: text("u-1"),
            ..metadata("web", &[("app", "web")])
        },
        spec: Some(core::PodSpec {
            node_name: text("node-1"),
            containers: vec![
                container(ports("http", 8080, None), None),
                container(ports("dns", 53, Some("UDP")), None),
            ],
            init_containers: Some(vec![
                container(ports("side", 9, Some("SCTP")), Some("Always")),
                container(ports("once", 1, None), None),
            ]),
            ..Default::default()
        }),
        status: Some(core::PodStatus {
            phase: text("Running"),
            pod_ip: text("10.0.0.1"),
            pod_ips: Some(vec![
                core::PodIP {
                    ip: "10.0.0.1".to_owned(),
                },
                core::PodIP {
                    ip: "fd00::1".to_owned(),
                },
            ]),
            conditions: Some(vec![condition("Initialized", "False"), condition("Ready", "True")]),
            ..Default::default()
        }),
    };
    let Object::Pod(pod) = object(&pod) else { panic!() };
    assert_eq!(
        (pod.key.to_string().as_str(), pod.uid.as_ref(), pod.node.as_deref()),
        ("shop/web", "u-1", Some("node-1"))
    );
    assert_eq!(
        (pod.labels.get("app"), pod.phase, pod.ready),
        (Some("web"), PodPhase::Running, true)
    );
    assert_eq!((pod.host_network, pod.terminating), (false, false));
    assert_eq!(pod.ips, [ip("10.0.0.1"), ip("fd00::1")]);
    assert_eq!(pod.named_ports("dns", Protocol::Udp).collect::<Vec<_>>(), [port(53)]);
    assert_eq!(pod.named_ports("dns", Protocol::Tcp).count(), 0);
    let numbers: Vec<_> = pod.ports.iter().map(|port| port.number.get()).collect();
    assert_eq!(numbers, [8080, 53, 9], "init containers that end have no ports");
}

#[test]
fn a_node_a_namespace_and_a_service_cidr_as_the_api_has_them() {
    let address = |kind: &str, address: &str| core::NodeAddress {
        type_: kind.to_owned(),
        address: address.to_owned(),
    };
    let node = core::Node {
        metadata: metadata("node-1", &[("topology.kubernetes.io/zone", "z1")]),
        spec: Some(core::NodeSpec {
            pod_cidr: text("10.0.1.0/24"),
            pod_cidrs: Some(vec!["10.0.1.0/24".to_owned(), "fd00:1::/64".to_owned()]),
            taints: Some(vec![core::Taint {
                key: "ToBeDeletedByClusterAutoscaler".to_owned(),
                ..Default::default()
            }]),
            ..Default::default()
        }),
        status: Some(core::NodeStatus {
            addresses: Some(vec![
                address("InternalIP", "192.0.2.1"),
                address("Hostname", "node-1"),
                address("ExternalIP", "203.0.113.1"),
                address("InternalIP", "2001:db8::1"),
            ]),
            ..Default::default()
        }),
    };
    let Object::Node(node) = object(&node) else { panic!() };
    assert_eq!(
        (node.name.as_ref(), node.zone(), node.ready, node.draining),
        ("node-1", Some("z1"), false, true)
    );
    assert_eq!(node.internal_ips, [ip("192.0.2.1"), ip("2001:db8::1")]);
    assert_eq!(node.external_ips, [ip("203.0.113.1")]);
    assert_eq!(
        node.pod_cidrs,
        [
            "10.0.1.0/24".parse().unwrap(),
            "fd00:1::/64".parse::<ipnet::IpNet>().unwrap()
        ]
    );

    let namespace = core::Namespace {
        metadata: metadata("shop", &[("team", "a")]),
        ..Default::default()
    };
    let Object::Namespace(namespace) = object(&namespace) else {
        panic!()
    };
    assert_eq!(namespace.labels.to_string(), "kubernetes.io/metadata.name=shop,team=a");

    let cidrs = networking::ServiceCIDRSpec {
        cidrs: Some(vec!["10.96.0.0/12".to_owned()]),
    };
    let cidr = networking::ServiceCIDR {
        metadata: metadata("kubernetes", &[]),
        spec: Some(cidrs),
        status: None,
    };
    let Object::ServiceCidr(cidr) = object(&cidr) else {
        panic!()
    };
    assert_eq!((cidr.name.as_ref(), cidr.cidrs.len()), ("kubernetes", 1));
}

#[test]
fn a_service_as_the_api_has_it() {
    let mut metadata = metadata("web", &[("service.kubernetes.io/service-proxy-name", "other")]);
    metadata.annotations = Some([("heddle.io/load-balancing".to_owned(), "random".to_owned())].into());
    let port_of = |name: &str, number, target, node_port| core::ServicePort {
        name: text(name),
        port: number,
        target_port: target,
        node_port,
        ..Default::default()
    };
    let ingress = |ip: Option<&str>, mode: Option<&str>| core::LoadBalancerIngress {
        ip: ip.map(str::to_owned),
        ip_mode: mode.map(str::to_owned),
        ..Default::default()
    };
    let service = core::Service {
        metadata,
        spec: Some(core::ServiceSpec {
            type_: text("LoadBalancer"),
            cluster_ips: Some(vec!["10.96.0.1".to_owned(), "fd00:96::1".to_owned()]),
            ports: Some(vec![
                port_of("http", 80, Some(IntOrString::String("web".to_owned())), Some(30080)),
                port_of("alt", 81, None, None),
            ]),
            selector: Some([("app".to_owned(), "web".to_owned())].into()),
            external_ips: Some(vec!["203.0.113.9".to_owned()]),
            load_balancer_source_ranges: Some(vec![" 192.0.2.0/24 ".to_owned()]),
            external_traffic_policy: text("Local"),
            internal_traffic_policy: text("Cluster"),
            session_affinity: text("ClientIP"),
            session_affinity_config: Some(core::SessionAffinityConfig {
                client_ip: Some(core::ClientIPConfig {
                    timeout_seconds: Some(60),
                }),
            }),
            publish_not_ready_addresses: Some(true),
            health_check_node_port: Some(31000),
            traffic_distribution: text("PreferClose"),
            ..Default::default()
        }),
        status: Some(core::ServiceStatus {
            load_balancer: Some(core::LoadBalancerStatus {
                ingress: Some(vec![ingress(Some("203.0.113.1"), Some("Proxy")), ingress(None, None)]),
            }),
            ..Default::default()
        }),
    };
    let Object::Service(service) = object(&service) else {
        panic!()
    };
    assert_eq!(
        service.cluster_ips,
        ClusterIps::Addresses(vec![ip("10.96.0.1"), ip("fd00:96::1")])
    );
    let [http, alt] = service.ports.as_slice() else {
        panic!()
    };
    assert_eq!(
        (http.name.as_ref(), http.port, http.node_port),
        ("http", port(80), Some(port(30080)))
    );
    assert_eq!(http.target_port, TargetPort::Name("web".into()));
    assert_eq!((&alt.target_port, alt.node_port), (&TargetPort::Number(port(81)), None));
    assert_eq!(
        service.selector.as_ref().map(ToString::to_string).as_deref(),
        Some("app=web")
    );
    assert_eq!(service.load_balancer_ingress.len(), 1);
    assert_eq!(service.load_balancer_ingress[0].mode, IngressMode::Proxy);
    assert_eq!(service.source_ranges, ["192.0.2.0/24".parse::<ipnet::IpNet>().unwrap()]);
    assert_eq!(
        (service.external_policy, service.internal_policy),
        (TrafficPolicy::Local, TrafficPolicy::Cluster)
    );
    assert_eq!(
        service.session_affinity,
        SessionAffinity::ClientIp { timeout_seconds: 60 }
    );
    assert_eq!(
        (service.publish_not_ready, service.health_check_node_port),
        (true, Some(port(31000)))
    );
    assert_eq!(service.traffic_distribution, Some(TrafficDistribution::PreferSameZone));
    assert_eq!(
        (service.proxy_name.as_deref(), service.load_balancing),
        (Some("other"), LoadBalancing::Random)
    );
    assert_eq!(service.addresses().count(), 4);
    assert!(!service.is_proxied());
}

#[test]
fn an_endpoint_slice_as_the_api_has_it() {
    let slice = discovery::EndpointSlice {
        metadata: metadata("web-1", &[("kubernetes.io/service-name", "web")]),
        address_type: "IPv6".to_owned(),
        ports: Some(vec![
            discovery::EndpointPort {
                name: text("http"),
                port: Some(8080),
                ..Default::default()
            },
            discovery::EndpointPort {
                protocol: text("UDP"),
                ..Default::default()
            },
        ]),
        endpoints: vec![
            discovery::Endpoint {
                addresses: vec!["fd00::1".to_owned(), "fd00::2".to_owned()],
                conditions: Some(discovery::EndpointConditions {
                    ready: Some(false),
                    serving: None,
                    terminating: Some(true),
                }),
                node_name: text("node-1"),
                zone: text("z1"),
                hints: Some(discovery::EndpointHints {
                    for_zones: Some(vec![discovery::ForZone { name: "z2".to_owned() }]),
                    for_nodes: Some(vec![discovery::ForNode {
                        name: "node-2".to_owned(),
                    }]),
                }),
                target_ref: Some(core::ObjectReference {
                    kind: text("Pod"),
                    name: text("web-x"),
                    ..Default::default()
                }),
                ..Default::default()
            },
            discovery::Endpoint {
                addresses: vec!["fd00::3".to_owned()],
                ..Default::default()
            },
        ],
    };
    let Object::EndpointSlice(slice) = object(&slice) else {
        panic!()
    };
    assert_eq!(slice.service, Some(ObjectKey::new("shop", "web")));
    assert_eq!(
        (slice.address_type, slice.ports.len(), slice.endpoints.len()),
        (AddressType::V6, 2, 2)
    );
    assert_eq!(
        (slice.ports[0].port, slice.ports[1].port, slice.ports[1].name.as_ref()),
        (Some(port(8080)), None, "")
    );
    let [first, second] = slice.endpoints.as_slice() else {
        panic!()
    };
    assert_eq!(
        (first.address, first.ready, first.serving, first.terminating),
        (ip("fd00::1"), false, true, true)
    );
    assert_eq!(
        (first.node.as_deref(), first.zone.as_deref()),
        (Some("node-1"), Some("z1"))
    );
    assert_eq!(
        (first.hint_zones[0].as_ref(), first.hint_nodes[0].as_ref()),
        ("z2", "node-2")
    );
    assert_eq!(first.target_pod, Some(ObjectKey::new("shop", "web-x")));
    assert_eq!((second.ready, second.serving, second.terminating), (true, true, false));
}

#[test]
fn a_network_policy_as_the_api_has_it() {
    let select = |key: &str, value: &str| meta::LabelSelector {
        match_labels: Some([(key.to_owned(), value.to_owned())].into()),
        ..Default::default()
    };
    let policy = networking::NetworkPolicy {
        metadata: metadata("db", &[]),
        spec: Some(networking::NetworkPolicySpec {
            pod_selector: Some(select("app", "db")),
            policy_types: None,
            ingress: Some(vec![networking::NetworkPolicyIngressRule {
                from: Some(vec![
                    networking::NetworkPolicyPeer {
                        pod_selector: Some(select("app", "web")),
                        ..Default::default()
                    },
                    networking::NetworkPolicyPeer {
                        namespace_selector: Some(meta::LabelSelector {
                            match_expressions: Some(vec![meta::LabelSelectorRequirement {
                                key: "team".to_owned(),
                                operator: "In".to_owned(),
                                values: Some(vec!["a".to_owned(), "b".to_owned()]),
                            }]),
                            ..Default::default()
                        }),
                        ..Default::default()
                    },
                ]),
                ports: Some(vec![networking::NetworkPolicyPort {
                    port: Some(IntOrString::Int(5432)),
                    end_port: Some(5440),
                    protocol: None,
                }]),
            }]),
            egress: Some(vec![networking::NetworkPolicyEgressRule {
                to: Some(vec![networking::NetworkPolicyPeer {
                    ip_block: Some(networking::IPBlock {
                        cidr: "10.0.0.0/8".to_owned(),
                        except: Some(vec!["10.1.0.0/16".to_owned()]),
                    }),
                    ..Default::default()
                }]),
                ports: Some(vec![
                    networking::NetworkPolicyPort {
                        port: Some(IntOrString::String("dns".to_owned())),
                        protocol: text("UDP"),
                        end_port: None,
                    },
                    networking::NetworkPolicyPort::default(),
                ]),
            }]),
        }),
    };
    let Object::NetworkPolicy(policy) = object(&policy) else {
        panic!()
    };
    assert_eq!(
        policy.selector,
        LabelSelector::new([Requirement::label("app", "db").unwrap()])
    );
    let [ingress] = policy.ingress.as_deref().unwrap() else {
        panic!()
    };
    let [own, teams] = ingress.peers.as_slice() else {
        panic!()
    };
    assert!(matches!(own, Peer::Pods { namespaces: None, pods } if pods.to_string() == "app=web"));
    let Peer::Pods {
        namespaces: Some(namespaces),
        pods,
    } = teams
    else {
        panic!()
    };
    assert_eq!(
        (namespaces.to_string().as_str(), pods.is_everything()),
        ("team in (a,b)", true)
    );
    let [range] = ingress.ports.as_slice() else { panic!() };
    assert!(matches!(range.ports, PolicyPorts::Range(range) if range.numbers() == (5432..=5440)));
    let [egress] = policy.egress.as_deref().unwrap() else {
        panic!("egress rules make the policy one for egress")
    };
    let block = IpBlock::new("10.0.0.0/8".parse().unwrap(), ["10.1.0.0/16".parse().unwrap()]).unwrap();
    assert_eq!(egress.peers, [Peer::Block(block)]);
    assert_eq!(egress.ports[0].ports, PolicyPorts::Name("dns".into()));
    assert_eq!(
        (egress.ports[0].protocol, egress.ports[1].protocol),
        (Protocol::Udp, Protocol::Tcp)
    );
    assert_eq!(egress.ports[1].ports, PolicyPorts::Any);
}

fn policy_of(spec: Value) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": "shop", "name": "p"}, "spec": spec})
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
        let policy = decode(&policy_of(spec)).unwrap_err().closes.unwrap();
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
    // What cannot be read of a selector narrows nothing.
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

fn service_of(spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": spec})
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
fn impossible_fields_of_slices_and_pods_are_refused_by_name() {
    let slice = |endpoints: Value| {
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "s"},
            "addressType": "IPv4", "endpoints": endpoints})
    };
    let mixed = slice(json!([{"addresses": ["10.0.0.1"]}, {"addresses": ["fd00::1"]}]));
    is_refused(&mixed, "endpoints[1].addresses[0]", "\"fd00::1\"");
    is_refused(
        &slice(json!([{"addresses": ["web"]}])),
        "endpoints[0].addresses[0]",
        "\"web\"",
    );
    is_refused(
        &slice(json!([{"addresses": ["::ffff:1.2.3.4"]}])),
        "endpoints[0].addresses[0]",
        "\"::ffff:1.2.3.4\"",
    );
    is_refused(&slice(json!([{"addresses": []}])), "endpoints[0].addresses", "");
    let mut wrong = slice(json!([]));
    wrong["addressType"] = json!("IPv5");
    is_refused(&wrong, "addressType", "\"IPv5\"");

    let pod = |spec: Value, status: Value| json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": spec, "status": status});
    let port = |port: Value| pod(json!({"containers": [{"ports": [port]}]}), json!({}));
    is_refused(
        &port(json!({"containerPort": 65537})),
        "spec.containers[0].ports[0].containerPort",
        "65537",
    );
    let name = json!({"containerPort": 1, "name": "Web"});
    is_refused(&port(name), "spec.containers[0].ports[0].name", "\"Web\"");
    is_refused(
        &pod(json!({"hostNetwork": "yes"}), json!({})),
        "spec.hostNetwork",
        "\"yes\"",
    );
    is_refused(
        &pod(json!({}), json!({"podIP": "10.0.0.256"})),
        "status.podIP",
        "\"10.0.0.256\"",
    );
    is_refused(
        &pod(json!({}), json!({"podIP": "0.0.0.0"})),
        "status.podIP",
        "\"0.0.0.0\"",
    );
    let two = json!({"podIPs": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}]});
    is_refused(&pod(json!({}), two), "status.podIPs[1].ip", "\"10.0.0.2\"");
    is_refused(
        &pod(json!({}), json!({"phase": "Walking"})),
        "status.phase",
        "\"Walking\"",
    );
    let mut labels = pod(json!({}), json!({}));
    labels["metadata"]["labels"] = json!({"a": "b c"});
    is_refused(&labels, "metadata.labels.a", "\"b c\"");
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

/// Objects with every field that is looked at.
fn full() -> Vec<Value> {
    let block = json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}});
    let select =
        json!({"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "c", "operator": "In", "values": ["d"]}]});
    let ports = json!([{"protocol": "UDP", "port": 1, "endPort": 9}, {"port": "web"}]);
    vec![
        policy_of(json!({"podSelector": select, "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": [block, {"podSelector": select, "namespaceSelector": {}}], "ports": ports}],
            "egress": [{"to": [block], "ports": ports}]})),
        service_of(
            json!({"type": "LoadBalancer", "clusterIPs": ["10.96.0.1"], "selector": {"a": "b"},
            "ports": [{"name": "a", "port": 80, "targetPort": "web", "nodePort": 30000}], "externalIPs": ["192.0.2.1"],
            "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 5}},
            "loadBalancerSourceRanges": ["10.0.0.0/8"], "externalTrafficPolicy": "Local",
            "trafficDistribution": "PreferClose", "healthCheckNodePort": 30001}),
        ),
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": "s", "labels": {"kubernetes.io/service-name": "s"}}, "ports": [{"name": "a", "port": 1}],
            "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": true}, "nodeName": "n",
                "hints": {"forZones": [{"name": "z"}]}, "targetRef": {"kind": "Pod", "name": "p"}}]}),
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "uid": "u", "labels": {"a": "b"}},
            "spec": {"nodeName": "n", "hostNetwork": false, "containers": [{"ports": [{"containerPort": 1, "name": "a"}]}],
                "initContainers": [{"restartPolicy": "Always", "ports": []}]},
            "status": {"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}], "conditions": [{"type": "Ready", "status": "True"}]}}),
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"},
            "spec": {"podCIDRs": ["10.0.0.0/24"], "taints": [{"key": "a"}]},
            "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]}}),
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "k"},
            "spec": {"cidrs": ["10.96.0.0/12"]}}),
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n", "labels": {"a": "b"}}}),
    ]
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (0..70_000u32).prop_map(Value::from),
        ".{0,80}".prop_map(Value::from),
        "[0-9a-f:./]{0,20}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 20, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map("[a-zA-Z./]{0,9}", inner, 0..4)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

/// The places of a value, itself included, in a fixed order.
fn places(value: &Value) -> usize {
    1 + match value {
        Value::Object(fields) => fields.values().map(places).sum::<usize>(),
        Value::Array(items) => items.iter().map(places).sum::<usize>(),
        _ => 0,
    }
}

fn replace(value: &mut Value, at: &mut usize, new: &Value) {
    if *at == 0 {
        *value = new.clone();
    }
    *at = at.wrapping_sub(1);
    match value {
        Value::Object(fields) => fields.values_mut().for_each(|value| replace(value, at, new)),
        Value::Array(items) => items.iter_mut().for_each(|value| replace(value, at, new)),
        _ => {}
    }
}

#[test]
fn the_full_objects_are_good() {
    for value in full() {
        object(&value);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whatever stands in the place of any field: an object or a refusal that can be shown, and no panic.
    #[test]
    fn decoding_never_panics(
        which in any::<prop::sample::Index>(),
        edits in proptest::collection::vec((any::<prop::sample::Index>(), any_json()), 1..3),
    ) {
        let mut value = which.get(&full()).clone();
        for (at, new) in edits {
            replace(&mut value, &mut at.index(places(&value)), &new);
        }
        for value in unlist(value) {
            if let Err(refusal) = decode(&value) {
                prop_assert!(!refusal.message.is_empty());
                prop_assert!(refusal.value.chars().count() <= 83);
                // The path leads to the value that is shown.
                let closes = refusal.object.as_ref().is_some_and(|object| object.kind == Kind::NetworkPolicy);
                prop_assert_eq!(refusal.closes.is_some(), closes);
                prop_assert!(!refusal.into_rejection(&"x.yaml".into(), 1, None).to_string().is_empty());
            }
        }
    }
}
