//! `heddle drops`: dropped packets, and the policy behind each policy drop.

mod common;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{SILENCE, ask_json, binaries, follow, wait_until};
use heddle_lab::shop::{DB_PORT, Shop, WEB_TARGET};
use heddle_lab::{LabError, NodePlan, run_with_input, traffic};
use serde_json::{Value, json};

fn shop() -> Result<Shop, LabError> {
    Shop::start(binaries()?, NodePlan::new("node", 1))
}

/// Connects where policy denies it, and asserts that no answer comes.
fn denied_attempt(shop: &Shop, from: &str, to: SocketAddr) -> Result<(), LabError> {
    let reach = traffic::tcp_request(shop.member(from)?.pod.ns(), to, "", SILENCE)?;
    assert_eq!(reach, traffic::ProbeOutcome::NoAnswer, "{from} to {to}");
    Ok(())
}

/// Returns the drops that `heddle drops` shows with these flags.
fn drops(shop: &Shop, flags: &[&str]) -> Result<Vec<Value>, LabError> {
    let answer = ask_json(&shop.node, "drops", flags)?;
    Ok(answer["drops"].as_array().cloned().unwrap_or_default())
}

fn named(namespace: &str, name: &str) -> Value {
    json!({"namespace": namespace, "name": name})
}

#[test]
fn a_default_deny_names_both_pods_and_the_isolating_policy() -> Result<(), LabError> {
    let shop = shop()?;
    for v6 in [false, true] {
        let db = shop.member("db")?.at(v6, DB_PORT)?;
        denied_attempt(&shop, "client", db)?;
        let all = drops(&shop, &["--pod", "shop/client", "--reason", "policy-denied-ingress"])?;
        let last = all.last().unwrap_or(&Value::Null);
        assert_eq!(last["source"]["pod"], named("shop", "client"), "{last:#}");
        assert_eq!(
            last["source"]["address"],
            json!(shop.member("client")?.attached.ip(v6)?)
        );
        let destination = json!({"address": db.ip(), "port": DB_PORT, "pod": named("shop", "db")});
        assert_eq!(last["destination"], destination);
        assert_eq!(last["pod"], named("shop", "db"));
        for (key, value) in [
            ("protocol", "TCP"),
            ("direction", "ingress"),
            ("port", "pod:shop/client"),
            ("reason", "policy-denied-ingress"),
            ("class", "policy"),
        ] {
            assert_eq!(last[key], value, "{last:#}");
        }
        let policy = &last["policy"];
        for (key, value) in [
            ("kind", json!("NetworkPolicy")),
            ("namespace", json!("shop")),
            ("name", json!("db-from-web")),
            ("direction", json!("ingress")),
            ("rule", Value::Null),
            (
                "says",
                json!("default deny because shop/db-from-web selects this pod for ingress"),
            ),
        ] {
            assert_eq!(policy[key], value, "{key}: {policy:#}");
        }
    }
    // Filters select. A pod that does not exist is an error.
    let all = drops(&shop, &["--policy", "shop/db-from-web"])?.len();
    assert!(all >= 2, "{all}");
    assert_eq!(
        drops(&shop, &["--policy", "shop/db-from-web", "--limit", "1"])?.len(),
        1
    );
    assert_eq!(
        drops(&shop, &["--pod", "shop/db", "--policy", "shop/db-from-web"])?.len(),
        all
    );
    for none in [
        ["--policy", "shop/another"],
        ["--policy", "db-from-web"],
        ["--reason", "spoofed-source"],
        ["--class", "spoofing"],
    ] {
        assert_eq!(drops(&shop, &none)?, Vec::<Value>::new(), "{none:?}");
    }
    let mut command = shop.node.heddle("drops");
    let output = shop
        .node
        .ns()
        .enter(|| run_with_input(command.args(["--pod", "shop/nobody"]), ""))?;
    assert!(!output.ok && output.stderr.contains("shop/nobody"), "{output:?}");

    // The status counts the policy's denials for that pod, and the form for people contains all of it.
    let status = shop.node.status()?;
    let denied = &status["denied"][0];
    assert_eq!(denied["policy"]["name"], "db-from-web", "{status:#}");
    assert_eq!(denied["pod"], named("shop", "db"));
    let counted = usize::try_from(denied["packets"].as_u64().unwrap_or(0)).unwrap_or(0);
    assert!(counted >= all, "{denied:#}");
    assert!(
        status["drops_by_class"]["policy"].as_u64() >= denied["packets"].as_u64(),
        "{status:#}"
    );
    let reasons = status["drops"].as_array().cloned().unwrap_or_default();
    let ingress = reasons.iter().find(|drops| drops["reason"] == "policy-denied-ingress");
    assert_eq!(
        ingress.map(|drops| &drops["class"]),
        Some(&json!("policy")),
        "{reasons:#?}"
    );
    let mut command = shop.node.heddle("drops");
    let text = shop.node.ns().enter(|| run_with_input(&mut command, ""))?.stdout;
    let line = text.lines().last().unwrap_or_default();
    for part in [
        "policy  policy-denied-ingress  TCP shop/client ",
        " -> shop/db ",
        "default deny because shop/db-from-web selects this pod for ingress [shop/db]",
    ] {
        assert!(line.contains(part), "{part:?} is missing: {text}");
    }
    Ok(())
}

