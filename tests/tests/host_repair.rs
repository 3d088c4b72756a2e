//! Everything that others remove or change of heddle's kernel state comes back without a restart, and the node is ready only while nothing
//! of it is missing.

mod common;

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;

use common::{BOUND, binaries, port, wait_until};
use heddle_lab::shop::{Shop, WEB_PORT, WEB_TARGET};
use heddle_lab::traffic::{self, ServerBehavior, TcpServer};
use heddle_lab::{Lab, LabError, Node, NodePlan, manifests};
use nix::sys::signal::Signal;
use serde_json::Value;

/// The port of the server outside.
const OUTSIDE_PORT: u16 = 9002;
/// Retries of a failed step come after at most 30 s.
const RETRY_BOUND: std::time::Duration = std::time::Duration::from_secs(45);

/// The servers that every check asks.
struct Servers {
    _web: Vec<TcpServer>,
    _outside: TcpServer,
}

impl Servers {
    fn start(shop: &Shop) -> Result<Self, LabError> {
        let web = |name: &str| {
            let ns = shop.member(name)?.pod.ns();
            TcpServer::start(ns, WEB_TARGET, ServerBehavior::Greet(name.to_owned()))
        };
        Ok(Self {
            _web: vec![web("web-1")?, web("web-2")?],
            _outside: TcpServer::start(
                shop.lab.outside(),
                OUTSIDE_PORT,
                ServerBehavior::Greet("outside".to_owned()),
            )?,
        })
    }
}

/// Returns the first path of the node that does not work: node to pod, node to Service, pod to outside (which has no route to
/// pods, so it needs masquerade), pod to pod.
fn broken_path(shop: &Shop) -> Result<Option<String>, LabError> {
    let client = shop.member("client")?.pod.ns();
    for v6 in [false, true] {
        let family = usize::from(v6);
        let web = shop.member("web-1")?.at(v6, WEB_TARGET)?;
        let service = SocketAddr::new(Shop::SERVICE_IPS[family], WEB_PORT);
        let outside = SocketAddr::new(shop.lab.outside_ips()[family], OUTSIDE_PORT);
        for (what, from, to) in [
            ("node to pod", shop.node.ns(), web),
            ("node to Service", shop.node.ns(), service),
            ("pod to outside", client, outside),
            ("pod to pod", client, web),
        ] {
            if !traffic::tcp_request(from, to, "", BOUND)?.is_answered() {
                return Ok(Some(format!("{what} {to}")));
            }
        }
    }
    Ok(None)
}

fn repaired(node: &Node) -> Result<u64, LabError> {
    Ok(node.status()?["host"]["repaired"].as_u64().unwrap_or_default())
}

fn works(status: &Value) -> bool {
    status["host"]["works"] == Value::Bool(true)
}

/// Returns `true` if CNI STATUS succeeds.
fn is_ready(shop: &Shop) -> Result<bool, LabError> {
    let pod = &shop.member("client")?.pod;
    Ok(shop.node.cni("STATUS", pod, None)?.ok)
}

