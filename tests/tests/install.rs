//! The agent as a pod of a DaemonSet: probes, the CNI plugin's files, process 1 of its container, and `heddle check` as an init
//! container.

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use common::{BOUND, binaries, wait_until};
use heddle_lab::{Lab, LabError, Node, NodePlan, Process, manifests, run_with_input};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const PROBE_PORT: u16 = 9871;
/// The bit of SIGTERM (15) in the masks of /proc/PID/status.
const SIGTERM_BIT: u64 = 1 << 14;

/// A node whose agent has a configuration with probes and CNI directories.
struct Installing {
    node: Node,
    lab: Lab,
}

impl Installing {
    fn new(pod_cidrs: Vec<String>) -> Result<Self, LabError> {
        let lab = Lab::new(binaries()?)?;
        let (net_d, bin) = (lab.dir().join("net.d"), lab.dir().join("bin"));
        let config = lab.dir().join("heddle.yaml");
        let text = format!(
            "probePort: {PROBE_PORT}\ncni:\n  configDir: {}\n  binDir: {}\n",
            net_d.display(),
            bin.display()
        );
        fs::write(&config, text).map_err(LabError::io("writing the configuration"))?;
        fs::create_dir_all(&net_d).map_err(LabError::io("creating net.d"))?;
        let mut plan = NodePlan::new("node", 1);
        plan.pod_cidrs = pod_cidrs;
        plan.flags = vec!["--config".to_owned(), config.display().to_string()];
        let node = lab.node(plan)?;
        Ok(Self { node, lab })
    }

    fn config(&self) -> PathBuf {
        self.lab.dir().join("net.d/10-heddle.conflist")
    }

    fn binary(&self) -> PathBuf {
        self.lab.dir().join("bin/heddle-cni")
    }

    /// Asks the agent's probe port and returns the whole answer.
    fn get(&self, path: &str) -> Result<String, LabError> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: node\r\n\r\n");
        self.node.ns().enter(|| {
            let failed = |e| LabError::io("asking the probe port")(e);
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, PROBE_PORT)).map_err(failed)?;
            stream.set_read_timeout(Some(BOUND)).map_err(failed)?;
            stream.write_all(request.as_bytes()).map_err(failed)?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).map_err(failed)?;
            Ok(answer)
        })
    }
}

fn read(path: &PathBuf) -> Result<Vec<u8>, LabError> {
    fs::read(path).map_err(LabError::io(format!("reading {}", path.display())))
}

#[test]
fn the_plugin_is_installed_when_add_is_served_and_removed_by_cleanup() -> Result<(), LabError> {
    let mut scene = Installing::new(Vec::new())?;
    let foreign = scene.lab.dir().join("net.d/05-other.conflist");
    fs::write(&foreign, "{}").map_err(LabError::io("writing a foreign configuration"))?;
    scene.node.start_agent()?;

    // Without a range of pods no ADD can be served: the probe says so, and nothing is installed.
    wait_until("the probe names the missing range", || {
        let answer = scene.get("/readyz")?;
        Ok(answer.starts_with("HTTP/1.1 503 ") && answer.contains("[-]attachments failed: the Node object node"))
    })?;
    let answer = scene.get("/readyz")?;
    assert!(
        answer.contains("[+]tables ok") && answer.contains("[+]worker 0 ok") && answer.contains("[+]host-port ok"),
        "{answer}"
    );
    assert!(scene.get("/livez")?.starts_with("HTTP/1.1 200 "));
    assert!(scene.get("/other")?.starts_with("HTTP/1.1 404 "));
    assert!(!scene.config().exists() && !scene.binary().exists());

    // With one, both files are there, and the node is ready.
    let cidrs = ["10.244.1.0/24".to_owned()];
    scene
        .node
        .apply(&manifests::node("node", &scene.node.internal_ips(), &cidrs))?;
    wait_until("the node is ready", || {
        Ok(scene.get("/readyz")?.starts_with("HTTP/1.1 200 "))
    })?;
    let config: serde_json::Value = serde_json::from_slice(&read(&scene.config())?).unwrap();
    assert_eq!(config["plugins"][0]["type"], "heddle-cni");
    assert_eq!(
        config["plugins"][0]["runDir"],
        scene.node.run_dir().display().to_string()
    );
    let mode = fs::metadata(scene.binary()).map_err(LabError::io("looking at the plugin"))?;
    assert_eq!(mode.permissions().mode() & 0o777, 0o755);
    // The installed plugin and configuration reach the agent: STATUS succeeds.
    let mut plugin = Command::new(scene.binary());
    plugin.env("CNI_COMMAND", "STATUS").env("CNI_PATH", scene.lab.dir());
    let conf = serde_json::json!({
        "cniVersion": config["cniVersion"], "name": config["name"], "type": "heddle-cni",
        "runDir": config["plugins"][0]["runDir"], "capabilities": config["plugins"][0]["capabilities"],
    });
    let out = scene
        .node
        .ns()
        .enter(|| run_with_input(&mut plugin, &conf.to_string()))?;
    assert!(out.ok, "{}{}", out.stdout, out.stderr);

    // The foreign configuration is noticed, and stays.
    let text = scene
        .node
        .ns()
        .enter(|| run_with_input(&mut scene.node.heddle("status"), ""))?
        .stdout;
    assert!(
        text.contains("warning: CNI configuration: 05-other.conflist in "),
        "{text}"
    );

    // The files outlive the agent, and cleanup removes them alone.
    scene.node.stop_agent(Signal::SIGTERM)?;
    assert!(scene.config().exists() && scene.binary().exists());
    let out = scene.node.cleanup()?;
    assert!(
        out.ok && out.stdout.contains("removed file") && out.stdout.contains("10-heddle.conflist"),
        "{}{}",
        out.stdout,
        out.stderr
    );
    assert!(!scene.config().exists() && !scene.binary().exists());
    assert_eq!(read(&foreign)?, b"{}");
    let left = fs::read_dir(scene.node.state_dir()).map(|entries| entries.count());
    assert_eq!(left.unwrap_or(0), 0);
    Ok(())
}

