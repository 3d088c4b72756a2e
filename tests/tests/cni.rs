//! The CNI plugin with the real agent: what a container runtime may do wrong, and what it may repeat.

mod common;

use std::process::Command;

use common::binaries;
use heddle_tests::shop::Shop;
use heddle_tests::traffic;
use heddle_tests::{LabError, NodePlan, Output, run_with_input};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// A call of the plugin with everything right but what is changed in it.
struct Call {
    command: &'static str,
    container: String,
    netns: String,
    ifname: String,
    args: String,
    config: String,
    without: Option<&'static str>,
}

impl Call {
    fn of(shop: &Shop, netns: &std::path::Path) -> Self {
        Self {
            command: "ADD",
            container: "container-1".to_owned(),
            netns: netns.display().to_string(),
            ifname: "eth0".to_owned(),
            args: String::new(),
            config:
                json!({"cniVersion": "1.1.0", "name": "heddle", "type": "heddle-cni", "runDir": shop.node.run_dir()})
                    .to_string(),
            without: None,
        }
    }

    fn run(&self, shop: &Shop) -> Result<Output, LabError> {
        let mut plugin = Command::new(binaries()?.cni);
        plugin
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default());
        for (key, value) in [
            ("CNI_COMMAND", self.command),
            ("CNI_CONTAINERID", &self.container),
            ("CNI_NETNS", &self.netns),
            ("CNI_IFNAME", &self.ifname),
            ("CNI_ARGS", &self.args),
            ("CNI_PATH", "/"),
        ] {
            if self.without != Some(key) {
                plugin.env(key, value);
            }
        }
        shop.node.ns().enter(|| run_with_input(&mut plugin, &self.config))
    }
}

fn code(out: &Output) -> Option<u64> {
    serde_json::from_str::<Value>(&out.stdout).ok()?["code"].as_u64()
}

fn links(shop: &Shop) -> Result<String, LabError> {
    shop.node.ns().run("ip", &["-br", "link"])
}

#[test]
fn broken_calls_get_the_code_of_the_specification_and_leave_nothing() -> Result<(), LabError> {
    let mut shop = Shop::new(binaries()?, NodePlan::new("node", 1))?;
    shop.node.start_agent()?;
    let pod = shop.lab.pod("shop", "pod", &[])?;
    let before = links(&shop)?;
    let call = || Call::of(&shop, pod.ns().path());
    let config = |change: &dyn Fn(&mut Value)| -> String {
        let mut config: Value = serde_json::from_str(&call().config).unwrap_or_default();
        change(&mut config);
        config.to_string()
    };
    let gone = shop.lab.dir().join("gone").display().to_string();
    let no_namespace = "/proc/self/ns/uts".to_owned();
    let table: Vec<(&str, Call, u64)> = vec![
        (
            "no command",
            Call {
                without: Some("CNI_COMMAND"),
                ..call()
            },
            4,
        ),
        (
            "an unknown command",
            Call {
                command: "FROB",
                ..call()
            },
            4,
        ),
        (
            "no container",
            Call {
                without: Some("CNI_CONTAINERID"),
                ..call()
            },
            4,
        ),
        (
            "a bad container",
            Call {
                container: "../x".to_owned(),
                ..call()
            },
            4,
        ),
        (
            "no interface name",
            Call {
                without: Some("CNI_IFNAME"),
                ..call()
            },
            4,
        ),
        (
            "a long interface name",
            Call {
                ifname: "a-name-that-is-too-long".to_owned(),
                ..call()
            },
            4,
        ),
        (
            "a slash in the interface name",
            Call {
                ifname: "a/b".to_owned(),
                ..call()
            },
            4,
        ),
        (
            "an existing interface name",
            Call {
                ifname: "lo".to_owned(),
                ..call()
            },
            4,
        ),
        (
            "no namespace",
            Call {
                without: Some("CNI_NETNS"),
                ..call()
            },
            4,
        ),
        ("a namespace that is gone", Call { netns: gone, ..call() }, 3),
        (
            "a namespace that is none",
            Call {
                netns: no_namespace,
                ..call()
            },
            4,
        ),
        (
            "garbage arguments",
            Call {
                args: "=;;x".to_owned(),
                ..call()
            },
            4,
        ),
        (
            "no configuration",
            Call {
                config: String::new(),
                ..call()
            },
            6,
        ),
        (
            "a configuration that is no JSON",
            Call {
                config: "{".to_owned(),
                ..call()
            },
            6,
        ),
        (
            "an unknown version",
            Call {
                config: config(&|c| c["cniVersion"] = json!("9.9.9")),
                ..call()
            },
            1,
        ),
        (
            "a bad MTU",
            Call {
                config: config(&|c| c["mtu"] = json!(1)),
                ..call()
            },
            7,
        ),
        (
            "a pod that nobody knows",
            Call {
                args: "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=nobody".to_owned(),
                ..call()
            },
            11,
        ),
        (
            "an agent that is not there",
            Call {
                config: config(&|c| c["runDir"] = json!("/run/heddle-absent")),
                ..call()
            },
            11,
        ),
    ];
    for (what, call, expected) in table {
        let out = call.run(&shop)?;
        assert!(!out.ok, "{what}: {}", out.stdout);
        assert_eq!(code(&out), Some(expected), "{what}: {}{}", out.stdout, out.stderr);
    }
    assert_eq!(links(&shop)?, before, "no interface is left on the node");
    assert_eq!(
        pod.ns().run("ip", &["-br", "link"])?.lines().count(),
        1,
        "and none but lo in the pod"
    );
    assert_eq!(shop.node.status()?["attachments"], json!([]));
    Ok(())
}

