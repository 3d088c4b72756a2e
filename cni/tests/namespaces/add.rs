//! ADD, and the cleanup after a failed one.

use heddle_proto::{CniError, ErrorCode, PreparedRoute};
use heddle_wire::MacAddr;
use serde_json::{Value, json};

use crate::scene::{HOST, Scene, error, ip, links, prepared, sysctl};

#[test]
fn the_pod_gets_what_the_agent_handed_out() {
    let scene = Scene::new();
    let result = scene.add();

    let eth0 = &ip(&scene.pod, "-d link show eth0")[0];
    assert_eq!(eth0["address"], "02:00:00:00:00:07");
    assert_eq!(eth0["mtu"], 61_000);
    assert_eq!((&eth0["num_tx_queues"], &eth0["num_rx_queues"]), (&json!(1), &json!(1)));
    assert_eq!(eth0["operstate"], "UP");
    assert!(
        ip(&scene.pod, "link show lo")[0]["flags"]
            .as_array()
            .unwrap()
            .contains(&json!("UP"))
    );

    let mut addresses: Vec<(String, Value)> = ip(&scene.pod, "addr show eth0")[0]["addr_info"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|a| a["scope"] == "global")
        .map(|a| {
            (
                format!("{}/{}", a["local"].as_str().unwrap(), a["prefixlen"]),
                a["nodad"].clone(),
            )
        })
        .collect();
    addresses.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(
        addresses,
        [
            ("10.1.0.7/32".to_owned(), Value::Null),
            ("fd00:1::7/128".to_owned(), json!(true))
        ]
    );
    // The link-local address is tentative until a thread of the kernel has run, although `accept_dad` is 0.
    assert_eq!(
        ip(&scene.pod, "addr show tentative scope global"),
        json!([]),
        "no address waits for duplicate address detection"
    );

    let neighbours = ip(&scene.pod, "neigh show dev eth0 nud permanent");
    let mut known: Vec<_> = neighbours
        .as_array()
        .unwrap()
        .iter()
        .map(|n| (n["dst"].clone(), n["lladdr"].clone()))
        .collect();
    known.sort_by_key(|n| n.0.to_string());
    let mac = json!(MacAddr::GATEWAY.to_string());
    assert_eq!(known, [(json!("169.254.1.1"), mac.clone()), (json!("fe80::1"), mac)]);

    // The kernel would use the route's own MTU and source.
    let way = |to: &str| ip(&scene.pod, &format!("route get {to}"))[0].clone();
    let (near, far) = (way("10.1.3.4"), way("192.0.2.1"));
    assert_eq!(
        (&near["gateway"], &near["prefsrc"], &near["metrics"]),
        (&json!("169.254.1.1"), &json!("10.1.0.7"), &Value::Null)
    );
    assert_eq!(
        (&far["gateway"], &far["prefsrc"], &far["metrics"][0]["mtu"]),
        (&json!("169.254.1.1"), &json!("10.1.0.7"), &json!(1500))
    );
    let (near, far) = (way("fd00:1::9"), way("2001:db8::1"));
    assert_eq!(
        (&near["gateway"], &near["prefsrc"]),
        (&json!("fe80::1"), &json!("fd00:1::7"))
    );
    assert_eq!(
        (&far["gateway"], &far["prefsrc"], &far["metrics"][0]["mtu"]),
        (&json!("fe80::1"), &json!("fd00:1::7"), &json!(1450))
    );
    for (key, value) in [
        ("accept_ra", "0"),
        ("autoconf", "0"),
        ("accept_dad", "0"),
        ("disable_ipv6", "0"),
    ] {
        assert_eq!(sysctl(&scene.pod, "eth0", key), value, "{key}");
    }

    let host = &ip(&scene.node, &format!("-d -s link show {HOST}"))[0];
    assert_eq!(
        (&host["mtu"], &host["operstate"], &host["num_rx_queues"]),
        (&json!(61_000), &json!("UP"), &json!(1))
    );
    assert_eq!(ip(&scene.node, &format!("addr show {HOST}"))[0]["addr_info"], json!([]));
    assert_eq!(
        (
            sysctl(&scene.node, HOST, "accept_ra"),
            sysctl(&scene.node, HOST, "disable_ipv6")
        ),
        ("0".into(), "1".into())
    );

    assert_eq!(scene.agent().calls(), ["POST ", "POST /c1/eth0/ready"]);
    scene.agent().with(|script| {
        let prepare = script.prepare_request.as_ref().unwrap();
        assert_eq!(
            (
                prepare.pod.as_ref().unwrap().to_string(),
                prepare.mtu,
                prepare.netns.as_str()
            ),
            ("demo/client".into(), None, &*scene.netns())
        );
        let ready = script.ready_request.unwrap();
        assert_eq!(
            (
                ready.attachment,
                json!(ready.host_ifindex),
                json!(ready.host_mac.to_string())
            ),
            (7, host["ifindex"].clone(), host["address"].clone())
        );
        assert_eq!(ready.pod_mac, MacAddr([2, 0, 0, 0, 0, 7]));
    });
    assert_eq!(result["interfaces"][0]["mac"], host["address"]);
    assert_eq!(result["interfaces"][1]["sandbox"], json!(scene.netns()));
    assert_eq!(result["ips"].as_array().unwrap().len(), 2);
}

