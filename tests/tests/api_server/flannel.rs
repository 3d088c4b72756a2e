//! A cluster moves from Flannel to heddle node by node. The API server and the agents are real; [`flanneld`] plays Flannel.

use std::net::{IpAddr, SocketAddr};

use heddle_lab::traffic::{self, Conversation, ProbeOutcome, ServerBehavior, Speaker, TcpServer};
use heddle_lab::udp::UdpConversation;
use heddle_lab::{LabError, NetNs, manifests};
use nix::errno::Errno;
use serde_json::{Value, json};

use crate::common::{BOUND, wait_until};
use crate::flanneld::{self, ECHO, PREFIX, Running, TELL, TUNNEL_PORT};
use crate::scene::{Cluster, Member, RETRY_BOUND};

const NAMESPACE: &str = "moving";
/// The bytes of a bulk transfer.
const BULK: u64 = 4 << 20;

/// Connections from one pod to another in both families, by TCP and by UDP.
struct Traffic {
    tcp: Vec<Conversation>,
    udp: Vec<UdpConversation>,
}

impl Traffic {
    fn start(from: &Running, to: &Running) -> Result<Self, LabError> {
        let (mut tcp, mut udp) = (Vec::new(), Vec::new());
        for address in to.ips {
            let at = SocketAddr::new(address, ECHO);
            tcp.push(Conversation::start(from.ns(), at, Speaker::Client)?);
            udp.push(UdpConversation::start(from.ns(), at)?);
        }
        let traffic = Self { tcp, udp };
        traffic.goes_on()?;
        Ok(traffic)
    }

    /// Waits for further rounds of every connection.
    fn goes_on(&self) -> Result<(), LabError> {
        self.tcp.iter().try_for_each(|tcp| tcp.wait_for_rounds(5, BOUND))?;
        self.udp.iter().try_for_each(|udp| {
            let before = udp.rounds();
            heddle_lab::wait_until("answers by UDP", BOUND, || Ok(udp.rounds() >= before + 5))
        })
    }

    fn finish(self) -> Result<(), LabError> {
        self.goes_on()?;
        self.tcp.into_iter().try_for_each(|tcp| tcp.finish().map(drop))
    }
}

/// Returns the value of an annotation of a Node.
fn annotation(node: &Value, name: &str) -> Option<String> {
    node["metadata"]["annotations"][name].as_str().map(str::to_owned)
}

/// Returns the names of Flannel's annotations of a Node, without their prefix.
fn flannels(node: &Value) -> Vec<String> {
    let all = node["metadata"]["annotations"].as_object().into_iter().flatten();
    all.filter_map(|(name, _)| name.strip_prefix(PREFIX).map(str::to_owned))
        .collect()
}

/// Writes the configuration of a node's agent, which the next start reads.
fn configure(cluster: &Cluster, member: &Member, flannel: bool) -> Result<(), LabError> {
    let text = format!("flannelAnnotations: {flannel}\nvxlan: {{port: {TUNNEL_PORT}}}\n");
    let path = cluster.lab.dir().join(format!("{}.yaml", member.node.name()));
    std::fs::write(path, text).map_err(LabError::io("writing the configuration"))
}

/// Returns a Node.
fn object(cluster: &Cluster, member: &Member) -> Result<Value, LabError> {
    cluster.plane.get(&["node", member.node.name()])
}

/// Converts a node that is drained: removes what Flannel left, starts the agent, and waits until its Node is annotated.
fn convert(cluster: &Cluster, member: &mut Member) -> Result<(), LabError> {
    flanneld::uninstall(&member.node)?;
    member.node.start_agent()?;
    let vtep = member.node.status()?["uplink"]["vtep"].take();
    heddle_lab::wait_until("the Node has the annotations of its agent", RETRY_BOUND, || {
        let node = object(cluster, member)?;
        let data = json!({"VNI": 1, "VtepMAC": vtep}).to_string();
        let [v4, v6] = member.node.internal_ips().map(|ip| ip.to_string());
        let expected = [
            (
                "heddle.io/vtep".to_owned(),
                vtep.as_str().unwrap_or_default().to_owned(),
            ),
            (format!("{PREFIX}kube-subnet-manager"), "true".to_owned()),
            (format!("{PREFIX}backend-type"), "vxlan".to_owned()),
            (format!("{PREFIX}backend-data"), data.clone()),
            (format!("{PREFIX}backend-v6-data"), data),
            (format!("{PREFIX}public-ip"), v4),
            (format!("{PREFIX}public-ipv6"), v6),
        ];
        Ok(expected
            .iter()
            .all(|(name, value)| annotation(&node, name).as_ref() == Some(value)))
    })
}

/// Starts a pod on a node that is converted.
fn start_pod(cluster: &Cluster, member: &Member, name: &str) -> Result<Running, LabError> {
    let mut pod = cluster.lab.pod(NAMESPACE, name, &[("app", name)])?;
    let attached = cluster.plane.start_pod(&member.node, &mut pod)?;
    let ips = [attached.ip(false)?, attached.ip(true)?];
    Running::new(pod, ips)
}

