//! The laboratory: an outside world, nodes and pods, and what kubelet does for them.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::{LabError, NetNs, Output, Process, manifests, run_with_input};

const PREFIX: &str = "hdt-";
const PID_FILE: &str = "agent.pid";
/// In the folder of a laboratory that was left standing on purpose.
const KEPT: &str = "kept";

/// The binaries under test.
#[derive(Debug, Clone)]
pub struct Binaries {
    /// `heddle`.
    pub heddle: PathBuf,
    /// `heddle-cni`.
    pub cni: PathBuf,
}

impl Binaries {
    /// Both binaries of the folder of the running executable, or of the one above it (test executables lie in `deps/`).
    ///
    /// # Errors
    /// One of them is not there.
    pub fn beside_current_exe() -> Result<Self, LabError> {
        let me = std::env::current_exe().map_err(LabError::io("finding this executable"))?;
        let find = |name: &str| {
            me.ancestors()
                .skip(1)
                .take(2)
                .map(|dir| dir.join(name))
                .find(|path| path.is_file())
                .ok_or_else(|| LabError::Reply {
                    what: format!("looking for {name} beside {}", me.display()),
                    detail:
                        "it is not there; build it into the same folder (cargo build -p heddle-agent -p heddle-cni)"
                            .to_owned(),
                })
        };
        Ok(Self {
            heddle: find("heddle")?,
            cni: find("heddle-cni")?,
        })
    }
}

/// Everything that a test or the demo makes; it all goes away with this.
#[derive(Debug)]
pub struct Lab {
    dir: PathBuf,
    binaries: Binaries,
    outside: NetNs,
    keep: AtomicBool,
}

/// How a node is made.
#[derive(Debug, Clone)]
pub struct NodePlan {
    /// Its name.
    pub name: String,
    /// Its number in the laboratory, which its addresses are made of (1 to 200).
    pub number: u8,
    /// Its pod ranges.
    pub pod_cidrs: Vec<String>,
    /// The cores that its workers run on, as `--cores` takes them.
    pub cores: String,
    /// Further arguments of `heddle run`.
    pub flags: Vec<String>,
}

impl NodePlan {
    /// A dual-stack node with one worker on core 0.
    #[must_use]
    pub fn new(name: &str, number: u8) -> Self {
        Self {
            name: name.to_owned(),
            number,
            pod_cidrs: vec![format!("10.244.{number}.0/24"), format!("fd00:10:244:{number}::/64")],
            cores: "0".to_owned(),
            flags: Vec::new(),
        }
    }
}

/// A node: a namespace with an uplink to the outside, a manifest folder and an agent.
#[derive(Debug)]
pub struct Node {
    plan: NodePlan,
    ns: NetNs,
    dir: PathBuf,
    binaries: Binaries,
    agent: Option<Process>,
    kept: bool,
}

/// A pod: a namespace and an object in the manifest folder.
#[derive(Debug)]
pub struct Pod {
    /// Its Kubernetes namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    labels: Vec<(String, String)>,
    ns: NetNs,
    container_id: String,
}

/// What CNI ADD returned.
#[derive(Debug, Clone)]
pub struct AddResult {
    /// The pod's addresses, in the order of the result.
    pub ips: Vec<IpAddr>,
    /// The whole result.
    pub result: Value,
}

impl AddResult {
    /// The first address of a family.
    ///
    /// # Errors
    /// There is none.
    pub fn ip(&self, v6: bool) -> Result<IpAddr, LabError> {
        self.ips
            .iter()
            .copied()
            .find(|ip| ip.is_ipv6() == v6)
            .ok_or_else(|| LabError::Reply {
                what: "the CNI result".to_owned(),
                detail: format!("it has no IPv{} address: {}", if v6 { 6 } else { 4 }, self.result),
            })
    }
}

