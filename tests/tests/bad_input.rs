//! Bad objects are refused by name, counted and shown; everything else works on.

mod common;

use std::net::IpAddr;

use common::{BOUND, SILENCE, binaries, eventually};
use heddle_tests::shop::{DB_PORT, Shop};
use heddle_tests::traffic::{self, Manner, Reach, TcpServer};
use heddle_tests::{LabError, Node, NodePlan, manifests, run_with_input};
use serde_json::{Value, json};

fn shop() -> Result<Shop, LabError> {
    Shop::open(binaries()?, NodePlan::new("node", 1))
}

/// The refusals that stand now, each as one line.
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

/// Awaits a refusal that contains all of `parts`.
fn is_refused(node: &Node, parts: &[&str]) -> Result<(), LabError> {
    let has = |line: &String| parts.iter().all(|part| line.contains(part));
    eventually(&format!("a refusal with {parts:?}"), || {
        Ok(rejections(node)?.iter().any(has))
    })
}

#[test]
fn a_file_that_does_not_parse_is_named_and_opens_nothing() -> Result<(), LabError> {
    let shop = shop()?;
    let _server = TcpServer::start(shop.member("db")?.pod.ns(), DB_PORT, Manner::Greet("db".to_owned()))?;
    let to = shop.member("db")?.at(false, DB_PORT)?;
    shop.node.write_manifest(
        "networkpolicy-shop-db-from-web.json",
        b"{ \"apiVersion\": \"networking.k8s.io/v1\", \"kind\": ",
    )?;
    is_refused(&shop.node, &["networkpolicy-shop-db-from-web.json"])?;
    // The last good version serves: closed to the client, open to the backends.
    assert_eq!(
        traffic::tcp_ask(shop.member("client")?.pod.ns(), to, "", SILENCE)?,
        Reach::Silence
    );
    assert!(traffic::tcp_ask(shop.member("web-1")?.pod.ns(), to, "", BOUND)?.is_yes());
    shop.node.apply(&manifests::allow_only(
        "shop",
        "db-from-web",
        ("app", "db"),
        ("app", "web"),
        DB_PORT,
    ))?;
    eventually("the refusal goes when the file is mended", || {
        Ok(rejections(&shop.node)?.is_empty())
    })
}

#[test]
fn impossible_fields_are_refused_by_name() -> Result<(), LabError> {
    let mut shop = Shop::open(binaries()?, NodePlan::new("node", 1))?;
    let mut service = manifests::service("shop", "bad-port", &[IpAddr::from([10, 96, 0, 81])], 80, 8080);
    service["spec"]["ports"][0]["port"] = json!(65_537);
    shop.node.apply(&service)?;
    is_refused(&shop.node, &["bad-port", "port", "65537"])?;

    let mut slice = manifests::endpoint_slice("shop", "web", false, 8080, &[(IpAddr::from([10, 244, 1, 99]), "x")]);
    slice["metadata"]["name"] = json!("web-bad");
    slice["endpoints"][0]["addresses"] = json!(["10.244.1.999"]);
    shop.node.apply(&slice)?;
    is_refused(&shop.node, &["web-bad", "addresses", "10.244.1.999"])?;

    let mut node = manifests::node("other", &[IpAddr::from([192, 0, 2, 77])], &["10.244.7.0/24".to_owned()]);
    node["spec"]["podCIDRs"] = json!(["10.244.7.0/33"]);
    node["spec"]["podCIDR"] = json!("10.244.7.0/33");
    shop.node.apply(&node)?;
    is_refused(&shop.node, &["other", "podCIDR", "10.244.7.0/33"])?;

    let taken = shop.member("web-1")?.attached.ip(false)?;
    shop.node
        .apply(&manifests::pod("shop", "thief", &[], "elsewhere", &[taken]))?;
    is_refused(&shop.node, &["thief", "web-1", &taken.to_string()])?;

    assert_eq!(shop.node.status()?["rejections_total"].as_u64(), Some(4));
    let out = shop
        .node
        .ns()
        .enter(|| run_with_input(&mut shop.node.heddle("status"), ""))?;
    for name in ["bad-port", "web-bad", "other", "thief"] {
        assert!(
            out.stdout.contains(name),
            "`heddle status` shows {name}:\n{}",
            out.stdout
        );
    }
    // The rest works: what was there, and what comes now.
    assert_eq!(traffic::ping(shop.member("client")?.pod.ns(), taken, 2)?, 2);
    let late = shop.join("late", "any")?.attached.ip(true)?;
    assert_eq!(traffic::ping(shop.member("client")?.pod.ns(), late, 2)?, 2);
    Ok(())
}

#[test]
fn a_refused_policy_closes_what_it_selects() -> Result<(), LabError> {
    let shop = shop()?;
    let web = shop.member("web-1")?.attached.ip(false)?;
    let client = shop.member("client")?.pod.ns();
    assert_eq!(traffic::ping(client, web, 2)?, 2);
    let mut policy = manifests::allow_only("shop", "odd", ("app", "web"), ("app", "client"), 80);
    policy["spec"]["ingress"][0]["ports"][0]["protocol"] = json!("QUIC");
    shop.node.apply(&policy)?;
    is_refused(&shop.node, &["odd", "protocol", "QUIC"])?;
    eventually("what it selects is closed", || Ok(traffic::ping(client, web, 1)? == 0))?;
    shop.node.delete(&policy)?;
    eventually("it opens again when the policy is gone", || {
        Ok(traffic::ping(client, web, 1)? == 1)
    })
}

#[test]
fn without_privileges_one_line_says_which_is_missing() -> Result<(), LabError> {
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