#[test]
fn kube_proxy_and_a_foreign_configuration_are_warnings_of_check() -> Result<(), LabError> {
    let scene = Installing::new(Vec::new())?;
    let ns = scene.node.ns();
    ns.run("nft", &["add", "table", "ip", "kube-proxy"])?;
    ns.run("nft", &["add", "chain", "ip", "kube-proxy", "services"])?;
    let foreign = scene.lab.dir().join("net.d/00-bridge.conf");
    fs::write(&foreign, "{}").map_err(LabError::io("writing a foreign configuration"))?;
    let mut check = Command::new(scene.node.heddle("check").get_program());
    check
        .args(["check", "--config"])
        .arg(scene.lab.dir().join("heddle.yaml"))
        .arg("--state-dir")
        .arg(scene.node.state_dir());
    let out = ns.enter(|| run_with_input(&mut check, ""))?;
    assert!(out.ok, "neither is an obstacle: {}", out.stdout);
    let warned = |what: &str, part: &str| {
        let mut lines = out.stdout.lines();
        lines.any(|line| line.starts_with(what) && line.contains("warn") && line.contains(part))
    };
    assert!(warned("kube-proxy", "table ip kube-proxy"), "{}", out.stdout);
    assert!(warned("CNI configuration", "00-bridge.conf"), "{}", out.stdout);
    Ok(())
}

#[test]
fn an_unfit_node_is_explained_in_the_termination_log() -> Result<(), LabError> {
    let scene = Installing::new(Vec::new())?;
    let log = scene.lab.dir().join("termination-log");
    let check = |command: &mut Command| {
        command
            .args(["check", "--state-dir"])
            .arg(scene.node.state_dir())
            .arg("--termination-log")
            .arg(&log);
        scene.node.ns().enter(|| run_with_input(command, ""))
    };
    let heddle = PathBuf::from(scene.node.heddle("check").get_program());
    assert!(check(&mut Command::new(&heddle))?.ok);
    assert!(!log.exists(), "a fit node has no message");
    let mut command = Command::new("setpriv");
    command
        .args(["--bounding-set", "-net_raw", "--inh-caps", "-all"])
        .arg(&heddle);
    assert!(!check(&mut command)?.ok);
    let message = String::from_utf8(read(&log)?).unwrap();
    assert!(
        message.starts_with("this node is not fit for heddle\nprivileges: CAP_NET_RAW is missing"),
        "{message}"
    );
    // A configuration that cannot be used is explained too.
    let mut command = Command::new(&heddle);
    let config = scene.lab.dir().join("bad.yaml");
    fs::write(&config, "maxPod: 3\n").map_err(LabError::io("writing bad.yaml"))?;
    command.args(["check", "--config"]).arg(&config);
    command.arg("--termination-log").arg(&log);
    assert!(!scene.node.ns().enter(|| run_with_input(&mut command, ""))?.ok);
    let message = String::from_utf8(read(&log)?).unwrap();
    assert!(message.contains("maxPod") && message.contains("bad.yaml"), "{message}");
    Ok(())
}

