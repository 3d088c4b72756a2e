//! `heddle check`, the same preflight checks at the start of the agent, and settings that the machine cannot fulfil.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{binaries, wait_until};
use heddle_lab::{Lab, LabError, Node, NodePlan, Output, run_with_input};
use serde_json::Value;

const MARKER: &str = "afxdp-test";

/// A node without an agent, and its laboratory.
struct TestNode {
    node: Node,
    lab: Lab,
}

impl TestNode {
    fn new() -> Result<Self, LabError> {
        let lab = Lab::new(binaries()?)?;
        let node = lab.node(NodePlan::new("node", 1))?;
        Ok(Self { node, lab })
    }

    fn heddle(&self) -> PathBuf {
        self.node.heddle("check").get_program().into()
    }

    fn marker(&self) -> PathBuf {
        self.node.state_dir().join(MARKER)
    }

    /// Writes a file into the laboratory's folder and returns its path.
    fn file(&self, name: &str, text: &str) -> Result<PathBuf, LabError> {
        let path = self.lab.dir().join(name);
        fs::write(&path, text).map_err(LabError::io(format!("writing {}", path.display())))?;
        Ok(path)
    }

    /// Runs `heddle check`, with `command` in front, and returns its output and its JSON report.
    fn check(&self, command: &mut Command) -> Result<(Output, Value), LabError> {
        command
            .arg("check")
            .arg("--state-dir")
            .arg(self.node.state_dir())
            .args(["--output", "json"]);
        let out = self.node.ns().enter(|| run_with_input(command, ""))?;
        let report = serde_json::from_str(&out.stdout).map_err(|e| LabError::Reply {
            what: "heddle check".to_owned(),
            detail: format!("{e}: {}{}", out.stdout, out.stderr),
        })?;
        Ok((out, report))
    }

    /// Runs `heddle run`, with `command` in front, to its end.
    fn run(&self, command: &mut Command, flags: &[&str]) -> Result<Output, LabError> {
        command
            .arg("run")
            .arg("--run-dir")
            .arg(self.node.run_dir())
            .arg("--state-dir")
            .arg(self.node.state_dir())
            .arg("--manifests")
            .arg(self.node.manifests())
            .args(["--node", "node"])
            .args(flags);
        self.node.ns().enter(|| run_with_input(command, ""))
    }
}

/// Returns a command that runs `heddle` with other files mounted over files of the kernel.
fn with_files(heddle: &Path, files: &[(&Path, &str)]) -> Command {
    let mut command = Command::new("unshare");
    let mounts: String = files
        .iter()
        .map(|(with, of)| format!("mount --bind '{}' {of} && ", with.display()))
        .collect();
    command
        .args(["--mount", "sh", "-c"])
        .arg(format!("{mounts}exec \"$0\" \"$@\""))
        .arg(heddle);
    command
}

/// Returns the rows of a report about `what`.
fn rows<'a>(report: &'a Value, what: &str) -> Vec<&'a Value> {
    let all = report["rows"].as_array().map_or(&[][..], Vec::as_slice);
    all.iter().filter(|row| row["what"] == what).collect()
}

fn text<'a>(row: &'a Value, key: &str) -> &'a str {
    row[key].as_str().unwrap_or_default()
}

fn read(path: &str) -> Result<String, LabError> {
    let text = fs::read_to_string(path).map_err(LabError::io(format!("reading {path}")))?;
    Ok(text.trim().to_owned())
}

/// Returns the names of the node's interfaces. Their state is left out, because it may still change.
fn links(test_node: &TestNode) -> Result<Vec<String>, LabError> {
    let all = test_node.node.ns().run("ip", &["-o", "link"])?;
    let name = |line: &str| line.split(": ").nth(1).map(str::to_owned);
    Ok(all.lines().filter_map(name).collect())
}

