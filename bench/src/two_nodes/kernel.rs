//! Two nodes whose kernels forward: a VXLAN device as Flannel configures it, connection tracking, and nftables for a Service's
//! address, as kube-proxy has it.

use std::net::{IpAddr, SocketAddr};

use heddle_lab::{Lab, LabError, NetNs, run};

use super::plan::{OVERHEAD, set_mtu};

/// The offloads that let the kernel carry large segments across the network between the nodes.
const SEGMENTATION: [&str; 6] = [
    "tso",
    "gso",
    "tx-udp_tnl-segmentation",
    "tx-udp_tnl-csum-segmentation",
    "gro",
    "tx-udp-segmentation",
];

/// A pair of nodes with a pod each.
#[derive(Debug)]
pub(super) struct KernelNodes {
    /// The pods: the client's and the server's.
    pub(super) pods: [NetNs; 2],
    _nodes: [NetNs; 2],
    numbers: [u8; 2],
}

impl KernelNodes {
    /// Makes the nodes with these numbers in the network of the laboratory. Without `offload`, a node's kernel cuts large segments
    /// before they leave the node, as for a NIC that does not.
    pub(super) fn new(
        lab: &Lab,
        numbers: [u8; 2],
        mtu: u32,
        offload: bool,
        service: (SocketAddr, u16),
    ) -> Result<Self, LabError> {
        let [a, b] = numbers.map(|number| node(lab, number, mtu));
        let nodes = [a?, b?];
        for (ns, other) in nodes.iter().zip([numbers[1], numbers[0]]) {
            learn(ns, other)?;
            if !offload {
                let off: Vec<&str> = SEGMENTATION.into_iter().flat_map(|name| [name, "off"]).collect();
                ns.run("ethtool", &[&["-K", "eth0"], &off[..]].concat())?;
            }
            translate(ns, service, pod_ip(numbers[1]))?;
        }
        let [client, server] = [(&nodes[0], numbers[0]), (&nodes[1], numbers[1])].map(|(ns, n)| pod(ns, n, mtu));
        Ok(Self {
            pods: [client?, server?],
            _nodes: nodes,
            numbers,
        })
    }

    /// Returns the address of the server's pod.
    pub(super) fn server(&self) -> IpAddr {
        pod_ip(self.numbers[1])
    }
}

fn pod_ip(node: u8) -> IpAddr {
    IpAddr::from([10, 245, node, 2])
}

fn vtep(node: u8) -> String {
    format!("02:00:00:00:01:{node:02x}")
}

fn ip(ns: &NetNs, arguments: &str) -> Result<(), LabError> {
    let words: Vec<&str> = arguments.split_whitespace().collect();
    ns.enter(|| run("ip", &words)).map(drop)
}

fn node(lab: &Lab, number: u8, mtu: u32) -> Result<NetNs, LabError> {
    let name = format!("linux-{number}");
    let ns = lab.machine(&name, number)?;
    set_mtu(lab, &ns, &name, mtu)?;
    ip(
        &ns,
        &format!("link add vxlan0 type vxlan id 2 dstport 4789 nolearning local 192.0.2.{number} dev eth0"),
    )?;
    ip(&ns, &format!("link set vxlan0 address {} up", vtep(number)))?;
    ip(&ns, &format!("address add 10.245.{number}.0/32 dev vxlan0"))?;
    Ok(ns)
}

/// Programs a node's VXLAN device for another node.
fn learn(ns: &NetNs, other: u8) -> Result<(), LabError> {
    let (mac, end, gateway) = (vtep(other), format!("192.0.2.{other}"), format!("10.245.{other}.0"));
    ns.run("bridge", &["fdb", "append", &mac, "dev", "vxlan0", "dst", &end])?;
    ip(
        ns,
        &format!("neigh add {gateway} lladdr {mac} dev vxlan0 nud permanent"),
    )?;
    ip(ns, &format!("route add {gateway}/24 via {gateway} dev vxlan0 onlink"))
}

/// Translates a Service's address to the server's pod, and so turns connection tracking on.
fn translate(ns: &NetNs, (service, target): (SocketAddr, u16), pod: IpAddr) -> Result<(), LabError> {
    let (address, port) = (service.ip(), service.port());
    ns.run("nft", &["add", "table", "ip", "bench"])?;
    ns.run(
        "nft",
        &[
            "add",
            "chain",
            "ip",
            "bench",
            "services",
            "{ type nat hook prerouting priority dstnat; }",
        ],
    )?;
    for protocol in ["tcp", "udp"] {
        let rule =
            format!("add rule ip bench services ip daddr {address} {protocol} dport {port} dnat to {pod}:{target}");
        ns.run("nft", &rule.split_whitespace().collect::<Vec<_>>())?;
    }
    Ok(())
}

fn pod(node: &NetNs, number: u8, mtu: u32) -> Result<NetNs, LabError> {
    let pod = NetNs::create("linux-pod")?;
    let (home, mtu) = (node.path().display().to_string(), mtu - OVERHEAD);
    ip(
        &pod,
        &format!("link add eth0 mtu {mtu} type veth peer name pod0 mtu {mtu} netns {home}"),
    )?;
    for (ns, device, host) in [(node, "pod0", 1), (&pod, "eth0", 2)] {
        ip(ns, &format!("address add 10.245.{number}.{host}/24 dev {device}"))?;
        ip(ns, &format!("link set {device} up"))?;
    }
    ip(&pod, &format!("route add default via 10.245.{number}.1"))?;
    Ok(pod)
}
