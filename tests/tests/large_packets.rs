//! Large packets between pods, and their fragmentation or refusal on paths with a smaller MTU.

mod common;

use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};

use common::{BOUND, binaries, drops, port, wait_until};
use heddle_lab::shop::{Shop, WEB_TARGET};
use heddle_lab::udp::UdpServer;
use heddle_lab::{LabError, NetNs, NodePlan, bind_when_free, manifests, run_with_input, traffic};

/// The default of `podMTU`.
const LARGE: u32 = 61_000;
const UPLINK: u32 = 1500;
const BULK: u64 = 128 << 20;

fn shop(workers: &str) -> Result<Shop, LabError> {
    let mut plan = NodePlan::new("node", 1);
    plan.cores = workers.to_owned();
    Shop::start(binaries()?, plan)
}

/// Runs `ip` in a namespace and returns its output.
fn ip(ns: &NetNs, arguments: &str) -> Result<String, LabError> {
    let arguments: Vec<&str> = arguments.split(' ').collect();
    ns.run("ip", &arguments)
}

/// Returns the MTU in the line of a route listing that starts with `destination`.
fn route_mtu(listing: &str, destination: &str) -> Option<u32> {
    let line = listing
        .lines()
        .find(|line| line.split(' ').next() == Some(destination))?;
    line.split_once(" mtu ")?.1.split(' ').next()?.parse().ok()
}

#[test]
fn interfaces_and_routes_have_the_mtu_of_their_paths() -> Result<(), LabError> {
    let mut shop = Shop::new(binaries()?, NodePlan::new("node", 1))?;
    let other = ["10.244.2.0/24".to_owned(), "fd00:10:244:2::/64".to_owned()];
    let address: IpAddr = [192, 0, 2, 2].into();
    shop.node.apply(&manifests::node("other", &[address], &other))?;
    shop.node.start_agent()?;
    let ns = shop.add_pod("client", "client")?.pod.ns().clone();

    let link = ip(&ns, "link show eth0")?;
    assert!(link.contains(&format!("mtu {LARGE} ")), "{link}");
    let (v4, v6) = (ip(&ns, "route show")?, ip(&ns, "-6 route show")?);
    // Where the path takes as much as the interface, the interface's MTU holds: a chained plugin may lower it.
    for (destination, mtu) in [
        ("10.244.1.0/24", None),
        ("10.96.0.0/16", None),
        ("10.244.2.0/24", Some(UPLINK - 50)),
        ("default", Some(UPLINK)),
    ] {
        assert_eq!(route_mtu(&v4, destination), mtu, "{destination}: {v4}");
    }
    for (destination, mtu) in [
        ("fd00:10:244:1::/64", None),
        ("fd00:10:96::/112", None),
        ("fd00:10:244:2::/64", Some(UPLINK - 50)),
        ("default", Some(UPLINK)),
    ] {
        assert_eq!(route_mtu(&v6, destination), mtu, "{destination}: {v6}");
    }
    for interface in ["heddle0", "hdhost"] {
        let link = ip(shop.node.ns(), &format!("link show {interface}"))?;
        assert!(link.contains(&format!("mtu {UPLINK} ")), "{link}");
    }
    // The host port follows a change of the uplink's MTU while the agent runs.
    ip(shop.node.ns(), "link set eth0 mtu 1400")?;
    wait_until("the host port follows the uplink", || {
        Ok(ip(shop.node.ns(), "link show heddle0")?.contains("mtu 1400 "))
    })
}

/// Returns the client's MSS of a new connection. Each listener needs a port of its own: a process that another test of this
/// executable starts inherits the listening socket until its exec, and keeps the port busy meanwhile.
fn mss(from: &NetNs, to_ns: &NetNs, to: SocketAddr, listen: u16) -> Result<u32, LabError> {
    let listener = to_ns.enter(|| {
        bind_when_free("listening", || {
            TcpListener::bind(SocketAddr::from(([0_u16; 8], listen)))
        })
    })?;
    let (stream, own) = from.enter(|| {
        let stream = std::net::TcpStream::connect_timeout(&to, BOUND).map_err(LabError::io(format!("to {to}")))?;
        let own = nix::sys::socket::getsockopt(&stream, nix::sys::socket::sockopt::TcpMaxSeg)
            .map_err(|e| LabError::io("TCP_MAXSEG")(e.into()))?;
        Ok((stream, own))
    })?;
    drop((stream, listener));
    Ok(own)
}