/// A supervisor can tell a start that needs a change of the configuration from one that may be repeated.
#[test]
fn the_exit_status_says_if_a_start_can_be_repeated() -> Result<(), LabError> {
    let test = TestNode::new()?;
    let nowhere = test.lab.dir().join("nowhere");
    let broken = test.file("broken.kubeconfig", "clusters: [")?;
    let failing = test.file(
        "exec.kubeconfig",
        r#"{"kind": "Config", "current-context": "c",
            "clusters": [{"name": "k", "cluster": {"server": "https://192.0.2.1:6443"}}],
            "users": [{"name": "u", "user": {"exec": {"apiVersion": "client.authentication.k8s.io/v1",
                "command": "false", "interactiveMode": "Never"}}}],
            "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}]}"#,
    )?;
    for (flags, status, part) in [
        (
            vec!["--kubeconfig".to_owned(), nowhere.display().to_string()],
            "78",
            "nowhere",
        ),
        (
            vec!["--kubeconfig".to_owned(), broken.display().to_string()],
            "78",
            "broken.kubeconfig",
        ),
        (
            vec!["--kubeconfig".to_owned(), failing.display().to_string()],
            "78",
            "192.0.2.1",
        ),
        (Vec::new(), "78", "service account"),
        (vec!["--max-pods".to_owned(), "0".to_owned()], "78", "maxPods"),
        (
            vec!["--manifests".to_owned(), nowhere.display().to_string()],
            "1",
            "nowhere",
        ),
    ] {
        let mut command = Command::new(test.heddle());
        command
            .arg("run")
            .arg("--run-dir")
            .arg(test.node.run_dir())
            .arg("--state-dir")
            .arg(test.node.state_dir())
            .args(["--node", "node"])
            .args(&flags);
        let out = test.node.ns().enter(|| run_with_input(&mut command, ""))?;
        assert_eq!(
            out.status,
            format!("exit status: {status}"),
            "{flags:?}: {}",
            out.stderr
        );
        let last = out.stderr.lines().last().unwrap_or_default();
        assert!(last.starts_with("heddle: ") && last.contains(part), "{flags:?}: {last}");
    }
    Ok(())
}

#[test]
fn a_good_machine_is_fit_and_stays_unchanged() -> Result<(), LabError> {
    let test_node = TestNode::new()?;
    let links = links(&test_node)?;
    let (out, report) = test_node.check(&mut Command::new(test_node.heddle()))?;
    assert!(out.ok && report["fit"] == true, "{}{}", out.stdout, out.stderr);
    for what in [
        "kernel",
        "bpf(2)",
        "privileges",
        "XDP on veth",
        "AF_XDP",
        "cores",
        "memlock",
        "nft",
        "forwarding of IPv4",
        "forwarding of IPv6",
        "rp_filter",
        "FORWARD policy",
        "INPUT policy",
    ] {
        let found = rows(&report, what);
        assert!(
            found.len() == 1 && found[0]["state"] == "ok" && !text(found[0], "value").is_empty(),
            "{what}: {found:?}"
        );
    }
    assert_eq!(rows(&report, "kernel")[0]["value"], read("/proc/sys/kernel/osrelease")?);
    assert!(
        text(rows(&report, "rp_filter")[0], "value").contains("eth0"),
        "{report}"
    );
    assert!(!test_node.marker().exists());
    assert_eq!(self::links(&test_node)?, links);

    // The form for people: one line for each row.
    let absent = test_node.lab.dir().join("absent/state");
    let out = test_node.node.ns().enter(|| {
        run_with_input(
            Command::new(test_node.heddle())
                .arg("check")
                .arg("--state-dir")
                .arg(&absent),
            "",
        )
    })?;
    assert!(out.ok, "{}{}", out.stdout, out.stderr);
    assert!(
        out.stdout.contains("a packet went there and back") && out.stdout.contains("this machine is fit"),
        "{}",
        out.stdout
    );
    assert!(
        !absent.parent().is_some_and(Path::exists),
        "the check leaves no directory behind"
    );
    Ok(())
}

#[test]
fn obstacles_between_pods_and_the_outside_are_warnings() -> Result<(), LabError> {
    let test_node = TestNode::new()?;
    let ns = test_node.node.ns();
    ns.sysctl("net/ipv4/ip_forward", "0")?;
    ns.run("nft", &["add", "table", "ip", "others"])?;
    let chain = "{ type filter hook forward priority 0; policy drop; }";
    ns.run("nft", &["add", "chain", "ip", "others", "FORWARD", chain])?;
    let (out, report) = test_node.check(&mut Command::new(test_node.heddle()))?;
    assert!(out.ok, "neither obstacle keeps heddle from running: {}", out.stdout);
    let v4 = rows(&report, "forwarding of IPv4")[0];
    assert_eq!(
        (text(v4, "state"), text(v4, "advice")),
        ("warn", "sysctl net.ipv4.ip_forward=1")
    );
    let forward = rows(&report, "FORWARD policy")[0];
    assert!(
        forward["state"] == "warn" && text(forward, "value").contains("ip others FORWARD"),
        "{forward}"
    );
    Ok(())
}