impl Lab {
    /// An empty laboratory with an outside world (192.0.2.254 and 2001:db8::fe); what dead runs left behind is removed first.
    ///
    /// # Errors
    /// No privilege, or a name that cannot be made.
    pub fn new(binaries: Binaries) -> Result<Self, LabError> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        remove_leftovers(Leftovers::NotKept)?;
        let dir = std::env::temp_dir().join(format!(
            "{PREFIX}{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        ));
        fs::create_dir(&dir).map_err(LabError::io(format!("creating {}", dir.display())))?;
        let outside = NetNs::create("outside")?;
        outside.enter(|| {
            for (key, value) in [("net/ipv4/ip_forward", "1"), ("net/ipv6/conf/all/forwarding", "1")] {
                write_sysctl(key, value)?;
            }
            crate::run("ip", &["link", "add", "br0", "type", "bridge"])?;
            crate::run("ip", &["address", "add", "192.0.2.254/24", "dev", "br0"])?;
            crate::run("ip", &["address", "add", "2001:db8::fe/64", "dev", "br0", "nodad"])?;
            crate::run("ip", &["link", "set", "br0", "up"]).map(drop)
        })?;
        Ok(Self {
            dir,
            binaries,
            outside,
            keep: AtomicBool::new(false),
        })
    }

    /// The namespace outside of all nodes.
    #[must_use]
    pub const fn outside(&self) -> &NetNs {
        &self.outside
    }

    /// 192.0.2.254 and 2001:db8::fe.
    #[must_use]
    pub const fn outside_ips(&self) -> [IpAddr; 2] {
        [
            IpAddr::V4(Ipv4Addr::new(192, 0, 2, 254)),
            IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0xfe)),
        ]
    }

    /// The folder of all files of the laboratory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Leaves everything standing at the end, until [`sweep`] is asked to remove also that.
    ///
    /// # Errors
    /// That cannot be noted down.
    pub fn keep(&self) -> Result<(), LabError> {
        let note = self.dir.join(KEPT);
        fs::write(&note, "").map_err(LabError::io(format!("writing {}", note.display())))?;
        self.keep.store(true, Ordering::Relaxed);
        self.outside.keep();
        Ok(())
    }

    /// Makes a node with addresses 192.0.2.NUMBER and 2001:db8::NUMBER, its Node object and its folders; starts nothing.
    ///
    /// # Errors
    /// A step of the system failed.
    pub fn node(&self, plan: NodePlan) -> Result<Node, LabError> {
        let ns = NetNs::create(&plan.name)?;
        let n = plan.number;
        let outside = self.outside.path().display().to_string();
        let port = format!("to-{}", plan.name);
        ns.enter(|| {
            for (key, value) in [("net/ipv4/ip_forward", "1"), ("net/ipv6/conf/all/forwarding", "1")] {
                write_sysctl(key, value)?;
            }
            crate::run(
                "ip",
                &[
                    "link", "add", "eth0", "type", "veth", "peer", "name", &port, "netns", &outside,
                ],
            )?;
            crate::run("ip", &["address", "add", &format!("192.0.2.{n}/24"), "dev", "eth0"])?;
            crate::run(
                "ip",
                &["address", "add", &format!("2001:db8::{n:x}/64"), "dev", "eth0", "nodad"],
            )?;
            crate::run("ip", &["link", "set", "eth0", "up"])?;
            crate::run("ip", &["route", "add", "default", "via", "192.0.2.254"])?;
            crate::run("ip", &["-6", "route", "add", "default", "via", "2001:db8::fe"]).map(drop)
        })?;
        self.outside.run("ip", &["link", "set", &port, "master", "br0", "up"])?;
        let dir = self.dir.join(&plan.name);
        for folder in ["manifests", "run", "state"] {
            let path = dir.join(folder);
            fs::create_dir_all(&path).map_err(LabError::io(format!("creating {}", path.display())))?;
        }
        let node = Node {
            plan,
            ns,
            dir,
            binaries: self.binaries.clone(),
            agent: None,
            kept: self.keep.load(Ordering::Relaxed),
        };
        node.apply(&manifests::node(
            &node.plan.name,
            &node.internal_ips(),
            &node.plan.pod_cidrs,
        ))?;
        Ok(node)
    }

    /// A pod's namespace, not yet attached.
    ///
    /// # Errors
    /// The namespace cannot be made.
    pub fn pod(&self, namespace: &str, name: &str, labels: &[(&str, &str)]) -> Result<Pod, LabError> {
        let ns = NetNs::create(name)?;
        Ok(Pod {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            labels: labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            container_id: ns.name().to_owned(),
            ns,
        })
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if !self.keep.load(Ordering::Relaxed) {
            remove_folder(&self.dir);
        }
    }
}

impl Node {
    /// Its network namespace.
    #[must_use]
    pub const fn ns(&self) -> &NetNs {
        &self.ns
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.plan.name
    }

