//! A node whose kernel forwards: routed veths with segmentation offload, connection tracking, and nftables for a Service's address and for
//! masquerade, as kube-proxy and a simple CNI plugin have it.

use std::net::{IpAddr, SocketAddr};

use heddle_lab::{Lab, LabError, NetNs};

/// A node with two pods.
#[derive(Debug)]
pub(super) struct KernelNode {
    /// The pods: the client's and the server's.
    pub(super) pods: [NetNs; 2],
    _node: NetNs,
    number: u8,
}

impl KernelNode {
    /// Makes the node with this number in the network of the laboratory.
    pub(super) fn new(lab: &Lab, number: u8, (service, port): (SocketAddr, u16)) -> Result<Self, LabError> {
        let node = lab.machine(&format!("linux-{number}"), number)?;
        let [client, server] = [0, 128].map(|first| pod(&node, number, first));
        let kernel = Self {
            pods: [client?, server?],
            _node: node.clone(),
            number,
        };
        let target = kernel.server(port);
        let (address, at) = (service.ip(), service.port());
        for command in [
            "add table ip bench".to_owned(),
            "add chain ip bench services { type nat hook prerouting priority dstnat; }".to_owned(),
            format!("add rule ip bench services ip daddr {address} tcp dport {at} dnat to {target}"),
            "add chain ip bench outbound { type nat hook postrouting priority srcnat; }".to_owned(),
            format!("add rule ip bench outbound ip saddr 10.245.{number}.0/24 oifname eth0 masquerade"),
        ] {
            node.run("nft", &[&command])?;
        }
        Ok(kernel)
    }

    /// Returns the address of the server's pod.
    pub(super) fn server(&self, port: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::from([10, 245, self.number, 130]), port)
    }
}

fn ip(ns: &NetNs, arguments: &str) -> Result<(), LabError> {
    let words: Vec<&str> = arguments.split_whitespace().collect();
    ns.run("ip", &words).map(drop)
}

/// Makes a pod with the second address of a half of the node's range, and its route.
fn pod(node: &NetNs, number: u8, first: u8) -> Result<NetNs, LabError> {
    let pod = NetNs::create("linux-pod")?;
    let (home, device) = (node.path().display().to_string(), format!("pod{first}"));
    ip(
        &pod,
        &format!("link add eth0 type veth peer name {device} netns {home}"),
    )?;
    for (ns, device, host) in [(node, device.as_str(), first + 1), (&pod, "eth0", first + 2)] {
        ip(ns, &format!("address add 10.245.{number}.{host}/25 dev {device}"))?;
        ip(ns, &format!("link set {device} up"))?;
    }
    ip(&pod, &format!("route add default via 10.245.{number}.{}", first + 1))?;
    Ok(pod)
}