/// firewalld's chains accept by their policy and reject by their last rule.
#[test]
fn a_running_agent_shows_a_firewall_that_others_start_and_stop() -> Result<(), LabError> {
    let lab = Lab::new(common::binaries()?)?;
    let mut node = lab.node(NodePlan::new("node", 1))?;
    node.ns()
        .run("sh", &["-c", &format!("nft -f - <<'END'\n{FIREWALLD}END")])?;
    node.start_agent()?;
    let warned = |status: &Value, what: &str| {
        let checks = status["checks"].as_array().cloned().unwrap_or_default();
        checks
            .iter()
            .any(|row| row["what"] == what && row["ok"] == Value::Bool(false))
    };
    wait_until("both chains are in the status", || {
        let status = node.status()?;
        Ok(warned(&status, "FORWARD policy") && warned(&status, "INPUT policy"))
    })?;
    let log = std::fs::read_to_string(node.log()).map_err(LabError::io("reading the log"))?;
    assert!(log.contains("inet firewalld filter_FORWARD"), "{log}");
    let text = node
        .ns()
        .enter(|| run_with_input(&mut node.heddle("status"), ""))?
        .stdout;
    assert!(text.contains("warning: INPUT policy"), "{text}");
    // The rows are evaluated twice a minute.
    node.ns().run("nft", &["delete", "table", "inet", "firewalld"])?;
    heddle_lab::wait_until("the warnings go", std::time::Duration::from_secs(60), || {
        let status = node.status()?;
        Ok(!warned(&status, "FORWARD policy") && !warned(&status, "INPUT policy"))
    })
}

const FIREWALLD: &str = "table inet firewalld {
    chain filter_INPUT {
        type filter hook input priority filter + 10; policy accept;
        ct state { established, related } accept
        iifname lo accept
        reject with icmpx admin-prohibited
    }
    chain filter_FORWARD {
        type filter hook forward priority filter + 10; policy accept;
        ct state { established, related } accept
        reject with icmpx admin-prohibited
    }
}
";

#[test]
fn each_missing_capability_is_named() -> Result<(), LabError> {
    let test_node = TestNode::new()?;
    let mut command = Command::new("setpriv");
    command
        .args(["--bounding-set", "-net_admin,-ipc_lock", "--inh-caps", "-all"])
        .arg(test_node.heddle());
    let (out, report) = test_node.check(&mut command)?;
    assert!(!out.ok && report["fit"] == false, "{}", out.stdout);
    let missing: Vec<&str> = rows(&report, "privileges")
        .iter()
        .map(|row| text(row, "value"))
        .collect();
    assert_eq!(missing.len(), 2, "{missing:?}");
    for name in ["CAP_NET_ADMIN", "CAP_IPC_LOCK"] {
        assert!(
            missing.iter().any(|value| value.starts_with(name)),
            "{name}: {missing:?}"
        );
    }
    let afxdp = rows(&report, "AF_XDP")[0];
    assert!(
        afxdp["state"] == "bad" && text(afxdp, "value").contains("CAP_NET_ADMIN"),
        "{afxdp}"
    );
    assert!(!test_node.marker().exists());
    Ok(())
}

#[test]
fn an_afxdp_test_that_crashed_the_machine_is_not_repeated() -> Result<(), LabError> {
    let test_node = TestNode::new()?;
    let kernel = read("/proc/sys/kernel/osrelease")?;
    let marker = test_node.marker();
    let put = |text: &str| fs::write(&marker, text).map_err(LabError::io("writing the marker"));
    put(&format!("{kernel}\n00000000-0000-4000-8000-000000000000\n"))?;
    let name = marker.display().to_string();
    let (out, report) = test_node.check(&mut Command::new(test_node.heddle()))?;
    let afxdp = rows(&report, "AF_XDP")[0];
    assert!(
        !out.ok && afxdp["state"] == "bad" && text(afxdp, "value").contains(&name),
        "{}",
        out.stdout
    );
    let out = test_node.run(&mut Command::new(test_node.heddle()), &["--cores", "0"])?;
    assert!(
        !out.ok && out.stderr.contains(&name) && out.stderr.trim().lines().count() == 1,
        "{}",
        out.stderr
    );
    assert!(marker.exists(), "the marker stays until an administrator deletes it");

    // A marker of the current boot means that the process was interrupted, not that the machine crashed: the test is repeated.
    put(&format!("{kernel}\n{}\n", read("/proc/sys/kernel/random/boot_id")?))?;
    let (out, report) = test_node.check(&mut Command::new(test_node.heddle()))?;
    let afxdp = rows(&report, "AF_XDP")[0];
    assert!(out.ok && text(afxdp, "value").contains("interrupted"), "{}", out.stdout);
    assert!(!marker.exists());

    // A marker of another kernel does not count.
    put("5.4.0-other\n00000000-0000-4000-8000-000000000000\n")?;
    let mut node = test_node.node;
    node.start_agent()?;
    assert!(!marker.exists());
    let log = fs::read_to_string(node.log()).map_err(LabError::io("reading the log"))?;
    assert!(log.contains("AF_XDP works"), "{log}");
    Ok(())
}

