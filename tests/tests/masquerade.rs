//! The source address of pods' packets to the outside: the node's, or the pod's own in the ranges of `nonMasqueradeCIDRs`.

mod common;

use std::fs;
use std::net::{IpAddr, SocketAddr};

use common::{BOUND, binaries, wait_until};
use heddle_lab::traffic::{self, ProbeOutcome, ServerBehavior, TcpServer};
use heddle_lab::{AddResult, Lab, LabError, NetNs, Node, NodePlan, Pod, manifests};
use nix::sys::signal::Signal;

const PORT: u16 = 9100;
/// Addresses of the outside, behind the nodes' router: in the ranges without masquerade, and not in them.
const INSIDE_RANGES: [&str; 2] = ["203.0.113.7", "2001:db8:71::7"];
const OUTSIDE_RANGES: [&str; 2] = ["203.0.114.7", "2001:db8:72::7"];
const RANGES: &str = "nonMasqueradeCIDRs: [203.0.113.0/24, 192.168.0.0/16, \"2001:db8:71::/64\"]\n";

/// A node with a pod, and a server outside that tells from which address it is asked.
struct Scene {
    pod: Pod,
    attached: AddResult,
    _server: TcpServer,
    node: Node,
    lab: Lab,
}

impl Scene {
    fn start(config: &str) -> Result<Self, LabError> {
        let lab = Lab::new(binaries()?)?;
        configure(&lab, config)?;
        let mut plan = NodePlan::new("node", 1);
        plan.flags = vec![
            "--config".to_owned(),
            lab.dir().join("config.yaml").display().to_string(),
        ];
        let mut node = lab.node(plan)?;
        node.apply(&manifests::namespace("shop"))?;
        node.start_agent()?;
        let pod = lab.pod("shop", "pod", &[])?;
        let attached = node.start_pod(&pod)?;
        let outside = lab.outside();
        for address in INSIDE_RANGES.into_iter().chain(OUTSIDE_RANGES) {
            ip(outside, &format!("address add {address} dev lo"))?;
        }
        // The outside has routes to the pods, so that both kinds of answers would come back.
        ip(outside, "route add 10.244.1.0/24 via 192.0.2.1")?;
        ip(outside, "route add fd00:10:244:1::/64 via 2001:db8::1")?;
        let server = TcpServer::start(outside, PORT, ServerBehavior::TellPeer("outside".to_owned()))?;
        Ok(Self {
            pod,
            attached,
            _server: server,
            node,
            lab,
        })
    }

    /// Starts the agent again with another configuration.
    fn restart(&mut self, config: &str) -> Result<(), LabError> {
        configure(&self.lab, config)?;
        self.node.stop_agent(Signal::SIGTERM)?;
        self.node.start_agent()
    }

    /// Returns true if a destination sees this address when the pod asks it.
    fn sees(&self, to: IpAddr, source: IpAddr) -> Result<bool, LabError> {
        let outcome = traffic::tcp_request(self.pod.ns(), SocketAddr::new(to, PORT), "", BOUND)?;
        Ok(outcome == ProbeOutcome::Answered(format!("outside {source}")))
    }

    /// Waits until the addresses see the pod or the node, by the kind of address.
    fn wait_for(&self, what: &str, own: &[&str], masqueraded: &[&str]) -> Result<(), LabError> {
        let addresses = own.iter().map(|to| (to, true));
        for (to, keeps) in addresses.chain(masqueraded.iter().map(|to| (to, false))) {
            let to = parsed(to);
            let source = match keeps {
                true => self.attached.ip(to.is_ipv6())?,
                false => self.node.internal_ips()[usize::from(to.is_ipv6())],
            };
            wait_until(&format!("{what}: {to} sees {source}"), || self.sees(to, source))?;
        }
        Ok(())
    }
}

fn configure(lab: &Lab, text: &str) -> Result<(), LabError> {
    fs::write(lab.dir().join("config.yaml"), text).map_err(LabError::io("writing config.yaml"))
}

fn ip(ns: &NetNs, arguments: &str) -> Result<String, LabError> {
    let arguments: Vec<&str> = arguments.split(' ').collect();
    ns.run("ip", &arguments)
}