    /// 192.0.2.NUMBER and 2001:db8::NUMBER.
    #[must_use]
    pub fn internal_ips(&self) -> [IpAddr; 2] {
        let n = self.plan.number;
        [
            IpAddr::from([192, 0, 2, n]),
            IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(n)]),
        ]
    }

    /// The folder that the agent reads objects from.
    #[must_use]
    pub fn manifests(&self) -> PathBuf {
        self.dir.join("manifests")
    }

    /// The agent's run directory.
    #[must_use]
    pub fn run_dir(&self) -> PathBuf {
        self.dir.join("run")
    }

    /// The agent's state directory.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// The agent's log.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.dir.join("agent.log")
    }

    /// Leaves the node standing when its guard goes.
    pub fn keep(&mut self) {
        self.kept = true;
        self.ns.keep();
    }

    /// Puts an object into the manifest folder (one file each, replaced by a rename).
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn apply(&self, object: &Value) -> Result<(), LabError> {
        let text = serde_json::to_vec_pretty(object).map_err(|e| LabError::io("writing JSON")(e.into()))?;
        self.write_manifest(&file_name(object), &text)
    }

    /// Puts a file into the manifest folder by a rename.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_manifest(&self, name: &str, text: &[u8]) -> Result<(), LabError> {
        let path = self.manifests().join(name);
        let draft = self.dir.join(format!(".{name}"));
        fs::write(&draft, text).map_err(LabError::io(format!("writing {}", draft.display())))?;
        fs::rename(&draft, &path).map_err(LabError::io(format!("writing {}", path.display())))
    }

    /// Takes an object out of the manifest folder.
    ///
    /// # Errors
    /// Its file is not there.
    pub fn delete(&self, object: &Value) -> Result<(), LabError> {
        let path = self.manifests().join(file_name(object));
        fs::remove_file(&path).map_err(LabError::io(format!("removing {}", path.display())))
    }

    /// Starts the agent and waits for its word that it is ready (`READY=1` at `$NOTIFY_SOCKET`), at most 30 s.
    ///
    /// # Errors
    /// It ends or stays silent; the end of its log is part of the message.
    pub fn start_agent(&mut self) -> Result<(), LabError> {
        let notify = self.dir.join("notify.sock");
        match fs::remove_file(&notify) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(LabError::io("removing notify.sock")(e)),
            _ => {}
        }
        let socket = UnixDatagram::bind(&notify).map_err(LabError::io(format!("binding {}", notify.display())))?;
        socket
            .set_read_timeout(Some(Duration::from_millis(100)))
            .map_err(LabError::io("a read timeout"))?;
        let mut command = self.heddle("run");
        command
            .arg("--node")
            .arg(&self.plan.name)
            .arg("--manifests")
            .arg(self.manifests())
            .arg("--state-dir")
            .arg(self.state_dir())
            .args(["--cores", &self.plan.cores])
            .args(&self.plan.flags)
            .env("NOTIFY_SOCKET", &notify);
        let mut agent = Process::start(&self.ns, "heddle run", &mut command, &self.log())?;
        let pid_file = self.dir.join(PID_FILE);
        fs::write(&pid_file, agent.id().to_string())
            .map_err(LabError::io(format!("writing {}", pid_file.display())))?;
        let mut word = [0; 256];
        for _ in 0..300 {
            match socket.recv(&mut word) {
                Ok(n)
                    if String::from_utf8_lossy(&word[..n])
                        .lines()
                        .any(|line| line == "READY=1") =>
                {
                    self.agent = Some(agent);
                    return Ok(());
                }
                _ => {}
            }
            if let Some(status) = agent.ended()? {
                return Err(LabError::Command {
                    command: "heddle run".to_owned(),
                    status: status.to_string(),
                    stderr: agent.log_tail(20),
                });
            }
        }
        let detail = format!(". The end of its log:\n{}", agent.log_tail(20));
        Err(LabError::Timeout {
            what: "READY=1 of heddle run".to_owned(),
            seconds: 30,
            detail,
        })
    }

    /// The running agent.
    #[must_use]
    pub const fn agent(&self) -> Option<&Process> {
        self.agent.as_ref()
    }

    /// Ends the agent by a signal and waits for its end.
    ///
    /// # Errors
    /// It does not end within 10 s.
    pub fn stop_agent(&mut self, signal: Signal) -> Result<(), LabError> {
        match self.agent.take() {
            Some(mut agent) => agent.stop(signal, Duration::from_secs(10)).map(drop),
            None => Ok(()),
        }
    }

    /// A `heddle` command for this node's run directory; start it inside [`Node::ns`].
    #[must_use]
    pub fn heddle(&self, subcommand: &str) -> Command {
        let mut command = Command::new(&self.binaries.heddle);
        command.arg(subcommand).arg("--run-dir").arg(self.run_dir());
        command
    }

    /// `heddle status --output json`.
    ///
    /// # Errors
    /// The agent is not there, or its answer is no JSON.
    pub fn status(&self) -> Result<Value, LabError> {
        let out = self
            .ns
            .enter(|| run_with_input(self.heddle("status").args(["--output", "json"]), ""))?;
        serde_json::from_str(&out.stdout).map_err(|e| LabError::Reply {
            what: "heddle status".to_owned(),
            detail: format!("{e}: {}{}", out.stdout, out.stderr),
        })
    }

    /// `heddle cleanup`: what it said.
    ///
    /// # Errors
    /// The command cannot be started.
    pub fn cleanup(&self) -> Result<Output, LabError> {
        self.ns
            .enter(|| run_with_input(self.heddle("cleanup").arg("--state-dir").arg(self.state_dir()), ""))
    }

    /// Calls the CNI plugin as a container runtime does.
    ///
    /// # Errors
    /// The plugin cannot be started.
    pub fn cni(&self, command: &str, pod: &Pod, prev_result: Option<&Value>) -> Result<Output, LabError> {
        let mut config =
            json!({"cniVersion": "1.1.0", "name": "heddle", "type": "heddle-cni", "runDir": self.run_dir()});
        if let Some(prev) = prev_result {
            config["prevResult"] = prev.clone();
        }
        let mut plugin = Command::new(&self.binaries.cni);
        plugin
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", &pod.container_id)
            .env("CNI_NETNS", pod.ns.path())
            .env("CNI_IFNAME", "eth0")
            .env(
                "CNI_ARGS",
                format!(
                    "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID={}",
                    pod.namespace,
                    pod.name,
                    pod.container_id,
                    pod.uid()
                ),
            )
            .env("CNI_PATH", self.binaries.cni.parent().unwrap_or(Path::new("/")));
        self.ns.enter(|| run_with_input(&mut plugin, &config.to_string()))
    }

    /// What kubelet does for a new pod: the object without addresses, CNI ADD, the object with its addresses.
    ///
    /// # Errors
    /// ADD failed; the plugin's message is part of the error.
    pub fn start_pod(&self, pod: &Pod) -> Result<AddResult, LabError> {
        self.apply(&pod.object(self.name(), &[]))?;
        let attached = self.attach(pod)?;
        self.apply(&pod.object(self.name(), &attached.ips))?;
        Ok(attached)
    }

    /// CNI ADD alone.
    ///
    /// # Errors
    /// It failed; the plugin's message is part of the error.
    pub fn attach(&self, pod: &Pod) -> Result<AddResult, LabError> {
        let out = self.cni("ADD", pod, None)?;
        if !out.ok {
            let log = self.agent.as_ref().map(|agent| agent.log_tail(10)).unwrap_or_default();
            return Err(LabError::Command {
                command: format!("heddle-cni ADD for {}/{}", pod.namespace, pod.name),
                status: out.status,
                stderr: format!(
                    "{}{}\nthe end of the agent's log:\n{log}",
                    out.stdout.trim(),
                    out.stderr.trim()
                ),
            });
        }
        let bad = |detail: String| LabError::Reply {
            what: "the CNI result".to_owned(),
            detail,
        };
        let result: Value = serde_json::from_str(&out.stdout).map_err(|e| bad(format!("{e}: {}", out.stdout)))?;
        let ips = result["ips"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|ip| {
                let text = ip["address"].as_str().unwrap_or_default();
                let address = text.split('/').next().unwrap_or_default();
                address.parse().map_err(|e| bad(format!("address {text:?}: {e}")))
            })
            .collect::<Result<Vec<IpAddr>, LabError>>()?;
        Ok(AddResult { ips, result })
    }

    /// What kubelet does for a pod that ends: CNI DEL, then the object goes.
    ///
    /// # Errors
    /// DEL failed, or there is no such object.
    pub fn end_pod(&self, pod: &Pod) -> Result<(), LabError> {
        let out = self.cni("DEL", pod, None)?;
        if !out.ok {
            return Err(LabError::Command {
                command: format!("heddle-cni DEL for {}/{}", pod.namespace, pod.name),
                status: out.status,
                stderr: out.stdout,
            });
        }
        self.delete(&pod.object(self.name(), &[]))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if self.kept {
            // The agent goes on; without its guard nobody ends it.
            if let Some(agent) = self.agent.take() {
                agent.leave_running();
            }
            return;
        }
        if let Some(mut agent) = self.agent.take() {
            // A failure has killed it, which is all that is wanted here.
            let _ = agent.stop(Signal::SIGTERM, Duration::from_secs(10));
        }
        unmount_below(&self.dir);
    }
}

