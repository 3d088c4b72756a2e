//! Nodes, their objects and their interfaces change while traffic crosses the network between them.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use heddle_lab::traffic::{Conversation, ProbeOutcome, ServerBehavior, Speaker, TcpServer};
use heddle_lab::udp::{UdpConversation, UdpServer};
use heddle_lab::{LabError, Node, manifests};
use serde_json::{Value, json};

use crate::common::{BOUND, SILENCE, ask_json, wait_until};
use crate::scene::{Cluster, PORT, ask, ip, node_object, seen, tells};

const ECHO: u16 = 7777;
const UDP_PORT: u16 = 5353;
/// The longest that a connection takes to go on after an interruption of a few seconds: TCP doubles its pauses.
const RECOVERY: Duration = Duration::from_secs(30);

/// Traffic from a pod to another one in both families, by TCP and by UDP.
struct Traffic {
    tcp: Vec<Conversation>,
    udp: Vec<UdpConversation>,
    _servers: (TcpServer, UdpServer),
}

impl Traffic {
    fn start(cluster: &Cluster, from: usize, to: usize) -> Result<Self, LabError> {
        let [from, to] = [from, to].map(|index| &cluster.pods[index]);
        let servers = (
            TcpServer::start(to.ns(), ECHO, ServerBehavior::Echo)?,
            UdpServer::echo(to.ns(), UDP_PORT)?,
        );
        let (mut tcp, mut udp) = (Vec::new(), Vec::new());
        for v6 in [false, true] {
            let at = |port| Ok::<_, LabError>(SocketAddr::new(to.ip(v6)?, port));
            tcp.push(Conversation::start(from.ns(), at(ECHO)?, Speaker::Client)?);
            udp.push(UdpConversation::start(from.ns(), at(UDP_PORT)?)?);
        }
        let traffic = Self {
            tcp,
            udp,
            _servers: servers,
        };
        traffic.goes_on(BOUND)?;
        Ok(traffic)
    }

    /// Waits for further rounds of every connection.
    fn goes_on(&self, bound: Duration) -> Result<(), LabError> {
        self.tcp.iter().try_for_each(|tcp| tcp.wait_for_rounds(5, bound))?;
        self.datagrams_go_on(bound)
    }

    /// Waits for further answers by UDP.
    fn datagrams_go_on(&self, bound: Duration) -> Result<(), LabError> {
        self.udp.iter().try_for_each(|udp| {
            let before = udp.rounds();
            heddle_lab::wait_until("answers by UDP", bound, || Ok(udp.rounds() >= before + 5))
        })
    }

    /// Asserts that no connection goes on for a while.
    fn stands(&self) -> Result<(), LabError> {
        let rounds = || self.udp.iter().map(UdpConversation::rounds).collect::<Vec<_>>();
        let before = rounds();
        assert!(
            self.tcp[0].wait_for_rounds(1, SILENCE).is_err(),
            "TCP goes on: {:?}",
            self.tcp[0].rounds()
        );
        assert_eq!(rounds(), before, "UDP goes on");
        Ok(())
    }

    fn finish(self) -> Result<(), LabError> {
        self.tcp.into_iter().try_for_each(|tcp| tcp.finish().map(drop))
    }
}

/// Starts nodes with this configuration of the way between them, and one pod each.
fn cluster(nodes: u8, config: &str) -> Result<Cluster, LabError> {
    let mut cluster = Cluster::start(nodes, config)?;
    for (node, name) in (0..usize::from(nodes)).zip(["a", "b", "c"]) {
        cluster.add_pod(node, name, name)?;
    }
    Ok(cluster)
}

#[test]
fn a_node_is_removed_and_added_under_traffic() -> Result<(), LabError> {
    let cluster = cluster(3, "")?;
    let to_c = Traffic::start(&cluster, 0, 2)?;
    let object = node_object(2);
    for _ in 0..2 {
        // Its TCP connections end with the node, by a reset. Each round makes new ones.
        let to_b = Traffic::start(&cluster, 0, 1)?;
        cluster.nodes.iter().try_for_each(|node| node.delete(&object))?;
        for node in [0, 2] {
            wait_until("the node is gone", || {
                Ok(seen(&cluster.nodes[node], "node-2")?.is_null())
            })?;
        }
        to_c.goes_on(BOUND)?;
        to_b.stands()?;
        cluster.apply(&object)?;
        cluster.wait_for_paths()?;
        to_b.datagrams_go_on(RECOVERY)?;
        to_c.goes_on(BOUND)?;
    }
    to_c.finish()
}