#[test]
fn kernels_that_panic_are_refused_before_any_test() -> Result<(), LabError> {
    let test_node = TestNode::new()?;
    for (release, says) in [
        ("6.16.9-generic", "panics"),
        ("6.17.0-5-generic", "CVE-2025-40290"),
        ("6.1.0-18-amd64", "6.6"),
    ] {
        let file = test_node.file("osrelease", &format!("{release}\n"))?;
        let seen = [(file.as_path(), "/proc/sys/kernel/osrelease")];
        let (out, report) = test_node.check(&mut with_files(&test_node.heddle(), &seen))?;
        let kernel = rows(&report, "kernel")[0];
        assert!(
            !out.ok && kernel["state"] == "bad" && text(kernel, "value").contains(release),
            "{}",
            out.stdout
        );
        assert!(
            text(rows(&report, "AF_XDP")[0], "value").starts_with("not tried"),
            "{report}"
        );
        let out = test_node.run(&mut with_files(&test_node.heddle(), &seen), &["--cores", "0"])?;
        assert!(
            !out.ok && out.stderr.contains(release) && out.stderr.contains(says),
            "{}",
            out.stderr
        );
        assert!(!test_node.marker().exists());
    }
    Ok(())
}

#[test]
fn settings_that_the_machine_cannot_fulfil_are_refused_with_the_numbers() -> Result<(), LabError> {
    let test_node = TestNode::new()?;
    let meminfo = test_node.file(
        "meminfo",
        "MemTotal: 512000 kB\nMemFree: 1 kB\nMemAvailable: 102400 kB\n",
    )?;
    let pages = test_node.file("free_hugepages", "3\n")?;
    let seen = [
        (meminfo.as_path(), "/proc/meminfo"),
        (
            pages.as_path(),
            "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages",
        ),
    ];
    // Keys with values, and the parts of the message.
    let table: &[(&str, &[&str])] = &[
        (
            "frames: 32768",
            &["32768", "128.0 MiB", "100.0 MiB", "MemAvailable", "lower frames"],
        ),
        (
            "connections: 1000000",
            &["64.0 MiB", "234.0 MiB", "100.0 MiB", "connections"],
        ),
        (
            "hugePages: require\nconnections: 262144",
            &["hugePages: require", "3 pages", "33", "nr_hugepages"],
        ),
        ("maxPods: 1024", &["frames", "16384", "1024 pods"]),
        ("maxPods: 0", &["maxPods", "0", "1024"]),
        ("podMTU: 576", &["podMTU", "576", "1280"]),
        ("podMTU: 65536", &["podMTU", "65536"]),
        ("cores: 0,0", &["core 0", "twice"]),
        ("cores: 1000", &["cores", "1000"]),
        ("workers: 65", &["workers", "65", "64"]),
    ];
    for (text, parts) in table {
        let config = test_node.file("heddle.yaml", &format!("{text}\n"))?;
        let config = config.display().to_string();
        let out = test_node.run(&mut with_files(&test_node.heddle(), &seen), &["--config", &config])?;
        let errors: Vec<&str> = out.stderr.lines().filter(|line| line.starts_with("heddle: ")).collect();
        assert!(
            !out.ok && errors.len() == 1 && parts.iter().all(|part| errors[0].contains(part)),
            "{text}: {}",
            out.stderr
        );
    }
    // `heddle check` reports the same for such a file.
    let config = test_node.file("heddle.yaml", "frames: 32768\nmaxPods: 10\n")?;
    let mut command = with_files(&test_node.heddle(), &seen);
    command.arg("check").arg("--config").arg(&config);
    command.arg("--state-dir").arg(test_node.node.state_dir());
    let out = test_node.node.ns().enter(|| run_with_input(&mut command, ""))?;
    assert!(
        !out.ok
            && out
                .stdout
                .lines()
                .any(|line| line.starts_with("memory") && line.contains("BAD")),
        "{}",
        out.stdout
    );
    Ok(())
}
