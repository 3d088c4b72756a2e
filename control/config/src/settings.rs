//! The checked configuration, and the checks.

use std::path::{Path, PathBuf};
use std::time::Duration;

use heddle_engine::FragmentConfig;
use heddle_flow::{Quotas, Timeouts};
use heddle_model::ExternalForwarding;
use heddle_port::Packet;
use heddle_tables::{Tunnel, TunnelMode};
use ipnet::IpNet;

use crate::bounds::is_interface_name;
use crate::cni::CniDirs;
use crate::cores::{CoreList, CoresError, choose};
use crate::error::ConfigError;
use crate::file::{Config, HugePages, PodXdpMode};
use crate::limits::{MAX_WORKERS, MIN_POD_MTU, default_frames, least_frames, uplink_queues, working_frames};
use crate::object_source::{ObjectSource, object_source};
use crate::port_range::PortRange;

/// The checked form of a [`Config`], with every default filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// This node's name.
    pub node: String,
    /// The source of objects.
    pub source: ObjectSource,
    /// The run directory.
    pub run_dir: PathBuf,
    /// The state directory.
    pub state_dir: PathBuf,
    /// The port of the probes.
    pub probe_port: Option<u16>,
    /// The directories into which the CNI plugin is installed.
    pub cni: CniDirs,
    /// The core of each worker.
    pub worker_cores: Vec<usize>,
    /// The most pods at one time.
    pub max_pods: u16,
    /// Frames of the shared UMEM.
    pub frames: u32,
    /// The uplink's name, where it is configured.
    pub uplink: Option<String>,
    /// The way to pods of other nodes.
    pub tunnel: TunnelMode,
    /// The tunnels' network.
    pub vxlan: Tunnel,
    /// Reads and writes Flannel's annotations of Nodes.
    pub flannel_annotations: bool,
    /// The MTU of pods' interfaces.
    pub pod_mtu: u16,
    /// The mode of the XDP program on pods' interfaces.
    pub pod_xdp_mode: PodXdpMode,
    /// The capacity of the flow table in connections.
    pub connections: u32,
    /// The maximum numbers of connections of a pod, a namespace, a source prefix and a masqueraded destination, and the
    /// number that is reserved for the node.
    pub quotas: Quotas,
    /// The times after which silent connections expire.
    pub timeouts: Timeouts,
    /// Bounds of fragment handling for each worker.
    pub fragments: FragmentConfig,
    /// The flow table's use of huge pages.
    pub huge_pages: HugePages,
    /// How long a worker polls without work before it sleeps.
    pub idle_after: Duration,
    /// Time after a start without a flow table in which mid-stream TCP connections are picked up.
    pub midstream_pickup: Duration,
    /// How long an attachment waits for its pod's object.
    pub pod_wait: Duration,
    /// The configured ranges of pods; may be empty.
    pub cluster_cidrs: Vec<IpNet>,
    /// The configured ranges of Service addresses; may be empty.
    pub service_cidrs: Vec<IpNet>,
    /// The ranges outside of the cluster that see the pods' own addresses; may be empty.
    pub non_masquerade_cidrs: Vec<IpNet>,
    /// Serves the externalIPs of Services.
    pub external_ips: bool,
    /// The way of connections from outside to backends on other nodes, for Services without an annotation.
    pub external_forwarding: ExternalForwarding,
    /// Source ports that are reserved for traffic masqueraded to the node's address.
    pub reserved_ports: PortRange,
}

impl Config {
    /// Returns the number of workers; 1 if the configured cores cannot be used.
    #[must_use]
    pub fn worker_count(&self) -> u32 {
        let cores = worker_cores(self.cores.as_ref(), self.workers);
        cores.map_or(1, |cores| u32::try_from(cores.len()).unwrap_or(u32::MAX))
    }

    /// Returns the number of frames: the configured one, or the default for the number of workers.
    #[must_use]
    pub fn frame_count(&self) -> u32 {
        self.frames.unwrap_or_else(|| default_frames(self.worker_count()))
    }

