//! CHECK: passes after ADD, and finds each thing that was changed since.

use heddle_proto::AttachmentState;
use serde_json::json;

use crate::scene::{HOST, Scene, error};

#[test]
fn check_passes_after_add_in_every_version() {
    for version in ["0.4.0", "1.0.0", "1.1.0"] {
        let mut scene = Scene::new();
        scene.conf["cniVersion"] = json!(version);
        let result = scene.add();
        assert_eq!(result["cniVersion"], version);
        let out = scene.call_with("CHECK", &scene.netns(), &scene.conf_after(&result));
        assert!(out.ok && out.stdout.is_empty(), "{version}: {out:?}");
    }
}

#[test]
fn check_finds_what_was_changed_in_the_pod() {
    for (command, part) in [
        ("ip link set eth0 down", "eth0 in"),
        (
            "ip link set eth0 address 02:00:00:00:00:99",
            "has the Ethernet address 02:00:00:00:00:99",
        ),
        ("ip link set eth0 mtu 1400", "has MTU 1400, ADD gave 61000"),
        (
            "ip addr del 10.1.0.7/32 dev eth0",
            "does not have the address 10.1.0.7/32",
        ),
        (
            "ip -6 addr del fd00:1::7/128 dev eth0",
            "does not have the address fd00:1::7/128",
        ),
        ("ip route del default", "the route to 0.0.0.0/0 via 169.254.1.1"),
        ("ip -6 route del fd00:1::/64", "the route to fd00:1::/64 via fe80::1"),
        (
            "ip route change default via 169.254.1.1 dev eth0 onlink mtu 1400",
            "the route to 0.0.0.0/0 via 169.254.1.1",
        ),
        ("ip neigh del 169.254.1.1 dev eth0", "the gateway 169.254.1.1"),
        (
            "ip neigh replace fe80::1 dev eth0 lladdr 02:00:00:00:00:01 nud permanent",
            "the gateway fe80::1",
        ),
        ("ip link del eth0", "has no interface eth0"),
    ] {
        let scene = Scene::new();
        let result = scene.add();
        let words: Vec<&str> = command.split(' ').collect();
        scene.pod.run(words[0], &words[1..]).unwrap();
        let (code, msg, _) = error(&scene.call_with("CHECK", &scene.netns(), &scene.conf_after(&result)));
        assert!(code == 103 && msg.contains(part), "{command}: {code} {msg}");
    }
}

#[test]
fn check_asks_whether_the_port_forwards() {
    let scene = Scene::new();
    let result = scene.add();
    let check = || scene.call_with("CHECK", &scene.netns(), &scene.conf_after(&result));

    scene.agent().with(|script| {
        let known = script.attachment.as_mut().unwrap();
        known.state = AttachmentState::Waiting;
        known.why = "the pod was deleted".to_owned();
    });
    let (code, msg, details) = error(&check());
    assert!(
        code == 103 && msg.contains("does not forward: it is waiting") && details == "the pod was deleted",
        "{msg} {details}"
    );

    scene.agent().with(|script| {
        script.attachment.as_mut().unwrap().state = AttachmentState::Forwarding;
    });
    assert!(check().ok);
    scene.node.run("ip", &["link", "set", HOST, "down"]).unwrap();
    assert!(error(&check()).1.contains("the node's interface hdl7 is switched off"));
    scene
        .node
        .run("ip", &["link", "set", HOST, "name", "elsewhere"])
        .unwrap();
    assert!(error(&check()).1.contains("the node's interface hdl7 is gone"));

    scene.agent().with(|script| script.attachment = None);
    assert_eq!(error(&check()).0, 3);
}

#[test]
fn check_needs_what_add_gave() {
    let mut scene = Scene::new();
    let result = scene.add();
    let (code, msg, _) = error(&scene.call("CHECK"));
    assert!(code == 7 && msg.contains("prevResult is missing"), "{msg}");

    scene.conf["prevResult"] = json!({"interfaces": 3});
    let (code, msg, _) = error(&scene.call("CHECK"));
    assert!(code == 6 && msg.contains("prevResult"), "{msg}");

    let mut other = result.clone();
    other["interfaces"][1]["name"] = json!("net1");
    let (code, msg, _) = error(&scene.call_with("CHECK", &scene.netns(), &scene.conf_after(&other)));
    assert!(code == 7 && msg.contains("prevResult has no interface eth0"), "{msg}");

    let conf = scene.conf_after(&result);
    assert_eq!(error(&scene.call_with("CHECK", "/run/netns/hdt-none", &conf)).0, 3);
    scene.agent = None;
    assert_eq!(error(&scene.call_with("CHECK", &scene.netns(), &conf)).0, 11);
}