#[test]
fn traffic_follows_a_new_ethernet_address() -> Result<(), LabError> {
    for config in ["", "tunnel: none\n"] {
        let cluster = cluster(2, config)?;
        let there = Traffic::start(&cluster, 0, 1)?;
        for (node, mac) in [(1, "02:00:00:00:01:02"), (0, "02:00:00:00:01:01")] {
            ip(cluster.nodes[node].ns(), &format!("link set eth0 address {mac}"))?;
            there.goes_on(RECOVERY)?;
        }
        there.finish()?;
    }
    Ok(())
}

/// The uplink of one node is down and up again. Without a tunnel, the other node is a next hop only while its neighbor is resolved.
fn traffic_goes_on_after_the_uplink_was_down(config: &str) -> Result<(), LabError> {
    let cluster = cluster(2, config)?;
    let there = Traffic::start(&cluster, 0, 1)?;
    let ns = cluster.nodes[1].ns();
    // Otherwise the kernel removes the IPv6 addresses, and somebody would have to add them again.
    ns.sysctl("net/ipv6/conf/eth0/keep_addr_on_down", "1")?;
    for _ in 0..2 {
        ip(ns, "link set eth0 down")?;
        wait_until("the node has no path", || {
            Ok(!seen(&cluster.nodes[1], "node-1")?["problem"].is_null())
        })?;
        there.stands()?;
        ip(ns, "link set eth0 up")?;
        cluster.wait_for_paths()?;
        there.goes_on(RECOVERY)?;
    }
    there.finish()
}

#[test]
fn tunnels_go_on_after_the_uplink_was_down() -> Result<(), LabError> {
    traffic_goes_on_after_the_uplink_was_down("")
}

#[test]
fn direct_traffic_goes_on_after_the_uplink_was_down() -> Result<(), LabError> {
    ["tunnel: none\n", "tunnel: auto\n"]
        .into_iter()
        .try_for_each(traffic_goes_on_after_the_uplink_was_down)
}

/// As an administrator or a DHCP client restarts a network: the addresses and routes of the uplink go with it and come back later.
#[test]
fn traffic_goes_on_after_the_uplink_lost_its_addresses() -> Result<(), LabError> {
    for config in ["", "tunnel: none\n"] {
        let cluster = cluster(2, config)?;
        let there = Traffic::start(&cluster, 0, 1)?;
        let node = &cluster.nodes[1];
        let ns = node.ns();
        for _ in 0..2 {
            ip(ns, "link set eth0 down")?;
            ip(ns, "address flush dev eth0")?;
            wait_until("the node has no path", || {
                Ok(!seen(node, "node-1")?["problem"].is_null())
            })?;
            there.stands()?;
            ip(ns, "link set eth0 up")?;
            for (address, prefix) in node.internal_ips().into_iter().zip(["/24", "/64 nodad"]) {
                ip(ns, &format!("address add {address}{prefix} dev eth0"))?;
            }
            ip(ns, "route add default via 192.0.2.254")?;
            ip(ns, "-6 route add default via 2001:db8::fe")?;
            cluster.wait_for_paths()?;
            there.goes_on(RECOVERY)?;
        }
        there.finish()?;
    }
    Ok(())
}

#[test]
fn more_queues_of_the_uplink_get_ports() -> Result<(), LabError> {
    let cluster = cluster(2, "")?;
    let node = &cluster.nodes[1];
    let ports = || {
        let status = node.status()?;
        let ports = status["ports"].as_array().into_iter().flatten();
        Ok(ports.filter(|port| port["role"] == "uplink").count())
    };
    assert_eq!(ports()?, 1);
    node.ns().run("ethtool", &["-L", "eth0", "rx", "2"])?;
    // The kernel does not announce it. Another change makes the agent look at once and not within half a minute.
    ip(node.ns(), "link set dev eth0 alias two-queues")?;
    wait_until("the uplink has a port on each queue", || Ok(ports()? == 2))?;
    wait_until("pods reach each other again", || {
        let to = cluster.pods[1].ip(false)?;
        Ok(ask(cluster.pods[0].ns(), to, PORT)?.is_answered())
    })?;
    // The kernel takes no queue away from a socket.
    assert!(node.ns().run("ethtool", &["-L", "eth0", "rx", "1"]).is_err());
    Ok(())
}