#[test]
fn the_mss_matches_the_path_mtu() -> Result<(), LabError> {
    for workers in ["0", "0,1"] {
        let shop = shop(workers)?;
        let (web, client) = (shop.member("web-1")?, shop.member("client")?);
        for (v6, ports) in [(false, [5100, 5101, 5102]), (true, [5110, 5111, 5112])] {
            let headers = if v6 { 60 } else { 40 };
            // A sender limits its first MSS to half of the window, which is at most 64 KiB then.
            let local = mss(client.pod.ns(), web.pod.ns(), web.at(v6, ports[0])?, ports[0])?;
            assert!(local > 20_000, "pod to pod: {local}");
            // TCP timestamps take 12 octets.
            let node = shop.node.internal_ips()[usize::from(v6)];
            let host = mss(
                client.pod.ns(),
                shop.node.ns(),
                SocketAddr::new(node, ports[1]),
                ports[1],
            )?;
            assert_eq!(host, UPLINK - headers - 12, "pod to host");
            let pod = mss(shop.node.ns(), web.pod.ns(), web.at(v6, ports[2])?, ports[2])?;
            assert_eq!(pod, UPLINK - headers - 12, "host to pod");
        }
    }
    Ok(())
}

/// Starts a node with one web pod and a client, so that every connection to the Service reaches the same listener.
fn pair(workers: &str) -> Result<Shop, LabError> {
    let mut plan = NodePlan::new("node", 1);
    plan.cores = workers.to_owned();
    let mut shop = Shop::new(binaries()?, plan)?;
    shop.node.start_agent()?;
    shop.add_pod("web-1", "web")?;
    shop.add_pod("client", "client")?;
    shop.publish_endpoints()?;
    Ok(shop)
}

#[test]
fn bulk_transfers_reach_a_pod_a_service_the_host_and_the_outside() -> Result<(), LabError> {
    for workers in ["0", "0,1"] {
        let shop = pair(workers)?;
        let (web, client) = (shop.member("web-1")?, shop.member("client")?);
        let (web_ns, client_ns) = (web.pod.ns(), client.pod.ns());
        for v6 in [false, true] {
            traffic::bulk(client_ns, web_ns, web.at(v6, 5001)?, 5001, BULK)?;
            traffic::bulk(client_ns, web_ns, Shop::service(v6), WEB_TARGET, BULK)?;
        }
        let status = shop.node.status()?;
        let counted = port(&status, "pod:shop/client");
        let (bytes, packets) = (counted["rx_bytes"].as_u64(), counted["rx_packets"].as_u64());
        assert!(bytes > packets.map(|n| n * 5000), "packets are large: {counted:#}");
        for v6 in [false, true] {
            let node = SocketAddr::new(shop.node.internal_ips()[usize::from(v6)], 5003);
            traffic::bulk(client_ns, shop.node.ns(), node, 5003, BULK / 16)?;
            let outside = SocketAddr::new(shop.lab.outside_ips()[usize::from(v6)], 5004);
            traffic::bulk(client_ns, shop.lab.outside(), outside, 5004, BULK / 16)?;
            traffic::bulk(shop.node.ns(), web_ns, web.at(v6, 5005)?, 5005, BULK / 16)?;
        }
    }
    Ok(())
}

#[test]
fn a_large_datagram_reaches_a_local_pod_unfragmented() -> Result<(), LabError> {
    let shop = pair("0")?;
    let (web, client) = (shop.member("web-1")?, shop.member("client")?);
    let datagram: Vec<u8> = (0..50_000_u32).map(|n| (n * 7 + n / 256) as u8).collect();
    // The first packets of a pod's kernel (neighbor discovery) may precede the pod's policy, and are dropped then.
    let dropped = || -> Result<_, LabError> { Ok(port(&shop.node.status()?, "pod:shop/client")["dropped"].clone()) };
    let before = dropped()?;
    for v6 in [false, true] {
        let receiver = web.pod.ns().enter(|| {
            let socket = bind_when_free("binding", || UdpSocket::bind(SocketAddr::from(([0_u16; 8], 5200))))?;
            socket
                .set_read_timeout(Some(BOUND))
                .map_err(LabError::io("a timeout"))?;
            Ok(socket)
        })?;
        let to = web.at(v6, 5200)?;
        client.pod.ns().enter(|| {
            let any: IpAddr = if v6 { [0_u16; 8].into() } else { [0; 4].into() };
            let socket = UdpSocket::bind((any, 0)).map_err(LabError::io("binding"))?;
            socket
                .send_to(&datagram, to)
                .map_err(LabError::io(format!("sending to {to}")))
                .map(drop)
        })?;
        let mut received = vec![0; 65_536];
        let (n, _) = receiver.recv_from(&mut received).map_err(LabError::io("receiving"))?;
        assert!(received[..n] == datagram, "{n} octets arrived");
    }
    assert_eq!(dropped()?, before, "none of the datagrams was dropped");
    Ok(())
}