#[test]
fn packets_leave_the_pod_at_once_and_the_node_stays_silent() {
    let scene = Scene::new();
    scene.add();
    // Nothing answers on the node's end. Both packets must leave for the gateway's MAC address without a neighbor
    // request before them.
    for to in ["10.1.0.9", "fd00:1::9"] {
        let _ = scene.pod.run("ping", &["-c1", "-W1", to]);
    }
    let stats = &ip(&scene.node, &format!("-s link show {HOST}"))[0]["stats64"];
    assert!(stats["rx"]["packets"].as_u64().unwrap() >= 2, "{stats}");
    assert_eq!(
        stats["tx"]["packets"], 0,
        "the node's kernel spoke on the pod's port: {stats}"
    );
    assert_eq!(ip(&scene.pod, "neigh show nud failed"), json!([]));
}

#[test]
fn without_the_agents_program_the_node_neither_answers_nor_forwards() {
    let scene = Scene::new();
    scene.node.sysctl("net/ipv4/ip_forward", "1").unwrap();
    scene.node.sysctl("net/ipv6/conf/all/forwarding", "1").unwrap();
    for (name, address) in [("up0", "192.0.2.1/24"), ("up0", "2001:db8::1/64")] {
        let _ = scene
            .node
            .run("ip", &["link", "add", name, "type", "veth", "peer", "name", "far"]);
        scene.node.run("ip", &["link", "set", name, "up"]).unwrap();
        scene.node.run("ip", &["addr", "add", address, "dev", name]).unwrap();
    }
    scene.node.run("ip", &["link", "set", "far", "up"]).unwrap();
    scene.add();

    // The pod asks for the node's address as if it were on the link, and sends to the node's end instead of the gateway.
    let mac = ip(&scene.node, &format!("link show {HOST}"))[0]["address"]
        .as_str()
        .unwrap()
        .to_owned();
    scene
        .pod
        .run("ip", &["route", "add", "192.0.2.1", "dev", "eth0", "scope", "link"])
        .unwrap();
    for to in ["192.0.2.9", "2001:db8::9"] {
        scene
            .pod
            .run(
                "ip",
                &[
                    "neigh",
                    "replace",
                    to,
                    "dev",
                    "eth0",
                    "lladdr",
                    &mac,
                    "nud",
                    "permanent",
                ],
            )
            .unwrap();
        scene
            .pod
            .run("ip", &["route", "add", to, "dev", "eth0", "scope", "link"])
            .unwrap();
    }
    for to in ["192.0.2.1", "192.0.2.9", "2001:db8::9"] {
        assert!(scene.pod.run("ping", &["-c1", "-W1", to]).is_err(), "{to} answered");
    }
    let sent = &ip(&scene.node, &format!("-s link show {HOST}"))[0]["stats64"]["tx"]["packets"];
    assert_eq!(sent, 0);
    let counters = scene
        .node
        .run("nstat", &["-asz", "IpForwDatagrams", "Ip6OutForwDatagrams"])
        .unwrap();
    let forwarded: Vec<&str> = counters
        .lines()
        .filter(|l| l.starts_with("Ip"))
        .filter_map(|l| l.split_whitespace().nth(1))
        .collect();
    assert_eq!(forwarded, ["0", "0"], "{counters}");
}

#[test]
fn tx_off_switches_checksum_offload_of_the_pod_off() {
    let mut scene = Scene::new();
    scene.conf["txOff"] = json!(true);
    scene.conf["mtu"] = json!(9000);
    scene.add();
    let features = scene.pod.run("ethtool", &["-k", "eth0"]).unwrap();
    assert!(features.contains("tx-checksumming: off"), "{features}");
    assert!(features.contains("tx-checksum-sctp: off"), "{features}");
    scene
        .agent()
        .with(|script| assert_eq!(script.prepare_request.as_ref().unwrap().mtu, Some(9000)));
}

#[test]
fn without_tx_off_the_offload_stays() {
    let scene = Scene::new();
    scene.add();
    assert!(
        scene
            .pod
            .run("ethtool", &["-k", "eth0"])
            .unwrap()
            .contains("tx-checksumming: on")
    );
}