    /// Returns the quotas of the flow table.
    ///
    /// # Errors
    /// The first value that is impossible, by key.
    fn quotas(&self) -> Result<Quotas, ConfigError> {
        let quota = |key, value: Option<u32>, default: u32| {
            let value = value.unwrap_or(default);
            if value < 1 || value > self.connections {
                let problem = format!("is not between 1 and connections ({})", self.connections);
                return Err(ConfigError::value(key, value, problem));
            }
            Ok(Some(value))
        };
        let all = self.connections;
        let reserve = self.connections_reserved_for_node.unwrap_or(all / 32);
        if reserve > all / 8 {
            return Err(ConfigError::value(
                "connectionsReservedForNode",
                reserve,
                format!("is more than an eighth of connections ({})", all / 8),
            ));
        }
        let ports = u32::from(self.reserved_ports.last.saturating_sub(self.reserved_ports.first)) + 1;
        Ok(Quotas {
            per_pod: quota("connectionsPerPod", self.connections_per_pod, all / 4)?,
            per_group: quota("connectionsPerNamespace", self.connections_per_namespace, all / 2)?,
            per_source_prefix: quota(
                "connectionsPerSourcePrefix",
                self.connections_per_source_prefix,
                all / 4,
            )?,
            // A quarter of the source ports: no pod and no source prefix can use all source ports to one destination.
            per_masquerade_destination: Some((ports / 4).max(1)),
            node_reserve: reserve,
        })
    }

    /// Checks every value and fills in the defaults that depend on the machine.
    ///
    /// # Errors
    /// The first value that is impossible, by key.
    pub fn check(self) -> Result<Settings, ConfigError> {
        // Keys without a fixed default: the node's name, the source of objects, the cores.
        let quotas = self.quotas()?;
        let node = node_name(self.node)?;
        let source = object_source(
            self.manifests,
            self.kubeconfig,
            self.context,
            self.api_server,
            self.kubelet_kubeconfig,
        )?;
        let run_dir = absolute("runDir", &self.run_dir)?;
        let state_dir = absolute("stateDir", &self.state_dir)?;
        if self.probe_port == Some(0) {
            return Err(ConfigError::value("probePort", 0, "is not between 1 and 65535"));
        }
        let cni = self.cni.check()?;
        let worker_cores = worker_cores(self.cores.as_ref(), self.workers)?;

        // Sizes of memory: pods, fragments and frames.
        if !(1..=1024).contains(&self.max_pods) {
            return Err(ConfigError::value(
                "maxPods",
                self.max_pods,
                "is not between 1 and 1024",
            ));
        }
        let workers = u32::try_from(worker_cores.len()).unwrap_or(u32::MAX);
        let timeouts = self.timeouts.check()?;
        let fragments = self.fragments.check()?;
        let working = working_frames(workers, fragments.held_frames);
        let least = least_frames(self.max_pods, workers, fragments.held_frames);
        let frames = self.frames.unwrap_or(default_frames(workers));
        if frames < least || frames > 1 << 20 {
            let (pods, queues) = (self.max_pods, uplink_queues(workers));
            return Err(ConfigError::value(
                "frames",
                frames,
                format!(
                    "is not between {least} (64 for each of {pods} pods, {workers} workers and {queues} queues of the uplink, {working} for packets under way) and 1048576"
                ),
            ));
        }

        // Interfaces: the uplink's name, the pods' MTU.
        if let Some(name) = self.uplink.as_ref().filter(|name| !is_interface_name(name)) {
            return Err(ConfigError::value(
                "uplink",
                format!("{name:?}"),
                "is not an interface name (1 to 15 characters, without '/', ':' and white space)",
            ));
        }
        let pod_mtu = match u16::try_from(self.pod_mtu) {
            Ok(mtu) if mtu >= MIN_POD_MTU => mtu,
            _ => {
                return Err(ConfigError::value(
                    "podMTU",
                    self.pod_mtu,
                    format!(
                        "is not between {MIN_POD_MTU} (the minimum of IPv6, RFC 8200 section 5) and {} (the largest \
                         packet of IPv4, which fits {} frames)",
                        u16::MAX,
                        Packet::MAX_FRAMES
                    ),
                ));
            }
        };

        // The flow table.
        if !(1024..=1 << 26).contains(&self.connections) {
            return Err(ConfigError::value(
                "connections",
                self.connections,
                "is not between 1024 and 67108864 (each takes 240 bytes)",
            ));
        }

        // Times.
        if self.idle_after_millis > 10_000 {
            return Err(ConfigError::value(
                "idleAfterMillis",
                self.idle_after_millis,
                "is more than 10000 (ten seconds)",
            ));
        }
        if self.midstream_pickup_seconds > 86_400 {
            return Err(ConfigError::value(
                "midstreamPickupSeconds",
                self.midstream_pickup_seconds,
                "is more than 86400 (a day)",
            ));
        }
        if !(1..=25).contains(&self.pod_wait_seconds) {
            return Err(ConfigError::value(
                "podWaitSeconds",
                self.pod_wait_seconds,
                "is not between 1 and 25 (heddle-cni gives up after 30)",
            ));
        }

        // Ports and ranges of addresses.
        if self.reserved_ports.first < 2048 || self.reserved_ports.last - self.reserved_ports.first < 255 {
            return Err(ConfigError::value(
                "reservedPorts",
                self.reserved_ports,
                "is too small or begins too low: it needs at least 256 ports and must begin at 2048 or later, because the kernel's masquerade uses the ports from 1024 up to it",
            ));
        }
        for (key, cidrs) in [
            ("clusterCIDRs", &self.cluster_cidrs),
            ("serviceCIDRs", &self.service_cidrs),
            ("nonMasqueradeCIDRs", &self.non_masquerade_cidrs),
        ] {
            if let Some(cidr) = cidrs.iter().find(|c| c.trunc() != **c) {
                return Err(ConfigError::value(
                    key,
                    cidr,
                    format!("has host bits set; write {}", cidr.trunc()),
                ));
            }
        }
        let vxlan = self.vxlan.check(self.tunnel, self.flannel_annotations)?;
        Ok(Settings {
            node,
            source,
            run_dir,
            state_dir,
            probe_port: self.probe_port,
            cni,
            worker_cores,
            max_pods: self.max_pods,
            frames,
            uplink: self.uplink,
            tunnel: self.tunnel,
            vxlan,
            flannel_annotations: self.flannel_annotations,
            pod_mtu,
            pod_xdp_mode: self.pod_xdp_mode,
            connections: self.connections,
            quotas,
            timeouts,
            fragments,
            huge_pages: self.huge_pages,
            idle_after: Duration::from_millis(self.idle_after_millis.into()),
            midstream_pickup: Duration::from_secs(self.midstream_pickup_seconds.into()),
            pod_wait: Duration::from_secs(self.pod_wait_seconds.into()),
            cluster_cidrs: self.cluster_cidrs,
            service_cidrs: self.service_cidrs,
            non_masquerade_cidrs: self.non_masquerade_cidrs,
            external_ips: self.external_ips,
            external_forwarding: self.external_forwarding,
            reserved_ports: self.reserved_ports,
        })
    }
}

