//! Nodes: a namespace with an uplink, a folder of manifests and an agent each.

use std::fs;
use std::net::IpAddr;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::leftovers::{PID_FILE, unmount_below};
use crate::{Binaries, LabError, NetNs, Output, Process, manifests, run_with_input, uplink};

/// The longest that an agent may take until it says that it is ready.
const READY_BOUND: Duration = Duration::from_secs(30);
/// The longest that an agent may take from a signal to its end.
const STOP_BOUND: Duration = Duration::from_secs(10);

/// The properties of a node to make.
#[derive(Debug, Clone)]
pub struct NodePlan {
    /// Its name.
    pub name: String,
    /// Its number in the laboratory (1 to 200), from which its addresses are made.
    pub number: u8,
    /// Its pod ranges.
    pub pod_cidrs: Vec<String>,
    /// The kubeconfig of the agent; `None`: the agent reads the node's manifest folder.
    pub kubeconfig: Option<PathBuf>,
    /// The cores of its workers, in the syntax of `--cores`.
    pub cores: String,
    /// Further arguments of `heddle run`.
    pub flags: Vec<String>,
    /// Environment variables of `heddle run`.
    pub env: Vec<(String, String)>,
    /// The limit of open files of `heddle run`, which it cannot raise; `None` for the limit of this process.
    pub open_files: Option<u64>,
}

impl NodePlan {
    /// Returns the plan of a dual-stack node with one worker on core 0.
    #[must_use]
    pub fn new(name: &str, number: u8) -> Self {
        Self {
            name: name.to_owned(),
            number,
            pod_cidrs: vec![format!("10.244.{number}.0/24"), format!("fd00:10:244:{number}::/64")],
            kubeconfig: None,
            cores: "0".to_owned(),
            flags: Vec::new(),
            env: Vec::new(),
            open_files: None,
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
    /// The socket at which the agent says that it is ready.
    notified: Option<UnixDatagram>,
    kept: bool,
}

impl Node {
    /// Makes the namespace, connects its uplink to the bridge of `outside`, makes the folders and writes the Node object.
    pub(crate) fn new(plan: NodePlan, dir: PathBuf, binaries: Binaries, outside: &NetNs) -> Result<Self, LabError> {
        let ns = NetNs::create(&plan.name)?;
        ns.forward()?;
        uplink::join(&ns, outside, &plan.name, plan.number)?;
        for folder in ["manifests", "run", "state"] {
            let path = dir.join(folder);
            fs::create_dir_all(&path).map_err(LabError::io(format!("creating {}", path.display())))?;
        }
        let node = Self {
            plan,
            ns,
            dir,
            binaries,
            agent: None,
            notified: None,
            kept: false,
        };
        node.apply(&node.object())?;
        Ok(node)
    }

    /// Returns its Node object, without annotations.
    #[must_use]
    pub fn object(&self) -> Value {
        manifests::node(&self.plan.name, &self.internal_ips(), &self.plan.pod_cidrs)
    }

    /// Returns its network namespace.
    #[must_use]
    pub const fn ns(&self) -> &NetNs {
        &self.ns
    }

    /// Returns its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.plan.name
    }

    /// Returns its addresses, 192.0.2.NUMBER and 2001:db8::NUMBER.
    #[must_use]
    pub fn internal_ips(&self) -> [IpAddr; 2] {
        uplink::addresses(self.plan.number)
    }

    /// Returns the path of the CNI plugin.
    pub(crate) fn cni_path(&self) -> &Path {
        &self.binaries.cni
    }

    /// Returns the folder from which the agent reads objects.
    #[must_use]
    pub fn manifests(&self) -> PathBuf {
        self.dir.join("manifests")
    }

    /// Returns the agent's run directory.
    #[must_use]
    pub fn run_dir(&self) -> PathBuf {
        self.dir.join("run")
    }

    /// Returns the agent's state directory.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// Returns the path of the agent's log.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.dir.join("agent.log")
    }

    /// Leaves the node and its agent standing when the guard is dropped.
    pub fn keep(&mut self) {
        self.kept = true;
        self.ns.keep();
    }

