//! A node and a pod as network namespaces, a scripted agent, and the real binary between them.

use std::net::IpAddr;
use std::process::Command;

use heddle_lab::{NetNs, Output, run_with_input};
use heddle_proto::{IfName, Prepared, PreparedAddress, PreparedRoute};
use heddle_wire::MacAddr;
use serde_json::{Value, json};

use crate::agent::Agent;

/// The name of the node's end that the scripted agent gives.
pub const HOST: &str = "hdl7";

/// The namespaces, the agent and the configuration of one test. Dropping it removes everything.
pub struct Scene {
    pub node: NetNs,
    pub pod: NetNs,
    pub dir: tempfile::TempDir,
    pub agent: Option<Agent>,
    pub conf: Value,
}

impl Scene {
    pub fn new() -> Self {
        Self::with(&prepared())
    }

    pub fn with(prepared: &Prepared) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let conf = json!({"cniVersion": "1.1.0", "name": "heddle", "type": "heddle-cni", "runDir": dir.path()});
        let agent = Some(Agent::start(dir.path(), prepared));
        Self {
            node: NetNs::create("node").unwrap(),
            pod: NetNs::create("pod").unwrap(),
            dir,
            agent,
            conf,
        }
    }

    pub fn agent(&self) -> &Agent {
        self.agent.as_ref().unwrap()
    }

    /// Returns the path of the pod's namespace, for `CNI_NETNS`.
    pub fn netns(&self) -> String {
        self.pod.path().to_str().unwrap().to_owned()
    }

    /// Calls the plugin in the node's namespace with the pod's as `CNI_NETNS`.
    pub fn call(&self, command: &str) -> Output {
        self.call_with(command, &self.netns(), &self.conf)
    }

    /// Calls the plugin with another `CNI_NETNS` (`""`: none) and configuration.
    pub fn call_with(&self, command: &str, netns: &str, conf: &Value) -> Output {
        self.call_under(&["env"], command, netns, conf)
    }

    /// Calls the plugin through a program that executes it (`setpriv`).
    pub fn call_under(&self, by: &[&str], command: &str, netns: &str, conf: &Value) -> Output {
        self.node
            .enter(|| {
                run_with_input(
                    Command::new(by[0])
                        .args(&by[1..])
                        .arg(env!("CARGO_BIN_EXE_heddle-cni"))
                        .env("CNI_COMMAND", command)
                        .env("CNI_CONTAINERID", "c1")
                        .env("CNI_NETNS", netns)
                        .env("CNI_IFNAME", "eth0")
                        .env("CNI_PATH", "/opt/cni/bin")
                        .env("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=demo;K8S_POD_NAME=client"),
                    &conf.to_string(),
                )
            })
            .unwrap()
    }

    /// Calls ADD, asserts that it succeeds, and returns the result.
    pub fn add(&self) -> Value {
        let out = self.call("ADD");
        assert!(out.ok, "{out:?}");
        serde_json::from_str(&out.stdout).unwrap()
    }

    /// Returns the configuration of CHECK and DEL after ADD.
    pub fn conf_after(&self, result: &Value) -> Value {
        let mut conf = self.conf.clone();
        conf["prevResult"] = result.clone();
        conf
    }
}

/// Returns the error that a failed call printed: code, message, details.
pub fn error(out: &Output) -> (u64, String, String) {
    assert!(!out.ok, "{out:?}");
    assert_eq!(out.status, "exit status: 1");
    let e: Value = serde_json::from_str(&out.stdout).unwrap_or_else(|_| panic!("{out:?}"));
    assert_eq!(e["cniVersion"], "1.1.0");
    (
        e["code"].as_u64().unwrap(),
        e["msg"].as_str().unwrap().to_owned(),
        e["details"].as_str().unwrap_or_default().to_owned(),
    )
}

/// Runs `ip -j` in a namespace and returns its output.
pub fn ip(ns: &NetNs, args: &str) -> Value {
    let words: Vec<&str> = std::iter::once("-j").chain(args.split(' ')).collect();
    serde_json::from_str(&ns.run("ip", &words).unwrap()).unwrap()
}

/// Returns the names of a namespace's interfaces.
pub fn links(ns: &NetNs) -> Vec<String> {
    ip(ns, "link")
        .as_array()
        .unwrap()
        .iter()
        .map(|l| l["ifname"].as_str().unwrap().to_owned())
        .collect()
}

pub fn sysctl(ns: &NetNs, ifname: &str, key: &str) -> String {
    let path = format!("/proc/sys/net/ipv6/conf/{ifname}/{key}");
    ns.run("cat", &[&path]).unwrap().trim().to_owned()
}

/// Returns the scripted agent's answer to *prepare*: dual stack, with routes of different MTUs.
pub fn prepared() -> Prepared {
    let (gw4, gw6): (IpAddr, IpAddr) = ("169.254.1.1".parse().unwrap(), "fe80::1".parse().unwrap());
    let route = |dst: &str, via, mtu| PreparedRoute {
        dst: dst.parse().unwrap(),
        via,
        mtu,
        src: None,
    };
    Prepared {
        attachment: 7,
        host_ifname: IfName::new(HOST).unwrap(),
        mac: MacAddr([2, 0, 0, 0, 0, 7]),
        mtu: 61_000,
        addresses: vec![
            PreparedAddress {
                address: "10.1.0.7".parse().unwrap(),
                gateway: gw4,
            },
            PreparedAddress {
                address: "fd00:1::7".parse().unwrap(),
                gateway: gw6,
            },
        ],
        gateway_mac: MacAddr::GATEWAY,
        max_segment: Some(65_536),
        routes: vec![
            route("10.1.0.0/16", gw4, None),
            PreparedRoute {
                src: Some("10.1.0.7".parse().unwrap()),
                ..route("0.0.0.0/0", gw4, Some(1500))
            },
            route("fd00:1::/64", gw6, None),
            PreparedRoute {
                src: Some("fd00:1::7".parse().unwrap()),
                ..route("::/0", gw6, Some(1450))
            },
        ],
    }
}
