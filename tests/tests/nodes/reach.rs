//! Who reaches whom, over each way between nodes.

use heddle_lab::traffic::{self, ProbeOutcome};
use heddle_lab::udp::UdpServer;
use heddle_lab::{LabError, manifests};
use serde_json::json;

use crate::common::{BOUND, SILENCE, wait_until};
use crate::scene::{Cluster, PORT, SERVICE_PORT, ask, tells};

const UDP_PORT: u16 = 5353;

/// Pods and nodes reach each other with their own addresses, in both families and both directions.
fn everybody_reaches_everybody(config: &str) -> Result<(), LabError> {
    let mut cluster = Cluster::start(2, config)?;
    for (node, name) in [(0, "a"), (0, "b"), (1, "c"), (1, "d")] {
        cluster.add_pod(node, name, name)?;
    }
    for v6 in [false, true] {
        for from in &cluster.pods {
            for to in cluster.pods.iter().filter(|to| to.pod.name != from.pod.name) {
                tells(&ask(from.ns(), to.ip(v6)?, PORT)?, &to.pod.name, from.ip(v6)?);
            }
            for node in &cluster.nodes {
                let address = node.internal_ips()[usize::from(v6)];
                tells(&ask(from.ns(), address, PORT)?, node.name(), from.ip(v6)?);
            }
        }
        for node in &cluster.nodes {
            for to in &cluster.pods {
                let own = node.internal_ips()[usize::from(v6)];
                tells(&ask(node.ns(), to.ip(v6)?, PORT)?, &to.pod.name, own);
            }
        }
    }
    for node in &cluster.nodes {
        let uplink = &node.status()?["uplink"];
        let counts = ["encapsulated", "decapsulated"].map(|count| uplink[count].as_u64().unwrap_or_default());
        // Nodes on one link need none where the mode is `auto`.
        let has_tunnels = !config.starts_with("tunnel: ");
        assert_eq!(counts.map(|count| count > 0), [has_tunnels; 2], "{uplink}");
    }
    for (from, to) in [(0, 2), (3, 1)] {
        let (from, to) = (&cluster.pods[from], &cluster.pods[to]);
        for v6 in [false, true] {
            assert_eq!(traffic::ping(from.ns(), to.ip(v6)?, 3)?, 3);
            // Datagrams that are fragmented on the way, and large transfers.
            let _echo = UdpServer::echo(to.ns(), UDP_PORT)?;
            let address = std::net::SocketAddr::new(to.ip(v6)?, UDP_PORT);
            for size in [1, 1400, 1472, 9000, 30_000] {
                let data = vec![b'x'; size];
                let answer = traffic::udp_request(from.ns(), address, &data, BOUND)?;
                assert_eq!(
                    answer,
                    ProbeOutcome::Answered("x".repeat(size)),
                    "{size} octets, IPv6: {v6}"
                );
            }
            traffic::bulk(
                from.ns(),
                to.ns(),
                std::net::SocketAddr::new(to.ip(v6)?, 7000),
                7000,
                4 << 20,
            )?;
        }
    }
    Ok(())
}

#[test]
fn everybody_reaches_everybody_by_the_tunnel() -> Result<(), LabError> {
    everybody_reaches_everybody("vxlan: {vni: 77}\n")
}

#[test]
fn everybody_reaches_everybody_without_a_tunnel() -> Result<(), LabError> {
    everybody_reaches_everybody("tunnel: none\n")
}

#[test]
fn everybody_reaches_everybody_with_tunnels_where_needed() -> Result<(), LabError> {
    everybody_reaches_everybody("tunnel: auto\n")
}

#[test]
fn a_policy_selects_pods_of_other_nodes() -> Result<(), LabError> {
    let mut cluster = Cluster::start(2, "")?;
    for (node, name, app) in [(0, "db", "db"), (1, "web", "web"), (1, "other", "other")] {
        cluster.add_pod(node, name, app)?;
    }
    cluster.apply(&manifests::allow_only(
        "shop",
        "db-from-web",
        ("app", "db"),
        ("app", "web"),
        PORT,
    ))?;
    let [db, web, other] = &cluster.pods[..] else {
        unreachable!("three pods")
    };
    for v6 in [false, true] {
        wait_until("the policy denies", || {
            let to = std::net::SocketAddr::new(db.ip(v6)?, PORT);
            Ok(traffic::tcp_request(other.ns(), to, "", SILENCE)? == ProbeOutcome::NoAnswer)
        })?;
        tells(&ask(web.ns(), db.ip(v6)?, PORT)?, "db", web.ip(v6)?);
        // Another node's processes are not the pod's own node.
        let to = std::net::SocketAddr::new(db.ip(v6)?, PORT);
        assert_eq!(
            traffic::tcp_request(cluster.nodes[1].ns(), to, "", SILENCE)?,
            ProbeOutcome::NoAnswer
        );
        tells(
            &ask(cluster.nodes[0].ns(), db.ip(v6)?, PORT)?,
            "db",
            cluster.nodes[0].internal_ips()[usize::from(v6)],
        );
    }
    Ok(())
}

#[test]
fn a_service_leads_to_pods_of_other_nodes() -> Result<(), LabError> {
    let mut cluster = Cluster::start(2, "")?;
    for (node, name) in [(0, "client"), (1, "web")] {
        cluster.add_pod(node, name, name)?;
    }
    let addresses = ["10.96.0.80".parse().unwrap(), "fd00:10:96::80".parse().unwrap()];
    cluster.add_service("web", &addresses, &[1], &json!({}))?;
    for (v6, address) in [false, true].into_iter().zip(addresses) {
        let client = &cluster.pods[0];
        wait_until("the Service has its backend", || {
            Ok(ask(client.ns(), address, SERVICE_PORT)?.is_answered())
        })?;
        tells(&ask(client.ns(), address, SERVICE_PORT)?, "web", client.ip(v6)?);
        for (node, own) in [
            (0, cluster.nodes[0].internal_ips()),
            (1, cluster.nodes[1].internal_ips()),
        ] {
            let outcome = ask(cluster.nodes[node].ns(), address, SERVICE_PORT)?;
            assert!(
                matches!(&outcome, ProbeOutcome::Answered(text) if text.starts_with("web ")),
                "{outcome:?} from {own:?}"
            );
        }
    }
    Ok(())
}
