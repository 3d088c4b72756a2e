//! Two pods and a dataplane between them, each in its own network namespace.
//!
//! Each pod has two devices. `eth0` is a veth whose other end is in the dataplane's namespace, configured as heddle's CNI plugin
//! does it: a /32, and a default route by the gateway's address and MAC. `k0` is a veth to a router that forwards by the
//! kernel. So the two pods are the same for every path that is compared.

use heddle_io::XdpMode;
use heddle_lab::{LabError, NetNs, run};
use heddle_wire::MacAddr;

use crate::BenchError;
use crate::node::{Pod, Side};

/// The networks of the pods' second devices, by which the kernel forwards.
const KERNEL_NETS: [&str; 2] = ["10.201.0", "10.202.0"];
/// The MTUs that a veth and a chain of frames take.
pub const MTU: std::ops::RangeInclusive<u32> = 576..=61_000;

/// A pod of the scene.
#[derive(Debug)]
pub struct PodNs {
    /// The pod as the tables contain it.
    pub pod: Pod,
    /// Its namespace.
    pub ns: NetNs,
    /// The name of the other end of `eth0`, in the dataplane's namespace.
    pub host_end: String,
    /// Its address on `k0`, the path through the kernel.
    pub kernel_ip: String,
}

/// The namespaces of a measurement. Dropping the scene removes them.
#[derive(Debug)]
pub struct Scene {
    /// The namespace of the AF_XDP ports.
    pub dataplane: NetNs,
    /// The client and the server.
    pub pods: [PodNs; 2],
    /// The MTU of all devices.
    pub mtu: u32,
    /// The mode of the forwarder's XDP program.
    pub mode: XdpMode,
    /// The router of the path through the kernel.
    _router: NetNs,
}

/// The state of the pods' transmit checksum offload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Offload {
    /// Frames leave with unfinished checksums, which the forwarder finishes.
    On,
    /// The pod finishes checksums, for a forwarder that does not.
    Off,
}

impl Scene {
    /// Makes the namespaces and devices.
    ///
    /// # Errors
    /// The process lacks a privilege, the MTU is out of range, or a command failed.
    pub fn new(mtu: u32) -> Result<Self, BenchError> {
        if !MTU.contains(&mtu) {
            let (what, value) = ("mtu", u64::from(mtu));
            return Err(BenchError::BadValue {
                what,
                value,
                rule: "between 576 and 61000",
            });
        }
        let dataplane = NetNs::create("forwarder")?;
        let router = NetNs::create("router")?;
        for ns in [&dataplane, &router] {
            no_ipv6(ns)?;
        }
        router.sysctl("net/ipv4/ip_forward", "1")?;
        let client = pod(&dataplane, &router, 0, Side::Client, mtu)?;
        let server = pod(&dataplane, &router, 1, Side::Server, mtu)?;
        let scene = Self {
            dataplane,
            pods: [client, server],
            mtu,
            mode: XdpMode::Native,
            _router: router,
        };
        scene.kernel_route(0, 1)?;
        scene.kernel_route(1, 0)?;
        Ok(scene)
    }

    fn kernel_route(&self, from: usize, to: usize) -> Result<(), LabError> {
        let (Some(pod), Some(net), Some(target)) = (self.pods.get(from), KERNEL_NETS.get(from), KERNEL_NETS.get(to))
        else {
            return Ok(());
        };
        ip(&pod.ns, &format!("route add {target}.0/24 via {net}.1 dev k0"))
    }

    /// Returns the client.
    #[must_use]
    pub fn client(&self) -> &PodNs {
        &self.pods[0]
    }

    /// Returns the server.
    #[must_use]
    pub fn server(&self) -> &PodNs {
        &self.pods[1]
    }

    /// Returns the namespaces of the client and the server.
    #[must_use]
    pub fn ends(&self) -> [&NetNs; 2] {
        self.pods.each_ref().map(|pod| &pod.ns)
    }