/// Returns an address of the constants, which are valid.
fn parsed(text: &str) -> IpAddr {
    text.parse().unwrap_or(IpAddr::from([0, 0, 0, 0]))
}

#[test]
fn configured_ranges_see_the_pods_own_addresses() -> Result<(), LabError> {
    for tunnel in ["vxlan", "none"] {
        let mut scene = Scene::start(&format!("tunnel: {tunnel}\n{RANGES}"))?;
        scene.wait_for(tunnel, &INSIDE_RANGES, &OUTSIDE_RANGES)?;
        // Both ways carry more than a handshake.
        for to in INSIDE_RANGES {
            let to = parsed(to);
            assert_eq!(traffic::ping(scene.pod.ns(), to, 5)?, 5, "{tunnel}: {to}");
            for _ in 0..20 {
                assert!(scene.sees(to, scene.attached.ip(to.is_ipv6())?)?, "{tunnel}: {to}");
            }
        }
        // The table that somebody else deletes comes back with the ranges.
        scene.node.ns().run("nft", &["delete", "table", "inet", "heddle"])?;
        let has_table = || Ok(scene.node.ns().run("nft", &["list", "table", "inet", "heddle"]).is_ok());
        wait_until("the table comes back", has_table)?;
        scene.wait_for("repaired", &INSIDE_RANGES, &OUTSIDE_RANGES)?;
        // Another value holds for new connections after a restart.
        scene.restart(&format!("tunnel: {tunnel}\n"))?;
        scene.wait_for("no range", &[], &INSIDE_RANGES)?;
        scene.restart(&format!(
            "tunnel: {tunnel}\nnonMasqueradeCIDRs: [0.0.0.0/0, \"::/0\"]\n"
        ))?;
        scene.wait_for("every address", &INSIDE_RANGES, &[])?;
        scene.wait_for("every address", &OUTSIDE_RANGES, &[])?;
    }
    Ok(())
}

/// A node with two uplinks, and with two networks on the first: the kernel's route to the destination decides.
#[test]
fn masqueraded_packets_have_the_address_that_belongs_to_the_kernels_route() -> Result<(), LabError> {
    let scene = Scene::start("")?;
    let (node, outside) = (scene.node.ns(), scene.lab.outside());
    // The second network on the same interface, and a second address in the first one.
    for (at, own, router) in [
        ("eth0", "198.51.100.1/24", "198.51.100.254/24"),
        ("eth0", "2001:db8:100::1/64", "2001:db8:100::fe/64"),
    ] {
        ip(node, &format!("address add {own} dev {at}"))?;
        ip(outside, &format!("address add {router} dev br0"))?;
    }
    ip(node, "address add 192.0.2.78/24 dev eth0")?;
    // The second uplink.
    let path = outside.path().display().to_string();
    ip(node, &format!("link add eth1 type veth peer name second netns {path}"))?;
    for (ns, link, v4, v6) in [
        (node, "eth1", "198.18.0.1/24", "2001:db8:18::1/64"),
        (outside, "second", "198.18.0.254/24", "2001:db8:18::fe/64"),
    ] {
        ip(ns, &format!("address add {v4} dev {link}"))?;
        ip(ns, &format!("address add {v6} dev {link} nodad"))?;
        ip(ns, &format!("link set {link} up"))?;
    }
    for (destination, router, source) in [
        ("203.0.113.7", "198.51.100.254", "198.51.100.1"),
        ("203.0.114.7", "198.18.0.254", "198.18.0.1"),
        ("2001:db8:72::7", "2001:db8:18::fe", "2001:db8:18::1"),
    ] {
        ip(node, &format!("route add {destination} via {router}"))?;
        let (to, source) = (parsed(destination), parsed(source));
        let route = ip(node, &format!("route get {destination}"))?;
        assert!(route.contains(&format!("src {source}")), "{route}");
        wait_until(&format!("{to} sees {source}"), || scene.sees(to, source))?;
    }
    // The default route's network keeps its first address.
    let default = scene.lab.outside_ips()[0];
    wait_until("the default route's address", || {
        scene.sees(default, scene.node.internal_ips()[0])
    })
}
