//! The processes of the control plane: start, end and restart.

use std::fs;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::KubernetesBinaries;
use super::certificates::Authority;
use crate::{Lab, LabError, NetNs, Process, uplink, wait_until};

/// The number of the control plane among the members of the laboratory's network.
const NUMBER: u8 = 240;
const PORT: u16 = 6443;
/// The address of etcd's clients, in the namespace of the control plane.
pub(super) const ETCD: &str = "127.0.0.1:2379";
/// The longest that the API server may take until it is ready. Alone on two cores it takes 4 s.
const READY_BOUND: Duration = Duration::from_secs(60);
/// The longest that a process may take from a signal to its end.
const STOP_BOUND: Duration = Duration::from_secs(10);
/// The ranges of Service addresses and of pods.
const SERVICES: &str = "10.96.0.0/16,fd00:10:96::/112";
const PODS: &str = "10.244.0.0/16,fd00:10:244::/56";
/// The controllers of [`Extent::Api`]. The lifecycle of nodes is left out: no kubelet renews a lease there.
const API_CONTROLLERS: &str = "endpointslice-controller,node-ipam-controller,namespace-controller,serviceaccount-controller,\
                           serviceaccount-token-controller,root-ca-certificate-publisher-controller,\
                           garbage-collector-controller";

/// The part of a control plane that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// The API server, and the controllers of EndpointSlices, pod ranges, namespaces and service accounts. The laboratory acts as
    /// scheduler and kubelet.
    Api,
    /// All controllers and the scheduler, for nodes with a kubelet.
    Complete,
}

/// etcd, kube-apiserver, kube-controller-manager and, with [`Extent::Complete`], kube-scheduler in a namespace beside the nodes.
/// Dropping it ends them.
#[derive(Debug)]
pub struct ControlPlane {
    // The order in which they end: the API server would wait for etcd.
    scheduler: Option<Process>,
    controllers: Option<Process>,
    api_server: Option<Process>,
    etcd: Option<Process>,
    extent: Extent,
    authority: Authority,
    binaries: KubernetesBinaries,
    dir: PathBuf,
    ns: NetNs,
}

impl ControlPlane {
    /// Starts a control plane of [`Extent::Api`], and waits until the API server is ready.
    ///
    /// # Errors
    /// A process cannot be started, or the API server is not ready within a minute. The error contains the end of its log.
    pub fn start(lab: &Lab) -> Result<Self, LabError> {
        Self::start_with(lab, Extent::Api)
    }

    /// Starts a control plane of this extent, and waits until the API server is ready.
    ///
    /// # Errors
    /// As for [`ControlPlane::start`].
    pub fn start_with(lab: &Lab, extent: Extent) -> Result<Self, LabError> {
        let binaries = KubernetesBinaries::find()?;
        let ns = NetNs::create("control-plane")?;
        uplink::join(&ns, lab.outside(), "api", NUMBER)?;
        let dir = lab.dir().join("control-plane");
        fs::create_dir(&dir).map_err(LabError::io(format!("creating {}", dir.display())))?;
        let authority = Authority::new(&dir)?;
        let mut plane = Self {
            scheduler: None,
            controllers: None,
            api_server: None,
            etcd: None,
            extent,
            authority,
            binaries,
            dir,
            ns,
        };
        let server = plane.url();
        plane.renew_certificate()?;
        plane
            .authority
            .client("admin", "admin", Some("system:masters"), &server)?;
        plane
            .authority
            .client("controllers", "system:kube-controller-manager", None, &server)?;
        plane
            .authority
            .client("scheduler", "system:kube-scheduler", None, &server)?;
        plane.start_etcd()?;
        plane.start_api_server()?;
        plane.start_controllers()?;
        if extent == Extent::Complete {
            plane.start_scheduler()?;
        }
        Ok(plane)
    }

    /// Returns the namespace in which the processes run.
    #[must_use]
    pub const fn ns(&self) -> &NetNs {
        &self.ns
    }

