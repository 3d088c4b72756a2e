//! The configuration file: every key of the agent with its default, and its checked form.
//!
//! [`Config`] contains the keys of the file, and each flag of `heddle run` is one of them; [`Settings`] is the checked form
//! that the agent uses. `configs/heddle.yaml` lists every key with its default; a test compares the two.
//!
//! This crate reads no Kubernetes object. Of the machine it reads the file, the host's name and the process's cores.

mod bounds;
pub mod cores;
mod port_range;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use heddle_engine::FragmentConfig;
use heddle_flow::Timeouts;
use heddle_port::{FillBudget, HEADROOM, Packet};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use bounds::{Fragments, TimeoutSeconds};
pub use cores::CoreList;
use cores::CoresError;
pub use heddle_proto::DEFAULT_RUN_DIR;
pub use port_range::PortRange;

/// The configuration: every key with its default, as the file contains it and as flags override it.
///
/// This is the only list of keys. The doc comment of a field is the help text of its flag; fields without a flag are
/// keys of the file alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[cfg_attr(feature = "clap", derive(clap::Args))]
pub struct Config {
    /// This node's name in the cluster [default: $NODE_NAME, then the host's name].
    #[cfg_attr(feature = "clap", arg(long, value_name = "NAME"))]
    pub node: Option<String>,
    /// Folder of the cluster's objects, as `kubectl get -o yaml` prints them; the agent follows its changes.
    #[cfg_attr(feature = "clap", arg(long, value_name = "DIR"))]
    pub manifests: Option<PathBuf>,
    /// Directory of sockets, mounts and the lock.
    #[cfg_attr(feature = "clap", arg(long, value_name = "DIR"))]
    pub run_dir: PathBuf,
    /// Directory of files that outlive a reboot.
    #[cfg_attr(feature = "clap", arg(long, value_name = "DIR"))]
    pub state_dir: PathBuf,
    /// Cores to pin workers to, such as 1,3 or 2-5 [default: all but the first].
    #[cfg_attr(feature = "clap", arg(long, value_name = "LIST"))]
    pub cores: Option<CoreList>,
    /// Number of workers [default: one per core]. If there are more workers than cores, they share them in turn.
    #[cfg_attr(feature = "clap", arg(long, value_name = "N"))]
    pub workers: Option<u16>,
    /// Maximum number of attached pods.
    #[cfg_attr(feature = "clap", arg(long, value_name = "N"))]
    pub max_pods: u16,
    /// Frames of 4 KiB shared by all ports.
    #[cfg_attr(feature = "clap", arg(skip))]
    pub frames: u32,
    /// The NIC that leads to other nodes and to the outside [default: the interface with the node's InternalIP].
    #[cfg_attr(feature = "clap", arg(long, value_name = "IFACE"))]
    pub uplink: Option<String>,
    /// The MTU of pods' interfaces.
    #[serde(rename = "podMTU")]
    #[cfg_attr(feature = "clap", arg(skip))]
    pub pod_mtu: u32,
    /// The capacity of the flow table in connections.
    #[cfg_attr(feature = "clap", arg(skip))]
    pub connections: u32,
    /// Maximum number of connections that one pod may have opened; `null`: a quarter of `connections`.
    #[cfg_attr(feature = "clap", arg(skip))]
    pub connections_per_pod: Option<u32>,
    /// Seconds after which a silent connection expires, by protocol and state.
    #[cfg_attr(feature = "clap", arg(skip))]
    pub timeouts: TimeoutSeconds,
    /// Bounds of fragment handling for each worker.
    #[cfg_attr(feature = "clap", arg(skip))]
    pub fragments: Fragments,
    /// The flow table's use of reserved huge pages.
    #[cfg_attr(feature = "clap", arg(skip))]
    pub huge_pages: HugePages,
    /// Milliseconds that a worker polls without work before it sleeps.
    #[cfg_attr(feature = "clap", arg(skip))]
    pub idle_after_millis: u32,
    /// Seconds after a start without a flow table in which mid-stream TCP connections are picked up.
    #[cfg_attr(feature = "clap", arg(skip))]
    pub midstream_pickup_seconds: u32,
    /// Seconds that an attachment waits for its pod's object.
    #[cfg_attr(feature = "clap", arg(skip))]
    pub pod_wait_seconds: u16,
    /// The ranges of all pods of the cluster; empty: the podCIDRs of its nodes.
    #[serde(rename = "clusterCIDRs")]
    #[cfg_attr(feature = "clap", arg(skip))]
    pub cluster_cidrs: Vec<IpNet>,
    /// The ranges of Service addresses; empty: the ServiceCIDR objects, or every address if there are none.
    #[serde(rename = "serviceCIDRs")]
    #[cfg_attr(feature = "clap", arg(skip))]
    pub service_cidrs: Vec<IpNet>,
    /// Serves the externalIPs of Services.
    #[serde(rename = "externalIPs")]
    #[cfg_attr(feature = "clap", arg(skip))]
    pub external_ips: bool,
    /// Source ports that are reserved for traffic masqueraded to the node's address.
    #[cfg_attr(feature = "clap", arg(skip))]
    pub reserved_ports: PortRange,
    /// Filter of the log on standard error: a level, or `tracing` directives.
    #[cfg_attr(feature = "clap", arg(long, value_name = "FILTER"))]
    pub log: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            node: None,
            manifests: None,
            run_dir: PathBuf::from(DEFAULT_RUN_DIR),
            state_dir: PathBuf::from(DEFAULT_STATE_DIR),
            cores: None,
            workers: None,
            max_pods: 128,
            frames: 16_384,
            uplink: None,
            pod_mtu: 61_000,
            connections: 262_144,
            connections_per_pod: None,
            timeouts: TimeoutSeconds::default(),
            fragments: Fragments::default(),
            huge_pages: HugePages::default(),
            idle_after_millis: 2,
            midstream_pickup_seconds: 300,
            pod_wait_seconds: 20,
            cluster_cidrs: Vec::new(),
            service_cidrs: Vec::new(),
            external_ips: false,
            reserved_ports: PortRange::default(),
            log: "info".to_owned(),
        }
    }
}

