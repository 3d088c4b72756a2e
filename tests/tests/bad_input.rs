//! Invalid objects, files and flags are refused by name, counted and shown. Everything else goes on.

mod common;

use std::net::IpAddr;

use common::{BOUND, SILENCE, binaries, wait_until};
use heddle_lab::shop::{DB_PORT, Shop, WEB_TARGET};
use heddle_lab::traffic::{self, ProbeOutcome, ServerBehavior, TcpServer};
use heddle_lab::{LabError, Node, NodePlan, manifests, run_with_input};
use serde_json::{Value, json};

fn shop() -> Result<Shop, LabError> {
    Shop::start(binaries()?, NodePlan::new("node", 1))
}

/// Returns the current rejections, each as one line.
fn rejections(node: &Node) -> Result<Vec<String>, LabError> {
    let status = node.status()?;
    let rows = status["rejections"].as_array().cloned().unwrap_or_default();
    let text = |row: &Value, key: &str| row[key].as_str().unwrap_or_default().to_owned();
    let line = |row: &Value| {
        ["origin", "object", "field", "message"]
            .map(|key| text(row, key))
            .join(" | ")
    };
    Ok(rows.iter().map(line).collect())
}

/// Waits for a rejection that contains all of `parts`.
fn wait_for_rejection(node: &Node, parts: &[&str]) -> Result<(), LabError> {
    let has = |line: &String| parts.iter().all(|part| line.contains(part));
    wait_until(&format!("a rejection with {parts:?}"), || {
        Ok(rejections(node)?.iter().any(has))
    })
}

#[test]
fn an_unreadable_file_is_named_and_opens_nothing() -> Result<(), LabError> {
    let shop = shop()?;
    let _server = TcpServer::start(
        shop.member("db")?.pod.ns(),
        DB_PORT,
        ServerBehavior::Greet("db".to_owned()),
    )?;
    let to = shop.member("db")?.at(false, DB_PORT)?;
    shop.node.write_manifest(
        "networkpolicy-shop-db-from-web.json",
        b"{ \"apiVersion\": \"networking.k8s.io/v1\", \"kind\": ",
    )?;
    wait_for_rejection(&shop.node, &["networkpolicy-shop-db-from-web.json"])?;
    // The last good version stays in force: closed to the client, open to the backends.
    assert_eq!(
        traffic::tcp_request(shop.member("client")?.pod.ns(), to, "", SILENCE)?,
        ProbeOutcome::NoAnswer
    );
    assert!(traffic::tcp_request(shop.member("web-1")?.pod.ns(), to, "", BOUND)?.is_answered());
    shop.node.apply(&manifests::allow_only(
        "shop",
        "db-from-web",
        ("app", "db"),
        ("app", "web"),
        DB_PORT,
    ))?;
    wait_until("the rejection goes when the file is valid again", || {
        Ok(rejections(&shop.node)?.is_empty())
    })
}

