//! Objects with odd parts: ignored entries, unreadable labels, and policies without a readable header.

use serde_json::json;

use super::refusals::{closes_of, is_ignored, policy_of, service_of};
use super::*;

#[test]
fn odd_entries_of_a_status_are_ignored_and_the_rest_is_used() {
    // Private nodes of GCE have an empty ExternalIP; other clouds write names.
    let address = |kind: &str, address: &str| json!({"type": kind, "address": address});
    let node = |odd: &str| {
        let addresses = [
            address("ExternalIP", odd),
            address("InternalIP", "010.0.0.08"),
            address("Hostname", "x"),
        ];
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}, "spec": {"podCIDRs": ["010.1.0.0/016"]},
            "status": {"addresses": addresses}})
    };
    for odd in ["", "0.0.0.0", "node-1.example", "::ffff:1.2.3.4"] {
        let Object::Node(node) = is_ignored(&node(odd), "status.addresses[0].address", &format!("{odd:?}")) else {
            panic!()
        };
        assert_eq!(
            (node.external_ips.len(), &node.internal_ips[..]),
            (0, &[ip("10.0.0.8")][..])
        );
        assert_eq!(
            node.pod_cidrs,
            ["10.1.0.0/16".parse().unwrap()],
            "leading zeros are decimal"
        );
    }

    let service = |ingress: Value| {
        let mut object = service_of(json!({"type": "LoadBalancer", "clusterIP": "10.96.0.1",
            "ports": [{"port": 80, "protocol": ""}], "externalTrafficPolicy": "", "internalTrafficPolicy": ""}));
        object["status"] = json!({"loadBalancer": {"ingress": [ingress, {"ip": "203.0.113.7", "ipMode": ""}]}});
        object
    };
    for odd in ["127.0.0.1", "169.254.1.1", "x"] {
        let at = "status.loadBalancer.ingress[0].ip";
        let Object::Service(service) = is_ignored(&service(json!({ "ip": odd })), at, &format!("{odd:?}")) else {
            panic!()
        };
        assert_eq!(service.served_balancers().collect::<Vec<_>>(), [ip("203.0.113.7")]);
        assert_eq!(
            (service.cluster_ips.get().len(), service.ports[0].protocol),
            (1, Protocol::Tcp)
        );
        assert_eq!(service.external_policy, TrafficPolicy::Cluster);
    }
    let empty = service_of(json!({"type": "", "clusterIP": "10.96.0.1", "ports": [{"port": 80}]}));
    let Object::Service(service) = object(&empty) else {
        panic!()
    };
    assert_eq!(service.service_type, heddle_model::ServiceType::ClusterIp);

    let ends = json!([{"addresses": ["169.254.0.1"]}, {"addresses": ["010.0.0.1"]}, {"addresses": ["10.0.0.2"], "conditions": 7}]);
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "s"},
        "addressType": "IPv4", "endpoints": ends});
    let Object::EndpointSlice(slice) = is_ignored(&slice, "endpoints[0].addresses[0]", "\"169.254.0.1\"") else {
        panic!()
    };
    assert_eq!(
        slice.endpoints.iter().map(|e| e.address).collect::<Vec<_>>(),
        [ip("10.0.0.1")]
    );

    // Leading zeros in a policy's ranges, IPv6 and mapped addresses included.
    let block = policy_of(
        json!({"ingress": [{"from": [{"ipBlock": {"cidr": "010.000.0.0/08", "except": ["10.01.0.0/16"]}}]}]}),
    );
    let Object::NetworkPolicy(policy) = object(&block) else {
        panic!()
    };
    let expected = IpBlock::new("10.0.0.0/8".parse().unwrap(), ["10.1.0.0/16".parse().unwrap()]).unwrap();
    assert_eq!(policy.ingress.as_ref().unwrap()[0].peers, [Peer::Block(expected)]);
}