impl Pod {
    /// Its network namespace.
    #[must_use]
    pub const fn ns(&self) -> &NetNs {
        &self.ns
    }

    /// Its uid in the object and in `CNI_ARGS`.
    #[must_use]
    pub fn uid(&self) -> String {
        format!("uid-{}-{}", self.namespace, self.name)
    }

    /// Its object on a node.
    #[must_use]
    pub fn object(&self, node: &str, ips: &[IpAddr]) -> Value {
        let labels: Vec<(&str, &str)> = self.labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        manifests::pod(&self.namespace, &self.name, &labels, node, ips)
    }

    /// Changes its labels; [`Node::apply`] its object to make the change known.
    pub fn relabel(&mut self, labels: &[(&str, &str)]) {
        self.labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    }
}

fn file_name(object: &Value) -> String {
    let part = |v: &Value| v.as_str().unwrap_or_default().to_lowercase();
    let namespace = part(&object["metadata"]["namespace"]);
    let separator = if namespace.is_empty() { "" } else { "-" };
    format!(
        "{}-{namespace}{separator}{}.json",
        part(&object["kind"]),
        part(&object["metadata"]["name"])
    )
}

fn write_sysctl(key: &str, value: &str) -> Result<(), LabError> {
    fs::write(Path::new("/proc/sys").join(key), value).map_err(LabError::io(format!("sysctl {key}={value}")))
}

