//! The node's own addresses: policy knows all of them while they are there, and ICMP errors to the outside come from one.

mod common;

use std::io::IoSliceMut;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};

use common::{BOUND, SILENCE, binaries, wait_until};
use heddle_lab::traffic::{self, ServerBehavior, TcpServer};
use heddle_lab::{Lab, LabError, NetNs, NodePlan, manifests};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt};
use serde_json::json;

/// The port of the servers.
const PORT: u16 = 9100;
/// The longest wait for an ICMP error.
const ERROR_MILLIS: u16 = 3000;

/// An address that the node gets later, and the interface.
const ADDRESSES: [(&str, &str); 6] = [
    // A VIP of keepalived, and a second address of the uplink.
    ("192.0.2.77/32", "eth0"),
    ("192.0.2.78/24", "eth0"),
    ("2001:db8::77/128", "eth0"),
    ("198.51.100.9/32", "lo"),
    ("2001:db8:9::9/128", "lo"),
    // Node-local DNS.
    ("169.254.20.10/32", "lo"),
];

/// "Traffic to and from the node where a Pod is running is always allowed, regardless of the IP address of the Pod or the node."
#[test]
fn a_closed_pod_and_its_node_reach_each_other_at_every_address_of_the_node() -> Result<(), LabError> {
    let lab = Lab::new(binaries()?)?;
    let mut node = lab.node(NodePlan::new("node", 1))?;
    node.apply(&manifests::namespace("closed"))?;
    node.apply(&json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": "closed", "name": "nothing"},
        "spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}}))?;
    node.start_agent()?;
    let pod = lab.pod("closed", "pod", &[])?;
    let attached = node.start_pod(&pod)?;
    let greet = |ns: &NetNs, name: &str| TcpServer::start(ns, PORT, ServerBehavior::Greet(name.to_owned()));
    let _servers = (
        greet(node.ns(), "node")?,
        greet(pod.ns(), "pod")?,
        greet(lab.outside(), "outside")?,
    );
    for (address, interface) in ADDRESSES {
        let ip: IpAddr = address
            .split('/')
            .next()
            .and_then(|ip| ip.parse().ok())
            .unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let to = SocketAddr::new(ip, PORT);
        assert!(
            !traffic::tcp_request(pod.ns(), to, "", SILENCE)?.is_answered(),
            "{ip} is not the node's yet"
        );
        let add = if ip.is_ipv4() { vec![] } else { vec!["nodad"] };
        node.ns().run(
            "ip",
            &[&["address", "add", address, "dev", interface][..], &add].concat(),
        )?;
        wait_until(&format!("the pod reaches its node at {ip}"), || {
            Ok(traffic::tcp_request(pod.ns(), to, "", SILENCE)?.is_answered())
        })?;
        let own = attached.ip(ip.is_ipv6())?.to_string();
        let ping = ["-n", "-c", "1", "-W", "3", "-I", &ip.to_string(), &own];
        node.ns().run("ping", &ping)?;
    }
    // An address that moves to another machine is no longer the node's.
    node.ns()
        .run("ip", &["address", "del", "192.0.2.77/32", "dev", "eth0"])?;
    lab.outside()
        .run("ip", &["address", "add", "192.0.2.77/32", "dev", "br0"])?;
    let moved = SocketAddr::from(([192, 0, 2, 77], PORT));
    assert!(traffic::tcp_request(node.ns(), moved, "", BOUND)?.is_answered());
    wait_until("policy denies the address that has moved", || {
        Ok(!traffic::tcp_request(pod.ns(), moved, "", SILENCE)?.is_answered())
    })
}

/// Routers and hosts drop packets from 169.254.1.1 and fe80::1, so a traceroute from outside showed no hop.
#[test]
fn errors_to_the_outside_come_from_an_address_of_the_node() -> Result<(), LabError> {
    let lab = Lab::new(binaries()?)?;
    let mut node = lab.node(NodePlan::new("node", 1))?;
    node.start_agent()?;
    let pod = lab.pod("shop", "pod", &[])?;
    let attached = node.start_pod(&pod)?;
    for (range, ip) in [("10.244.1.0/24", "192.0.2.1"), ("fd00:10:244:1::/64", "2001:db8::1")] {
        lab.outside().run("ip", &["route", "add", range, "via", ip])?;
    }
    // The kernel uses the larger value of `all` and the interface's, and strict mode refuses local sources.
    for strict in ["0", "1"] {
        node.ns().sysctl("net/ipv4/conf/all/rp_filter", strict)?;
        for v6 in [false, true] {
            let to = SocketAddr::new(attached.ip(v6)?, 33_434);
            // The node's kernel counts the first hop, heddle the second one.
            let source = error_source(lab.outside(), to, 2)?;
            assert_eq!(
                source,
                Some(node.internal_ips()[usize::from(v6)]),
                "rp_filter {strict}, {to}"
            );
            // The node's own processes get theirs too.
            let source = error_source(node.ns(), to, 1)?;
            assert_eq!(
                source,
                Some(node.internal_ips()[usize::from(v6)]),
                "rp_filter {strict}, {to}"
            );
        }
    }
    Ok(())
}

/// Sends a UDP packet with this TTL and returns the sender of the ICMP error; `None` if none comes.
fn error_source(from: &NetNs, to: SocketAddr, ttl: u8) -> Result<Option<IpAddr>, LabError> {
    from.enter(|| {
        let any: SocketAddr = if to.is_ipv4() {
            (Ipv4Addr::UNSPECIFIED, 0).into()
        } else {
            (Ipv6Addr::UNSPECIFIED, 0).into()
        };
        let socket = UdpSocket::bind(any).map_err(LabError::io("binding a UDP socket"))?;
        let set = if to.is_ipv4() {
            setsockopt(&socket, sockopt::Ipv4RecvErr, &true)
                .and_then(|()| setsockopt(&socket, sockopt::Ipv4Ttl, &i32::from(ttl)))
        } else {
            setsockopt(&socket, sockopt::Ipv6RecvErr, &true)
                .and_then(|()| setsockopt(&socket, sockopt::Ipv6Ttl, &i32::from(ttl)))
        };
        set.map_err(LabError::nix("setting the options of a UDP socket"))?;
        socket
            .send_to(b"probe", to)
            .map_err(LabError::io("sending a UDP packet"))?;
        // POLLERR needs no request.
        let mut fds = [PollFd::new(socket.as_fd(), PollFlags::empty())];
        if poll(&mut fds, PollTimeout::from(ERROR_MILLIS)).map_err(LabError::nix("waiting for an ICMP error"))? == 0 {
            return Ok(None);
        }
        let mut data = [0; 512];
        let mut slices = [IoSliceMut::new(&mut data)];
        let mut control = vec![0; 512];
        let received = recvmsg::<()>(
            socket.as_raw_fd(),
            &mut slices,
            Some(&mut control),
            MsgFlags::MSG_ERRQUEUE,
        );
        let received = received.map_err(LabError::nix("reading an ICMP error"))?;
        let source = received
            .cmsgs()
            .map_err(LabError::nix("reading an ICMP error"))?
            .find_map(|message| match message {
                ControlMessageOwned::Ipv4RecvErr(_, Some(sender)) => {
                    Some(IpAddr::from(sender.sin_addr.s_addr.to_ne_bytes()))
                }
                ControlMessageOwned::Ipv6RecvErr(_, Some(sender)) => Some(IpAddr::from(sender.sin6_addr.s6_addr)),
                _ => None,
            });
        Ok(source)
    })
}