#[test]
fn labels_that_cannot_be_read_are_kept_as_unreadable() {
    for (kind, labels) in [
        ("Pod", json!({"a": "b c"})),
        ("Namespace", json!({"a": 1})),
        ("Node", json!(["a"])),
    ] {
        let value = json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": "x", "labels": labels}});
        let Ok(Decoded::Partial(object, ignored)) = decode(&value) else {
            panic!("{value}")
        };
        assert!(ignored.field.starts_with("metadata.labels"), "{ignored}");
        let labels = match object {
            Object::Pod(pod) => pod.labels.clone(),
            Object::Namespace(namespace) => namespace.labels.clone(),
            Object::Node(node) => node.labels.clone(),
            other => panic!("{other:?}"),
        };
        assert!(labels.is_unreadable(), "{kind}");
    }
}

#[test]
fn a_policy_whose_header_cannot_be_read_closes_what_it_may_select() {
    let good = policy_of(json!({"podSelector": {"matchLabels": {"app": "db"}}}));
    let with = |path: &str, value: Value| {
        let mut object = good.clone();
        *object.pointer_mut(path).unwrap() = value;
        closes_of(&object)
    };
    let here = Some("shop app=db".to_owned());
    // Without a namespace that can be read it may be any: the Baseline tier isolates as a NetworkPolicy does.
    let everywhere = Some("Baseline app=db".to_owned());
    for name in [json!("A_b"), json!(null), json!(7)] {
        assert_eq!(with("/metadata/name", name), here);
    }
    for namespace in [json!("Shop"), json!("a.b"), json!(7)] {
        assert_eq!(with("/metadata/namespace", namespace), everywhere);
    }
    assert_eq!(with("/metadata", json!(null)), everywhere);
    for version in [
        json!(null),
        json!(1),
        json!("v1"),
        json!("networking/v1"),
        json!("extensions/v1beta1"),
        json!("networking.k8s.oi/v1"),
        json!("policy.networking.k8s.io/v1alpha2"),
    ] {
        assert_eq!(with("/apiVersion", version.clone()), here, "{version}");
    }
    for kind in [
        "networkPolicy",
        "networkpolicy",
        "NetworkPolicies",
        "NetworkPolcy",
        "Network-Policy",
        "NetPol",
    ] {
        assert_eq!(with("/kind", json!(kind)), here, "{kind}");
    }
    for kind in [json!(null), json!(7), json!("Policy")] {
        assert_eq!(with("/kind", kind.clone()), here, "{kind}");
    }

    let cluster = json!({"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
        "metadata": {"name": "A_b"}, "spec": {"tier": "Baseline", "priority": 7,
        "subject": {"pods": {"podSelector": {"matchLabels": {"app": "db"}}}}, "ingress": [{}]}});
    assert_eq!(closes_of(&cluster), everywhere);
    let mut misspelt = cluster;
    misspelt["kind"] = json!("clusterNetworkPolicy");
    assert_eq!(closes_of(&misspelt), everywhere);

    // Certainly something else.
    for (version, kind) in [
        ("projectcalico.org/v3", "NetworkPolicy"),
        ("cilium.io/v2", "CiliumNetworkPolicy"),
        ("networking.k8s.io/v1", "Ingress"),
        ("policy.networking.k8s.io/v1alpha1", "AdminNetworkPolicy"),
        ("policy/v1", "PodDisruptionBudget"),
        ("apps/v1", "Deployment"),
    ] {
        let mut other = good.clone();
        (other["apiVersion"], other["kind"]) = (json!(version), json!(kind));
        assert!(matches!(decode(&other), Ok(Decoded::Other(_))), "{version} {kind}");
    }
    assert_eq!(
        closes_of(&json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "A_b"}})),
        None
    );
    assert_eq!(closes_of(&json!({"resources": ["a.yaml"]})), None);
    assert_eq!(
        unlist(json!({"apiVersion": "v1", "kind": "NetworkPolicyList", "items": null})),
        [] as [Value; 0]
    );
}