#[test]
fn invalid_fields_are_rejected_by_name() -> Result<(), LabError> {
    let mut shop = Shop::start(binaries()?, NodePlan::new("node", 1))?;
    let mut service = manifests::service("shop", "bad-port", &[IpAddr::from([10, 96, 0, 81])], 80, 8080);
    service["spec"]["ports"][0]["port"] = json!(65_537);
    shop.node.apply(&service)?;
    wait_for_rejection(&shop.node, &["bad-port", "port", "65537"])?;

    let mut slice = manifests::endpoint_slice("shop", "web", false, 8080, &[(IpAddr::from([10, 244, 1, 99]), "x")]);
    slice["metadata"]["name"] = json!("web-bad");
    slice["endpoints"][0]["addresses"] = json!(["10.244.1.999"]);
    shop.node.apply(&slice)?;
    wait_for_rejection(&shop.node, &["web-bad", "addresses", "10.244.1.999"])?;

    let mut node = manifests::node("other", &[IpAddr::from([192, 0, 2, 77])], &["10.244.7.0/24".to_owned()]);
    node["spec"]["podCIDRs"] = json!(["10.244.7.0/33"]);
    node["spec"]["podCIDR"] = json!("10.244.7.0/33");
    shop.node.apply(&node)?;
    wait_for_rejection(&shop.node, &["other", "podCIDR", "10.244.7.0/33"])?;

    // Another node's pod with the address of a pod of this node is no error: the attachment decides whose it is.
    let taken = shop.member("web-1")?.attached.ip(false)?;
    shop.node
        .apply(&manifests::pod("shop", "thief", &[], "elsewhere", &[taken]))?;

    assert_eq!(shop.node.status()?["rejections_total"].as_u64(), Some(3));
    let out = shop
        .node
        .ns()
        .enter(|| run_with_input(&mut shop.node.heddle("status"), ""))?;
    for name in ["bad-port", "web-bad", "other"] {
        assert!(
            out.stdout.contains(name),
            "`heddle status` shows {name}:\n{}",
            out.stdout
        );
    }
    // Existing pods and a new one still work.
    assert_eq!(traffic::ping(shop.member("client")?.pod.ns(), taken, 2)?, 2);
    let late = shop.add_pod("late", "any")?.attached.ip(true)?;
    assert_eq!(traffic::ping(shop.member("client")?.pod.ns(), late, 2)?, 2);
    Ok(())
}

#[test]
fn a_rejected_policy_closes_the_pods_it_selects() -> Result<(), LabError> {
    let shop = shop()?;
    let web = shop.member("web-1")?.attached.ip(false)?;
    let client = shop.member("client")?.pod.ns();
    assert_eq!(traffic::ping(client, web, 2)?, 2);
    let mut policy = manifests::allow_only("shop", "odd", ("app", "web"), ("app", "client"), 80);
    policy["spec"]["ingress"][0]["ports"][0]["protocol"] = json!("QUIC");
    shop.node.apply(&policy)?;
    wait_for_rejection(&shop.node, &["odd", "protocol", "QUIC"])?;
    wait_until("the pods that it selects are closed", || {
        Ok(traffic::ping(client, web, 1)? == 0)
    })?;
    shop.node.delete(&policy)?;
    wait_until("it opens again when the policy is gone", || {
        Ok(traffic::ping(client, web, 1)? == 1)
    })
}

/// Returns a policy that opens `shop/web-*` to the client alone, after `change` has edited its spec.
fn policy(name: &str, change: impl FnOnce(&mut Value)) -> Value {
    let mut policy = manifests::allow_only("shop", name, ("app", "web"), ("app", "client"), WEB_TARGET);
    change(&mut policy["spec"]);
    policy
}