#[test]
fn a_deny_rule_is_named_even_after_its_policy_is_deleted() -> Result<(), LabError> {
    let shop = shop()?;
    let policy = json!({
        "apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
        "metadata": {"name": "no-web"},
        "spec": {
            "tier": "Admin", "priority": 10,
            "subject": {"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "client"}}}},
            "egress": [
                {"action": "Accept", "to": [{"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "x"}}}}]},
                {"name": "web is closed", "action": "Deny",
                 "to": [{"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "web"}}}}]}
            ]
        }
    });
    shop.node.apply(&policy)?;
    let web = shop.member("web-1")?.at(false, WEB_TARGET)?;
    wait_until("the rule denies", || {
        attempt_at_a_closed_port(&shop, web)?;
        Ok(!drops(&shop, &["--policy", "no-web"])?.is_empty())
    })?;
    let check = || -> Result<(), LabError> {
        let all = drops(&shop, &["--policy", "no-web"])?;
        let last = all.last().unwrap_or(&Value::Null);
        assert_eq!(last["reason"], "policy-denied-egress", "{last:#}");
        assert_eq!(last["pod"], named("shop", "client"));
        let policy = &last["policy"];
        for (key, value) in [
            ("kind", json!("ClusterNetworkPolicy")),
            ("name", json!("no-web")),
            ("tier", json!("Admin")),
            ("direction", json!("egress")),
            ("rule", json!(1)),
            ("rule_name", json!("web is closed")),
        ] {
            assert_eq!(policy[key], value, "{key}: {policy:#}");
        }
        Ok(())
    };
    check()?;
    // A packet to a Service is shown with the destination that it arrived with.
    denied_attempt(&shop, "client", Shop::service(false))?;
    let all = drops(&shop, &["--pod", "shop/client"])?;
    let last = all.last().unwrap_or(&Value::Null);
    assert_eq!(last["destination"]["service"], named("shop", "web"), "{last:#}");

    shop.node.delete(&policy)?;
    let client = shop.member("client")?.pod.ns();
    wait_until("the policy is gone", || {
        Ok(traffic::tcp_request(client, web, "", SILENCE)? == traffic::ProbeOutcome::Refused)
    })?;
    // Later policies must not be named for the earlier drops.
    for n in 0..5 {
        let name = format!("later-{n}");
        shop.node.apply(&heddle_lab::manifests::allow_only(
            "shop",
            &name,
            ("app", "db"),
            ("app", "web"),
            1,
        ))?;
    }
    wait_until("they are compiled", || {
        Ok(ask_json(&shop.node, "status", &[])?["source"]["objects"]["NetworkPolicy"] == 6)
    })?;
    check()
}

/// Connects to a port without a listener: a reset answers while policy allows it, and nothing answers after.
fn attempt_at_a_closed_port(shop: &Shop, to: SocketAddr) -> Result<(), LabError> {
    let reach = traffic::tcp_request(shop.member("client")?.pod.ns(), to, "", SILENCE)?;
    assert!(!reach.is_answered(), "{reach:?}");
    Ok(())
}

#[test]
fn drops_follow_shows_new_drops_until_it_is_interrupted() -> Result<(), LabError> {
    let shop = shop()?;
    let db = shop.member("db")?.at(false, DB_PORT)?;
    denied_attempt(&shop, "client", db)?;
    let flags = [
        "-f",
        "0.1",
        "--output",
        "json",
        "--reason",
        "policy-denied-ingress",
        "--limit",
        "0",
    ];
    let following = follow(&shop.node, "drops", &flags)?;
    // The new drops differ from the earlier one: they are of UDP and of another pod.
    let read = AtomicBool::new(false);
    let line = std::thread::scope(|threads| {
        let (web, read) = (shop.member("web-1")?.pod.ns(), &read);
        let sender = threads.spawn(move || {
            while !read.load(Ordering::Acquire) {
                traffic::udp_request(web, db, b"x", Duration::from_millis(100))?;
            }
            Ok(())
        });
        let line = following.next_line();
        read.store(true, Ordering::Release);
        match sender.join() {
            Ok(sent) => sent.and(line),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })?;
    let drop: Value = serde_json::from_str(&line).unwrap_or(Value::Null);
    assert_eq!(drop["source"]["pod"], named("shop", "web-1"), "{line}");
    assert_eq!(
        (&drop["protocol"], &drop["destination"]["port"]),
        (&json!("UDP"), &json!(DB_PORT))
    );
    following.interrupt()?;
    following.exits_successfully()
}

#[test]
fn drops_without_an_agent_is_an_error_that_says_so() -> Result<(), LabError> {
    let shop = Shop::new(binaries()?, NodePlan::new("node", 1))?;
    for flags in [&[][..], &["--watch"]] {
        let mut command = shop.node.heddle("drops");
        let output = shop.node.ns().enter(|| run_with_input(command.args(flags), ""))?;
        assert!(
            !output.ok && output.stderr.contains("no heddle agent answers at"),
            "{output:?}"
        );
    }
    Ok(())
}
