//! DEL: complete, repeatable, and careful with what is not heddle's.

use std::net::{IpAddr, Ipv4Addr};

use heddle_proto::{AttachmentState, CniError, ErrorCode, PreparedRoute};
use ipnet::IpNet;
use serde_json::json;

use crate::scene::{HOST, Scene, error, links, prepared};

fn gone(scene: &Scene) {
    assert_eq!(
        (links(&scene.pod), links(&scene.node)),
        (vec!["lo".to_owned()], vec!["lo".to_owned()])
    );
    scene.agent().with(|script| assert_eq!(script.attachment, None));
}

#[test]
fn del_removes_all_and_may_be_repeated() {
    let scene = Scene::new();
    let result = scene.add();
    scene.agent().calls();
    let out = scene.call_with("DEL", &scene.netns(), &scene.conf_after(&result));
    assert!(out.ok && out.stdout.is_empty(), "{out:?}");
    gone(&scene);
    assert_eq!(scene.agent().calls(), ["GET /c1/eth0", "DELETE /c1/eth0"]);
    assert!(scene.call("DEL").ok);
    scene.add();
}

#[test]
fn del_needs_no_namespace() {
    for netns in ["", "/run/netns/hdt-none"] {
        let scene = Scene::new();
        scene.add();
        assert!(scene.call_with("DEL", netns, &scene.conf).ok);
        gone(&scene);
    }
}

#[test]
fn del_after_the_namespace_and_its_interfaces_went() {
    let mut scene = Scene::new();
    scene.add();
    let path = scene.netns();
    scene.pod = heddle_lab::NetNs::create("other").unwrap();
    assert!(scene.call_with("DEL", &path, &scene.conf).ok);
    gone(&scene);
}

#[test]
fn del_of_what_the_agent_does_not_know_still_removes_the_interface() {
    let scene = Scene::new();
    scene.add();
    scene.agent().with(|script| script.attachment = None);
    assert!(scene.call("DEL").ok);
    gone(&scene);
}

#[test]
fn without_an_agent_the_interface_goes_and_the_runtime_is_to_try_again() {
    let mut scene = Scene::new();
    scene.add();
    scene.agent = None;
    let (code, msg, _) = error(&scene.call("DEL"));
    assert!(code == 11 && msg.contains("no heddle agent"), "{code} {msg}");
    assert_eq!(
        (links(&scene.pod), links(&scene.node)),
        (vec!["lo".to_owned()], vec!["lo".to_owned()])
    );
}

#[test]
fn del_leaves_alone_what_heddle_did_not_make() {
    // In the pod: an interface of another kind.
    let scene = Scene::new();
    scene.pod.run("ip", &["link", "add", "eth0", "type", "bridge"]).unwrap();
    assert!(scene.call("DEL").ok);
    assert!(links(&scene.pod).contains(&"eth0".to_owned()));

    // In the node's own namespace: a veth of the pod's name.
    let scene = Scene::new();
    scene
        .node
        .run("ip", &["link", "add", "eth0", "type", "veth", "peer", "name", "up0"])
        .unwrap();
    assert!(
        scene
            .call_with("DEL", scene.node.path().to_str().unwrap(), &scene.conf)
            .ok
    );
    assert!(links(&scene.node).contains(&"eth0".to_owned()));

    // In the node: another interface that has the name of the pod's end meanwhile.
    let scene = Scene::new();
    scene.add();
    scene.node.run("ip", &["link", "del", HOST]).unwrap();
    scene
        .node
        .run("ip", &["link", "add", HOST, "type", "veth", "peer", "name", "x"])
        .unwrap();
    assert!(scene.call("DEL").ok);
    assert!(links(&scene.node).contains(&HOST.to_owned()));
}

#[test]
fn an_agent_that_fails_keeps_the_runtime_trying() {
    let scene = Scene::new();
    scene.add();
    let path = scene.dir.path().join(heddle_proto::CNI_SOCKET);
    let aside = scene.dir.path().join("aside.sock");
    std::fs::rename(&path, &aside).unwrap();
    std::fs::write(&path, "").unwrap();
    assert_eq!(error(&scene.call("DEL")).0, 11);
    std::fs::remove_file(&path).unwrap();
    std::fs::rename(&aside, &path).unwrap();
    assert!(scene.call("DEL").ok);
    gone(&scene);
}

#[test]
fn a_failed_add_may_be_followed_by_del() {
    let scene = Scene::new();
    scene
        .agent()
        .with(|script| script.prepare = Err(CniError::new(ErrorCode::EXHAUSTED, "no address is left")));
    error(&scene.call("ADD"));
    assert!(scene.call("DEL").ok);
    gone(&scene);
}

#[test]
fn del_takes_a_configuration_with_a_result_of_another_plugin() {
    let scene = Scene::new();
    let mut result = scene.add();
    result["interfaces"]
        .as_array_mut()
        .unwrap()
        .push(json!({"name": "ifb0"}));
    result["dns"] = json!({});
    assert!(scene.call_with("DEL", &scene.netns(), &scene.conf_after(&result)).ok);
    gone(&scene);
}

#[test]
fn del_does_not_depend_on_the_result_that_it_gets() {
    let mut scene = Scene::new();
    scene.add();
    scene.conf["prevResult"] = json!({"interfaces": 3, "ips": "none"});
    assert!(scene.call("DEL").ok);
    gone(&scene);
}

#[test]
fn a_result_with_a_route_for_each_of_many_services_comes_back() {
    let mut many = prepared();
    let via = many.routes[0].via;
    many.routes.extend((0..20_000u32).map(|i| PreparedRoute {
        dst: IpNet::from(IpAddr::from(Ipv4Addr::from(0x0a60_0000 + i))),
        via,
        mtu: Some(61_000),
        src: None,
    }));
    let scene = Scene::with(&many);
    let result = scene.add();
    assert_eq!(result["routes"].as_array().unwrap().len(), 20_004);
    for command in ["CHECK", "DEL"] {
        let out = scene.call_with(command, &scene.netns(), &scene.conf_after(&result));
        assert!(out.ok, "{command}: {}", out.stdout);
    }
    gone(&scene);
}

#[test]
fn del_after_an_add_that_was_killed_before_ready() {
    let scene = Scene::new();
    scene.add();
    scene.agent().with(|script| {
        let known = script.attachment.as_mut().unwrap();
        known.host_ifindex = None;
        known.state = AttachmentState::Prepared;
    });
    assert!(scene.call_with("DEL", "", &scene.conf).ok);
    gone(&scene);
}