#[test]
fn everything_that_others_remove_comes_back() -> Result<(), LabError> {
    let shop = Shop::start(binaries()?, NodePlan::new("node", 1))?;
    let _servers = Servers::start(&shop)?;
    let node = &shop.node;
    wait_until("everything works at the start", || Ok(broken_path(&shop)?.is_none()))?;
    wait_until("the kernel's state is verified", || Ok(works(&node.status()?)))?;
    let pod_end = port(&node.status()?, "pod:shop/web-1")["interface"]
        .to_string()
        .replace('"', "");
    let agent = node.status()?["agent"]["pid"].clone();
    for (case, command) in [
        ("nft flush ruleset", "nft flush ruleset".to_owned()),
        (
            "a chain of the table flushed",
            "nft flush chain inet heddle postrouting".to_owned(),
        ),
        (
            "routes flushed",
            "ip route flush dev heddle0; ip -6 route flush dev heddle0".to_owned(),
        ),
        ("addresses flushed", "ip addr flush dev heddle0".to_owned()),
        (
            "neighbors flushed",
            "ip neigh flush nud permanent dev heddle0".to_owned(),
        ),
        (
            "heddle0 down and up",
            "ip link set heddle0 down; ip link set heddle0 up".to_owned(),
        ),
        ("heddle0 down", "ip link set heddle0 down".to_owned()),
        ("hdhost down", "ip link set hdhost down".to_owned()),
        ("another MTU", "ip link set heddle0 mtu 1280".to_owned()),
        (
            "another MAC",
            "ip link set heddle0 address 02:00:00:00:00:99".to_owned(),
        ),
        ("the pod's end without XDP", format!("ip link set {pod_end} xdp off")),
        ("hdhost without XDP", "ip link set hdhost xdp off".to_owned()),
        ("the pod's end down", format!("ip link set {pod_end} down")),
        (
            "no reserved ports",
            "echo > /proc/sys/net/ipv4/ip_local_reserved_ports".to_owned(),
        ),
        (
            "forwarding off",
            "echo 0 > /proc/sys/net/ipv4/conf/heddle0/forwarding".to_owned(),
        ),
        (
            "IPv6 off",
            "echo 1 > /proc/sys/net/ipv6/conf/heddle0/disable_ipv6".to_owned(),
        ),
        ("the pair deleted", "ip link del heddle0".to_owned()),
    ] {
        let before = repaired(node)?;
        node.ns().run("sh", &["-c", &command])?;
        if !case.contains("without XDP") && !case.contains("deleted") {
            wait_until(&format!("{case}: a repair"), || Ok(repaired(node)? > before))?;
        }
        wait_until(&format!("{case}: the state is as planned"), || {
            Ok(works(&node.status()?))
        })?;
        let mut broken = None;
        wait_until(&format!("{case}: everything works"), || {
            broken = broken_path(&shop)?;
            Ok(broken.is_none())
        })
        .inspect_err(|_| eprintln!("{case}: {broken:?}"))?;
        assert!(is_ready(&shop)?, "{case}");
        let reserved = fs_of(node, "/proc/sys/net/ipv4/ip_local_reserved_ports")?;
        assert!(reserved.contains("61000-65535"), "{case}: {reserved}");
    }
    assert_eq!(node.status()?["agent"]["pid"], agent, "the agent was not restarted");
    Ok(())
}

/// Returns a file of the node's namespace.
fn fs_of(node: &Node, path: &str) -> Result<String, LabError> {
    node.ns().run("cat", &[path])
}

/// systemd-udevd replaces a MAC that the kernel chose (`MACAddressPolicy=persistent`), and leaves one alone that was set.
#[test]
fn the_host_port_has_a_mac_that_was_set() -> Result<(), LabError> {
    let lab = Lab::new(binaries()?)?;
    let mut node = lab.node(NodePlan::new("node", 1))?;
    node.start_agent()?;
    // NET_ADDR_SET is 3 (include/uapi/linux/netdevice.h). Sysfs belongs to the namespace in which it is mounted.
    let script = "mount -t sysfs none /sys && cat /sys/class/net/heddle0/addr_assign_type";
    let set = node.ns().run("unshare", &["--mount", "sh", "-c", script])?;
    assert_eq!(set.trim(), "3");
    Ok(())
}

#[test]
fn a_foreign_route_keeps_the_node_unready_until_it_goes() -> Result<(), LabError> {
    let mut shop = Shop::new(binaries()?, NodePlan::new("node", 1))?;
    shop.node
        .ns()
        .run("ip", &["route", "add", "10.96.0.0/16", "dev", "eth0"])?;
    shop.node.start_agent()?;
    for (name, app) in [("web-1", "web"), ("web-2", "web"), ("client", "client")] {
        shop.add_pod(name, app)?;
    }
    shop.publish_endpoints()?;
    let _servers = Servers::start(&shop)?;
    let status = shop.node.status()?;
    assert!(
        !works(&status) && status["host"]["differences"].to_string().contains("10.96.0.0/16"),
        "{}",
        status["host"]
    );
    assert!(
        !is_ready(&shop)?,
        "STATUS succeeds although the node does not reach Services"
    );
    shop.node
        .ns()
        .run("ip", &["route", "del", "10.96.0.0/16", "dev", "eth0"])?;
    wait_until("the state is as planned", || Ok(works(&shop.node.status()?)))?;
    wait_until("everything works", || Ok(broken_path(&shop)?.is_none()))?;
    assert!(is_ready(&shop)?);
    Ok(())
}

