//! The keys of the configuration file with their defaults, and how the file is read.

use std::fs;
use std::path::{Path, PathBuf};

use heddle_model::ExternalForwarding;
use heddle_proto::DEFAULT_RUN_DIR;
use heddle_tables::TunnelMode;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::bounds::{Fragments, TimeoutSeconds, Vxlan};
use crate::cni::CniDirs;
use crate::cores::CoreList;
use crate::error::ConfigError;
use crate::limits::DEFAULT_MAX_PODS;
use crate::port_range::PortRange;

/// The default of `stateDir`.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/heddle";
/// The usual place of the kubelet's kubeconfig (kubeadm).
const DEFAULT_KUBELET_KUBECONFIG: &str = "/etc/kubernetes/kubelet.conf";

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
    /// Folder of the cluster's objects, in place of an API server, as `kubectl get -o yaml` prints them; the agent follows
    /// its changes.
    #[cfg_attr(feature = "clap", arg(long, value_name = "DIR"))]
    pub manifests: Option<PathBuf>,
    /// Kubeconfig of the API server whose objects the agent follows [default: the service account of the agent's pod].
    #[cfg_attr(feature = "clap", arg(long, value_name = "FILE"))]
    pub kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig [default: its current-context].
    #[cfg_attr(feature = "clap", arg(long, value_name = "NAME"))]
    pub context: Option<String>,
    /// Address of the API server, https://HOST:PORT [default: the kubeconfig's; with a service account the kubelet's, the last
    /// known endpoints, then the address of Service default/kubernetes].
    #[cfg_attr(feature = "clap", arg(long, value_name = "URL"))]
    pub api_server: Option<String>,
    /// Kubeconfig of the kubelet: with a service account, the address of the API server is taken from it, if the file is there
    /// [default: /etc/kubernetes/kubelet.conf].
    #[cfg_attr(feature = "clap", arg(long, value_name = "FILE"))]
    pub kubelet_kubeconfig: Option<PathBuf>,
    /// Directory of sockets, mounts and the lock.
    #[cfg_attr(feature = "clap", arg(long, value_name = "DIR"))]
    pub run_dir: PathBuf,
    /// Directory of files that outlive a reboot.
    #[cfg_attr(feature = "clap", arg(long, value_name = "DIR"))]
    pub state_dir: PathBuf,
    /// Port of 127.0.0.1 for the probes of the agent's pod; `null`: none.
    #[cfg_attr(feature = "clap", arg(skip))]
    pub probe_port: Option<u16>,
    /// The directories into which the agent installs the CNI plugin.
    #[cfg_attr(feature = "clap", arg(skip))]
    pub cni: CniDirs,
    /// Cores to pin workers to, such as 1,3 or 2-5 [default: all but the first].
    #[cfg_attr(feature = "clap", arg(long, value_name = "LIST"))]
    pub cores: Option<CoreList>,
    /// Number of workers [default: one per core]. If there are more workers than cores, they share them in turn.
    #[cfg_attr(feature = "clap", arg(long, value_name = "N"))]
    pub workers: Option<u16>,
    /// Maximum number of attached pods.
    #[cfg_attr(feature = "clap", arg(long, value_name = "N"))]
    pub max_pods: u16,
    /// Frames of 4 KiB shared by all ports; `null`: 16,384, or more if the workers need it.
    #[cfg_attr(feature = "clap", arg(skip))]
    pub frames: Option<u32>,
    /// The NIC that leads to other nodes and to the outside [default: the interface with the node's InternalIP].
    #[cfg_attr(feature = "clap", arg(long, value_name = "IFACE"))]
    pub uplink: Option<String>,
    /// The way to pods of other nodes: by VXLAN, without a tunnel, or without one to nodes on the same link.
    #[serde(with = "crate::as_text")]
    #[cfg_attr(feature = "clap", arg(skip))]
    pub tunnel: TunnelMode,
    /// The tunnels.
    #[cfg_attr(feature = "clap", arg(skip))]
    pub vxlan: Vxlan,
    /// Exchanges packets with nodes on which Flannel runs: reads and writes Flannel's annotations of Nodes.
    #[cfg_attr(feature = "clap", arg(skip))]
    pub flannel_annotations: bool,
    /// The MTU of pods' interfaces.
    #[serde(rename = "podMTU")]
    #[cfg_attr(feature = "clap", arg(skip))]
    pub pod_mtu: u32,
    /// The mode of the XDP program on pods' interfaces.
    #[serde(rename = "podXDPMode")]
    #[cfg_attr(feature = "clap", arg(skip))]
    pub pod_xdp_mode: PodXdpMode,
    /// The capacity of the flow table in connections.
    #[cfg_attr(feature = "clap", arg(skip))]
    pub connections: u32,
    /// Maximum number of connections that one pod may have opened; `null`: a quarter of `connections`.
    #[cfg_attr(feature = "clap", arg(skip))]
    pub connections_per_pod: Option<u32>,
    /// Maximum number of connections that the pods of one namespace may have opened together; `null`: half of `connections`.
    #[cfg_attr(feature = "clap", arg(skip))]
    pub connections_per_namespace: Option<u32>,
    /// Maximum number of connections that the clients of one /24 or /64 outside of the node may have opened; `null`: a quarter
    /// of `connections`.
    #[cfg_attr(feature = "clap", arg(skip))]
    pub connections_per_source_prefix: Option<u32>,
    /// Connections that are reserved for the node's own traffic; `null`: a 32nd of `connections`.
    #[cfg_attr(feature = "clap", arg(skip))]
    pub connections_reserved_for_node: Option<u32>,
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
    /// The ranges outside of the cluster that see the pods' own addresses; empty: none.
    #[serde(rename = "nonMasqueradeCIDRs")]
    #[cfg_attr(feature = "clap", arg(skip))]
    pub non_masquerade_cidrs: Vec<IpNet>,
    /// Serves the externalIPs of Services.
    #[serde(rename = "externalIPs")]
    #[cfg_attr(feature = "clap", arg(skip))]
    pub external_ips: bool,
    /// The way of connections from outside to backends on other nodes, for Services without an annotation.
    #[serde(with = "crate::as_text")]
    #[cfg_attr(feature = "clap", arg(skip))]
    pub external_forwarding: ExternalForwarding,
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
            kubeconfig: None,
            context: None,
            api_server: None,
            kubelet_kubeconfig: Some(DEFAULT_KUBELET_KUBECONFIG.into()),
            run_dir: PathBuf::from(DEFAULT_RUN_DIR),
            state_dir: PathBuf::from(DEFAULT_STATE_DIR),
            probe_port: None,
            cni: CniDirs::default(),
            cores: None,
            workers: None,
            max_pods: DEFAULT_MAX_PODS,
            frames: None,
            uplink: None,
            tunnel: TunnelMode::default(),
            vxlan: Vxlan::default(),
            flannel_annotations: false,
            pod_mtu: 61_000,
            pod_xdp_mode: PodXdpMode::default(),
            connections: 262_144,
            connections_per_pod: None,
            connections_per_namespace: None,
            connections_per_source_prefix: None,
            connections_reserved_for_node: None,
            timeouts: TimeoutSeconds::default(),
            fragments: Fragments::default(),
            huge_pages: HugePages::default(),
            idle_after_millis: 2,
            midstream_pickup_seconds: 300,
            pod_wait_seconds: 20,
            cluster_cidrs: Vec::new(),
            service_cidrs: Vec::new(),
            non_masquerade_cidrs: Vec::new(),
            external_ips: false,
            external_forwarding: ExternalForwarding::default(),
            reserved_ports: PortRange::default(),
            log: "info".to_owned(),
        }
    }
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

/// The mode of the XDP program on pods' interfaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PodXdpMode {
    /// heddle's choice.
    #[default]
    Auto,
    /// In the veth's driver. Pods' kernels cut TCP segments themselves.
    Native,
    /// In the network stack. Pods' kernels pass large TCP segments on in one piece.
    Generic,
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
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULTS: &str = include_str!("../../../configs/heddle.yaml");

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
            "nonMasqueradeCIDRs: [10.0.0.0/33]",
            "nonMasqueradeCIDRs: 10.0.0.0/8",
            "hugePages: maybe",
            "podXDPMode: driver",
            "podXDPMode: null",
            "timeouts: {udp: 30}",
            "fragments: 1024",
            "cores: x",
            "tunnel: geneve",
            "tunnel: null",
            "vxlan: 1",
            "vxlan: {id: 1}",
            "probePort: 70000",
            "cni: {confDir: /etc/cni/net.d}",
        ] {
            assert!(Config::parse(text).is_err(), "{text}");
        }
    }
}
