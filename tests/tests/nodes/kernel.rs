//! A node without heddle, whose kernel has a VXLAN device as Flannel configures it, in one cluster with nodes that run heddle.

use std::net::{IpAddr, SocketAddr};

use heddle_lab::traffic::{self, ProbeOutcome, ServerBehavior, TcpServer};
use heddle_lab::udp::UdpServer;
use heddle_lab::{Lab, LabError, NetNs, Node, manifests};
use serde_json::{Value, json};

use crate::common::{BOUND, wait_until};
use crate::scene::{Cluster, PORT, ask, ip, node_addresses, node_object_with, seen, tells};

const NAME: &str = "linux";
const NUMBER: u8 = 9;
/// The Ethernet address of its VXLAN device.
const VTEP: &str = "02:00:00:00:00:09";
const UDP_PORT: u16 = 5353;
/// The bytes of a bulk transfer.
const BULK: u64 = 16 << 20;

/// A node whose kernel forwards the packets of a pod.
struct LinuxNode {
    ns: NetNs,
    pod: NetNs,
    _servers: [TcpServer; 2],
    _echo: UdpServer,
}

impl LinuxNode {
    /// Makes the node and its pod, with a VXLAN device over IPv4 or over IPv6.
    fn new(lab: &Lab, over_v6: bool) -> Result<Self, LabError> {
        let ns = lab.machine(NAME, NUMBER)?;
        let family = usize::from(over_v6);
        let local = node_addresses(NUMBER)[family];
        ip(
            &ns,
            &format!("link add flannel.1 type vxlan id 1 dstport 4789 nolearning local {local} dev eth0"),
        )?;
        ip(&ns, &format!("link set flannel.1 address {VTEP} up"))?;
        ip(&ns, "address add 10.244.9.0/32 dev flannel.1")?;
        ip(&ns, "address add fd00:10:244:9::/128 dev flannel.1 nodad")?;
        let pod = NetNs::create("linux-pod")?;
        let home = ns.path().display().to_string();
        let mtu = if over_v6 { 1430 } else { 1450 };
        ip(
            &pod,
            &format!("link add eth0 mtu {mtu} type veth peer name pod0 mtu {mtu} netns {home}"),
        )?;
        for (ns, device, host) in [(&ns, "pod0", 1), (&pod, "eth0", 2)] {
            ip(ns, &format!("address add 10.244.9.{host}/24 dev {device}"))?;
            ip(ns, &format!("address add fd00:10:244:9::{host}/64 dev {device} nodad"))?;
            ip(ns, &format!("link set {device} up"))?;
        }
        ip(&pod, "route add default via 10.244.9.1")?;
        ip(&pod, "route add default via fd00:10:244:9::1")?;
        let servers = [("linux-pod", &pod), (NAME, &ns)]
            .map(|(name, ns)| TcpServer::start(ns, PORT, ServerBehavior::TellPeer(name.to_owned())));
        let [in_pod, on_node] = servers;
        Ok(Self {
            _echo: UdpServer::echo(&pod, UDP_PORT)?,
            _servers: [in_pod?, on_node?],
            pod,
            ns,
        })
    }

    /// Programs its VXLAN device for a node with heddle. The kernel finds the end of a tunnel by the inner Ethernet address.
    fn learn(&self, node: &Node, number: u8, over_v6: bool) -> Result<(), LabError> {
        let status = node.status()?;
        let vtep = status["uplink"]["vtep"].as_str().unwrap_or_default();
        let end = node_addresses(number)[usize::from(over_v6)].to_string();
        self.ns
            .run("bridge", &["fdb", "append", vtep, "dev", "flannel.1", "dst", &end])?;
        for (gateway, length) in [
            (format!("10.244.{number}.0"), 24),
            (format!("fd00:10:244:{number}::"), 64),
        ] {
            ip(
                &self.ns,
                &format!("neigh add {gateway} lladdr {vtep} dev flannel.1 nud permanent"),
            )?;
            ip(
                &self.ns,
                &format!("route add {gateway}/{length} via {gateway} dev flannel.1 onlink"),
            )?;
        }
        Ok(())
    }

