//! The API server goes away, comes back, and forgets old versions. Each test has a control plane of its own.

use std::net::SocketAddr;
use std::time::Duration;

use heddle_lab::traffic::{self, Conversation, ServerBehavior, Speaker, TcpServer};
use heddle_lab::{LabError, Process, manifests};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::common::{BOUND, wait_until};
use crate::scene::{Cluster, Member, RETRY_BOUND, Running, allow_only};

/// The port of a server that echoes.
const ECHO: u16 = 7;
/// The namespace of all objects here.
const NAMESPACE: &str = "outage";

/// The bound for a connection to go on after the gap of a restart. TCP doubles the interval of its retransmissions.
const RESUME_BOUND: Duration = Duration::from_secs(15);

/// A node with a server and a client.
struct Pair {
    server: Running,
    client: Running,
    member: Member,
}

impl Pair {
    fn start(cluster: &Cluster) -> Result<Self, LabError> {
        cluster.plane.create_namespace(NAMESPACE, &[])?;
        let member = cluster.ready_node("node", 1)?;
        let server = cluster.start_pod(&member.node, NAMESPACE, "server", &[("app", "server")])?;
        let client = cluster.start_pod(&member.node, NAMESPACE, "client", &[("app", "client")])?;
        client.waits_until_it_reaches(&server, true)?;
        Ok(Self { server, client, member })
    }

    /// Sends the agent a signal.
    fn signal(&self, signal: Signal) -> Result<(), LabError> {
        let id = self.member.node.agent().map(Process::id);
        let id = id
            .and_then(|id| i32::try_from(id).ok())
            .ok_or_else(|| LabError::Reply {
                what: "the agent".to_owned(),
                detail: "it does not run".to_owned(),
            })?;
        let pid = Pid::from_raw(id);
        kill(pid, signal).map_err(LabError::nix(format!("sending {signal}")))
    }

    /// Waits, for as long as the agent may pause, until the client reaches the server, or no longer does.
    fn waits(&self, expected: bool) -> Result<(), LabError> {
        heddle_lab::wait_until("a change after the outage", RETRY_BOUND, || {
            Ok(self.client.reaches(&self.server)? == expected)
        })
    }

    /// Asserts that the agent has what a fresh one has: the same numbers of objects and of table entries.
    fn equals_a_fresh_start(&mut self) -> Result<(), LabError> {
        let state = |member: &Member| -> Result<[Value; 3], LabError> {
            let mut status = member.node.status()?;
            Ok([
                status["source"]["objects"].take(),
                status["tables"].take(),
                status["rejections"].take(),
            ])
        };
        let before = state(&self.member)?;
        self.member.node.stop_agent(Signal::SIGTERM)?;
        self.member.node.start_agent()?;
        assert_eq!(state(&self.member)?, before, "a fresh start has the same state");
        Ok(())
    }
}

/// Returns a policy that closes the server for the client, and leaves its port [`ECHO`] open.
fn closes(friend: &str) -> Value {
    let mut policy = allow_only(NAMESPACE, "server", ("app", "server"), ("app", friend));
    let everyone = json!({"ports": [{"protocol": "TCP", "port": ECHO}]});
    if let Some(rules) = policy["spec"]["ingress"].as_array_mut() {
        rules.push(everyone);
    }
    policy
}

#[test]
fn traffic_goes_on_while_the_api_server_is_away() -> Result<(), LabError> {
    let mut cluster = Cluster::start()?;
    let mut pair = Pair::start(&cluster)?;
    let _echo = TcpServer::start(pair.server.ns(), ECHO, ServerBehavior::Echo)?;
    let to = SocketAddr::new(pair.server.attached.ip(false)?, ECHO);
    let conversation = Conversation::start(pair.client.ns(), to, Speaker::Client)?;
    conversation.wait_for_rounds(5, BOUND)?;

    cluster.plane.kill_api_server()?;
    wait_until("status says that the API server is away", || {
        Ok(pair.member.faulty_kinds()?.len() >= 7)
    })?;
    conversation.wait_for_rounds(20, BOUND)?;
    assert!(pair.client.reaches(&pair.server)?, "new connections, too");
    // It comes back with another certificate.
    cluster.plane.renew_certificate()?;
    cluster.plane.start_api_server()?;
    // Changes after the outage arrive.
    cluster.plane.apply(&[closes("nobody")])?;
    pair.waits(false)?;
    cluster.plane.remove(&[closes("nobody")])?;
    pair.waits(true)?;
    pair.member.wait_until_healthy()?;
    assert_eq!(pair.member.node.status()?["source"]["age_seconds"], 0);
    pair.equals_a_fresh_start()?;
    conversation.wait_for_rounds(5, RESUME_BOUND)?;
    conversation.finish().map(drop)
}

