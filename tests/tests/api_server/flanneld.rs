//! Nodes without heddle, as Flannel makes them: a VXLAN device of the kernel for each family, a bridge for the pods, and the part of
//! flanneld that follows the Nodes of the API server. The commands are the ones of Flannel's backend `vxlan` (`pkg/backend/vxlan`)
//! and of the CNI plugin `bridge`.

use std::net::IpAddr;

use heddle_lab::traffic::{ServerBehavior, TcpServer};
use heddle_lab::udp::UdpServer;
use heddle_lab::{LabError, NetNs, Node, Pod, run_with_input};
use serde_json::{Value, json};

use crate::scene::Cluster;

/// The UDP port of Flannel's tunnels, the kernel's default.
pub const TUNNEL_PORT: u16 = 8472;
/// The port at which pods tell their names and the address that a connection comes from.
pub const TELL: u16 = 8080;
/// The port at which pods send back what they receive, by TCP and by UDP.
pub const ECHO: u16 = 7777;
/// The prefix of Flannel's annotations.
pub const PREFIX: &str = "flannel.alpha.coreos.com/";

/// The names of the devices for IPv4 and IPv6, with the annotations of each.
const FAMILIES: [(&str, &str, &str); 2] = [
    ("flannel.1", "backend-data", "public-ip"),
    ("flannel-v6.1", "backend-v6-data", "public-ipv6"),
];
/// The MTU of an inner packet over IPv6, with Ethernet's MTU.
const MTU: u16 = 1430;

/// A pod with its servers.
pub struct Running {
    pub pod: Pod,
    /// Its addresses, IPv4 first.
    pub ips: [IpAddr; 2],
    _servers: (TcpServer, TcpServer, UdpServer),
}

impl Running {
    /// Starts the servers of a pod that is attached.
    pub fn new(pod: Pod, ips: [IpAddr; 2]) -> Result<Self, LabError> {
        let tell = ServerBehavior::TellPeer(pod.name.clone());
        Ok(Self {
            _servers: (
                TcpServer::start(pod.ns(), TELL, tell)?,
                TcpServer::start(pod.ns(), ECHO, ServerBehavior::Echo)?,
                UdpServer::echo(pod.ns(), ECHO)?,
            ),
            pod,
            ips,
        })
    }

    pub const fn ns(&self) -> &NetNs {
        self.pod.ns()
    }
}

/// Runs `ip` in a namespace and returns its output.
fn ip(ns: &NetNs, arguments: &str) -> Result<String, LabError> {
    let arguments: Vec<&str> = arguments.split(' ').collect();
    ns.run("ip", &arguments)
}

/// Returns the first address and the length of each pod range of a Node, IPv4 first.
fn ranges(node: &Value) -> Vec<(IpAddr, String)> {
    let texts = node["spec"]["podCIDRs"].as_array().into_iter().flatten();
    let split = |text: &Value| {
        let (first, length) = text.as_str()?.split_once('/')?;
        Some((first.parse().ok()?, length.to_owned()))
    };
    let mut ranges: Vec<(IpAddr, String)> = texts.filter_map(split).collect();
    ranges.sort_by_key(|(first, _)| first.is_ipv6());
    ranges
}

/// Returns the address with this number in a pod range, counted from 0.
pub fn address(node: &Value, v6: bool, number: u8) -> IpAddr {
    match ranges(node)[usize::from(v6)].0 {
        IpAddr::V4(first) => IpAddr::from((u32::from(first) + u32::from(number)).to_be_bytes()),
        IpAddr::V6(first) => IpAddr::from((u128::from(first) + u128::from(number)).to_be_bytes()),
    }
}

/// Makes a node one of Flannel's: devices, bridge and masquerade, and the annotations of its Node.
///
/// The kernel checks the way back of each packet strictly (`rp_filter` 1), and each device takes its own family only, so what takes
/// another way than Flannel's packets is lost.
pub fn install(cluster: &Cluster, node: &Node) -> Result<(), LabError> {
    let object = cluster.plane.get(&["node", node.name()])?;
    let ns = node.ns();
    for (v6, (device, data, public_ip)) in [false, true].into_iter().zip(FAMILIES) {
        let local = node.internal_ips()[usize::from(v6)];
        ip(
            ns,
            &format!("link add {device} type vxlan id 1 dev eth0 local {local} dstport {TUNNEL_PORT} nolearning"),
        )?;
        let (nodad, full) = if v6 { (" nodad", 128) } else { ("", 32) };
        ip(
            ns,
            &format!("address add {}/{full} dev {device}{nodad}", address(&object, v6, 0)),
        )?;
        ip(ns, &format!("link set {device} up"))?;
        let mac = mac_of(ns, device)?;
        let values = [
            format!("{PREFIX}kube-subnet-manager=true"),
            format!("{PREFIX}backend-type=vxlan"),
            format!("{PREFIX}{public_ip}={local}"),
            format!("{PREFIX}{data}={}", json!({"VNI": 1, "VtepMAC": mac})),
        ];
        let values: Vec<&str> = values.iter().map(String::as_str).collect();
        cluster
            .plane
            .kubectl(&[&["annotate", "--overwrite", "node", node.name()], &values[..]].concat())?;
    }
    ip(ns, &format!("link add cni0 mtu {MTU} type bridge"))?;
    for (v6, (_, length)) in [false, true].into_iter().zip(ranges(&object)) {
        let nodad = if v6 { " nodad" } else { "" };
        ip(
            ns,
            &format!("address add {}/{length} dev cni0{nodad}", address(&object, v6, 1)),
        )?;
    }
    ip(ns, "link set cni0 up")?;
    for key in ["all", "default", "eth0", "flannel.1", "cni0"] {
        ns.sysctl(&format!("net/ipv4/conf/{key}/rp_filter"), "1")?;
    }
    let [v4, v6] = [false, true].map(|v6| {
        let (range, length) = &ranges(&object)[usize::from(v6)];
        format!("{range}/{length}")
    });
    let table = format!(
        "table inet flannel {{
            chain postrouting {{
                type nat hook postrouting priority srcnat
                ip saddr {v4} ip daddr != 10.244.0.0/16 masquerade
                ip6 saddr {v6} ip6 daddr != fd00:10:244::/48 masquerade
            }}
            chain families {{
                type filter hook prerouting priority raw
                iifname flannel.1 meta nfproto ipv6 drop
                iifname flannel-v6.1 meta nfproto ipv4 drop
            }}
        }}\n"
    );
    nft(ns, &table)
}

