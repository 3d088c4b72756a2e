//! Ports of a node that lead to a pod (`hostPort`).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use heddle_lab::traffic::{Conversation, ProbeOutcome, ServerBehavior, Speaker, TcpServer, tcp_request, udp_request};
use heddle_lab::udp::UdpServer;
use heddle_lab::{LabError, NetNs};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::common::{BOUND, SILENCE, wait_until};
use crate::scene::{Cluster, PORT, ask, tells};

const HOST_PORT: u16 = 8088;
const ECHO: u16 = 7777;
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn mapping(host_port: u16, container_port: u16, protocol: &str, host_ip: &str) -> Value {
    json!({"hostPort": host_port, "containerPort": container_port, "protocol": protocol, "hostIP": host_ip})
}

/// Returns `true` if a UDP server answers.
fn echoes(from: &NetNs, to: IpAddr, port: u16) -> Result<bool, LabError> {
    Ok(udp_request(from, SocketAddr::new(to, port), b"echo", BOUND)?.is_answered())
}

/// Returns `true` if nobody answers at a port within a short time.
fn is_closed(from: &NetNs, to: IpAddr, port: u16) -> Result<bool, LabError> {
    Ok(!tcp_request(from, SocketAddr::new(to, port), "", SILENCE)?.is_answered())
}

#[test]
fn a_host_port_is_reached_from_everywhere() -> Result<(), LabError> {
    let mut cluster = Cluster::start(2, "")?;
    let mappings = json!([mapping(HOST_PORT, PORT, "tcp", ""), mapping(HOST_PORT, ECHO, "udp", "")]);
    cluster.add_pod_with_ports(0, "web", mappings)?;
    cluster.add_pod(0, "beside", "beside")?;
    cluster.add_pod(1, "far", "far")?;
    let [web, beside, far] = [0, 1, 2].map(|index| &cluster.pods[index]);
    let _echo = UdpServer::echo(web.ns(), ECHO)?;
    let outside = cluster.lab.outside();
    for v6 in [false, true] {
        let [own, other] = [0, 1].map(|n| cluster.nodes[n].internal_ips()[usize::from(v6)]);
        let clients = [
            (outside, cluster.lab.outside_ips()[usize::from(v6)]),
            (cluster.nodes[0].ns(), own),
            (cluster.nodes[1].ns(), other),
            (beside.ns(), beside.ip(v6)?),
            (far.ns(), far.ip(v6)?),
        ];
        for (client, address) in clients {
            tells(&ask(client, own, HOST_PORT)?, "web", address);
            assert!(echoes(client, own, HOST_PORT)?, "{address}");
        }
        // The pod itself sees the node.
        assert!(ask(web.ns(), own, HOST_PORT)?.is_answered());
        // Another node has no such port.
        for client in [outside, beside.ns(), far.ns()] {
            assert!(is_closed(client, other, HOST_PORT)?);
        }
    }
    // Processes of the node reach it at a loopback address too.
    let node = &cluster.nodes[0];
    tells(&ask(node.ns(), LOOPBACK, HOST_PORT)?, "web", node.internal_ips()[0]);
    assert!(echoes(node.ns(), LOOPBACK, HOST_PORT)?);
    Ok(())
}

/// The pods of Kubernetes' conformance test for host ports, with keys as containerd writes them.
#[test]
fn pods_share_a_host_port_at_different_addresses_and_protocols() -> Result<(), LabError> {
    let mut cluster = Cluster::start(1, "")?;
    let own = cluster.nodes[0].internal_ips()[0];
    let at = own.to_string();
    for (name, ports) in [
        ("loopback", mapping(54_323, PORT, "tcp", "127.0.0.1")),
        ("address", mapping(54_323, PORT, "tcp", &at)),
        ("datagrams", mapping(54_323, ECHO, "udp", &at)),
    ] {
        let as_written = ["HostPort", "ContainerPort", "Protocol", "HostIP"].map(|key| {
            let plain = format!("{}{}", key[..1].to_ascii_lowercase(), &key[1..]);
            (key.to_owned(), ports[plain].clone())
        });
        let written: Value = as_written.into_iter().collect();
        cluster.add_pod_with_ports(0, name, json!([written]))?;
    }
    let _echo = UdpServer::echo(cluster.pods[2].ns(), ECHO)?;
    let (node, outside) = (cluster.nodes[0].ns(), cluster.lab.outside());
    let seen = cluster.lab.outside_ips()[0];
    tells(&ask(node, LOOPBACK, 54_323)?, "loopback", own);
    tells(&ask(node, own, 54_323)?, "address", own);
    tells(&ask(outside, own, 54_323)?, "address", seen);
    for client in [node, outside] {
        assert!(echoes(client, own, 54_323)?);
        // The node's IPv6 address has no such port.
        assert!(is_closed(client, cluster.nodes[0].internal_ips()[1], 54_323)?);
    }
    Ok(())
}

