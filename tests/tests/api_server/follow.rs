//! Start and steady state: pods, Services, policies, and what the controllers make of them.

use std::net::SocketAddr;

use heddle_lab::LabError;
use heddle_lab::traffic::{self, ProbeOutcome};

use crate::common::{BOUND, wait_until};
use crate::scene::{Cluster, SERVICE_PORT, allow_only};

#[test]
fn a_service_and_a_policy_take_effect() -> Result<(), LabError> {
    let cluster = Cluster::shared()?;
    let member = cluster.ready_node("start", 1)?;
    let namespace = "start";
    cluster.plane.create_namespace(namespace, &[])?;
    let web = cluster.start_pod(&member.node, namespace, "web-1", &[("app", "web")])?;
    let client = cluster.start_pod(&member.node, namespace, "client", &[("app", "client")])?;
    let addresses = cluster.create_service(namespace, "web")?;
    for address in addresses {
        let to = SocketAddr::new(address, SERVICE_PORT);
        wait_until("the Service answers", || {
            let outcome = traffic::tcp_request(client.ns(), to, "", BOUND)?;
            Ok(outcome == ProbeOutcome::Answered("web-1".to_owned()))
        })?;
    }
    cluster
        .plane
        .apply(&[allow_only(namespace, "web-from-friend", ("app", "web"), ("app", "friend"))])?;
    client.waits_until_it_reaches(&web, false)?;
    Ok(())
}