    /// Returns both pods as the tables contain them.
    #[must_use]
    pub fn tables(&self) -> [Pod; 2] {
        [self.pods[0].pod, self.pods[1].pod]
    }

    /// Turns the pods' checksum offload on or off.
    ///
    /// # Errors
    /// ethtool(8) refuses.
    pub fn offload(&self, offload: Offload) -> Result<(), BenchError> {
        let tx = if offload == Offload::On { "on" } else { "off" };
        for pod in &self.pods {
            pod.ns.run("ethtool", &["-K", "eth0", "tx", tx])?;
        }
        Ok(())
    }
}

impl PodNs {
    /// Returns the number of frames that its device has received.
    ///
    /// # Errors
    /// The counter cannot be read.
    pub fn received(&self) -> Result<u64, BenchError> {
        // sysfs shows the namespace in which it was mounted, so the counter comes from ip(8).
        let text = self.ns.run("ip", &["-j", "-s", "link", "show", "dev", "eth0"])?;
        let parsed: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        parsed[0]["stats64"]["rx"]["packets"]
            .as_u64()
            .ok_or_else(|| BenchError::Unexpected {
                what: "ip -s link".to_owned(),
                expected: "the packets received by eth0".to_owned(),
                got: text,
            })
    }

    /// Returns the index of its device.
    ///
    /// # Errors
    /// The device does not exist.
    pub fn ifindex(&self) -> Result<u32, BenchError> {
        Ok(self.ns.enter(|| index("eth0"))?)
    }
}

/// Returns the index of a device in the calling thread's namespace.
pub(crate) fn index(name: &str) -> Result<u32, LabError> {
    nix::net::if_::if_nametoindex(name).map_err(LabError::nix(format!("the index of {name}")))
}

fn no_ipv6(ns: &NetNs) -> Result<(), LabError> {
    // Neighbor discovery would add packets to the measurement.
    for which in ["all", "default"] {
        ns.sysctl(&format!("net/ipv6/conf/{which}/disable_ipv6"), "1")?;
    }
    Ok(())
}

fn ip(ns: &NetNs, arguments: &str) -> Result<(), LabError> {
    let words: Vec<&str> = arguments.split_whitespace().collect();
    ns.enter(|| run("ip", &words)).map(drop)
}

fn pod(dataplane: &NetNs, router: &NetNs, n: usize, side: Side, mtu: u32) -> Result<PodNs, LabError> {
    let pod = Pod::new(n as u16, side);
    let net = KERNEL_NETS.get(n).copied().unwrap_or_default();
    let ns = NetNs::create(if side == Side::Client { "client" } else { "server" })?;
    no_ipv6(&ns)?;
    let (host_end, router_end) = (format!("pod{n}"), format!("k{n}"));
    let (name, mac, gateway) = (ns.name(), pod.mac, MacAddr::GATEWAY);
    ip(
        dataplane,
        &format!("link add {host_end} mtu {mtu} type veth peer name eth0 mtu {mtu} address {mac} netns {name}"),
    )?;
    ip(dataplane, &format!("link set {host_end} up"))?;
    ip(
        router,
        &format!("link add {router_end} mtu {mtu} type veth peer name k0 mtu {mtu} netns {name}"),
    )?;
    ip(router, &format!("addr add {net}.1/24 dev {router_end}"))?;
    ip(router, &format!("link set {router_end} up"))?;
    ip(&ns, &format!("addr add {}/32 dev eth0", pod.ip))?;
    ip(&ns, "link set eth0 up")?;
    ip(&ns, "route add 169.254.1.1 dev eth0 scope link")?;
    ip(
        &ns,
        &format!("neigh add 169.254.1.1 lladdr {gateway} dev eth0 nud permanent"),
    )?;
    ip(&ns, "route add default via 169.254.1.1 dev eth0")?;
    ip(&ns, &format!("addr add {net}.2/24 dev k0"))?;
    ip(&ns, "link set k0 up")?;
    Ok(PodNs {
        pod,
        ns,
        host_end,
        kernel_ip: format!("{net}.2"),
    })
}