/// Returns this node's name: the configured one, or else `$NODE_NAME`, or else the host's name in lower case.
///
/// Node names are RFC 1123 subdomains.
fn node_name(configured: Option<String>) -> Result<String, ConfigError> {
    let name = configured
        .or_else(|| std::env::var("NODE_NAME").ok().filter(|n| !n.is_empty()))
        .or_else(|| {
            nix::unistd::gethostname()
                .ok()
                .and_then(|n| n.into_string().ok())
                .map(|n| n.to_ascii_lowercase())
        });
    let Some(name) = name else {
        return Err(ConfigError::Missing {
            key: "node",
            what: "set this node's name with --node NAME or $NODE_NAME",
        });
    };
    let good = !name.is_empty()
        && name.len() <= 253
        && name.split('.').all(|label| {
            !label.is_empty()
                && label
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        });
    if good {
        Ok(name)
    } else {
        Err(ConfigError::value(
            "node",
            format!("{name:?}"),
            "is not a valid Node name (lower-case letters, digits, '-' and '.'); set it with --node NAME",
        ))
    }
}

/// Returns the absolute form of a directory's path.
fn absolute(key: &'static str, path: &Path) -> Result<PathBuf, ConfigError> {
    if path.as_os_str().is_empty() {
        return Err(ConfigError::value(key, "\"\"", "is not a directory"));
    }
    std::path::absolute(path)
        .map_err(|e| ConfigError::value(key, path.display(), format!("cannot be made absolute: {e}")))
}