    /// Returns its Node object.
    fn object(internal_ips: &[IpAddr]) -> Value {
        let cidrs = ["10.244.9.0/24".to_owned(), "fd00:10:244:9::/64".to_owned()];
        let mut object = manifests::node(NAME, internal_ips, &cidrs);
        object["metadata"]["annotations"] = json!({"heddle.io/vtep": VTEP});
        object
    }

    /// Returns the addresses of its pod.
    fn pod_ips() -> [IpAddr; 2] {
        [
            IpAddr::from([10, 244, 9, 2]),
            IpAddr::from([0xfd00, 0x10, 0x244, 9, 0, 0, 0, 2]),
        ]
    }
}

/// Exchanges packets of every kind and size between the pods of two nodes and the pod of the Linux node.
fn everybody_reaches_the_kernels_pod(over_v6: bool) -> Result<(), LabError> {
    let mut cluster = Cluster::prepare(2, "")?;
    let linux = LinuxNode::new(&cluster.lab, over_v6)?;
    let internal = |number| {
        let both = node_addresses(number);
        if over_v6 { both[1..].to_vec() } else { both.to_vec() }
    };
    for number in [1, 2] {
        cluster.apply(&node_object_with(number, &internal(number)))?;
    }
    cluster.apply(&LinuxNode::object(&internal(NUMBER)))?;
    cluster.apply(&manifests::pod("shop", "linux-pod", &[], NAME, &LinuxNode::pod_ips()))?;
    for node in &mut cluster.nodes {
        node.start_agent()?;
    }
    for (number, node) in (1..).zip(&cluster.nodes) {
        linux.learn(node, number, over_v6)?;
        wait_until("the node reaches the Linux node", || {
            let linux = seen(node, NAME)?;
            Ok(linux["path"] == "tunnel" && linux["via"] == "uplink")
        })?;
    }
    for (node, name) in [(0, "a"), (0, "b"), (1, "c")] {
        cluster.add_pod(node, name, name)?;
    }
    let [a, b, c] = &cluster.pods[..] else {
        unreachable!("three pods")
    };
    for pod in [a, b, c] {
        let _echo = UdpServer::echo(pod.ns(), UDP_PORT)?;
        for (v6, there) in [false, true].into_iter().zip(LinuxNode::pod_ips()) {
            let here = pod.ip(v6)?;
            tells(&ask(pod.ns(), there, PORT)?, "linux-pod", here);
            tells(&ask(&linux.pod, here, PORT)?, &pod.pod.name, there);
            // The node's own address, which the kernel answers from the tunnel too.
            if let Some(own) = internal(NUMBER).into_iter().find(|ip| ip.is_ipv6() == v6) {
                tells(&ask(pod.ns(), own, PORT)?, NAME, here);
            }
            for (from, to) in [(pod.ns(), there), (&linux.pod, here)] {
                assert_eq!(traffic::ping(from, to, 3)?, 3, "to {to}");
                for size in [1, 17, 18, 19, 1372, 1400, 1402, 1403, 1422, 1423, 4000, 9000] {
                    let text: String = (0..size).map(|n| char::from(b'a' + (n % 23) as u8)).collect();
                    let to = SocketAddr::new(to, UDP_PORT);
                    let answer = traffic::udp_request(from, to, text.as_bytes(), BOUND)?;
                    assert_eq!(answer, ProbeOutcome::Answered(text), "{size} octets to {to}");
                }
            }
            traffic::bulk(pod.ns(), &linux.pod, SocketAddr::new(there, 7000), 7000, BULK)?;
            traffic::bulk(&linux.pod, pod.ns(), SocketAddr::new(here, 7001), 7001, BULK)?;
            // The nodes of heddle reach each other by the same network.
            if pod.node == 0 {
                tells(&ask(pod.ns(), c.ip(v6)?, PORT)?, "c", here);
                traffic::bulk(c.ns(), pod.ns(), SocketAddr::new(here, 7002), 7002, BULK)?;
            }
        }
    }
    Ok(())
}

#[test]
fn the_kernels_vxlan_over_ipv4() -> Result<(), LabError> {
    everybody_reaches_the_kernels_pod(false)
}

#[test]
fn the_kernels_vxlan_over_ipv6() -> Result<(), LabError> {
    everybody_reaches_the_kernels_pod(true)
}