#[test]
fn each_invalid_field_of_a_policy_is_named_and_opens_nothing() -> Result<(), LabError> {
    let shop = shop()?;
    let (client, db) = (shop.member("client")?.pod.ns(), shop.member("db")?.pod.ns());
    let _server = TcpServer::start(
        shop.member("web-1")?.pod.ns(),
        WEB_TARGET,
        ServerBehavior::Greet("web-1".to_owned()),
    )?;
    let to = shop.member("web-1")?.at(false, WEB_TARGET)?;
    let reaches = |from| traffic::tcp_request(from, to, "", SILENCE);
    // This policy is valid first and invalid later: open to the client, closed to everyone else.
    shop.node.apply(&policy("kept", |_| {}))?;
    wait_until("the valid version is in force", || {
        Ok(reaches(db)? == ProbeOutcome::NoAnswer)
    })?;
    assert!(reaches(client)?.is_answered());

    let ingress = |key: &'static str, value: Value| move |spec: &mut Value| spec["ingress"][0][key] = value;
    let select = |value: Value| move |spec: &mut Value| spec["podSelector"] = value;
    let block = |cidr: &str, except: &str| json!([{"ipBlock": {"cidr": cidr, "except": [except]}}]);
    let expression = |operator: &str, values: Value| {
        json!({"matchLabels": {"app": "web"},
               "matchExpressions": [{"key": "app", "operator": operator, "values": values}]})
    };
    let bad = [
        (
            policy("operator", select(expression("Like", json!(["web"])))),
            "operator",
        ),
        (
            policy("no-values", select(expression("In", json!([])))),
            "matchExpressions[0]",
        ),
        (
            policy("no-label", select(json!({"matchLabels": {"app": "not a label"}}))),
            "matchLabels.app",
        ),
        (
            policy("port", ingress("ports", json!([{"port": 65_537}]))),
            "ports[0].port",
        ),
        (
            policy("end-port", ingress("ports", json!([{"port": 90, "endPort": 80}]))),
            "ports[0].endPort",
        ),
        (
            policy("protocol", ingress("ports", json!([{"port": 80, "protocol": "QUIC"}]))),
            "ports[0].protocol",
        ),
        (
            policy("cidr", ingress("from", block("10.0.0.0/33", "10.1.0.0/16"))),
            "ipBlock.cidr",
        ),
        (
            policy("except", ingress("from", block("10.0.0.0/8", "11.0.0.0/16"))),
            "ipBlock.except[0]",
        ),
    ];
    for (object, field) in &bad {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        shop.node.apply(object)?;
        wait_for_rejection(&shop.node, &[&format!("shop/{name} |"), field])?;
    }
    // None of these was ever valid, so each closes the pods that it selects, as far as its selector can be read. The valid policy
    // still opens them to the client, because the rules of all policies add up.
    assert!(reaches(client)?.is_answered());
    assert_eq!(reaches(db)?, ProbeOutcome::NoAnswer);
    shop.node
        .apply(&policy("kept", ingress("ports", json!([{"port": 0}]))))?;
    wait_for_rejection(&shop.node, &["shop/kept |", "ports[0].port"])?;
    assert!(reaches(client)?.is_answered(), "the last good version stays");
    // Without that policy no rule opens the pods any more.
    shop.node.delete(&policy("kept", |_| {}))?;
    wait_until("pods that only rejected policies select are closed", || {
        Ok(reaches(client)? == ProbeOutcome::NoAnswer)
    })?;
    for (object, _) in &bad {
        shop.node.delete(object)?;
    }
    wait_until("the pods open when the rejected policies are gone", || {
        Ok(reaches(db)?.is_answered())
    })?;
    assert_eq!(rejections(&shop.node)?, Vec::<String>::new());
    Ok(())
}