/// Returns the core of each worker. If there are more workers than cores, the cores are used in turn.
fn worker_cores(cores: Option<&CoreList>, workers: Option<u16>) -> Result<Vec<usize>, ConfigError> {
    let chosen = choose(cores).map_err(|e| match e {
        CoresError::System(source) => ConfigError::value("cores", "default", format!("cannot be determined: {source}")),
        CoresError::NotUsable { core, usable } => ConfigError::value(
            "cores",
            core,
            format!("is not a core that this process may use; it may use {usable}"),
        ),
    })?;
    let count = workers.map_or(chosen.len(), usize::from);
    if count == 0 || count > usize::from(MAX_WORKERS) {
        return Err(ConfigError::value(
            "workers",
            count,
            format!("is not between 1 and {MAX_WORKERS}"),
        ));
    }
    Ok(chosen.iter().copied().cycle().take(count).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Config {
        Config {
            node: Some("node-1".into()),
            manifests: Some("/m".into()),
            ..Config::default()
        }
    }

    #[test]
    fn each_impossible_value_is_named_by_key() {
        type Spoil = fn(&mut Config);
        let cases: &[(&str, Spoil)] = &[
            ("node", |c| c.node = Some("Node_1".into())),
            ("kubeconfig", |c| c.kubeconfig = Some("/k".into())),
            ("context", |c| (c.manifests, c.context) = (None, Some("c".into()))),
            ("apiServer", |c| {
                (c.manifests, c.api_server) = (None, Some("10.0.0.1:6443".into()));
            }),
            ("runDir", |c| c.run_dir = PathBuf::new()),
            ("probePort", |c| c.probe_port = Some(0)),
            ("cni.configDir", |c| c.cni.config_dir = Some("etc/cni/net.d".into())),
            ("cni.binDir", |c| c.cni.bin_dir = Some(PathBuf::new())),
            ("cores", |c| c.cores = Some("1023".parse().unwrap())),
            ("workers", |c| c.workers = Some(0)),
            ("workers", |c| c.workers = Some(65)),
            ("maxPods", |c| c.max_pods = 0),
            ("frames", |c| c.frames = Some(1000)),
            ("podMTU", |c| c.pod_mtu = 1279),
            ("podMTU", |c| c.pod_mtu = 65_536),
            ("uplink", |c| c.uplink = Some("eth 0".into())),
            ("connections", |c| c.connections = 1000),
            ("connectionsPerPod", |c| c.connections_per_pod = Some(0)),
            ("connectionsPerNamespace", |c| c.connections_per_namespace = Some(0)),
            ("connectionsPerSourcePrefix", |c| {
                c.connections_per_source_prefix = Some(1 << 30);
            }),
            ("connectionsReservedForNode", |c| {
                c.connections_reserved_for_node = Some(1 << 20);
            }),
            ("timeouts.tcpEstablished", |c| c.timeouts.tcp_established = 0),
            ("timeouts.udpNew", |c| c.timeouts.udp_new = u32::MAX),
            ("flannelAnnotations", |c| {
                (c.flannel_annotations, c.tunnel) = (true, TunnelMode::None);
            }),
            ("flannelAnnotations", |c| {
                (c.flannel_annotations, c.vxlan.vni) = (true, 65_536);
            }),
            ("fragments.datagrams", |c| c.fragments.datagrams = 3),
            ("fragments.heldFrames", |c| c.fragments.held_frames = 63),
            ("frames", |c| c.fragments.held_frames = 1 << 15),
            ("fragments.waitMillis", |c| c.fragments.wait_millis = 0),
            ("fragments.fragmentTimeoutSeconds", |c| {
                c.fragments.fragment_timeout_seconds = 301;
            }),
            ("idleAfterMillis", |c| c.idle_after_millis = u32::MAX),
            ("midstreamPickupSeconds", |c| c.midstream_pickup_seconds = u32::MAX),
            ("podWaitSeconds", |c| c.pod_wait_seconds = 0),
            ("reservedPorts", |c| c.reserved_ports = "65500-65535".parse().unwrap()),
            ("clusterCIDRs", |c| {
                c.cluster_cidrs = vec!["10.0.0.1/8".parse().unwrap()];
            }),
            ("serviceCIDRs", |c| {
                c.service_cidrs = vec!["fd00::1/64".parse().unwrap()];
            }),
            ("nonMasqueradeCIDRs", |c| {
                c.non_masquerade_cidrs = vec!["192.168.0.1/16".parse().unwrap()];
            }),
        ];
        assert!(good().check().is_ok());
        for (key, spoil) in cases {
            let mut config = good();
            spoil(&mut config);
            let said = config.check().unwrap_err().to_string();
            assert!(said.starts_with(key), "{key}: {said}");
        }
    }

    #[test]
    fn more_workers_than_cores_share_them() {
        let mut config = good();
        let core = crate::cores::usable().unwrap()[0];
        config.cores = Some(core.to_string().parse().unwrap());
        config.workers = Some(3);
        assert_eq!(config.check().unwrap().worker_cores, vec![core; 3]);
    }
}
