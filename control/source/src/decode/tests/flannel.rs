//! Flannel's annotations of a Node.

use heddle_model::flannel::{FlannelNode, FlannelVtep};
use serde_json::json;

use super::*;

/// Decodes a Node with these annotations of Flannel's, and returns what was read and the number of notes.
fn decoded(annotations: &[(&str, &str)]) -> (Option<FlannelNode>, bool) {
    let annotations: serde_json::Map<String, Value> = annotations
        .iter()
        .map(|(name, value)| (format!("flannel.alpha.coreos.com/{name}"), json!(value)))
        .collect();
    let node = json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": "n", "annotations": annotations},
        "spec": {"podCIDR": "10.244.1.0/24"}
    });
    match decode(&node) {
        Ok(Decoded::Object(Object::Node(node))) => (node.flannel.clone(), false),
        Ok(Decoded::Partial(Object::Node(node), _)) => (node.flannel.clone(), true),
        other => panic!("{other:?}"),
    }
}

const MANAGED: [(&str, &str); 2] = [("kube-subnet-manager", "true"), ("backend-type", "vxlan")];
const DATA: &str = r#"{"VNI":1,"VtepMAC":"b6:1c:0e:4f:8a:2d"}"#;

fn vtep(address: Option<&str>) -> Option<FlannelVtep> {
    Some(FlannelVtep {
        vni: 1,
        mac: "b6:1c:0e:4f:8a:2d".parse().unwrap(),
        address: address.map(ip),
    })
}

#[test]
fn the_annotations_that_flanneld_writes() {
    let with = |more: &[(&str, &str)]| decoded(&[&MANAGED[..], more].concat());
    let node = |v4, v6| {
        let backend = "vxlan".into();
        (Some(FlannelNode { backend, v4, v6 }), false)
    };
    let both = [
        ("backend-data", DATA),
        ("backend-v6-data", DATA),
        ("public-ip", "192.0.2.1"),
        ("public-ipv6", "2001:db8::1"),
    ];
    assert_eq!(with(&both), node(vtep(Some("192.0.2.1")), vtep(Some("2001:db8::1"))));
    // One family: flanneld writes null for the other one, or nothing.
    assert_eq!(
        with(&[("backend-data", DATA), ("backend-v6-data", "null")]),
        node(vtep(None), None)
    );
    assert_eq!(with(&[]), node(None, None));
    // Other backends have data of other forms.
    let host_gw = [
        ("kube-subnet-manager", "true"),
        ("backend-type", "host-gw"),
        ("backend-data", "null"),
    ];
    let (found, has_note) = decoded(&host_gw);
    assert_eq!(
        (found.map(|node| node.backend.to_string()), has_note),
        (Some("host-gw".to_owned()), false)
    );
    // flanneld ignores Nodes that it does not manage.
    assert_eq!(decoded(&[]), (None, false));
    assert_eq!(
        decoded(&[("kube-subnet-manager", "false"), ("backend-type", "vxlan")]),
        (None, false)
    );
    assert_eq!(decoded(&both), (None, false));
}

#[test]
fn an_annotation_that_cannot_be_read_is_ignored_with_a_note() {
    for (data, address) in [
        ("{", "192.0.2.1"),
        ("7", "192.0.2.1"),
        (r#"{"VtepMAC":"b6:1c:0e:4f:8a:2d"}"#, "192.0.2.1"),
        (r#"{"VNI":-1,"VtepMAC":"b6:1c:0e:4f:8a:2d"}"#, "192.0.2.1"),
        (r#"{"VNI":1}"#, "192.0.2.1"),
        (r#"{"VNI":1,"VtepMAC":"ff:ff:ff:ff:ff:ff"}"#, "192.0.2.1"),
        (DATA, "x"),
        (DATA, "0.0.0.0"),
        (DATA, "127.0.0.1"),
        (DATA, "2001:db8::1"),
    ] {
        let more = [
            ("backend-data", data),
            ("public-ip", address),
            ("backend-v6-data", DATA),
        ];
        let (found, has_note) = decoded(&[&MANAGED[..], &more].concat());
        let found = found.unwrap();
        assert_eq!((found.v4, has_note), (None, true), "{data} {address}");
        assert_eq!(found.v6, vtep(None), "the other family counts");
    }
}
