//! Pods' ports in generic mode: the change of mode at a restart, and what the pods' kernels leave to their interfaces.

mod common;

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::time::Duration;

use common::{BOUND, binaries, port, wait_until};
use heddle_lab::shop::{Shop, WEB_TARGET};
use heddle_lab::traffic::{self, Conversation, ServerBehavior, Speaker, TcpServer};
use heddle_lab::{Lab, LabError, NetNs, NodePlan, bind_when_free};
use nix::sys::signal::Signal;
use nix::sys::socket::{setsockopt, sockopt};
use serde_json::Value;

/// The bound for connections to go on after a restart. TCP doubles the interval of its retransmissions.
const RESUME_BOUND: Duration = Duration::from_secs(15);
/// The datagrams of one send call, and their size.
const DATAGRAMS: usize = 40;
const DATAGRAM: u16 = 1200;
const PODS: [&str; 4] = ["web-1", "web-2", "client", "db"];

/// Starts the shop with this mode for pods' ports. Returns the configuration file too.
fn shop(mode: &str) -> Result<(Shop, PathBuf), LabError> {
    let lab = Lab::new(binaries()?)?;
    let config = lab.dir().join("heddle.yaml");
    set_mode(&config, mode)?;
    let mut plan = NodePlan::new("node", 1);
    plan.flags = vec!["--config".to_owned(), config.display().to_string()];
    Ok((Shop::start_in(lab, plan)?, config))
}

fn set_mode(config: &PathBuf, mode: &str) -> Result<(), LabError> {
    fs::write(config, format!("podXDPMode: {mode}\n")).map_err(LabError::io("writing the configuration"))
}

/// Asserts that all pods' ports have a mode, and that the host port is native.
fn assert_mode(shop: &Shop, mode: &str) -> Result<(), LabError> {
    let status = shop.node.status()?;
    for pod in PODS {
        assert_eq!(port(&status, &format!("pod:shop/{pod}"))["xdp_mode"], mode, "{pod}");
    }
    assert_eq!(port(&status, "host")["xdp_mode"], "native");
    Ok(())
}

/// Waits until no frame belongs to a packet under way: every frame is in a pool or in a port's rings.
fn no_frame_is_lost(shop: &Shop) -> Result<(), LabError> {
    wait_until("every frame is in a pool or in a port", || {
        let status = shop.node.status()?;
        let holders = status["frames"]["holders"].as_array().cloned().unwrap_or_default();
        let is_under_way = |holder: &Value| {
            let name = holder["holder"].as_str().unwrap_or_default();
            name.starts_with("worker") || name == "control"
        };
        Ok(!holders.iter().any(is_under_way))
    })
}

/// Sends [`DATAGRAMS`] datagrams by one call with `UDP_SEGMENT` (udp(7)).
fn send_segmented(from: &NetNs, to: SocketAddr) -> Result<(), LabError> {
    from.enter(|| {
        let any: SocketAddr = if to.is_ipv4() {
            ([0; 4], 0).into()
        } else {
            ([0u16; 8], 0).into()
        };
        let socket = UdpSocket::bind(any).map_err(LabError::io("a UDP socket"))?;
        setsockopt(&socket, sockopt::UdpGsoSegment, &DATAGRAM.into()).map_err(LabError::nix("UDP_SEGMENT"))?;
        let bytes: Vec<u8> = (0..DATAGRAMS * usize::from(DATAGRAM))
            .map(|i| (i / usize::from(DATAGRAM)) as u8)
            .collect();
        socket
            .send_to(&bytes, to)
            .map_err(LabError::io(format!("UDP to {to}")))?;
        Ok(())
    })
}

/// Opens a socket that receives datagrams.
fn receiver(ns: &NetNs, port: u16) -> Result<UdpSocket, LabError> {
    ns.enter(|| {
        let any = SocketAddr::from(([0u16; 8], port));
        let socket = bind_when_free("a UDP port", || UdpSocket::bind(any))?;
        socket
            .set_read_timeout(Some(BOUND))
            .map_err(LabError::io("a read timeout"))?;
        Ok(socket)
    })
}

/// Receives the next datagram.
fn datagram(socket: &UdpSocket) -> Result<Vec<u8>, LabError> {
    let mut buffer = vec![0; 1 << 16];
    let (len, _) = socket.recv_from(&mut buffer).map_err(LabError::io("a datagram"))?;
    buffer.truncate(len);
    Ok(buffer)
}