/// Waits until an agent reaches another node by the tunnel and the uplink.
fn waits_until_it_reaches(member: &Member, other: &Member) -> Result<(), LabError> {
    wait_until("the agent reaches the other node", || {
        let status = member.node.status()?;
        let mut nodes = status["nodes"].as_array().into_iter().flatten();
        Ok(nodes.any(|node| {
            node["name"] == other.node.name()
                && node["path"] == "tunnel"
                && node["via"] == "uplink"
                && node["problem"].is_null()
        }))
    })
}

/// Returns the address that a server sees, which should answer with this name.
fn peer(from: &NetNs, to: IpAddr, name: &str) -> Result<IpAddr, LabError> {
    let outcome = traffic::tcp_request(from, SocketAddr::new(to, TELL), "", BOUND)?;
    let told = match &outcome {
        ProbeOutcome::Answered(text) => text.strip_prefix(name).and_then(|peer| peer.trim().parse().ok()),
        _ => None,
    };
    told.ok_or_else(|| LabError::Reply {
        what: format!("{name} at {to}"),
        detail: format!("{outcome:?}"),
    })
}

/// Sends a datagram and returns the answer. The first one that is too large for a link behind the tunnel is lost: the sender's kernel
/// learns the size from an ICMP error, and the next one fits.
fn datagram(from: &NetNs, to: SocketAddr, text: &str) -> Result<ProbeOutcome, LabError> {
    let send = || traffic::udp_request(from, to, text.as_bytes(), BOUND);
    match send() {
        Err(LabError::Io { source, .. }) if source.raw_os_error() == Some(Errno::EMSGSIZE as i32) => send(),
        outcome => outcome,
    }
}

/// Exchanges packets of every kind and size between two pods, in both directions and families.
fn exchange(a: &Running, b: &Running) -> Result<(), LabError> {
    for (from, to) in [(a, b), (b, a)] {
        for (own, there) in from.ips.into_iter().zip(to.ips) {
            assert_eq!(
                peer(from.ns(), there, &to.pod.name)?,
                own,
                "addresses are not translated"
            );
            assert_eq!(traffic::ping(from.ns(), there, 2)?, 2, "to {there}");
            for size in [1, 1381, 1382, 1383, 1402, 1403, 1472, 4000] {
                let text: String = (0..size).map(|n| char::from(b'a' + (n % 23) as u8)).collect();
                let to = SocketAddr::new(there, ECHO);
                let answer = datagram(from.ns(), to, &text)?;
                assert_eq!(answer, ProbeOutcome::Answered(text), "{size} octets to {to}");
            }
            traffic::bulk(from.ns(), to.ns(), SocketAddr::new(there, 7000), 7000, BULK)?;
        }
    }
    Ok(())
}

/// Exchanges packets between a node with heddle and its pod on one side, and a node with Flannel and its pod on the other, where a
/// node's own processes take part.
fn exchange_with_nodes(
    cluster: &Cluster,
    (heddle, pod): (&Member, &Running),
    (flannel, other): (&Member, &Running),
) -> Result<(), LabError> {
    let told = [heddle, flannel].map(|member| {
        let name = ServerBehavior::TellPeer(member.node.name().to_owned());
        TcpServer::start(member.node.ns(), TELL, name)
    });
    let [_on_heddle, _on_flannel] = told;
    let (here, there) = (object(cluster, heddle)?, object(cluster, flannel)?);
    for v6 in [false, true] {
        let at = usize::from(v6);
        let [own, its] = [heddle, flannel].map(|member| member.node.internal_ips()[at]);
        // Each node uses an address of its pod range: the host port's first one, and the device's.
        let seen = peer(heddle.node.ns(), other.ips[at], &other.pod.name)?;
        assert_eq!(seen, flanneld::address(&here, v6, 1));
        let seen = peer(flannel.node.ns(), pod.ips[at], &pod.pod.name)?;
        assert_eq!(seen, flanneld::address(&there, v6, 0));
        // Pods reach the other node's own addresses as its own node.
        assert_eq!(peer(pod.ns(), its, flannel.node.name())?, own);
        assert_eq!(peer(other.ns(), own, heddle.node.name())?, its);
    }
    Ok(())
}

/// Makes a Service whose only backend is a pod, and returns its addresses.
fn service_of(cluster: &Cluster, name: &str, backend: &Running) -> Result<[IpAddr; 2], LabError> {
    let addresses = cluster.create_service(NAMESPACE, name)?;
    for (v6, address) in [false, true].into_iter().zip(backend.ips) {
        let slice = manifests::endpoint_slice(NAMESPACE, name, v6, TELL, &[(address, &backend.pod.name)]);
        cluster.plane.apply(&[slice])?;
    }
    Ok(addresses)
}