/// An agent that is process 1 of a PID namespace, under `unshare`.
struct FirstProcess {
    unshare: Process,
    agent: Pid,
}

impl FirstProcess {
    /// Starts the agent and waits until it has a handler for SIGTERM.
    fn start(node: &Node) -> Result<Self, LabError> {
        let heddle = node.heddle("run");
        let mut command = Command::new("unshare");
        command
            .args(["--pid", "--fork", "--kill-child", "--mount-proc"])
            .arg(heddle.get_program())
            .args(heddle.get_args())
            .args(["--node", "node", "--cores", "0", "--manifests"])
            .arg(node.manifests())
            .arg("--state-dir")
            .arg(node.state_dir());
        let unshare = Process::start(node.ns(), "heddle run as process 1", &mut command, &node.log())?;
        let mut agent = None;
        let children = format!("/proc/{0}/task/{0}/children", unshare.id());
        // Without a pause: every moment in which the signal would be lost counts.
        let start = std::time::Instant::now();
        while agent.is_none() && start.elapsed() < BOUND {
            let child = fs::read_to_string(&children).unwrap_or_default();
            agent = child.trim().parse().ok().filter(|pid| catches_sigterm(*pid));
        }
        let agent = agent.map(Pid::from_raw).ok_or_else(|| LabError::Timeout {
            what: "a handler for SIGTERM".to_owned(),
            seconds: BOUND.as_secs(),
            detail: unshare.log_tail(20),
        })?;
        Ok(Self { unshare, agent })
    }

    /// Sends SIGTERM and returns the exit status.
    fn terminate(mut self) -> Result<Option<i32>, LabError> {
        kill(self.agent, Signal::SIGTERM).map_err(LabError::nix("sending SIGTERM"))?;
        let mut status = None;
        wait_until("the agent ends", || {
            status = self.unshare.exit_status()?;
            Ok(status.is_some())
        })?;
        Ok(status.and_then(|status| status.code()))
    }

    /// Returns the number of the agent's children that have ended and were not waited for.
    fn zombies(&self) -> usize {
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.agent)).unwrap_or_default();
        let is_zombie =
            |pid: &&str| fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "));
        children.split_ascii_whitespace().filter(is_zombie).count()
    }
}

/// Returns `true` if a process is `heddle` and has a handler for SIGTERM.
fn catches_sigterm(pid: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let field = |name: &str| status.lines().find_map(|line| Some(line.strip_prefix(name)?.trim()));
    let caught = field("SigCgt:").and_then(|mask| u64::from_str_radix(mask, 16).ok());
    field("Name:") == Some("heddle") && caught.is_some_and(|mask| mask & SIGTERM_BIT != 0)
}

#[test]
fn as_process_1_the_agent_obeys_sigterm_at_any_time_and_reaps_orphans() -> Result<(), LabError> {
    let scene = Installing::new(vec!["10.244.1.0/24".to_owned()])?;
    // In its start the agent ends at once, as without a handler.
    for millis in [0, 5, 50] {
        let agent = FirstProcess::start(&scene.node)?;
        std::thread::sleep(Duration::from_millis(millis));
        let code = agent.terminate()?;
        assert_eq!(code, Some(143), "after {millis} ms");
    }
    let log = |part: &str| fs::read_to_string(scene.node.log()).is_ok_and(|log| log.contains(part));
    assert!(!log(" ready"));

    let agent = FirstProcess::start(&scene.node)?;
    wait_until("the agent is ready", || Ok(log(" ready")))?;
    // The shell ends before its child, which then falls to the agent.
    let pid = agent.agent.to_string();
    heddle_lab::run(
        "nsenter",
        &["--target", &pid, "--pid", "sh", "-c", "sleep 0.2 >/dev/null 2>&1 &"],
    )?;
    wait_until("the orphan ends", || Ok(agent.zombies() == 1))?;
    wait_until("the orphan is reaped", || Ok(agent.zombies() == 0))?;
    assert_eq!(agent.terminate()?, Some(0));
    Ok(())
}