#[test]
fn a_host_port_lives_as_long_as_its_pod() -> Result<(), LabError> {
    let mut cluster = Cluster::start(1, "")?;
    let mappings = || json!([mapping(HOST_PORT, PORT, "tcp", ""), mapping(ECHO, ECHO, "tcp", "")]);
    cluster.add_pod_with_ports(0, "old", mappings())?;
    let _server = TcpServer::start(cluster.pods[0].ns(), ECHO, ServerBehavior::Echo)?;
    let own = cluster.nodes[0].internal_ips();
    let answers = |cluster: &Cluster, name: &str| {
        for v6 in [false, true] {
            let (to, seen) = (own[usize::from(v6)], cluster.lab.outside_ips()[usize::from(v6)]);
            tells(&ask(cluster.lab.outside(), to, HOST_PORT)?, name, seen);
            assert!(ask(cluster.nodes[0].ns(), to, HOST_PORT)?.is_answered());
        }
        Ok::<_, LabError>(())
    };
    answers(&cluster, "old")?;
    let to = SocketAddr::new(own[0], ECHO);
    let running = [
        Conversation::start(cluster.lab.outside(), to, Speaker::Client)?,
        Conversation::start(cluster.nodes[0].ns(), to, Speaker::Client)?,
    ];
    // The next agent has it from the state directory.
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        cluster.nodes[0].stop_agent(signal)?;
        cluster.nodes[0].start_agent()?;
        answers(&cluster, "old")?;
        running.iter().try_for_each(|tcp| tcp.wait_for_rounds(3, BOUND))?;
    }
    let prev = cluster.pods[0].attached.result.clone();
    let checked = cluster.nodes[0].cni("CHECK", &cluster.pods[0].pod, Some(&prev))?;
    assert!(checked.ok, "{}", checked.stdout);
    cluster.pods[0].pod.map_ports(json!([]));
    let checked = cluster.nodes[0].cni("CHECK", &cluster.pods[0].pod, Some(&prev))?;
    assert!(
        !checked.ok && checked.stdout.contains("8088->8080/tcp"),
        "{}",
        checked.stdout
    );
    // The policy of the pod decides, not the way to it. Its own node is always allowed.
    let deny = json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"namespace": "shop", "name": "deny"},
        "spec": {"podSelector": {"matchLabels": {"app": "old"}}, "policyTypes": ["Ingress"]},
    });
    cluster.apply(&deny)?;
    wait_until("the policy is in force", || {
        is_closed(cluster.lab.outside(), own[0], HOST_PORT)
    })?;
    assert!(ask(cluster.nodes[0].ns(), own[0], HOST_PORT)?.is_answered());
    cluster.nodes[0].delete(&deny)?;
    wait_until("the policy is gone", || {
        Ok(ask(cluster.lab.outside(), own[0], HOST_PORT)?.is_answered())
    })?;
    running.into_iter().try_for_each(|tcp| tcp.finish().map(drop))?;

    // The pod's end closes it, and the next pod has it.
    cluster.nodes[0].end_pod(&cluster.pods[0].pod)?;
    wait_until("the port is closed", || {
        is_closed(cluster.lab.outside(), own[0], HOST_PORT)
    })?;
    assert!(is_closed(cluster.nodes[0].ns(), own[0], HOST_PORT)?);
    cluster.pods.clear();
    cluster.add_pod_with_ports(0, "new", mappings())?;
    answers(&cluster, "new")
}

#[test]
fn a_bad_mapping_is_refused_with_its_value() -> Result<(), LabError> {
    let mut cluster = Cluster::start(1, "")?;
    let bad = json!([{"hostPort": 70_000, "containerPort": 80, "protocol": "tcp"}]);
    let Err(error) = cluster.add_pod_with_ports(0, "bad", bad) else {
        panic!("the mapping was accepted");
    };
    assert!(
        error.to_string().contains("portMappings[0]: hostPort is 70000"),
        "{error}"
    );
    // Nothing else is harmed.
    let outcome = {
        let good = cluster.add_pod_with_ports(0, "good", json!([mapping(HOST_PORT, PORT, "TCP", "")]))?;
        assert_eq!(good.node, 0);
        ask(cluster.lab.outside(), cluster.nodes[0].internal_ips()[0], HOST_PORT)?
    };
    assert!(matches!(outcome, ProbeOutcome::Answered(_)), "{outcome:?}");
    Ok(())
}