/// Unmounts what an agent mounted below `dir`, the deepest first.
fn unmount_below(dir: &Path) {
    let Ok(mounts) = fs::read_to_string("/proc/self/mountinfo") else {
        return;
    };
    let mut points: Vec<&str> = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .filter(|point| Path::new(point).starts_with(dir))
        .collect();
    points.sort_unstable_by_key(|point| std::cmp::Reverse(point.len()));
    for point in points {
        let _ = umount2(point, MntFlags::MNT_DETACH);
    }
}

fn remove_folder(dir: &Path) {
    unmount_below(dir);
    let _ = fs::remove_dir_all(dir);
}

/// Which leftovers of dead processes to remove.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leftovers {
    /// Those that nobody asked to keep.
    NotKept,
    /// Those that were kept on purpose too.
    All,
}

/// Removes what laboratories left standing whose process is gone (killed, or asked to keep it), and says what.
///
/// # Errors
/// `/run/netns` or the folder of temporary files cannot be read.
pub fn remove_leftovers(which: Leftovers) -> Result<Vec<String>, LabError> {
    let temp = std::env::temp_dir();
    let mut swept = Vec::new();
    let mut spared = Vec::new();
    for entry in fs::read_dir(&temp)
        .map_err(LabError::io(format!("reading {}", temp.display())))?
        .flatten()
    {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(pid) = crate::netns::dead_owner(&name) else {
            continue;
        };
        if which == Leftovers::NotKept && entry.path().join(KEPT).exists() {
            spared.push(pid);
            continue;
        }
        end_agents(&entry.path());
        remove_folder(&entry.path());
        swept.push(entry.path().display().to_string());
    }
    swept.extend(crate::netns::sweep_leftovers(&spared)?);
    Ok(swept)
}

/// Ends the agents whose process ids stand in the nodes' folders, if these processes still are what was started there.
fn end_agents(lab: &Path) {
    for node in fs::read_dir(lab).into_iter().flatten().flatten() {
        let Ok(text) = fs::read_to_string(node.path().join(PID_FILE)) else {
            continue;
        };
        let Ok(pid) = text.trim().parse::<i32>() else { continue };
        let cmdline = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&cmdline).contains(&*lab.to_string_lossy()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}