#[test]
fn an_nft_that_comes_later_is_used() -> Result<(), LabError> {
    let lab = Lab::new(binaries()?)?;
    let bin = lab.dir().join("bin");
    fs::create_dir(&bin).map_err(LabError::io("creating bin"))?;
    let mut plan = NodePlan::new("node", 1);
    plan.env = vec![("PATH".to_owned(), bin.display().to_string())];
    let shop = Shop::start_in(lab, plan)?;
    let _servers = Servers::start(&shop)?;
    assert!(!works(&shop.node.status()?) && !is_ready(&shop)?);
    let broken = broken_path(&shop)?;
    assert!(
        broken.as_ref().is_some_and(|path| path.contains("outside")),
        "{broken:?}"
    );
    let nft = shop.lab.outside().run("sh", &["-c", "command -v nft"])?;
    symlink(nft.trim(), bin.join("nft")).map_err(LabError::io("linking nft"))?;
    heddle_lab::wait_until("the state is as planned", RETRY_BOUND, || {
        Ok(works(&shop.node.status()?))
    })?;
    wait_until("everything works", || Ok(broken_path(&shop)?.is_none()))?;
    assert!(is_ready(&shop)?);
    Ok(())
}

/// `kubectl delete node` while the node runs, and the controller gives the returning node another range.
#[test]
fn the_node_works_without_its_object_and_with_other_pod_ranges() -> Result<(), LabError> {
    let mut shop = Shop::start(binaries()?, NodePlan::new("node", 1))?;
    let _servers = Servers::start(&shop)?;
    let object =
        |ranges: [&str; 2]| manifests::node(shop.node.name(), &shop.node.internal_ips(), &ranges.map(str::to_owned));
    let moved = object(["10.244.77.0/24", "fd00:10:244:77::/64"]);
    wait_until("everything works at the start", || Ok(broken_path(&shop)?.is_none()))?;

    // Without the object.
    let nodes =
        |shop: &Shop| -> Result<Value, LabError> { Ok(shop.node.status()?["source"]["objects"]["Node"].clone()) };
    assert_eq!(nodes(&shop)?, Value::from(1));
    shop.node.delete(&moved)?;
    wait_until("the agent knows no node", || Ok(nodes(&shop)? == 0))?;
    wait_until("the kernel's state is as planned", || Ok(works(&shop.node.status()?)))?;
    assert_eq!(broken_path(&shop)?, None, "without the Node object");
    // An agent that starts without the object remembers it.
    shop.node.stop_agent(Signal::SIGTERM)?;
    shop.node.start_agent()?;
    wait_until("the kernel's state is as planned after a restart", || {
        Ok(works(&shop.node.status()?))
    })?;
    assert_eq!(broken_path(&shop)?, None, "after a restart without the Node object");
    // Its ranges may be another node's soon, so no new pod gets an address.
    assert!(!is_ready(&shop)?);
    let refused = shop.add_pod("late", "client").map(drop);
    let message = refused.map_or_else(|e| e.to_string(), |()| "attached".to_owned());
    assert!(message.contains("Node object node is missing"), "{message}");
    shop.node
        .delete(&shop.lab.pod("shop", "late", &[])?.object("node", &[]))?;

    // With other ranges: the pods that run keep their addresses, and new ones get new addresses.
    shop.node.apply(&moved)?;
    wait_until("the host port has the new address", || {
        let shown = shop.node.ns().run("ip", &["-o", "address", "show", "dev", "heddle0"])?;
        Ok(shown.contains("10.244.77.1/") && shown.contains("fd00:10:244:77::1/"))
    })?;
    let mut broken = None;
    wait_until("everything works with the new ranges", || {
        broken = broken_path(&shop)?;
        Ok(broken.is_none())
    })
    .inspect_err(|_| eprintln!("{broken:?}"))?;
    assert!(is_ready(&shop)?);
    let added = shop.add_pod("new", "web")?;
    let at = [false, true].map(|v6| added.at(v6, WEB_TARGET));
    let _server = TcpServer::start(added.pod.ns(), WEB_TARGET, ServerBehavior::Greet("new".to_owned()))?;
    for (at, range) in at.into_iter().zip(["10.244.77.", "fd00:10:244:77::"]) {
        let at = at?;
        assert!(at.ip().to_string().starts_with(range), "{at}");
        for from in [shop.node.ns(), shop.member("client")?.pod.ns()] {
            assert!(traffic::tcp_request(from, at, "", BOUND)?.is_answered(), "{at}");
        }
    }
    assert_eq!(broken_path(&shop)?, None, "beside a pod of the new ranges");
    Ok(())
}