#[test]
fn connections_outlive_a_change_of_mode() -> Result<(), LabError> {
    let (mut shop, config) = shop("native")?;
    assert_mode(&shop, "native")?;
    let web = shop.member("web-1")?;
    let mut servers = Vec::new();
    for name in ["web-1", "web-2"] {
        let ns = shop.member(name)?.pod.ns();
        servers.push(TcpServer::start(ns, WEB_TARGET, ServerBehavior::Echo)?);
    }
    let client = shop.member("client")?.pod.ns().clone();
    let mut talks = Vec::new();
    for v6 in [false, true] {
        for to in [web.at(v6, WEB_TARGET)?, Shop::service(v6)] {
            talks.push(Conversation::start(&client, to, Speaker::Client)?);
        }
    }
    let address = web.attached.ip(false)?;
    for (signal, mode) in [
        (Signal::SIGKILL, "generic"),
        (Signal::SIGKILL, "generic"),
        (Signal::SIGTERM, "native"),
        (Signal::SIGTERM, "generic"),
    ] {
        for talk in &talks {
            talk.wait_for_rounds(5, BOUND)?;
        }
        shop.node.stop_agent(signal)?;
        assert_eq!(
            traffic::ping(&client, address, 1)?,
            0,
            "without an agent a pod's port is closed"
        );
        set_mode(&config, mode)?;
        shop.node.start_agent()?;
        for talk in &talks {
            talk.wait_for_rounds(20, RESUME_BOUND)?;
        }
        assert_mode(&shop, mode)?;
        assert_eq!(traffic::ping(&client, address, 3)?, 3);
    }
    for talk in talks {
        talk.finish()?;
    }
    no_frame_is_lost(&shop)
}

/// Pods that an earlier version of the plugin has attached, whose kernels leave all segmentation to the interface.
#[test]
fn pods_of_an_earlier_plugin_stay_in_native_mode() -> Result<(), LabError> {
    let (mut shop, _config) = shop("generic")?;
    assert_mode(&shop, "generic")?;
    shop.node.stop_agent(Signal::SIGTERM)?;
    let path = shop.node.state_dir().join("attachments.json");
    let io = |error| LabError::io(format!("changing {}", path.display()))(error);
    let text = fs::read_to_string(&path).map_err(io)?;
    let mut state: Value = serde_json::from_str(&text).map_err(|e| io(e.into()))?;
    let attachments = state["attachments"].as_array_mut();
    assert_eq!(attachments.as_ref().map(|all| all.len()), Some(PODS.len()));
    for attachment in attachments.into_iter().flatten() {
        let removed = attachment
            .as_object_mut()
            .and_then(|record| record.remove("tcpSegmentsOnly"));
        assert_eq!(removed, Some(Value::Bool(true)));
    }
    fs::write(&path, state.to_string()).map_err(io)?;
    shop.node.start_agent()?;
    assert_mode(&shop, "native")?;
    let web = shop.member("web-1")?.attached.ip(true)?;
    assert_eq!(traffic::ping(shop.member("client")?.pod.ns(), web, 3)?, 3);
    Ok(())
}