#[test]
fn check_sees_what_is_missing_and_del_may_be_repeated() -> Result<(), LabError> {
    let shop = Shop::open(binaries()?, NodePlan::new("node", 1))?;
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
fn status_tells_whether_an_add_could_be_served() -> Result<(), LabError> {
    let mut shop = Shop::new(binaries()?, NodePlan::new("node", 1))?;
    let status = |shop: &Shop, version: &str| -> Result<Output, LabError> {
        let mut call = Call {
            command: "STATUS",
            without: Some("CNI_CONTAINERID"),
            ..Call::of(shop, std::path::Path::new(""))
        };
        call.config = call.config.replace("1.1.0", version);
        call.run(shop)
    };
    let absent = status(&shop, "1.1.0")?;
    assert_eq!((absent.ok, code(&absent)), (false, Some(50)), "{}", absent.stdout);
    assert!(
        absent.stdout.contains("heddle run"),
        "it says what to start: {}",
        absent.stdout
    );
    shop.node.start_agent()?;
    let there = status(&shop, "1.1.0")?;
    assert!(there.ok && there.stdout.is_empty(), "{}", there.stdout);
    let old = status(&shop, "1.0.0")?;
    assert_eq!((old.ok, code(&old)), (false, Some(1)), "{}", old.stdout);
    shop.node.delete(&heddle_tests::manifests::node(
        shop.node.name(),
        &shop.node.internal_ips(),
        &[],
    ))?;
    common::eventually("without the Node object there is no address to give", || {
        Ok(code(&status(&shop, "1.1.0")?) == Some(50))
    })
}

#[test]
fn version_lists_what_works() -> Result<(), LabError> {
    let shop = Shop::new(binaries()?, NodePlan::new("node", 1))?;
    let call = Call {
        command: "VERSION",
        ..Call::of(&shop, std::path::Path::new(""))
    };
    let out = call.run(&shop)?;
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
fn a_pod_without_a_name_is_an_endpoint_that_no_policy_selects() -> Result<(), LabError> {
    let shop = Shop::open(binaries()?, NodePlan::new("node", 1))?;
    let pod = shop.lab.pod("", "", &[])?;
    let out = Call::of(&shop, pod.ns().path()).run(&shop)?;
    assert!(out.ok, "{}", out.stdout);
    assert_eq!(
        traffic::ping(pod.ns(), shop.member("web-1")?.attached.ip(false)?, 2)?,
        2
    );
    assert_eq!(traffic::ping(pod.ns(), shop.member("db")?.attached.ip(false)?, 1)?, 0);
    let out = Call {
        command: "DEL",
        ..Call::of(&shop, pod.ns().path())
    }
    .run(&shop)?;
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
