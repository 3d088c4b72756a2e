//! The CNI plugin with the real agent: CHECK, repeated calls, STATUS, VERSION, and pods without a name.

mod common;

use common::call::{Call, code};
use common::{binaries, wait_until};
use heddle_lab::shop::Shop;
use heddle_lab::traffic;
use heddle_lab::{Lab, LabError, NodePlan, Output, manifests, run_with_input};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

#[test]
fn check_detects_a_missing_route_and_del_may_be_repeated() -> Result<(), LabError> {
    let shop = Shop::start(binaries()?, NodePlan::new("node", 1))?;
    let client = shop.member("client")?;
    let result = &client.attached.result;
    let check = shop.node.cni("CHECK", &client.pod, Some(result))?;
    assert!(check.ok && check.stdout.is_empty(), "{}", check.stdout);

    client.pod.ns().run("ip", &["route", "del", "default"])?;
    let check = shop.node.cni("CHECK", &client.pod, Some(result))?;
    assert!(!check.ok && code(&check).is_some(), "{}", check.stdout);

    let again = shop.node.cni("ADD", &client.pod, None)?;
    assert!(
        !again.ok && code(&again).is_some(),
        "ADD twice is refused: {}",
        again.stdout
    );

    for _ in 0..2 {
        let out = shop.node.cni("DEL", &client.pod, None)?;
        assert!(out.ok, "{}", out.stdout);
    }
    assert!(!shop.node.status()?["attachments"].to_string().contains("client"));
    assert_eq!(client.pod.ns().run("ip", &["-br", "link"])?.lines().count(), 1);
    let check = shop.node.cni("CHECK", &client.pod, Some(result))?;
    assert!(!check.ok && code(&check).is_some(), "{}", check.stdout);
    Ok(())
}

#[test]
fn status_succeeds_only_if_an_add_could_be_served() -> Result<(), LabError> {
    let mut shop = Shop::new(binaries()?, NodePlan::new("node", 1))?;
    let status = |shop: &Shop, version: &str| -> Result<Output, LabError> {
        Call::of(shop, std::path::Path::new(""))
            .with("CNI_COMMAND", "STATUS")
            .without("CNI_CONTAINERID")
            .key("cniVersion", json!(version))
            .run(shop)
    };
    let absent = status(&shop, "1.1.0")?;
    assert_eq!((absent.ok, code(&absent)), (false, Some(50)), "{}", absent.stdout);
    assert!(
        absent.stdout.contains("heddle run"),
        "the error names the command to start: {}",
        absent.stdout
    );
    shop.node.start_agent()?;
    let there = status(&shop, "1.1.0")?;
    assert!(there.ok && there.stdout.is_empty(), "{}", there.stdout);
    let old = status(&shop, "1.0.0")?;
    assert_eq!((old.ok, code(&old)), (false, Some(1)), "{}", old.stdout);
    shop.node.delete(&heddle_lab::manifests::node(
        shop.node.name(),
        &shop.node.internal_ips(),
        &[],
    ))?;
    common::wait_until("STATUS fails without the Node object, which has the addresses", || {
        Ok(code(&status(&shop, "1.1.0")?) == Some(50))
    })
}

#[test]
fn version_lists_the_supported_versions() -> Result<(), LabError> {
    let shop = Shop::new(binaries()?, NodePlan::new("node", 1))?;
    let out = Call::of(&shop, std::path::Path::new(""))
        .with("CNI_COMMAND", "VERSION")
        .run(&shop)?;
    let version: Value = serde_json::from_str(&out.stdout).unwrap_or_default();
    let versions = version["supportedVersions"].as_array().cloned().unwrap_or_default();
    assert!(
        versions.contains(&json!("1.0.0")) && versions.contains(&json!("1.1.0")),
        "{}",
        out.stdout
    );
    Ok(())
}

#[test]
fn a_pod_without_a_name_is_attached_and_no_policy_selects_it() -> Result<(), LabError> {
    let shop = Shop::start(binaries()?, NodePlan::new("node", 1))?;
    let pod = shop.lab.pod("", "", &[])?;
    let out = Call::of(&shop, pod.ns().path()).run(&shop)?;
    assert!(out.ok, "{}", out.stdout);
    assert_eq!(
        traffic::ping(pod.ns(), shop.member("web-1")?.attached.ip(false)?, 2)?,
        2
    );
    assert_eq!(traffic::ping(pod.ns(), shop.member("db")?.attached.ip(false)?, 1)?, 0);
    let out = Call::of(&shop, pod.ns().path()).with("CNI_COMMAND", "DEL").run(&shop)?;
    assert!(out.ok, "{}", out.stdout);
    Ok(())
}

#[test]
fn a_second_agent_of_the_same_run_directory_is_refused() -> Result<(), LabError> {
    let mut shop = Shop::new(binaries()?, NodePlan::new("node", 1))?;
    shop.node.start_agent()?;
    let mut second = shop.node.heddle("run");
    second
        .arg("--manifests")
        .arg(shop.node.manifests())
        .arg("--state-dir")
        .arg(shop.node.state_dir())
        .args(["--node", "node"]);
    let out = shop.node.ns().enter(|| run_with_input(&mut second, ""))?;
    let pid = shop
        .node
        .agent()
        .map(|agent| agent.id().to_string())
        .unwrap_or_default();
    assert!(!out.ok && out.stderr.contains(&pid), "{}", out.stderr);
    shop.node.stop_agent(Signal::SIGTERM)?;
    Ok(())
}

/// kubelet runs a static pod under its config hash and writes a mirror of it to the API server, which gives it another uid.
#[test]
fn a_static_pod_is_attached_by_its_config_hash() -> Result<(), LabError> {
    let lab = Lab::new(binaries()?)?;
    let mut node = lab.node(NodePlan::new("node", 1))?;
    node.start_agent()?;
    let pod = lab.pod("kube-system", "proxy-node", &[])?;
    let mut mirror = pod.object(node.name(), &[]);
    mirror["metadata"]["uid"] = json!("6a7b0c1e-0000-4000-8000-0123456789ab");
    mirror["metadata"]["annotations"] = json!({
        "kubernetes.io/config.hash": pod.uid(),
        "kubernetes.io/config.mirror": pod.uid(),
        "kubernetes.io/config.source": "file",
    });
    node.apply(&mirror)?;
    let ip = node.attach(&pod)?.ip(false)?;
    assert_eq!(traffic::ping(node.ns(), ip, 3)?, 3);
    Ok(())
}

/// Until the Namespace is known, nobody knows which policies select its pods by the labels of the Namespace.
#[test]
fn an_add_waits_for_the_namespace_of_its_pod() -> Result<(), LabError> {
    let lab = Lab::new(binaries()?)?;
    let mut node = lab.node(NodePlan::new("node", 1))?;
    node.apply(&manifests::namespace("default"))?;
    node.start_agent()?;
    let pod = lab.pod("late", "pod", &[])?;
    node.apply(&pod.object(node.name(), &[]))?;
    std::thread::scope(|scope| {
        let add = scope.spawn(|| node.attach(&pod));
        let explained = wait_until("the attachment waits for the namespace", || {
            let attachment = &node.status()?["attachments"][0];
            Ok(attachment["state"] == "waiting" && attachment.to_string().contains("the namespace of pod late/pod"))
        });
        let has_waited = !add.is_finished();
        node.apply(&manifests::namespace("late"))?;
        let added = add.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        explained?;
        assert!(has_waited, "ADD succeeded without the Namespace");
        assert_eq!(traffic::ping(node.ns(), added.ip(false)?, 3)?, 3);
        Ok(())
    })
}
