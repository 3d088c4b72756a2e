//! A node: containerd and kubelet in namespaces of their own.

use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use std::{env, fs};

use heddle_lab::control_plane::ControlPlane;
use heddle_lab::{Lab, LabError, NetNs, Output, Process, remove_cgroups, run_with_input, wait_until};

use crate::programs::{Programs, project};

/// The longest from the start of a node to its registration. The import of the images takes most of it.
const REGISTER_BOUND: Duration = Duration::from_secs(120);
/// The longest until the kernel has ended the processes of a node.
const END_BOUND: Duration = Duration::from_secs(20);

/// A machine with containerd and kubelet, in namespaces of its own for network, mounts, processes, host name and IPC. Dropping it
/// ends all of its processes, and with them its mounts.
#[derive(Debug)]
pub struct ClusterNode {
    process: Option<Process>,
    name: String,
    addresses: [IpAddr; 2],
    ns: NetNs,
    dir: PathBuf,
    cgroup: String,
    /// `$PATH` of the commands that run on the node.
    search_path: String,
    init: u32,
}

impl ClusterNode {
    /// Starts a node. It is registered when this returns, and not ready before there is a CNI configuration.
    ///
    /// # Errors
    /// A namespace or a file cannot be made, or the kubelet does not register the node within two minutes.
    pub fn start(
        lab: &Lab,
        plane: &ControlPlane,
        programs: &Programs,
        name: &str,
        number: u8,
    ) -> Result<Self, LabError> {
        let ns = lab.machine(name, number)?;
        let dir = lab.dir().join(name);
        fs::create_dir(&dir).map_err(LabError::io(format!("creating {}", dir.display())))?;
        let addresses = [
            IpAddr::from([192, 0, 2, number]),
            IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(number)]),
        ];
        plane.issue_node_credentials(name, &addresses)?;
        let cgroup = ns.name().to_owned();
        let mut node = Self {
            process: None,
            name: name.to_owned(),
            addresses,
            ns,
            dir,
            cgroup,
            search_path: format!("{}:{}", programs.search_path(), env::var("PATH").unwrap_or_default()),
            init: 0,
        };
        node.write_configuration(plane)?;
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--pid", "--fork", "--kill-child", "--uts", "--ipc", "bash"])
            .arg(project().join("tests/cluster/node.sh"))
            .arg(&node.dir)
            .args([&node.name, &node.cgroup, &programs.search_path()])
            .arg(programs.images());
        let process = Process::start(&node.ns, name, &mut command, &node.dir.join("node.log"))?;
        let pid = node.dir.join("node.pid");
        fs::write(&pid, process.id().to_string()).map_err(LabError::io(format!("writing {}", pid.display())))?;
        node.init = first_child(process.id())?;
        node.process = Some(process);
        node.wait_until_registered(plane)?;
        Ok(node)
    }

    /// Returns the node's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns its addresses, IPv4 first.
    #[must_use]
    pub const fn addresses(&self) -> [IpAddr; 2] {
        self.addresses
    }

    /// Returns its network namespace.
    #[must_use]
    pub const fn ns(&self) -> &NetNs {
        &self.ns
    }

    /// Returns the path of one of the node's files in the file system of the machine.
    #[must_use]
    pub fn file(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.init))
    }

    /// Returns the folder of its logs and configuration.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Runs a command to its end in all namespaces of the node.
    ///
    /// # Errors
    /// It cannot be started, or does not end.
    pub fn run(&self, args: &[&str]) -> Result<Output, LabError> {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--target={}", self.init))
            .args(["--mount", "--pid", "--uts", "--ipc", "--net", "--"])
            .args(args)
            .env("PATH", &self.search_path);
        run_with_input(&mut command, "")
    }

    /// Returns the network namespace whose inode has this number, one of a pod of this node.
    ///
    /// # Errors
    /// The node has no such namespace.
    pub fn pod_netns(&self, inode: u64, name: &str) -> Result<NetNs, LabError> {
        let folder = self.file("/run/netns");
        let entries = fs::read_dir(&folder).map_err(LabError::io(format!("reading {}", folder.display())))?;
        for entry in entries.flatten() {
            if fs::metadata(entry.path()).is_ok_and(|file| file.ino() == inode) {
                return NetNs::open(&entry.path(), name);
            }
        }
        Err(LabError::Reply {
            what: format!("network namespace {inode} of {name}"),
            detail: format!("{} has no such file", folder.display()),
        })
    }

    /// Returns the ends of the logs of the node's programs, for an error's text.
    #[must_use]
    pub fn log_tails(&self) -> String {
        let mut text = String::new();
        for log in ["node.log", "images.log", "containerd.log", "kubelet.log"] {
            let whole = fs::read_to_string(self.dir.join(log)).unwrap_or_default();
            let lines: Vec<&str> = whole.lines().collect();
            let tail = &lines[lines.len().saturating_sub(6)..];
            text.push_str(&format!("--- {}: {log}\n{}\n", self.name, tail.join("\n")));
        }
        text
    }

    /// Writes what containerd and kubelet read.
    fn write_configuration(&self, plane: &ControlPlane) -> Result<(), LabError> {
        let dir = self.dir.display();
        let credentials = plane.dir().display();
        let name = &self.name;
        // Everything else is where containerd and kubelet have it on a real node. A sandbox may not lower its OOM score here.
        self.write(
            "containerd.toml",
            "version = 3\n\
             [plugins.'io.containerd.cri.v1.images'.pinned_images]\n  sandbox = 'registry.k8s.io/pause:3.10.2'\n\
             [plugins.'io.containerd.cri.v1.runtime']\n  restrict_oom_score_adj = true\n\
             [plugins.'io.containerd.cri.v1.runtime'.cni]\n  use_internal_loopback = true\n",
        )?;
        // Names outside of the cluster: nobody answers there.
        self.write("resolv.conf", "nameserver 192.0.2.254\n")?;
        let cgroup = &self.cgroup;
        self.write(
            "kubelet.yaml",
            &format!(
                "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n\
                 authentication: {{x509: {{clientCAFile: {credentials}/ca.crt}}, webhook: {{enabled: true}}, anonymous: {{enabled: false}}}}\n\
                 authorization: {{mode: Webhook}}\n\
                 tlsCertFile: {credentials}/{name}-server.crt\ntlsPrivateKeyFile: {credentials}/{name}-server.key\n\
                 containerRuntimeEndpoint: unix:///run/containerd/containerd.sock\n\
                 cgroupDriver: cgroupfs\ncgroupRoot: /{cgroup}\nfailCgroupV1: false\nfailSwapOn: false\n\
                 clusterDNS: [10.96.0.10]\nclusterDomain: cluster.local\nresolvConf: {dir}/resolv.conf\n\
                 maxPods: 160\nserializeImagePulls: false\nimageGCHighThresholdPercent: 100\n\
                 evictionHard: {{memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1%, nodefs.inodesFree: 1%}}\n"
            ),
        )?;
        // Where kubeadm puts it, and heddle looks for the API server's address.
        let kubernetes = self.dir.join("etc/kubernetes");
        let kubeconfig = kubernetes.join("kubelet.conf");
        fs::create_dir_all(&kubernetes)
            .and_then(|()| fs::copy(plane.dir().join(format!("{name}.kubeconfig")), &kubeconfig))
            .map_err(LabError::io(format!("writing {}", kubeconfig.display())))?;
        let [v4, v6] = self.addresses;
        self.write(
            "kubelet.flags",
            &format!(
                "--config={dir}/kubelet.yaml\n--kubeconfig=/etc/kubernetes/kubelet.conf\n--hostname-override={name}\n\
                 --node-ip={v4},{v6}\n--v=1\n"
            ),
        )
    }

    fn write(&self, file: &str, text: &str) -> Result<(), LabError> {
        let path = self.dir.join(file);
        fs::write(&path, text).map_err(LabError::io(format!("writing {}", path.display())))
    }

    /// Waits until the node is registered and has its pod ranges.
    fn wait_until_registered(&mut self, plane: &ControlPlane) -> Result<(), LabError> {
        let name = self.name.clone();
        let ranges = ["get", "node", &name, "--output=jsonpath={.spec.podCIDRs[1]}"];
        let registered = wait_until(&format!("node {name} is registered"), REGISTER_BOUND, || {
            let ended = match &mut self.process {
                Some(process) => process.exit_status()?,
                None => None,
            };
            if let Some(status) = ended {
                return Err(LabError::Reply {
                    what: format!("node {name}"),
                    detail: format!("its first process has ended ({status})"),
                });
            }
            let out = plane.kubectl_output(&ranges, "")?;
            Ok(out.ok && !out.stdout.is_empty())
        });
        registered.map_err(|e| LabError::Reply {
            what: e.to_string(),
            detail: format!("the ends of its logs:\n{}", self.log_tails()),
        })
    }
}

impl Drop for ClusterNode {
    fn drop(&mut self) {
        // With its first process the kernel ends all processes of the node.
        drop(self.process.take());
        let cgroup = self.cgroup.clone();
        // A cgroup can be removed when its last process has gone. A guard has nobody to report a failure to.
        let _ = wait_until("the cgroups are empty", END_BOUND, || Ok(remove_cgroups(&cgroup)));
    }
}

/// Returns the process id of the only child of a process, as soon as it has one.
fn first_child(parent: u32) -> Result<u32, LabError> {
    let children = format!("/proc/{parent}/task/{parent}/children");
    let mut found = 0;
    wait_until("the node's first process starts", Duration::from_secs(10), || {
        let text = fs::read_to_string(&children).map_err(LabError::io(format!("reading {children}")))?;
        found = text
            .split_whitespace()
            .next()
            .and_then(|pid| pid.parse().ok())
            .unwrap_or(0);
        Ok(found != 0)
    })?;
    Ok(found)
}