#[test]
fn the_program_comes_back_in_its_mode() -> Result<(), LabError> {
    let (shop, _config) = shop("generic")?;
    let status = shop.node.status()?;
    let interface = port(&status, "pod:shop/web-1")["interface"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    shop.node
        .ns()
        .run("ip", &["link", "set", "dev", &interface, "xdpgeneric", "off"])?;
    wait_until("the program is back in generic mode", || {
        let link = shop.node.ns().run("ip", &["link", "show", "dev", &interface])?;
        Ok(link.contains("xdpgeneric"))
    })?;
    let web = shop.member("web-1")?.attached.ip(false)?;
    assert_eq!(traffic::ping(shop.member("client")?.pod.ns(), web, 3)?, 3);
    Ok(())
}

#[test]
fn datagrams_of_one_send_call_keep_their_boundaries() -> Result<(), LabError> {
    for mode in ["generic", "native"] {
        let (shop, _config) = shop(mode)?;
        let (web, client) = (shop.member("web-1")?, shop.member("client")?);
        for v6 in [false, true] {
            let socket = receiver(web.pod.ns(), 4433)?;
            send_segmented(client.pod.ns(), web.at(v6, 4433)?)?;
            for n in 0..DATAGRAMS {
                let got = datagram(&socket)?;
                assert_eq!(got.len(), usize::from(DATAGRAM), "{mode}, datagram {n}");
                assert!(got.iter().all(|byte| *byte == n as u8), "{mode}, datagram {n}");
            }
        }
        no_frame_is_lost(&shop)?;
    }
    Ok(())
}

/// Returns the packets and octets that a pod's port has received.
fn received(shop: &Shop, pod: &str) -> Result<(u64, u64), LabError> {
    let status = shop.node.status()?;
    let port = port(&status, &format!("pod:shop/{pod}"));
    let of = |key: &str| port[key].as_u64().unwrap_or(0);
    Ok((of("rx_packets"), of("rx_bytes")))
}

/// The tunnels compute their inner checksums themselves (`tx off`): heddle finishes outer checksums only.
#[test]
fn a_tunnel_inside_pods_works() -> Result<(), LabError> {
    const BYTES: u64 = 32 << 20;
    for mode in ["generic", "native"] {
        let (shop, _config) = shop(mode)?;
        let ends = ["web-1", "client"];
        for (n, [own, other]) in [ends, [ends[1], ends[0]]].into_iter().enumerate() {
            let (own, other) = (shop.member(own)?, shop.member(other)?);
            let (local, remote) = (own.attached.ip(false)?, other.attached.ip(false)?);
            let ns = own.pod.ns();
            let device =
                format!("link add vx0 mtu 1400 type vxlan id 7 dstport 4790 local {local} remote {remote} dev eth0");
            for words in [
                device,
                format!("addr add 10.9.9.{}/24 dev vx0", n + 1),
                "link set vx0 up".to_owned(),
            ] {
                ns.run("ip", &words.split(' ').collect::<Vec<_>>())?;
            }
            ns.run("ethtool", &["-K", "vx0", "tx", "off"])?;
        }
        let (web, client) = (shop.member("web-1")?.pod.ns(), shop.member("client")?.pod.ns());
        assert_eq!(traffic::ping(client, [10, 9, 9, 1].into(), 3)?, 3);
        let before = received(&shop, "client")?;
        traffic::bulk(client, web, SocketAddr::from(([10, 9, 9, 1], 5201)), 5201, BYTES)?;
        let after = received(&shop, "client")?;
        // The tunnel's kernel cut the inner segments: no packet was larger than inner MTU and headers.
        let (packets, bytes) = (after.0 - before.0, after.1 - before.1);
        assert!(
            bytes > BYTES && bytes / packets <= 1400 + 14 + 50,
            "{mode}: {bytes} bytes in {packets} packets"
        );
        no_frame_is_lost(&shop)?;
    }
    Ok(())
}

#[test]
fn a_pod_that_switches_offloads_on_harms_only_itself() -> Result<(), LabError> {
    let (shop, _config) = shop("generic")?;
    let (web, db, client) = (shop.member("web-1")?, shop.member("web-2")?, shop.member("client")?);
    let _server = TcpServer::start(web.pod.ns(), WEB_TARGET, ServerBehavior::Echo)?;
    let talk = Conversation::start(db.pod.ns(), web.at(false, WEB_TARGET)?, Speaker::Client)?;
    let privileged = client.pod.ns();
    for words in [
        &["-K", "eth0", "tx-udp-segmentation", "on", "tx-gso-list", "on"][..],
        &[
            "-K",
            "eth0",
            "tx-udp_tnl-segmentation",
            "on",
            "tx-sctp-segmentation",
            "on",
        ],
    ] {
        privileged.run("ethtool", words)?;
    }
    // Larger than any chain of frames.
    privileged.run("ip", &["link", "set", "eth0", "gso_max_size", "185000"])?;
    // Datagrams that nobody has cut: the receiver gets one large one, or none.
    let socket = receiver(web.pod.ns(), 4433)?;
    send_segmented(privileged, web.at(false, 4433)?)?;
    let got = datagram(&socket)?;
    assert_eq!(got.len(), DATAGRAMS * usize::from(DATAGRAM), "one datagram of all");
    // A path on which it does not fit.
    send_segmented(
        privileged,
        "192.0.2.77:4433"
            .parse()
            .map_err(|_| LabError::io("an address")(std::io::ErrorKind::InvalidInput.into()))?,
    )?;
    talk.wait_for_rounds(50, BOUND)?;
    talk.finish()?;
    no_frame_is_lost(&shop)
}
