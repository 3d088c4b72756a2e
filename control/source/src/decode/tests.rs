//! Decodes each kind from the API's own types, so that a wrong field name does not compile.

use heddle_model::{
    AddressType, ClusterIps, ExternalForwarding, IngressMode, IpBlock, LabelSelector, LoadBalancing, ObjectKey, Peer,
    PodPhase, PolicyPorts, PortNumber, Protocol, Requirement, SessionAffinity, TargetPort, TrafficDistribution,
    TrafficPolicy,
};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::api::networking::v1 as networking;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

mod any;
mod flannel;
mod odd;
mod refusals;

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
            host_port: (name == "http").then_some(18_080),
            host_ip: (name == "http").then(|| "0.0.0.0".to_owned()),
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
    assert_eq!(*pod.ips, [ip("10.0.0.1"), ip("fd00::1")]);
    assert_eq!(pod.named_ports("dns", Protocol::Udp).collect::<Vec<_>>(), [port(53)]);
    assert_eq!(pod.named_ports("dns", Protocol::Tcp).count(), 0);
    let numbers: Vec<_> = pod.ports.iter().map(|port| port.number.get()).collect();
    assert_eq!(numbers, [8080, 53, 9], "init containers that end have no ports");
    let of_host: Vec<_> = pod.ports.iter().map(|port| port.host).collect();
    let http = heddle_model::PortOfHost {
        number: port(18_080),
        ip: Some(ip("0.0.0.0")),
    };
    assert_eq!(of_host, [Some(http), None, None]);
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
    let annotations = [("load-balancing", "random"), ("external-forwarding", "dsr")];
    let annotations = annotations.map(|(name, value)| (format!("heddle.io/{name}"), value.to_owned()));
    metadata.annotations = Some(annotations.into());
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
    assert_eq!(service.external_forwarding, Some(ExternalForwarding::Dsr));
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
        endpoints: Some(vec![
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
        ]),
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

mod cluster_policy;