#[test]
fn a_pod_that_switched_ipv6_off_by_default_gets_its_address_all_the_same() {
    let scene = Scene::new();
    scene.pod.sysctl("net/ipv6/conf/default/disable_ipv6", "1").unwrap();
    scene.add();
    assert!(
        scene
            .pod
            .run("ip", &["-6", "addr", "show", "eth0"])
            .unwrap()
            .contains("fd00:1::7/128")
    );
}

#[test]
fn one_family_alone() {
    for v4 in [true, false] {
        let mut one = prepared();
        one.addresses.retain(|a| a.address.is_ipv4() == v4);
        one.routes.retain(|r| r.via.is_ipv4() == v4);
        let scene = Scene::with(&one);
        let result = scene.add();
        assert_eq!(result["ips"].as_array().unwrap().len(), 1);
        assert!(scene.call_with("CHECK", &scene.netns(), &scene.conf_after(&result)).ok);
        let other = if v4 { "-6" } else { "-4" };
        assert_eq!(scene.pod.run("ip", &[other, "route", "show", "default"]).unwrap(), "");
        assert!(scene.call("DEL").ok);
    }
}

#[test]
fn an_existing_interface_is_refused_before_the_agent_is_asked() {
    let scene = Scene::new();
    scene.pod.run("ip", &["link", "add", "eth0", "type", "bridge"]).unwrap();
    let (code, msg, _) = error(&scene.call("ADD"));
    assert!(code == 4 && msg.contains("already has an interface eth0"), "{msg}");
    assert_eq!(scene.agent().calls(), Vec::<String>::new());
}

#[test]
fn a_second_add_leaves_the_first_alone() {
    let scene = Scene::new();
    scene.add();
    assert_eq!(error(&scene.call("ADD")).0, 4);
    assert!(links(&scene.pod).contains(&"eth0".to_owned()));
    assert_eq!(scene.agent().calls(), ["POST ", "POST /c1/eth0/ready"]);
}

#[test]
fn namespaces_that_are_none_are_refused() {
    let scene = Scene::new();
    let file = scene.dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let own = scene.node.path().to_str().unwrap().to_owned();
    for (netns, code, part) in [
        ("/run/netns/hdt-none", 3, "there is no network namespace"),
        (file.to_str().unwrap(), 3, "there is no network namespace"),
        ("/run/netns/hdt-none/x", 3, "there is no network namespace"),
        ("/proc/self/ns/uts", 4, "cannot be entered"),
        ("/dev/null", 4, "it is no network namespace"),
        (&own, 4, "the node's own"),
        ("relative", 4, "must be an absolute path"),
        ("", 4, "CNI_NETNS is missing"),
    ] {
        let (found, msg, _) = error(&scene.call_with("ADD", netns, &scene.conf));
        assert!(
            found == code && msg.contains(part) && msg.contains("CNI_NETNS"),
            "{netns}: {found} {msg}"
        );
    }
    assert_eq!(scene.agent().calls(), Vec::<String>::new());
}

#[test]
fn an_agent_that_is_not_there_means_try_again_later() {
    let mut scene = Scene::new();
    scene.agent = None;
    let (code, msg, _) = error(&scene.call("ADD"));
    assert!(
        code == 11 && msg.contains("no heddle agent answers at") && msg.contains("cni.sock"),
        "{msg}"
    );
    assert_eq!(
        (links(&scene.pod), links(&scene.node)),
        (vec!["lo".to_owned()], vec!["lo".to_owned()])
    );
}

#[test]
fn the_agents_refusal_is_the_runtimes_error() {
    let scene = Scene::new();
    let refusal = CniError::new(ErrorCode::EXHAUSTED, "no address is left").with_details("10.1.0.0/24 is used up");
    scene.agent().with(|script| script.prepare = Err(refusal));
    assert_eq!(
        error(&scene.call("ADD")),
        (102, "no address is left".into(), "10.1.0.0/24 is used up".into())
    );
    assert_eq!(scene.agent().calls(), ["POST "]);
    assert_eq!(links(&scene.node), ["lo"]);
}

#[test]
fn a_failed_ready_is_taken_back() {
    let scene = Scene::new();
    let waiting = CniError::new(ErrorCode::TRY_AGAIN_LATER, "pod demo/client is not known yet");
    scene.agent().with(|script| script.ready = Err(waiting));
    assert_eq!(
        error(&scene.call("ADD")),
        (11, "pod demo/client is not known yet".into(), String::new())
    );
    assert_eq!(
        (links(&scene.pod), links(&scene.node)),
        (vec!["lo".to_owned()], vec!["lo".to_owned()])
    );
    assert_eq!(
        scene.agent().calls(),
        ["POST ", "POST /c1/eth0/ready", "DELETE /c1/eth0"]
    );

    scene.agent().with(|script| script.ready = Ok(()));
    scene.add();
}