fn nft(ns: &NetNs, input: &str) -> Result<(), LabError> {
    let mut nft = std::process::Command::new("nft");
    let out = ns.enter(|| run_with_input(nft.args(["-f", "-"]), input))?;
    if out.ok {
        return Ok(());
    }
    Err(LabError::Command {
        command: "nft -f -".to_owned(),
        status: out.status,
        stderr: out.stderr,
    })
}

fn mac_of(ns: &NetNs, device: &str) -> Result<Value, LabError> {
    let shown = ip(ns, &format!("-json link show dev {device}"))?;
    let mut links: Value = serde_json::from_str(&shown).unwrap_or_default();
    Ok(links[0]["address"].take())
}

/// Removes what Flannel left on a node, as docs/flannel.md says. The annotations of its Node stay.
pub fn uninstall(node: &Node) -> Result<(), LabError> {
    for device in ["flannel.1", "flannel-v6.1", "cni0"] {
        ip(node.ns(), &format!("link delete {device}"))?;
    }
    nft(node.ns(), "delete table inet flannel\n")
}

/// Plays one round of flanneld on a node: programs the kernel for every other Node whose annotations name a tunnel's end.
///
/// A neighbor entry and a route lead to the first address of the Node's range, and the forwarding entry of the neighbor's MAC to the
/// Node's public address.
pub fn follow(cluster: &Cluster, node: &Node) -> Result<(), LabError> {
    let nodes = cluster.plane.get(&["nodes"])?;
    let others = nodes["items"].as_array().into_iter().flatten();
    for other in others.filter(|other| other["metadata"]["name"] != node.name()) {
        let annotation = |name: &str| other["metadata"]["annotations"][format!("{PREFIX}{name}")].as_str();
        if (annotation("kube-subnet-manager"), annotation("backend-type")) != (Some("true"), Some("vxlan")) {
            continue;
        }
        for (v6, (device, data, public_ip)) in [false, true].into_iter().zip(FAMILIES) {
            let data: Value = serde_json::from_str(annotation(data).unwrap_or_default()).unwrap_or_default();
            let (Some(mac), Some(end)) = (data["VtepMAC"].as_str(), annotation(public_ip)) else {
                continue;
            };
            let (gateway, (range, length)) = (address(other, v6, 0), &ranges(other)[usize::from(v6)]);
            ip(
                node.ns(),
                &format!("neigh replace {gateway} lladdr {mac} dev {device} nud permanent"),
            )?;
            node.ns().run(
                "bridge",
                &["fdb", "replace", mac, "dev", device, "dst", end, "self", "permanent"],
            )?;
            ip(
                node.ns(),
                &format!("route replace {range}/{length} via {gateway} dev {device} onlink"),
            )?;
        }
    }
    Ok(())
}

/// Starts a pod on a node of Flannel's: its object, its link to the bridge, and its status.
pub fn start_pod(cluster: &Cluster, node: &Node, namespace: &str, name: &str) -> Result<Running, LabError> {
    let object = cluster.plane.get(&["node", node.name()])?;
    let mut pod = cluster.lab.pod(namespace, name, &[("app", name)])?;
    cluster.plane.create_pod(node, &mut pod)?;
    let home = node.ns().path().display().to_string();
    ip(
        pod.ns(),
        &format!("link add eth0 mtu {MTU} type veth peer name pod-{name} mtu {MTU} netns {home}"),
    )?;
    ip(node.ns(), &format!("link set pod-{name} master cni0 up"))?;
    ip(pod.ns(), "link set eth0 up")?;
    let ips = [false, true].map(|v6| address(&object, v6, 9));
    for (v6, (_, length)) in [false, true].into_iter().zip(ranges(&object)) {
        let nodad = if v6 { " nodad" } else { "" };
        let own = ips[usize::from(v6)];
        ip(pod.ns(), &format!("address add {own}/{length} dev eth0{nodad}"))?;
        ip(pod.ns(), &format!("route add default via {}", address(&object, v6, 1)))?;
    }
    cluster.plane.set_status(&pod, &ips)?;
    Running::new(pod, ips)
}