/// The default of `stateDir`.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/heddle";
/// Bytes of a frame.
pub const FRAME_SIZE: u32 = 4096;
/// The least MTU of a pod: RFC 8200 section 5.
pub const MIN_POD_MTU: u16 = 1280;
// The largest packet that an MTU of 16 bits allows fits the frames that a packet may have, with its Ethernet header.
const _: () = assert!(Packet::MAX_FRAMES as u32 * (FRAME_SIZE - HEADROOM) >= u16::MAX as u32 + 14);
/// The most workers: each has a queue of the host port, and those have the first port numbers.
pub const MAX_WORKERS: u16 = 64;
/// Frames kept for packets under way, in the workers' pools and, `held` of each worker, of fragments that wait.
#[must_use]
pub const fn working_frames(workers: u32, held: u16) -> u32 {
    let held = held as u32;
    1024 + workers * if held > 512 { held } else { 512 }
}

/// The flow table's use of hugetlbfs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HugePages {
    /// Reserved pages of 2 MiB if enough are free, or else ordinary memory.
    #[default]
    Auto,
    /// Never.
    Never,
    /// Always: the agent does not start without them.
    Require,
}

/// The checked form of a [`Config`], with every default filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// This node's name.
    pub node: String,
    /// The folder of manifests.
    pub manifests: PathBuf,
    /// The run directory.
    pub run_dir: PathBuf,
    /// The state directory.
    pub state_dir: PathBuf,
    /// The core of each worker.
    pub worker_cores: Vec<usize>,
    /// The most pods at one time.
    pub max_pods: u16,
    /// Frames of the shared UMEM.
    pub frames: u32,
    /// The uplink's name, where it is configured.
    pub uplink: Option<String>,
    /// The MTU of pods' interfaces.
    pub pod_mtu: u16,
    /// Connections that the flow table has room for.
    pub connections: u32,
    /// The most connections that one pod may have opened.
    pub connections_per_pod: u32,
    /// When silent connections expire.
    pub timeouts: Timeouts,
    /// Bounds of fragment handling for each worker.
    pub fragments: FragmentConfig,
    /// The flow table's use of huge pages.
    pub huge_pages: HugePages,
    /// For how long a worker polls without work.
    pub idle_after: Duration,
    /// Time after a start without a flow table in which mid-stream TCP connections are picked up.
    pub midstream_pickup: Duration,
    /// For how long an attachment waits for its pod.
    pub pod_wait: Duration,
    /// Configured ranges of pods.
    pub cluster_cidrs: Vec<IpNet>,
    /// Configured ranges of Services.
    pub service_cidrs: Vec<IpNet>,
    /// Serves the externalIPs of Services.
    pub external_ips: bool,
    /// Source ports that are heddle's.
    pub reserved_ports: PortRange,
}