#[test]
fn a_node_that_comes_up_later_is_reached() -> Result<(), LabError> {
    for config in ["", "tunnel: none\n", "tunnel: auto\n"] {
        let mut cluster = Cluster::prepare(2, config)?;
        let ns = cluster.nodes[1].ns();
        ns.sysctl("net/ipv6/conf/eth0/keep_addr_on_down", "1")?;
        ip(ns, "link set eth0 down")?;
        for node in &mut cluster.nodes {
            node.start_agent()?;
        }
        for (node, name) in [(0, "a"), (1, "b")] {
            cluster.add_pod(node, name, name)?;
        }
        // No object changes from here on: only the network between the nodes does.
        ip(cluster.nodes[1].ns(), "link set eth0 up")?;
        cluster.wait_for_paths()?;
        for (from, to) in [(0, 1), (1, 0)] {
            let (from, to, node) = (&cluster.pods[from], &cluster.pods[to], &cluster.nodes[to]);
            for v6 in [false, true] {
                tells(&ask(from.ns(), to.ip(v6)?, PORT)?, &to.pod.name, from.ip(v6)?);
                let own = node.internal_ips()[usize::from(v6)];
                tells(&ask(from.ns(), own, PORT)?, node.name(), from.ip(v6)?);
                // The question came to heddle, and not past it to the kernel: then heddle would only see the answer.
                let flows = ask_json(node, "flows", &["--address", &own.to_string()])?;
                assert_eq!(flows["flows"][0]["client"]["address"], json!(from.ip(v6)?), "{flows:#}");
            }
        }
    }
    Ok(())
}

#[test]
fn an_added_address_is_the_nodes() -> Result<(), LabError> {
    let cluster = cluster(2, "")?;
    let there = Traffic::start(&cluster, 0, 1)?;
    let (a, b) = (&cluster.pods[0], &cluster.pods[1]);
    let added = [
        IpAddr::from([192, 0, 2, 102]),
        IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x102]),
    ];
    for (v6, address) in [false, true].into_iter().zip(added) {
        let prefix = if v6 { "/64 dev eth0 nodad" } else { "/24 dev eth0" };
        ip(cluster.nodes[1].ns(), &format!("address add {address}{prefix}"))?;
        // For the node's own pods it is their node; for others it is an address outside, until the node's object has it.
        let here = format!("node-2 {}", b.ip(v6)?);
        wait_until("its own pod reaches it", || {
            Ok(ask(b.ns(), address, PORT)? == ProbeOutcome::Answered(here.clone()))
        })?;
        let masqueraded = cluster.nodes[0].internal_ips()[usize::from(v6)];
        tells(&ask(a.ns(), address, PORT)?, "node-2", masqueraded);
    }
    let mut object = node_object(2);
    if let Some(addresses) = object["status"]["addresses"].as_array_mut() {
        addresses.extend(added.map(|ip| json!({"type": "InternalIP", "address": ip.to_string()})));
    }
    cluster.apply(&object)?;
    for (v6, address) in [false, true].into_iter().zip(added) {
        let own = format!("node-2 {}", a.ip(v6)?);
        wait_until("another node's pod reaches it by the tunnel", || {
            Ok(ask(a.ns(), address, PORT)? == ProbeOutcome::Answered(own.clone()))
        })?;
    }
    there.goes_on(BOUND)?;
    there.finish()
}

