//! Credentials that are rotated on disk.

use std::time::Duration;

use heddle_lab::LabError;

use crate::common::wait_until;
use crate::scene::{Cluster, allow_only};

/// The longest until an agent uses a new token: a server may accept the old one for 10 s after it became invalid, and the agent
/// reads the credentials again after 10 s without an answer.
const ROTATION_BOUND: Duration = Duration::from_secs(45);

#[test]
fn a_new_token_is_used_when_the_old_one_is_refused() -> Result<(), LabError> {
    let cluster = Cluster::shared()?;
    let member = cluster.ready_node("token", 8)?;
    let namespace = "token";
    cluster.plane.create_namespace(namespace, &[])?;
    let server = cluster.start_pod(&member.node, namespace, "server", &[("app", "server")])?;
    let client = cluster.start_pod(&member.node, namespace, "client", &[])?;
    client.waits_until_it_reaches(&server, true)?;

    // The account is another one of the same name, so the API server refuses every earlier token.
    member.account.revoke_tokens(&cluster.plane)?;
    // The server remembers for 10 s that it accepted a token.
    let config = format!("--kubeconfig={}", member.kubeconfig.display());
    heddle_lab::wait_until("the old token is refused", ROTATION_BOUND, || {
        let out = cluster
            .plane
            .kubectl_output(&[&config, "get", "--raw", "/api/v1/pods"], "")?;
        Ok(out.stderr.contains("Unauthorized"))
    })?;
    // A watch that runs is not ended by that.
    member.gate.cut();
    wait_until("status says that the credentials are refused", || {
        let kind = member.kind("Pod")?;
        Ok(kind["error"].as_str().is_some_and(|error| error.contains("(401)")))
    })?;
    assert!(client.reaches(&server)?, "the last good state serves");

    // A change that was made meanwhile arrives with the new token.
    let policy = allow_only(namespace, "closed", ("app", "server"), ("app", "nobody"));
    cluster.plane.apply(&[policy])?;
    member.account.renew_token(&cluster.plane)?;
    heddle_lab::wait_until("the change arrives", ROTATION_BOUND, || Ok(!client.reaches(&server)?))?;
    heddle_lab::wait_until("no kind has a fault", ROTATION_BOUND, || {
        Ok(member.faulty_kinds()?.is_empty())
    })
}