#[test]
fn an_agent_that_starts_while_the_api_server_is_away_serves_as_before() -> Result<(), LabError> {
    let mut cluster = Cluster::start()?;
    let mut pair = Pair::start(&cluster)?;
    let _echo = TcpServer::start(pair.server.ns(), ECHO, ServerBehavior::Echo)?;
    let to = SocketAddr::new(pair.server.attached.ip(false)?, ECHO);
    let conversation = Conversation::start(pair.client.ns(), to, Speaker::Client)?;
    cluster.plane.apply(&[closes("nobody")])?;
    pair.waits(false)?;
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let saved = pair.member.node.state_dir().join("cluster.jsonl");
        wait_until("the policy is saved", || {
            Ok(std::fs::read_to_string(&saved).is_ok_and(|text| text.contains("\"NetworkPolicy\"")))
        })?;
        cluster.plane.kill_api_server()?;
        pair.member.node.stop_agent(signal)?;
        pair.member.node.start_agent()?;

        // Pods keep addresses and connections, new connections are judged by the policy, and the age is said.
        conversation.wait_for_rounds(5, RESUME_BOUND)?;
        assert!(!pair.client.reaches(&pair.server)?, "the policy closes");
        let asked = traffic::tcp_request(pair.client.ns(), to, "new\n", BOUND)?;
        assert!(asked.is_answered(), "the policy allows it: {asked:?}");
        let status = pair.member.node.status()?;
        let kinds = status["source"]["kinds"].as_object().into_iter().flatten();
        for (kind, state) in kinds.filter(|(kind, _)| *kind != "ClusterNetworkPolicy") {
            assert!(
                state["saved_seconds"].is_u64() && state["synced"] == false,
                "{kind}: {state:#}"
            );
        }
        assert!(status["source"]["age_seconds"].is_u64());

        // Changes of the meantime arrive with the server.
        cluster.plane.start_api_server()?;
        cluster.plane.remove(&[closes("nobody")])?;
        pair.waits(true)?;
        cluster.plane.apply(&[closes("nobody")])?;
        pair.waits(false)?;
        pair.member.wait_until_healthy()?;
        let state = pair.member.kind("NetworkPolicy")?;
        assert!(state["saved_seconds"].is_null() && state["synced"] == true, "{state:#}");
    }
    pair.equals_a_fresh_start()?;
    conversation.finish().map(drop)
}

#[test]
fn an_agent_that_was_cut_off_finds_what_etcd_has_forgotten() -> Result<(), LabError> {
    let mut cluster = Cluster::start()?;
    let mut pair = Pair::start(&cluster)?;
    let gone = manifests::namespace("gone");
    cluster.plane.apply(&[gone.clone(), closes("nobody")])?;
    pair.waits(false)?;

    // A stopped agent cannot try again, and so looks for another connection only when everything has happened. Objects come,
    // change and go, and the history of that is removed. The API server loses its own memory of changes when it is killed.
    pair.signal(Signal::SIGSTOP)?;
    pair.member.gate.close();
    cluster.plane.remove(&[gone, closes("nobody")])?;
    cluster.plane.apply(&[manifests::namespace("new"), closes("client")])?;
    cluster.plane.remove(&[closes("client")])?;
    cluster.create_service(NAMESPACE, "server")?;
    let deleted = ["wait", "--for=delete", "namespace/gone", "--timeout=60s"];
    cluster.plane.kubectl(&deleted)?;
    cluster.plane.compact()?;
    cluster.plane.kill_api_server()?;
    cluster.plane.start_api_server()?;
    pair.member.gate.open();
    pair.signal(Signal::SIGCONT)?;

    heddle_lab::wait_until("the agent's version is gone", RETRY_BOUND, || {
        let kind = pair.member.kind("NetworkPolicy")?;
        Ok(kind["error"].as_str().is_some_and(|error| error.contains("(410)")))
    })?;
    pair.waits(true)?;
    pair.member.wait_until_healthy()?;
    for (kind, name) in [
        ("Namespace", "namespaces"),
        ("NetworkPolicy", "networkpolicies"),
        ("Service", "services"),
        ("EndpointSlice", "endpointslices"),
        ("Pod", "pods"),
    ] {
        let items = cluster.plane.get(&[name, "--all-namespaces"])?["items"].take();
        let expected = items.as_array().map_or(0, Vec::len);
        wait_until(&format!("{expected} objects of kind {kind}"), || {
            Ok(pair.member.node.status()?["source"]["objects"][kind] == expected)
        })?;
    }
    pair.equals_a_fresh_start()
}