/// Sends a datagram to an echo and compares the answer.
fn exchange(from: &NetNs, to: SocketAddr, len: usize) -> Result<(), LabError> {
    from.enter(move || {
        let any: IpAddr = if to.is_ipv6() { [0_u16; 8].into() } else { [0; 4].into() };
        let socket = UdpSocket::bind((any, 0)).map_err(LabError::io("binding"))?;
        socket
            .set_read_timeout(Some(BOUND))
            .map_err(LabError::io("a timeout"))?;
        let request = format!("{len} octets to {to}");
        socket.connect(to).map_err(LabError::io(request.clone()))?;
        let sent: Vec<u8> = (0..len).map(|n| (n * 7 + n / 256) as u8).collect();
        socket.send(&sent).map_err(LabError::io(request.clone()))?;
        let mut received = vec![0; 65_536];
        let n = socket
            .recv(&mut received)
            .map_err(LabError::io(format!("{request}: the answer")))?;
        if received[..n] == sent {
            return Ok(());
        }
        Err(LabError::Reply {
            what: request,
            detail: format!("{n} octets came back, and not the same"),
        })
    })
}

/// The ClusterIPs of the suite's UDP Service.
const UDP_SERVICE: [&str; 2] = ["10.96.0.77", "fd00:10:96::77"];
/// The port of the UDP Service, and its target port.
const UDP_PORTS: (u16, u16) = (5353, 5300);

/// Makes a UDP Service with one backend, waits until the tables contain it, and returns its frontends.
fn udp_service(shop: &Shop, backend: &str) -> Result<[SocketAddr; 2], LabError> {
    let reply = |e: std::net::AddrParseError| LabError::Reply {
        what: "the Service's address".to_owned(),
        detail: e.to_string(),
    };
    let parsed = |text: &str| text.parse::<IpAddr>().map_err(reply);
    let ips = [parsed(UDP_SERVICE[0])?, parsed(UDP_SERVICE[1])?];
    let mut service = manifests::service("shop", "bulk", &ips, UDP_PORTS.0, UDP_PORTS.1);
    service["spec"]["ports"][0]["protocol"] = "UDP".into();
    shop.node.apply(&service)?;
    let before = shop.node.status()?["tables"]["backends"].as_u64();
    for v6 in [false, true] {
        let ip = shop.member(backend)?.attached.ip(v6)?;
        let mut slice = manifests::endpoint_slice("shop", "bulk", v6, UDP_PORTS.1, &[(ip, backend)]);
        slice["ports"][0]["protocol"] = "UDP".into();
        shop.node.apply(&slice)?;
    }
    wait_until("the Service's backends", || {
        Ok(shop.node.status()?["tables"]["backends"].as_u64() == before.map(|n| n + 2))
    })?;
    Ok(ips.map(|ip| SocketAddr::new(ip, UDP_PORTS.0)))
}

/// Lowers the MTU of a pod's routes to pods and Services.
fn limit_route_mtu(pod: &NetNs, mtu: u32) -> Result<(), LabError> {
    for route in ["10.244.1.0/24", "10.96.0.0/16"] {
        ip(
            pod,
            &format!("route replace {route} via 169.254.1.1 dev eth0 onlink mtu {mtu}"),
        )?;
    }
    for route in ["fd00:10:244:1::/64", "fd00:10:96::/112"] {
        ip(pod, &format!("-6 route del {route}"))?;
        ip(pod, &format!("-6 route add {route} via fe80::1 dev eth0 mtu {mtu}"))?;
    }
    Ok(())
}

