//! Whatever the JSON, nothing panics.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use heddle_model::{Kept, KeptVersion};
use proptest::prelude::*;
use serde_json::json;

use super::refusals::{policy_of, service_of};
use super::*;
use crate::decode::parts::{KindParts, NodeParts, OtherParts, PodParts, SliceParts};
use crate::kept;

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
        json!({"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy", "metadata": {"name": "c"},
            "spec": {"tier": "Admin", "priority": 7, "subject": {"namespaces": select},
                "ingress": [{"name": "in", "action": "Pass", "from": [{"pods": {"namespaceSelector": {}, "podSelector": select}}]}],
                "egress": [{"action": "Deny", "to": [{"nodes": select}, {"networks": ["10.0.0.0/8", "fd00::/8"]}],
                    "protocols": [{"tcp": {"destinationPort": {"range": {"start": 1, "end": 9}}}}, {"sctp": {}}]}]}}),
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
fn the_full_objects_are_good_and_can_be_kept() {
    let objects: Vec<Object> = full().iter().map(object).collect();
    let kinds: BTreeSet<Kind> = objects.iter().map(Object::kind).collect();
    assert_eq!(kinds, Kind::ALL.into());
    let text = assert_kept(objects);
    let known = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/kept/good-every-kind.jsonl");
    assert!(
        text == fs::read(known).unwrap(),
        "the form of kept objects has changed: raise `kept::LAYOUT`, and replace good-every-kind.jsonl by\n{}",
        String::from_utf8(text).unwrap()
    );
}

/// Asserts that objects are the same after they were kept in a file, and returns its text.
fn assert_kept(objects: impl IntoIterator<Item = Object>) -> Vec<u8> {
    let version = |object: Object| {
        let origin = "a.yaml".into();
        (object.object_ref(), KeptVersion { origin, object })
    };
    let kept = Kept {
        versions: objects.into_iter().map(version).collect(),
        files: ["a.yaml".into()].into(),
    };
    let (text, left_out) = kept::encode(&kept, usize::MAX);
    let parsed = kept::parse(&text).unwrap();
    assert_eq!((parsed.kept, parsed.first_fault, left_out), (kept, None, 0));
    text
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Replaces any field by any value: the result is an object that can be kept or a refusal that can be printed, and no panic.
    #[test]
    fn decoding_never_panics(
        which in any::<prop::sample::Index>(),
        edits in proptest::collection::vec((any::<prop::sample::Index>(), any_json()), 1..3),
    ) {
        let mut value = which.get(&full()).clone();
        for (at, new) in edits {
            let mut at = at.index(places(&value));
            replace(&mut value, &mut at, &new);
        }
        for value in unlist(value) {
            if let Ok(Decoded::Object(object) | Decoded::Partial(object, _)) = decode(&value) {
                assert_kept([object]);
            }
            if let Ok(Decoded::Partial(_, ignored)) = decode(&value) {
                prop_assert!(!ignored.into_note(&"x.yaml".into(), None).to_string().is_empty());
            } else if let Err(refusal) = decode(&value) {
                prop_assert!(!refusal.message.is_empty());
                prop_assert!(refusal.value.chars().count() <= 83);
                // The path leads to the value that is shown.
                let closes = refusal.object.as_ref().is_some_and(|object| {
                    matches!(object.kind, Kind::NetworkPolicy | Kind::ClusterNetworkPolicy)
                });
                // A document without a readable header closes if it may be a policy.
                prop_assert!(refusal.object.is_none() || refusal.closes.is_some() == closes);
                prop_assert!(!refusal.into_rejection(&"x.yaml".into(), 1, None).to_string().is_empty());
            }
        }
    }
}

/// Reads an object's text as it is read from an API server.
fn parts(value: &Value, kind: Kind) -> Value {
    use serde::de::DeserializeSeed as _;
    let parts = match kind {
        Kind::Pod => PodParts::PARTS,
        Kind::Node => NodeParts::PARTS,
        Kind::EndpointSlice => SliceParts::PARTS,
        _ => OtherParts::PARTS,
    };
    let text = value.to_string();
    parts
        .deserialize(&mut serde_json::Deserializer::from_str(&text))
        .unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// The parts that are not read from an API server's text make no difference, also where they are malformed.
    #[test]
    fn the_parts_that_are_read_are_enough(
        which in 0..full().len(),
        edits in proptest::collection::vec((any::<prop::sample::Index>(), any_json()), 0..3),
    ) {
        let mut value = full().swap_remove(which);
        let (kind, header) = (object(&value).kind(), [value["apiVersion"].clone(), value["kind"].clone()]);
        for field in ["managedFields", "ownerReferences"] {
            value["metadata"][field] = json!([{"a": 1}]);
        }
        for (at, new) in edits {
            let mut at = at.index(places(&value));
            replace(&mut value, &mut at, &new);
        }
        // The server sends the kind that it is asked for.
        prop_assume!(value.is_object() && [value["apiVersion"].clone(), value["kind"].clone()] == header);
        match (decode(&value), decode(&parts(&value, kind))) {
            // A refused value is shown without the fields that were not read.
            (Err(whole), Err(part)) => prop_assert_eq!(
                (whole.object, whole.field, whole.message, whole.closes),
                (part.object, part.field, part.message, part.closes)
            ),
            (Ok(Decoded::Partial(whole, why)), Ok(Decoded::Partial(part, why_part))) => {
                prop_assert_eq!(whole, part);
                prop_assert_eq!((why.field, why.message), (why_part.field, why_part.message));
            }
            (whole, part) => prop_assert_eq!(whole, part),
        }
    }
}

#[test]
fn most_of_a_pod_is_not_read() {
    let value = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "a", "managedFields": [{"fieldsV1": {}}], "annotations": {"x": "y", "kubernetes.io/config.mirror": "m"}},
        "spec": {"nodeName": "n", "volumes": [{"name": "v"}], "containers": [{"name": "c", "env": [{}], "ports": [{"containerPort": 1}]}]},
        "status": {"phase": "Running", "containerStatuses": [{}], "conditions": [{"type": "Ready", "status": "True", "message": "m"}]}});
    let read = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "a", "annotations": {"kubernetes.io/config.mirror": "m"}},
        "spec": {"nodeName": "n", "containers": [{"ports": [{"containerPort": 1}]}]},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
    assert_eq!(parts(&value, Kind::Pod), read);
    let mut policy = policy_of(json!({"podSelector": {}, "ingres": []}));
    policy["metadata"]["managedFields"] = json!([]);
    assert!(
        decode(&parts(&policy, Kind::NetworkPolicy)).is_err(),
        "an unknown field of a policy is read"
    );
}