#[test]
fn what_the_kernel_refuses_is_taken_back() {
    let mut twice = prepared();
    twice.routes.push(twice.routes[0]);
    let scene = Scene::with(&twice);
    let (code, msg, details) = error(&scene.call("ADD"));
    assert!(
        code == 100 && msg.contains("adding the route to 10.1.0.0/16 via 169.254.1.1 on eth0"),
        "{msg}"
    );
    assert!(details.contains("File exists"), "{details}");
    assert_eq!(
        (links(&scene.pod), links(&scene.node)),
        (vec!["lo".to_owned()], vec!["lo".to_owned()])
    );
    assert_eq!(scene.agent().calls(), ["POST ", "DELETE /c1/eth0"]);
}

#[test]
fn an_answer_of_the_agent_that_cannot_be_is_refused_and_taken_back() {
    let good = prepared();
    let none = |mut p: heddle_proto::Prepared| {
        p.addresses.clear();
        p
    };
    let family = |mut p: heddle_proto::Prepared| {
        p.addresses[0].gateway = "fe80::1".parse().unwrap();
        p
    };
    let foreign = |mut p: heddle_proto::Prepared| {
        p.routes[0] = PreparedRoute {
            src: Some("10.9.9.9".parse().unwrap()),
            ..p.routes[0]
        };
        p
    };
    let group = |mut p: heddle_proto::Prepared| {
        p.mac = MacAddr::BROADCAST;
        p
    };
    let text = |p: &heddle_proto::Prepared| serde_json::to_string(p).unwrap();
    for (answer, part) in [
        (text(&none(good.clone())), "no address"),
        (text(&family(good.clone())), "gateway fe80::1 of the other family"),
        (text(&foreign(good.clone())), "source 10.9.9.9"),
        (text(&group(good)), "ff:ff:ff:ff:ff:ff"),
        ("{}".to_owned(), "could not be understood"),
        ("<html>".to_owned(), "could not be understood"),
    ] {
        let scene = Scene::new();
        scene.agent().with(|script| script.prepare = Ok(answer));
        let (code, msg, _) = error(&scene.call("ADD"));
        assert!(code == 101 && msg.contains(part), "{code} {msg}");
        assert_eq!(scene.agent().calls(), ["POST ", "DELETE /c1/eth0"]);
        assert_eq!(links(&scene.node), ["lo"]);
    }
}

#[test]
fn a_leftover_of_the_name_is_replaced_but_nothing_else() {
    let scene = Scene::new();
    scene
        .node
        .run("ip", &["link", "add", HOST, "type", "veth", "peer", "name", "old"])
        .unwrap();
    scene.add();
    assert!(!links(&scene.node).contains(&"old".to_owned()));

    let scene = Scene::new();
    scene.node.run("ip", &["link", "add", HOST, "type", "bridge"]).unwrap();
    let (code, msg, _) = error(&scene.call("ADD"));
    assert!(code == 100 && msg.contains("hdl7 that is no veth"), "{msg}");
    assert!(links(&scene.node).contains(&HOST.to_owned()));
    assert_eq!(scene.agent().calls(), ["POST ", "DELETE /c1/eth0"]);
}

#[test]
fn a_missing_privilege_is_named() {
    let scene = Scene::new();
    for (without, part) in [("-sys_admin", "CAP_SYS_ADMIN"), ("-net_admin", "CAP_NET_ADMIN")] {
        let out = scene.call_under(
            &["setpriv", "--bounding-set", without],
            "ADD",
            &scene.netns(),
            &scene.conf,
        );
        let (code, msg, _) = error(&out);
        assert!(code == 100 && msg.contains(part) && !msg.contains('\n'), "{code} {msg}");
        assert_eq!(links(&scene.node), ["lo"]);
    }
}

#[test]
fn version_and_commands_that_are_not_served() {
    let scene = Scene::new();
    let out = scene.call("VERSION");
    assert!(
        out.ok
            && out
                .stdout
                .contains(r#""supportedVersions":["0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]"#),
        "{out:?}"
    );
    for command in ["GC", "UPDATE"] {
        assert_eq!(error(&scene.call(command)).0, 4);
    }
    let mut conf = scene.conf.clone();
    conf["cniVersion"] = json!("9.9.9");
    assert_eq!(error(&scene.call_with("ADD", &scene.netns(), &conf)).0, 1);
}
