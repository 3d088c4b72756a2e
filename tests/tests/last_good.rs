//! The last good version of a refused object serves after a restart of the agent, as long as the object is there.

mod common;

use std::fs;

use common::{BOUND, SILENCE, binaries, wait_until};
use heddle_lab::shop::{DB_PORT, Shop};
use heddle_lab::traffic::{self, ProbeOutcome, ServerBehavior, TcpServer};
use heddle_lab::{LabError, NodePlan, manifests, run_with_input};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// The file of the shop's policy.
const FILE: &str = "networkpolicy-shop-db-from-web.json";

/// Returns the shop's policy: only `web` reaches `db`.
fn policy() -> Value {
    manifests::allow_only("shop", "db-from-web", ("app", "db"), ("app", "web"), DB_PORT)
}

/// Returns the answers of `db` to a pod that the policy allows and to one that it does not.
fn answers(shop: &Shop) -> Result<[bool; 2], LabError> {
    let to = shop.member("db")?.at(false, DB_PORT)?;
    let allowed = traffic::tcp_request(shop.member("web-1")?.pod.ns(), to, "", BOUND)?;
    let denied = traffic::tcp_request(shop.member("client")?.pod.ns(), to, "", SILENCE)?;
    Ok([allowed, denied].map(|outcome| outcome.is_answered()))
}

/// Waits until the state directory has a line of the last good versions with `part`.
fn wait_for_kept(shop: &Shop, part: &str) -> Result<(), LabError> {
    let file = shop.node.state_dir().join("last-good.jsonl");
    wait_until(&format!("last good versions with {part}"), || {
        Ok(fs::read_to_string(&file).is_ok_and(|text| text.contains(part)))
    })
}

/// Asserts that the policy decides as before, after an agent that ended by `signal` was started again.
fn serves_after(shop: &mut Shop, signal: Signal) -> Result<String, LabError> {
    shop.node.stop_agent(signal)?;
    shop.node.start_agent()?;
    assert_eq!(answers(shop)?, [true, false], "after {signal}");
    let client = shop.member("client")?.pod.ns();
    let web = shop.member("web-1")?.attached.ip(false)?;
    assert_eq!(traffic::ping(client, web, 1)?, 1, "nothing else is closed");
    let status = || run_with_input(&mut shop.node.heddle("status"), "");
    Ok(shop.node.ns().enter(status)?.stdout)
}

#[test]
fn a_last_good_version_serves_after_restarts_until_its_object_is_gone() -> Result<(), LabError> {
    let mut shop = Shop::start(binaries()?, NodePlan::new("node", 1))?;
    let db = shop.member("db")?.pod.ns().clone();
    let _server = TcpServer::start(&db, DB_PORT, ServerBehavior::Greet("db".to_owned()))?;
    assert_eq!(answers(&shop)?, [true, false]);

    // The policy turns bad.
    let mut bad = policy();
    bad["spec"]["ingress"][0]["ports"][0]["port"] = json!(65_537);
    shop.node.apply(&bad)?;
    wait_for_kept(&shop, "shop/db-from-web")?;
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let status = serves_after(&mut shop, signal)?;
        assert!(
            status.contains("65537") && status.contains("(its last good version serves)"),
            "{status}"
        );
    }

    // Its file does not parse any more.
    shop.node.write_manifest(FILE, b"{ \"kind\": \"NetworkPolicy\", ")?;
    wait_for_kept(&shop, &format!("[\"{FILE}\"]"))?;
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let status = serves_after(&mut shop, signal)?;
        assert!(status.contains("its earlier objects stay in force"), "{status}");
    }

    // The file goes: the policy is gone, and so is what was kept of it.
    fs::remove_file(shop.node.manifests().join(FILE)).map_err(LabError::io("removing the policy"))?;
    wait_until("a pod that no policy selects is open", || {
        Ok(answers(&shop)? == [true, true])
    })?;
    wait_until("nothing is kept", || {
        Ok(!shop.node.state_dir().join("last-good.jsonl").exists())
    })?;

    // While no agent runs, the policy is refused and then removed: nothing comes back.
    shop.node.apply(&policy())?;
    wait_until("the policy is back", || Ok(answers(&shop)? == [true, false]))?;
    shop.node.apply(&bad)?;
    wait_for_kept(&shop, "shop/db-from-web")?;
    shop.node.stop_agent(Signal::SIGKILL)?;
    shop.node.delete(&bad)?;
    shop.node.start_agent()?;
    assert_eq!(answers(&shop)?, [true, true]);
    // A new object of its name never was good, so it closes.
    shop.node.apply(&bad)?;
    wait_until("a policy that never was good closes", || {
        let to = shop.member("db")?.at(false, DB_PORT)?;
        Ok(traffic::tcp_request(shop.member("web-1")?.pod.ns(), to, "", SILENCE)? == ProbeOutcome::NoAnswer)
    })
}