    /// Returns the API server's address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(uplink::addresses(NUMBER)[0], PORT)
    }

    /// Returns the API server's URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://{}", self.address())
    }

    /// Returns the folder of its files.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) const fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Makes another certificate for the API server, from the same authority. A running server reads it by itself.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn renew_certificate(&self) -> Result<(), LabError> {
        let [v4, v6] = uplink::addresses(NUMBER);
        let first_service = IpAddr::from([10, 96, 0, 1]);
        let loopback = IpAddr::from([127, 0, 0, 1]);
        self.authority.serve("apiserver", &[v4, v6, first_service, loopback])
    }

    fn start_etcd(&mut self) -> Result<(), LabError> {
        let url = format!("http://{ETCD}");
        let data = self.dir.join("etcd");
        let mut etcd = Command::new("etcd");
        etcd.arg("--data-dir").arg(data).args([
            "--unsafe-no-fsync",
            "--listen-client-urls",
            &url,
            "--advertise-client-urls",
            &url,
            "--listen-peer-urls",
            "http://127.0.0.1:2380",
        ]);
        self.etcd = Some(self.process("etcd", &mut etcd)?);
        Ok(())
    }

    /// Starts the API server, and waits until it is ready.
    ///
    /// # Errors
    /// It ends, or is not ready within a minute. The error contains the end of its log.
    pub fn start_api_server(&mut self) -> Result<(), LabError> {
        let address = self.address();
        let own = self.authority.path("");
        let file = |name: &str| format!("{own}{name}");
        let flags = [
            ("etcd-servers", format!("http://{ETCD}")),
            ("bind-address", address.ip().to_string()),
            ("advertise-address", address.ip().to_string()),
            ("secure-port", address.port().to_string()),
            ("tls-cert-file", file("apiserver.crt")),
            ("tls-private-key-file", file("apiserver.key")),
            ("client-ca-file", file("ca.crt")),
            ("service-account-key-file", file("sa.pub")),
            ("service-account-signing-key-file", file("sa.key")),
            ("service-account-issuer", "https://kubernetes.default.svc".to_owned()),
            ("service-cluster-ip-range", SERVICES.to_owned()),
            ("authorization-mode", "Node,RBAC".to_owned()),
            ("enable-admission-plugins", "NodeRestriction".to_owned()),
            // For logs, exec and port-forward; names of nodes have no addresses here.
            ("kubelet-client-certificate", file("admin.crt")),
            ("kubelet-client-key", file("admin.key")),
            ("kubelet-certificate-authority", file("ca.crt")),
            ("kubelet-preferred-address-types", "InternalIP".to_owned()),
            // As kubeadm sets it: the manifests' containers are privileged.
            ("allow-privileged", "true".to_owned()),
            ("profiling", "false".to_owned()),
        ];
        let mut server = Command::new(self.binaries.path("kube-apiserver"));
        server.args(flags.map(|(flag, value)| format!("--{flag}={value}")));
        let mut process = self.process("kube-apiserver", &mut server)?;
        // A look at the port is cheap, and kubectl is not: it runs once the server listens.
        let listens = || {
            if let Some(status) = process.exit_status()? {
                return Err(LabError::Command {
                    command: "kube-apiserver".to_owned(),
                    status: status.to_string(),
                    stderr: process.log_tail(20),
                });
            }
            self.ns
                .enter(|| Ok(TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok()))
        };
        let ready = wait_until("the API server listens", READY_BOUND, listens)
            .and_then(|()| wait_until("the API server is ready", READY_BOUND, || self.is_ready()));
        ready.map_err(|e| LabError::Reply {
            what: e.to_string(),
            detail: format!("the end of its log:\n{}", process.log_tail(20)),
        })?;
        self.api_server = Some(process);
        Ok(())
    }

    fn is_ready(&self) -> Result<bool, LabError> {
        Ok(self.kubectl_output(&["get", "--raw", "/readyz"], "")?.ok)
    }

    /// Kills the API server. After SIGTERM it would wait up to a minute for the watches to end.
    ///
    /// # Errors
    /// The process does not end.
    pub fn kill_api_server(&mut self) -> Result<(), LabError> {
        kill(&mut self.api_server)
    }

    /// Starts the controllers.
    ///
    /// # Errors
    /// The process cannot be started.
    pub fn start_controllers(&mut self) -> Result<(), LabError> {
        let own = self.authority.path("");
        let file = |name: &str| format!("{own}{name}");
        let controllers = match self.extent {
            Extent::Api => API_CONTROLLERS,
            Extent::Complete => "*",
        };
        let flags = [
            ("kubeconfig", file("controllers.kubeconfig")),
            ("root-ca-file", file("ca.crt")),
            ("service-account-private-key-file", file("sa.key")),
            ("use-service-account-credentials", "true".to_owned()),
            ("allocate-node-cidrs", "true".to_owned()),
            ("cluster-cidr", PODS.to_owned()),
            ("service-cluster-ip-range", SERVICES.to_owned()),
            ("node-cidr-mask-size-ipv4", "24".to_owned()),
            ("node-cidr-mask-size-ipv6", "64".to_owned()),
            ("controllers", controllers.to_owned()),
            ("cluster-signing-cert-file", file("ca.crt")),
            ("cluster-signing-key-file", file("ca.key")),
            ("leader-elect", "false".to_owned()),
            ("bind-address", "127.0.0.1".to_owned()),
            ("profiling", "false".to_owned()),
        ];
        let mut manager = Command::new(self.binaries.path("kube-controller-manager"));
        manager.args(flags.map(|(flag, value)| format!("--{flag}={value}")));
        self.controllers = Some(self.process("kube-controller-manager", &mut manager)?);
        Ok(())
    }

    fn start_scheduler(&mut self) -> Result<(), LabError> {
        let flags = [
            ("kubeconfig", self.authority.path("scheduler.kubeconfig")),
            ("leader-elect", "false".to_owned()),
            ("bind-address", "127.0.0.1".to_owned()),
            ("profiling", "false".to_owned()),
        ];
        let mut scheduler = Command::new(self.binaries.path("kube-scheduler"));
        scheduler.args(flags.map(|(flag, value)| format!("--{flag}={value}")));
        self.scheduler = Some(self.process("kube-scheduler", &mut scheduler)?);
        Ok(())
    }

    /// Kills the controllers.
    ///
    /// # Errors
    /// The process does not end.
    pub fn kill_controllers(&mut self) -> Result<(), LabError> {
        kill(&mut self.controllers)
    }

    /// Returns a `kubectl` command with the rights of an administrator.
    #[must_use]
    pub fn kubectl_command(&self) -> Command {
        let mut kubectl = Command::new(self.binaries.path("kubectl"));
        kubectl
            .arg(format!("--kubeconfig={}", self.authority.path("admin.kubeconfig")))
            .arg(format!("--cache-dir={}", self.authority.path("kubectl-cache")));
        kubectl
    }

    /// Starts a process whose id and log lie in the folder.
    fn process(&self, name: &str, command: &mut Command) -> Result<Process, LabError> {
        let process = Process::start(&self.ns, name, command, &self.dir.join(format!("{name}.log")))?;
        // The file is the only record of the process that stays behind if this one is killed.
        let file = self.dir.join(format!("{name}.pid"));
        fs::write(&file, process.id().to_string()).map_err(LabError::io(format!("writing {}", file.display())))?;
        Ok(process)
    }
}

fn kill(process: &mut Option<Process>) -> Result<(), LabError> {
    match process.take() {
        Some(mut process) => process.stop(Signal::SIGKILL, STOP_BOUND).map(drop),
        None => Ok(()),
    }
}
