//! Faulty calls of the CNI plugin: each gets the error code of the CNI specification and a message that says what to change,
//! and leaves nothing behind.

mod common;

use common::binaries;
use common::call::{Call, code};
use heddle_lab::shop::Shop;
use heddle_lab::{Lab, LabError, NodePlan};
use serde_json::{Value, json};

fn links(shop: &Shop) -> Result<String, LabError> {
    shop.node.ns().run("ip", &["-br", "link"])
}

/// Runs a table of calls: the fault, the call, the expected code, and words of the expected message.
fn check_calls(shop: &Shop, table: Vec<(&str, Call, u64, &str)>) -> Result<(), LabError> {
    for (what, call, expected, words) in table {
        let out = call.run(shop)?;
        assert!(!out.ok, "{what}: {}", out.stdout);
        assert_eq!(code(&out), Some(expected), "{what}: {}{}", out.stdout, out.stderr);
        let answer: Value = serde_json::from_str(&out.stdout).unwrap_or_default();
        let message = format!("{} {}", answer["msg"], answer["details"]);
        assert!(message.contains(words), "{what}: {words:?} is not in {message}");
    }
    Ok(())
}

#[test]
fn faulty_calls_get_their_code_and_a_message_and_leave_nothing_behind() -> Result<(), LabError> {
    let mut shop = Shop::new(binaries()?, NodePlan::new("node", 1))?;
    shop.node.start_agent()?;
    let pod = shop.lab.pod("shop", "pod", &[])?;
    let before = links(&shop)?;
    let call = || Call::of(&shop, pod.ns().path());
    let gone = shop.lab.dir().join("gone").display().to_string();
    let own = shop.node.ns().path().display().to_string();
    let unknown = "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=nobody";
    let file = shop.lab.dir().join("a-file");
    std::fs::create_dir_all(&file).map_err(LabError::io("a directory"))?;
    std::fs::write(file.join("cni.sock"), "no socket").map_err(LabError::io("a file"))?;
    check_calls(
        &shop,
        vec![
            // The environment that the runtime sets.
            ("no command", call().without("CNI_COMMAND"), 4, "CNI_COMMAND is missing"),
            (
                "an unknown command",
                call().with("CNI_COMMAND", "FROB"),
                4,
                "serves ADD, DEL, CHECK",
            ),
            (
                "no container",
                call().without("CNI_CONTAINERID"),
                4,
                "CNI_CONTAINERID is missing: ADD needs it",
            ),
            ("a bad container", call().with("CNI_CONTAINERID", "../x"), 4, "../x"),
            (
                "no interface name",
                call().without("CNI_IFNAME"),
                4,
                "CNI_IFNAME is missing",
            ),
            (
                "a long interface name",
                call().with("CNI_IFNAME", "a-name-that-is-too-long"),
                4,
                "at most 15 are allowed",
            ),
            (
                "a slash in the interface name",
                call().with("CNI_IFNAME", "a/b"),
                4,
                "a/b",
            ),
            (
                "an existing interface name",
                call().with("CNI_IFNAME", "lo"),
                4,
                "choose another name, or DEL first",
            ),
            ("no namespace", call().without("CNI_NETNS"), 4, "CNI_NETNS is missing"),
            (
                "a namespace that is gone",
                call().with("CNI_NETNS", &gone),
                3,
                "the container is gone",
            ),
            (
                "a path that is no network namespace",
                call().with("CNI_NETNS", "/proc/self/ns/uts"),
                4,
                "cannot be entered",
            ),
            (
                "the node's own namespace",
                call().with("CNI_NETNS", &own),
                4,
                "node's own network namespace",
            ),
            ("malformed arguments", call().with("CNI_ARGS", "=;;x"), 4, "CNI_ARGS"),
            // The network configuration.
            ("no configuration", call().input(""), 6, "standard input is empty"),
            ("a configuration that is no JSON", call().input("{"), 6, "no JSON"),
            (
                "a configuration that is no object",
                call().input("[1]"),
                6,
                "no JSON object",
            ),
            (
                "an unknown version",
                call().key("cniVersion", json!("9.9.9")),
                1,
                "9.9.9",
            ),
            ("no name", call().key("name", Value::Null), 7, "name"),
            (
                "a bad name",
                call().key("name", json!("/x")),
                7,
                "must begin with a letter or digit",
            ),
            ("a bad MTU", call().key("mtu", json!(1)), 7, "give a number from"),
            (
                "an MTU that is no number",
                call().key("mtu", json!("big")),
                7,
                "give a number from",
            ),
            (
                "a bad txOff",
                call().key("txOff", json!("yes")),
                7,
                "give true or false",
            ),
            (
                "a relative run directory",
                call().key("runDir", json!("heddle")),
                7,
                "give an absolute path",
            ),
            (
                "an IPAM plugin",
                call().key("ipam", json!({"type": "host-local"})),
                2,
                "the agent hands out addresses",
            ),
            (
                "masquerading",
                call().key("ipMasq", json!(true)),
                2,
                "the agent decides about masquerading",
            ),
            (
                "an unknown key",
                call().key("bridge", json!("cni0")),
                2,
                "heddle-cni has runDir, mtu and txOff",
            ),
            (
                "an unreadable earlier result",
                call().with("CNI_COMMAND", "CHECK").key("prevResult", json!(7)),
                6,
                "prevResult",
            ),
            (
                "a CHECK without a result",
                call().with("CNI_COMMAND", "CHECK"),
                7,
                "CHECK needs the result of ADD",
            ),
            // The node.
            (
                "an unknown pod",
                call().with("CNI_ARGS", unknown),
                11,
                "shop/nobody is not known yet",
            ),
            (
                "no agent",
                call().key("runDir", json!("/run/heddle-absent")),
                11,
                "is `heddle run` running",
            ),
            (
                "a file in place of the socket",
                call().key("runDir", json!(file)),
                11,
                "is `heddle run` running",
            ),
            (
                "no privilege",
                call().by(&["setpriv", "--bounding-set", "-all", "--inh-caps", "-all"]),
                100,
                "run it as root",
            ),
        ],
    )?;
    assert_eq!(links(&shop)?, before, "no interface is left on the node");
    assert_eq!(
        pod.ns().run("ip", &["-br", "link"])?.lines().count(),
        1,
        "no interface but lo is left in the pod"
    );
    assert_eq!(shop.node.status()?["attachments"], json!([]));
    Ok(())
}

#[test]
fn a_full_node_names_the_bound_that_it_has_reached() -> Result<(), LabError> {
    let lab = Lab::new(binaries()?)?;
    let mut plan = NodePlan::new("node", 1);
    let config = lab.dir().join("one.yaml");
    std::fs::write(&config, "maxPods: 1\n").map_err(LabError::io("writing one.yaml"))?;
    plan.flags = vec!["--config".to_owned(), config.display().to_string()];
    let mut node = lab.node(plan)?;
    node.start_agent()?;
    let (first, second) = (lab.pod("full", "first", &[])?, lab.pod("full", "second", &[])?);
    node.start_pod(&first)?;
    let out = node.cni("ADD", &second, None)?;
    assert_eq!((out.ok, code(&out)), (false, Some(102)), "{}", out.stdout);
    assert!(out.stdout.contains("key maxPods"), "{}", out.stdout);
    assert_eq!(second.ns().run("ip", &["-br", "link"])?.lines().count(), 1, "only lo");
    node.end_pod(&first)?;
    node.start_pod(&second)?;
    Ok(())
}