#[test]
fn the_pod_ranges_of_a_node_change() -> Result<(), LabError> {
    let mut cluster = cluster(2, "")?;
    let mut object = node_object(2);
    let second = ["10.245.2.0/24", "fd00:10:245:2::/64"];
    object["spec"] = json!({"podCIDR": second[0], "podCIDRs": second});
    cluster.apply(&object)?;
    wait_until("node 1 knows the range", || {
        let there = ip(cluster.nodes[0].ns(), "route show")?;
        Ok(there.contains("10.245.2.0/24") && !there.contains("10.244.2.0/24"))
    })?;
    cluster.add_pod(1, "new", "new")?;
    let (a, new) = (&cluster.pods[0], &cluster.pods[2]);
    for v6 in [false, true] {
        let prefix = if v6 { "fd00:10:245:2:" } else { "10.245.2." };
        assert!(new.ip(v6)?.to_string().starts_with(prefix), "{}", new.ip(v6)?);
        tells(&ask(a.ns(), new.ip(v6)?, PORT)?, "new", a.ip(v6)?);
        tells(&ask(new.ns(), a.ip(v6)?, PORT)?, "a", new.ip(v6)?);
        let node = cluster.nodes[0].internal_ips()[usize::from(v6)];
        tells(&ask(cluster.nodes[0].ns(), new.ip(v6)?, PORT)?, "new", node);
    }
    Traffic::start(&cluster, 0, 2)?.finish()
}

/// Waits until a node sees a problem of another one that contains these words; `None` for none.
fn has_problem(node: &Node, other: &str, words: Option<&str>) -> Result<(), LabError> {
    wait_until("the problem is shown", || {
        let seen = seen(node, other)?;
        Ok(match (seen["problem"].as_str(), words) {
            (Some(problem), Some(words)) => problem.contains(words),
            (None, None) => !seen.is_null(),
            _ => false,
        })
    })
}

/// Returns the Node object of a node that does not run.
fn absent(name: &str, number: u8, internal_ip: Option<IpAddr>) -> Value {
    let mut object = manifests::node(name, internal_ip.as_slice(), &[format!("10.244.{number}.0/24")]);
    object["metadata"]["annotations"] = json!({"heddle.io/vtep": "02:68:65:64:64:6c"});
    object
}

#[test]
fn a_node_that_cannot_be_reached_says_why() -> Result<(), LabError> {
    let cluster = cluster(2, "")?;
    let there = Traffic::start(&cluster, 0, 1)?;
    let first = &cluster.nodes[0];
    let shared = IpAddr::from([192, 0, 2, 60]);
    let mut silent = absent("silent", 61, Some(IpAddr::from([192, 0, 2, 61])));
    silent["metadata"]["annotations"] = json!({});
    cluster.apply(&silent)?;
    cluster.apply(&absent("homeless", 62, None))?;
    cluster.apply(&absent("twin-1", 63, Some(shared)))?;
    cluster.apply(&absent("twin-2", 64, Some(shared)))?;
    cluster.apply(&absent("elsewhere", 65, Some(IpAddr::from([192, 0, 2, 65]))))?;
    has_problem(first, "silent", Some("no annotation heddle.io/vtep"))?;
    has_problem(first, "homeless", Some("no InternalIP"))?;
    has_problem(first, "twin-2", Some("another node has the same InternalIP"))?;
    // Nobody answers for its address.
    has_problem(first, "elsewhere", Some(""))?;
    has_problem(first, "node-2", None)?;
    there.goes_on(BOUND)?;
    tells(
        &ask(cluster.pods[1].ns(), cluster.pods[0].ip(true)?, PORT)?,
        "a",
        cluster.pods[1].ip(true)?,
    );
    // A second object with the address of a node that runs, whose name comes later, takes nothing from it.
    cluster.apply(&absent("node-2-copy", 66, Some(cluster.nodes[1].internal_ips()[0])))?;
    has_problem(first, "node-2-copy", Some("another node has the same InternalIP"))?;
    there.goes_on(BOUND)?;
    // The reasons go away with what they name.
    let mut loud = node_object(2);
    loud["metadata"]["annotations"] = json!({});
    cluster.apply(&loud)?;
    has_problem(first, "node-2", Some("no annotation heddle.io/vtep"))?;
    cluster.apply(&node_object(2))?;
    has_problem(first, "node-2", None)?;
    there.goes_on(RECOVERY)?;
    there.finish()
}