#[test]
fn fragmented_datagrams_reach_a_pod_by_its_address_and_by_a_service() -> Result<(), LabError> {
    for workers in ["0", "0,1"] {
        let shop = pair(workers)?;
        let (web, client) = (shop.member("web-1")?, shop.member("client")?);
        let services = udp_service(&shop, "web-1")?;
        let _echo = UdpServer::echo(web.pod.ns(), UDP_PORTS.1)?;
        // With the large MTU a datagram makes two fragments at most, with MTU 1400 some forty in each direction.
        for (mtu, sizes) in [(LARGE, [65_000, 61_000, 2000]), (1400, [60_000, 1373, 3000])] {
            if mtu != LARGE {
                limit_route_mtu(client.pod.ns(), mtu)?;
                limit_route_mtu(web.pod.ns(), mtu)?;
            }
            for (v6, service) in [false, true].into_iter().zip(services) {
                // A small datagram first: the kernel keeps only a few packets while it resolves the neighbor.
                for len in [100].into_iter().chain(sizes) {
                    for to in [web.at(v6, UDP_PORTS.1)?, service] {
                        exchange(client.pod.ns(), to, len).inspect_err(|_| println!("{:#?}", shop.node.status()))?;
                    }
                }
            }
        }
        for v6 in [false, true] {
            let to = web.attached.ip(v6)?.to_string();
            let output = client
                .pod
                .ns()
                .run("ping", &["-n", "-c", "2", "-i", "0.2", "-W", "2", "-s", "4000", &to])?;
            assert!(
                output.contains("4008 bytes from") && output.contains(" 0% packet loss"),
                "{output}"
            );
        }
        let status = shop.node.status()?;
        let fragments = &status["fragments"];
        assert!(fragments["first"].as_u64() > Some(16), "{fragments:#}");
        assert!(fragments["followed"].as_u64() > Some(4 * 43), "{fragments:#}");
        assert_eq!(
            fragments["datagrams_most"],
            1024 * workers.split(',').count(),
            "{fragments:#}"
        );
        for name in ["pod:shop/client", "pod:shop/web-1"] {
            let counted = port(&status, name);
            assert_eq!(drops(&status, name, "fragment"), 0, "{counted:#}");
            assert!(counted["rx_packets"].as_u64() > Some(4 * 43), "{counted:#}");
        }
    }
    Ok(())
}

#[test]
fn packets_without_df_are_fragmented_where_the_path_mtu_is_smaller() -> Result<(), LabError> {
    for workers in ["0", "0,1"] {
        let shop = pair(workers)?;
        let client = shop.member("client")?.pod.ns();
        // The pod does not know the path MTU (its route has none), and it sends without DF.
        ip(client, "route replace default via 169.254.1.1 dev eth0 onlink")?;
        client.sysctl("net/ipv4/ip_no_pmtu_disc", "1")?;
        for (ns, to) in [
            (shop.node.ns(), shop.node.internal_ips()[0]),
            (shop.lab.outside(), shop.lab.outside_ips()[0]),
        ] {
            let _echo = UdpServer::echo(ns, 5301)?;
            for len in [60_000, 1473, 9000] {
                exchange(client, SocketAddr::new(to, 5301), len)?;
            }
            let to = to.to_string();
            let output = client.run(
                "ping",
                &[
                    "-n", "-c", "2", "-i", "0.2", "-W", "2", "-M", "dont", "-s", "20000", &to,
                ],
            )?;
            assert!(
                output.contains("20008 bytes from") && output.contains(" 0% packet loss"),
                "{output}"
            );
        }
        let status = shop.node.status()?;
        let counted = port(&status, "pod:shop/client");
        assert_eq!(drops(&status, "pod:shop/client", "too-big"), 0, "{counted:#}");
        assert!(
            counted["fragments"].as_u64() >= Some(2 * (40 + 1 + 6 + 2 * 13)),
            "{counted:#}"
        );
        assert_eq!(counted["fragments_lost"], 0);
    }
    Ok(())
}

#[test]
fn a_packet_too_large_for_the_uplink_is_answered_with_the_mtu() -> Result<(), LabError> {
    let shop = pair("0")?;
    let client = shop.member("client")?.pod.ns();
    // Without an MTU in its default route, the pod sends packets of up to the interface's MTU.
    client.run(
        "ip",
        &[
            "route",
            "replace",
            "default",
            "via",
            "169.254.1.1",
            "dev",
            "eth0",
            "onlink",
        ],
    )?;
    ip(client, "-6 route del default")?;
    ip(client, "-6 route add default via fe80::1 dev eth0")?;
    for (v6, message) in [(false, "(mtu = 1500)"), (true, "Packet too big: mtu=1500")] {
        let outside = shop.lab.outside_ips()[usize::from(v6)].to_string();
        let out = client.enter(|| {
            let mut ping = std::process::Command::new("ping");
            ping.args([
                "-n", "-c", "2", "-i", "0.2", "-W", "1", "-M", "do", "-s", "20000", &outside,
            ]);
            run_with_input(&mut ping, "")
        })?;
        assert!(!out.ok && out.stdout.contains(message), "{}{}", out.stdout, out.stderr);
    }
    let status = shop.node.status()?;
    assert!(
        port(&status, "pod:shop/client")["answered"].as_u64() >= Some(2),
        "{status:#}"
    );
    Ok(())
}