    /// Writes an object into the manifest folder: one file for each object, replaced by a rename.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn apply(&self, object: &Value) -> Result<(), LabError> {
        let text = serde_json::to_vec_pretty(object).map_err(|e| LabError::io("writing JSON")(e.into()))?;
        self.write_manifest(&file_name(object), &text)
    }

    /// Writes a file into the manifest folder. The agent never reads half of a file, because a rename puts it into
    /// place.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_manifest(&self, name: &str, text: &[u8]) -> Result<(), LabError> {
        let path = self.manifests().join(name);
        let draft = self.dir.join(format!(".{name}"));
        fs::write(&draft, text).map_err(LabError::io(format!("writing {}", draft.display())))?;
        fs::rename(&draft, &path).map_err(LabError::io(format!("writing {}", path.display())))
    }

    /// Removes an object from the manifest folder.
    ///
    /// # Errors
    /// Its file does not exist.
    pub fn delete(&self, object: &Value) -> Result<(), LabError> {
        let path = self.manifests().join(file_name(object));
        fs::remove_file(&path).map_err(LabError::io(format!("removing {}", path.display())))
    }

    /// Starts the agent and waits until it says that it is ready (`READY=1` at `$NOTIFY_SOCKET`), at most 30 s.
    ///
    /// # Errors
    /// The agent ends, or is not ready in time. The error contains the end of its log.
    pub fn start_agent(&mut self) -> Result<(), LabError> {
        self.launch_agent()?;
        let ready = self.wait_until_ready();
        if ready.is_err() {
            // Dropping it kills it.
            self.agent = None;
        }
        ready
    }

    /// Starts the agent without waiting for it.
    ///
    /// # Errors
    /// The agent cannot be started.
    pub fn launch_agent(&mut self) -> Result<(), LabError> {
        let notify = self.dir.join("notify.sock");
        match fs::remove_file(&notify) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(LabError::io("removing notify.sock")(e)),
            _ => {}
        }
        let socket = UnixDatagram::bind(&notify).map_err(LabError::io(format!("binding {}", notify.display())))?;
        // With this timeout the wait notices within 100 ms that the agent has ended.
        socket
            .set_read_timeout(Some(Duration::from_millis(100)))
            .map_err(LabError::io("setting a read timeout"))?;
        let mut command = self.heddle("run");
        command.arg("--node").arg(&self.plan.name);
        match &self.plan.kubeconfig {
            Some(kubeconfig) => command.arg("--kubeconfig").arg(kubeconfig),
            None => command.arg("--manifests").arg(self.manifests()),
        };
        command
            .arg("--state-dir")
            .arg(self.state_dir())
            .args(["--cores", &self.plan.cores])
            .args(&self.plan.flags)
            .envs(self.plan.env.iter().map(|(name, value)| (name, value)))
            .env("NOTIFY_SOCKET", &notify);
        if let Some(limit) = self.plan.open_files {
            command = with_open_files(&command, limit);
        }
        let agent = Process::start(&self.ns, "heddle run", &mut command, &self.log())?;
        // The file is the only record of the agent that stays behind if this process is killed.
        let pid_file = self.dir.join(PID_FILE);
        fs::write(&pid_file, agent.id().to_string())
            .map_err(LabError::io(format!("writing {}", pid_file.display())))?;
        (self.agent, self.notified) = (Some(agent), Some(socket));
        Ok(())
    }

    /// Waits until the agent says that it is ready, at most 30 s.
    ///
    /// # Errors
    /// No agent was launched, it ends, or it is not ready in time. The error contains the end of its log.
    pub fn wait_until_ready(&mut self) -> Result<(), LabError> {
        let (Some(agent), Some(socket)) = (&mut self.agent, &self.notified) else {
            return Err(LabError::Reply {
                what: format!("the agent of {}", self.plan.name),
                detail: "it was not launched".to_owned(),
            });
        };
        let mut message = [0; 256];
        let start = Instant::now();
        while start.elapsed() < READY_BOUND {
            if let Ok(n) = socket.recv(&mut message)
                && String::from_utf8_lossy(&message[..n])
                    .lines()
                    .any(|line| line == "READY=1")
            {
                return Ok(());
            }
            if let Some(status) = agent.exit_status()? {
                return Err(LabError::Command {
                    command: "heddle run".to_owned(),
                    status: status.to_string(),
                    stderr: agent.log_tail(20),
                });
            }
        }
        Err(LabError::Timeout {
            what: "READY=1 of heddle run".to_owned(),
            seconds: READY_BOUND.as_secs(),
            detail: format!(". The end of its log:\n{}", agent.log_tail(20)),
        })
    }

    /// Returns the running agent.
    #[must_use]
    pub const fn agent(&self) -> Option<&Process> {
        self.agent.as_ref()
    }

    /// Sends the agent a signal and waits for its end.
    ///
    /// # Errors
    /// The agent does not end within 10 s.
    pub fn stop_agent(&mut self, signal: Signal) -> Result<(), LabError> {
        match self.agent.take() {
            Some(mut agent) => agent.stop(signal, STOP_BOUND).map(drop),
            None => Ok(()),
        }
    }

    /// Returns a `heddle` command with this node's run directory, to start inside [`Node::ns`].
    #[must_use]
    pub fn heddle(&self, subcommand: &str) -> Command {
        let mut command = Command::new(&self.binaries.heddle);
        command.arg(subcommand).arg("--run-dir").arg(self.run_dir());
        command
    }

    /// Runs `heddle status --output json` and returns what it prints.
    ///
    /// # Errors
    /// No agent answers, or its answer is no JSON.
    pub fn status(&self) -> Result<Value, LabError> {
        let out = self
            .ns
            .enter(|| run_with_input(self.heddle("status").args(["--output", "json"]), ""))?;
        serde_json::from_str(&out.stdout).map_err(|e| LabError::Reply {
            what: "heddle status".to_owned(),
            detail: format!("{e}: {}{}", out.stdout, out.stderr),
        })
    }

    /// Runs `heddle cleanup`.
    ///
    /// # Errors
    /// The command cannot be started.
    pub fn cleanup(&self) -> Result<Output, LabError> {
        self.ns
            .enter(|| run_with_input(self.heddle("cleanup").arg("--state-dir").arg(self.state_dir()), ""))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if self.kept {
            if let Some(agent) = self.agent.take() {
                agent.leave_running();
            }
            return;
        }
        if let Some(mut agent) = self.agent.take() {
            // An agent that does not end in time is killed, and a guard has nobody to report that to.
            let _ = agent.stop(Signal::SIGTERM, STOP_BOUND);
        }
        unmount_below(&self.dir);
    }
}

/// Returns a command that runs another one with a limit of open files.
fn with_open_files(command: &Command, limit: u64) -> Command {
    let mut limited = Command::new("prlimit");
    limited
        .arg(format!("--nofile={limit}:{limit}"))
        .arg(command.get_program())
        .args(command.get_args())
        .envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    limited
}

/// Returns the file name of an object: its kind, namespace and name.
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