#[test]
fn a_cluster_moves_from_flannel_node_by_node_under_running_connections() -> Result<(), LabError> {
    let cluster = Cluster::shared()?;
    cluster.plane.create_namespace(NAMESPACE, &[])?;
    let make = |name: &str, number| {
        let file = cluster.lab.dir().join(format!("{name}.yaml"));
        cluster.node_with(name, number, vec!["--config".to_owned(), file.display().to_string()])
    };
    let (mut a, mut b, c) = (make("moving-a", 71)?, make("moving-b", 72)?, make("moving-c", 73)?);

    // All nodes are Flannel's.
    for member in [&a, &b, &c] {
        flanneld::install(&cluster, &member.node)?;
    }
    for member in [&a, &b, &c] {
        flanneld::follow(&cluster, &member.node)?;
    }
    let old_a = flanneld::start_pod(&cluster, &a.node, NAMESPACE, "old-a")?;
    let old_b = flanneld::start_pod(&cluster, &b.node, NAMESPACE, "old-b")?;
    let stays = flanneld::start_pod(&cluster, &c.node, NAMESPACE, "stays")?;
    let between = [Traffic::start(&stays, &old_b)?, Traffic::start(&old_b, &stays)?];
    exchange(&old_a, &stays)?;

    // The first node is drained and converted. Connections between pods that stay go on.
    cluster.plane.remove(&[old_a.pod.object("", &[])])?;
    drop(old_a);
    configure(&cluster, &a, true)?;
    convert(&cluster, &mut a)?;
    for member in [&b, &c] {
        flanneld::follow(&cluster, &member.node)?;
        waits_until_it_reaches(&a, member)?;
    }
    let new_a = start_pod(&cluster, &a, "new-a")?;
    for other in [&old_b, &stays] {
        exchange(&new_a, other)?;
    }
    exchange_with_nodes(&cluster, (&a, &new_a), (&c, &stays))?;
    between.iter().try_for_each(Traffic::goes_on)?;

    // A backend on a node with Flannel: its answers to pods and to the node come back by the tunnel.
    let addresses = service_of(&cluster, "stays", &stays)?;
    for (at, address) in addresses.into_iter().enumerate() {
        let request =
            |from: &NetNs| traffic::tcp_request(from, SocketAddr::new(address, crate::scene::SERVICE_PORT), "", BOUND);
        wait_until("the Service has its backend", || Ok(request(new_a.ns())?.is_answered()))?;
        let from_pod = ProbeOutcome::Answered(format!("stays {}", new_a.ips[at]));
        assert_eq!(request(new_a.ns())?, from_pod);
        assert!(
            request(a.node.ns())?.is_answered(),
            "the node's own processes at {address}"
        );
    }

    // The second node is converted, under connections between the first one and the last one.
    let across = [Traffic::start(&stays, &new_a)?, Traffic::start(&new_a, &stays)?];
    between.into_iter().try_for_each(Traffic::finish)?;
    cluster.plane.remove(&[old_b.pod.object("", &[])])?;
    drop(old_b);
    configure(&cluster, &b, true)?;
    convert(&cluster, &mut b)?;
    flanneld::follow(&cluster, &c.node)?;
    for (member, other) in [(&a, &b), (&b, &a), (&b, &c)] {
        waits_until_it_reaches(member, other)?;
    }
    let new_b = start_pod(&cluster, &b, "new-b")?;
    across.iter().try_for_each(Traffic::goes_on)?;
    // Two nodes with heddle beside one with Flannel: all three reach each other.
    for (one, other) in [(&new_b, &stays), (&new_b, &new_a), (&new_a, &stays)] {
        exchange(one, other)?;
    }
    exchange_with_nodes(&cluster, (&b, &new_b), (&c, &stays))?;
    across.into_iter().try_for_each(Traffic::finish)?;

    // At the end the key is false again: the agent removes what it wrote, and nothing else.
    let before = flannels(&object(&cluster, &c)?);
    a.node.stop_agent(nix::sys::signal::Signal::SIGTERM)?;
    configure(&cluster, &a, false)?;
    a.node.start_agent()?;
    heddle_lab::wait_until("Flannel's annotations are gone", RETRY_BOUND, || {
        Ok(flannels(&object(&cluster, &a)?).is_empty())
    })?;
    assert!(annotation(&object(&cluster, &a)?, "heddle.io/vtep").is_some());
    assert_eq!(flannels(&object(&cluster, &b)?).len(), 6, "another agent's key is true");
    assert_eq!(flannels(&object(&cluster, &c)?), before);
    // Without the key a node with Flannel is not reached, and status says why.
    wait_until("status names the reason", || {
        let status = a.node.status()?;
        let mut nodes = status["nodes"].as_array().into_iter().flatten();
        Ok(nodes.any(|node| {
            node["name"] == "moving-c"
                && node["problem"]
                    .as_str()
                    .is_some_and(|why| why.contains("flannelAnnotations"))
        }))
    })?;
    let there = SocketAddr::new(new_a.ips[0], ECHO);
    Conversation::start(new_b.ns(), there, Speaker::Client)?
        .finish()
        .map(drop)
}