#[test]
fn invalid_services_are_named_and_the_others_work() -> Result<(), LabError> {
    let shop = shop()?;
    let _servers = [
        TcpServer::start(
            shop.member("web-1")?.pod.ns(),
            WEB_TARGET,
            ServerBehavior::Greet("web".to_owned()),
        )?,
        TcpServer::start(
            shop.member("web-2")?.pod.ns(),
            WEB_TARGET,
            ServerBehavior::Greet("web".to_owned()),
        )?,
    ];
    let service = |name: &str, last: u8, change: &dyn Fn(&mut Value)| {
        let mut service = manifests::service("shop", name, &[IpAddr::from([10, 96, 1, last])], 80, WEB_TARGET);
        change(&mut service["spec"]);
        service
    };
    let node_port = |spec: &mut Value| {
        spec["type"] = json!("NodePort");
        spec["ports"][0]["nodePort"] = json!(30_080);
    };
    shop.node.apply(&service("first", 1, &node_port))?;
    // The second Service comes after the first, which keeps its node port.
    wait_until("the first Service is in the tables", || {
        Ok(shop.node.status()?["tables"]["frontends"].as_u64() >= Some(3))
    })?;
    let mut mixed = manifests::endpoint_slice("shop", "web", false, WEB_TARGET, &[(IpAddr::from([10, 9, 9, 9]), "x")]);
    mixed["metadata"]["name"] = json!("web-mixed");
    mixed["endpoints"][0]["addresses"] = json!(["fd00::9"]);
    let both = json!([{"name": "a", "port": 80, "nodePort": 30_081}, {"name": "b", "port": 81, "nodePort": 30_081}]);
    let bad: [(Value, &[&str]); 5] = [
        (
            service("no-ports", 2, &|spec| spec["ports"] = json!([])),
            &["shop/no-ports", "spec.ports"],
        ),
        (
            service("no-address", 3, &|spec| spec["clusterIPs"] = json!(["10.96.0.256"])),
            &["shop/no-address", "spec.clusterIPs[0]", "10.96.0.256"],
        ),
        (
            service("twice", 4, &|spec| {
                spec["type"] = json!("NodePort");
                spec["ports"] = both.clone();
            }),
            &["shop/twice", "spec.ports[1].nodePort"],
        ),
        (
            service("second", 5, &node_port),
            &["shop/second", "nodePort", "shop/first"],
        ),
        (mixed, &["shop/web-mixed", "endpoints[0].addresses[0]", "fd00::9"]),
    ];
    for (object, parts) in &bad {
        shop.node.apply(object)?;
        wait_for_rejection(&shop.node, parts)?;
    }
    assert_eq!(rejections(&shop.node)?.len(), bad.len());
    for v6 in [false, true] {
        let ask = traffic::tcp_request(shop.member("client")?.pod.ns(), Shop::service(v6), "", BOUND)?;
        assert_eq!(
            ask,
            ProbeOutcome::Answered("web".to_owned()),
            "the other Service still works"
        );
    }
    Ok(())
}

#[test]
fn without_privileges_one_line_names_the_missing_one() -> Result<(), LabError> {
    let shop = Shop::new(binaries()?, NodePlan::new("node", 1))?;
    let heddle = shop.node.heddle("run").get_program().to_owned();
    let out = shop.node.ns().enter(|| {
        let mut command = std::process::Command::new("setpriv");
        command
            .args(["--bounding-set", "-all", "--inh-caps", "-all"])
            .arg(&heddle);
        command
            .arg("run")
            .arg("--run-dir")
            .arg(shop.node.run_dir())
            .arg("--manifests")
            .arg(shop.node.manifests());
        command
            .arg("--state-dir")
            .arg(shop.node.state_dir())
            .args(["--node", "node", "--cores", "0"]);
        run_with_input(&mut command, "")
    })?;
    assert!(!out.ok);
    assert_eq!(out.stderr.trim().lines().count(), 1, "{}", out.stderr);
    assert!(out.stderr.contains("CAP_"), "{}", out.stderr);
    Ok(())
}

#[test]
fn bad_flags_are_refused_with_their_value() -> Result<(), LabError> {
    let shop = Shop::new(binaries()?, NodePlan::new("node", 1))?;
    let absent = shop.lab.dir().join("absent").display().to_string();
    let manifests = shop.node.manifests().display().to_string();
    let table: &[(&[&str], &str)] = &[
        (&["--manifests", &absent], "absent"),
        (&["--manifests", &manifests, "--cores", "x"], "x"),
        (&["--manifests", &manifests, "--cores", "4095"], "4095"),
        (&["--manifests", &manifests, "--cores", "0,0"], "0"),
        (&["--config", &absent], "absent"),
        (&["--nonsense"], "--nonsense"),
    ];
    for (flags, part) in table {
        let mut command = shop.node.heddle("run");
        command
            .arg("--state-dir")
            .arg(shop.node.state_dir())
            .args(["--node", "node"])
            .args(*flags);
        let out = shop.node.ns().enter(|| run_with_input(&mut command, ""))?;
        assert!(!out.ok, "{flags:?}");
        assert!(out.stderr.contains(part), "{flags:?}: {}", out.stderr);
    }
    Ok(())
}