/// A configuration that the agent cannot use.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("the configuration {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The file is no valid configuration.
    #[error("the configuration {}: {message} (configs/heddle.yaml lists every key)", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// The place and the problem.
        message: String,
    },
    /// A key has an impossible value.
    #[error("{key}: {value} {problem}")]
    Value {
        /// The key; its flag is the same in kebab case.
        key: &'static str,
        /// The value.
        value: String,
        /// The problem and the allowed values.
        problem: String,
    },
    /// A key without default is missing.
    #[error("{key} is not set: {what}")]
    Missing {
        /// The key.
        key: &'static str,
        /// How to set it.
        what: &'static str,
    },
}

impl ConfigError {
    fn value(key: &'static str, value: impl std::fmt::Display, problem: impl Into<String>) -> Self {
        Self::Value {
            key,
            value: value.to_string(),
            problem: problem.into(),
        }
    }
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// The file cannot be read, has an unknown key, or a value of the wrong type.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text).map_err(|message| ConfigError::Parse {
            path: path.to_owned(),
            message,
        })
    }

    /// Reads a text; an empty one is a configuration of defaults.
    ///
    /// # Errors
    /// The problem and its place.
    pub fn parse(text: &str) -> Result<Self, String> {
        let has_content = text
            .lines()
            .any(|line| !matches!(line.trim(), "" | "---") && !line.trim().starts_with('#'));
        if !has_content {
            return Ok(Self::default());
        }
        serde_saphyr::from_str(text).map_err(|e| e.to_string())
    }

    /// Checks every value and fills in the defaults that depend on the machine.
    ///
    /// # Errors
    /// The first value that is impossible, by key.
    pub fn check(self) -> Result<Settings, ConfigError> {
        let node = node_name(self.node)?;
        let manifests = self.manifests.ok_or(ConfigError::Missing {
            key: "manifests",
            what: "give the folder of the cluster's objects by --manifests DIR",
        })?;
        let run_dir = absolute("runDir", &self.run_dir)?;
        let state_dir = absolute("stateDir", &self.state_dir)?;
        let worker_cores = worker_cores(self.cores.as_ref(), self.workers)?;
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
        // 64 frames are set aside for each port (decision 2 of the design).
        let least = FillBudget::FLOOR * (u32::from(self.max_pods) + workers) + working;
        if self.frames < least || self.frames > 1 << 20 {
            let pods = self.max_pods;
            return Err(ConfigError::value(
                "frames",
                self.frames,
                format!(
                    "is not between {least} (64 for each of {pods} pods and {workers} workers, {working} for packets under way) and 1048576"
                ),
            ));
        }
        if let Some(name) = self.uplink.as_ref().filter(|name| !is_interface_name(name)) {
            return Err(ConfigError::value(
                "uplink",
                format!("{name:?}"),
                "is no name of an interface (1 to 15 characters, no '/' and no space)",
            ));
        }
        let pod_mtu = match u16::try_from(self.pod_mtu) {
            Ok(mtu) if mtu >= MIN_POD_MTU => mtu,
            _ => {
                return Err(ConfigError::value(
                    "podMTU",
                    self.pod_mtu,
                    format!(
                        "is not between {MIN_POD_MTU} (the least of IPv6, RFC 8200 section 5) and {} (the largest \
                         packet of IPv4, and what {} frames hold)",
                        u16::MAX,
                        Packet::MAX_FRAMES
                    ),
                ));
            }
        };
        if !(1024..=1 << 26).contains(&self.connections) {
            return Err(ConfigError::value(
                "connections",
                self.connections,
                "is not between 1024 and 67108864 (each takes 240 bytes)",
            ));
        }
        let connections_per_pod = self.connections_per_pod.unwrap_or(self.connections / 4);
        if connections_per_pod < 1 || connections_per_pod > self.connections {
            return Err(ConfigError::value(
                "connectionsPerPod",
                connections_per_pod,
                format!("is not between 1 and connections ({})", self.connections),
            ));
        }
        if self.idle_after_millis > 10_000 {
            return Err(ConfigError::value(
                "idleAfterMillis",
                self.idle_after_millis,
                "is more than ten seconds",
            ));
        }
        if self.midstream_pickup_seconds > 86_400 {
            return Err(ConfigError::value(
                "midstreamPickupSeconds",
                self.midstream_pickup_seconds,
                "is more than a day",
            ));
        }
        if !(1..=25).contains(&self.pod_wait_seconds) {
            return Err(ConfigError::value(
                "podWaitSeconds",
                self.pod_wait_seconds,
                "is not between 1 and 25 (heddle-cni gives up after 30)",
            ));
        }
        if self.reserved_ports.first < 2048 || self.reserved_ports.last - self.reserved_ports.first < 255 {
            return Err(ConfigError::value(
                "reservedPorts",
                self.reserved_ports,
                "must have at least 256 ports and begin at 2048 or later: the kernel's masquerade uses those from 1024 up to it",
            ));
        }
        for (key, cidrs) in [
            ("clusterCIDRs", &self.cluster_cidrs),
            ("serviceCIDRs", &self.service_cidrs),
        ] {
            if let Some(cidr) = cidrs.iter().find(|c| c.trunc() != **c) {
                return Err(ConfigError::value(
                    key,
                    cidr,
                    format!("has host bits set; write {}", cidr.trunc()),
                ));
            }
        }
        Ok(Settings {
            node,
            manifests,
            run_dir,
            state_dir,
            worker_cores,
            max_pods: self.max_pods,
            frames: self.frames,
            uplink: self.uplink,
            pod_mtu,
            connections: self.connections,
            connections_per_pod,
            timeouts,
            fragments,
            huge_pages: self.huge_pages,
            idle_after: Duration::from_millis(self.idle_after_millis.into()),
            midstream_pickup: Duration::from_secs(self.midstream_pickup_seconds.into()),
            pod_wait: Duration::from_secs(self.pod_wait_seconds.into()),
            cluster_cidrs: self.cluster_cidrs,
            service_cidrs: self.service_cidrs,
            external_ips: self.external_ips,
            reserved_ports: self.reserved_ports,
        })
    }
}

/// Returns true for a name that the kernel accepts for an interface (`dev_valid_name`).
fn is_interface_name(name: &str) -> bool {
    (1..=15).contains(&name.len())
        && name != "."
        && name != ".."
        && !name.bytes().any(|b| b == b'/' || b == b':' || b.is_ascii_whitespace())
}

/// The file's name, then `$NODE_NAME`, then the host's; Node names are RFC 1123 subdomains.
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
            what: "give this node's name by --node NAME or $NODE_NAME",
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
            "is no Node name (lower-case letters, digits, '-' and '.'); give it by --node NAME",
        ))
    }
}

fn absolute(key: &'static str, path: &Path) -> Result<PathBuf, ConfigError> {
    if path.as_os_str().is_empty() {
        return Err(ConfigError::value(key, "\"\"", "is no directory"));
    }
    std::path::absolute(path)
        .map_err(|e| ConfigError::value(key, path.display(), format!("cannot be made absolute: {e}")))
}

fn worker_cores(cores: Option<&CoreList>, workers: Option<u16>) -> Result<Vec<usize>, ConfigError> {
    let chosen = crate::cores::choose(cores).map_err(|e| match e {
        CoresError::System(source) => ConfigError::value("cores", "default", format!("cannot be found out: {source}")),
        CoresError::NotUsable { core, usable } => ConfigError::value(
            "cores",
            core,
            format!("is no core that this process may use; those are {usable}"),
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

    const DEFAULTS: &str = include_str!("../../../configs/heddle.yaml");

    fn good() -> Config {
        Config {
            node: Some("node-1".into()),
            manifests: Some("/m".into()),
            ..Config::default()
        }
    }

    #[test]
    fn the_listed_defaults_are_the_codes() {
        assert_eq!(Config::parse(DEFAULTS).unwrap(), Config::default());
        let listed: serde_json::Map<String, serde_json::Value> = serde_saphyr::from_str(DEFAULTS).unwrap();
        let known = serde_json::to_value(Config::default()).unwrap();
        let known = known.as_object().unwrap();
        assert_eq!(
            listed.keys().collect::<Vec<_>>(),
            known.keys().collect::<Vec<_>>(),
            "every key, once"
        );
        assert_eq!(&listed, known);
    }

    #[test]
    fn nothing_set_is_all_defaults() {
        assert_eq!(Config::parse("").unwrap(), Config::default());
        assert_eq!(Config::parse("---\n# only comments\n").unwrap(), Config::default());
    }

    #[test]
    fn an_unknown_key_is_named() {
        let said = Config::parse("maxPod: 3\n").unwrap_err();
        assert!(said.contains("maxPod"), "{said}");
    }

    #[test]
    fn a_value_of_another_kind_is_refused() {
        for text in [
            "maxPods: many",
            "reservedPorts: 65000-61000",
            "clusterCIDRs: [10.0.0.0]",
            "hugePages: maybe",
            "timeouts: {udp: 30}",
            "fragments: 1024",
            "cores: x",
        ] {
            assert!(Config::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn each_impossible_value_is_named_by_key() {
        type Spoil = fn(&mut Config);
        let cases: &[(&str, Spoil)] = &[
            ("node", |c| c.node = Some("Node_1".into())),
            ("manifests", |c| c.manifests = None),
            ("runDir", |c| c.run_dir = PathBuf::new()),
            ("cores", |c| c.cores = Some("1023".parse().unwrap())),
            ("workers", |c| c.workers = Some(0)),
            ("workers", |c| c.workers = Some(65)),
            ("maxPods", |c| c.max_pods = 0),
            ("frames", |c| c.frames = 1000),
            ("podMTU", |c| c.pod_mtu = 1279),
            ("podMTU", |c| c.pod_mtu = 65_536),
            ("uplink", |c| c.uplink = Some("eth 0".into())),
            ("connections", |c| c.connections = 1000),
            ("connectionsPerPod", |c| c.connections_per_pod = Some(0)),
            ("timeouts.tcpEstablished", |c| c.timeouts.tcp_established = 0),
            ("timeouts.udpNew", |c| c.timeouts.udp_new = u32::MAX),
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
            ("reservedPorts", |c| {
                c.reserved_ports = PortRange {
                    first: 65_500,
                    last: 65_535,
                }
            }),
            ("clusterCIDRs", |c| {
                c.cluster_cidrs = vec!["10.0.0.1/8".parse().unwrap()];
            }),
            ("serviceCIDRs", |c| {
                c.service_cidrs = vec!["fd00::1/64".parse().unwrap()];
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
