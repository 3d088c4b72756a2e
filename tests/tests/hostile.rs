//! Processes without privileges, on the node or outside of it, cannot keep the agent from starting or from working: neither by
//! names and locks that they hold, nor by connections that they leave open. And one network namespace has one agent.

mod common;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as SocketAddrUnix, UnixDatagram};
use std::path::PathBuf;
use std::process::Command;

use common::{BOUND, binaries, wait_until};
use heddle_lab::shop::Shop;
use heddle_lab::{Lab, LabError, NetNs, NodePlan, manifests, run_with_input, traffic};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use serde_json::json;

const HEALTH_PORT: u16 = 32_000;
/// More connections than an agent has descriptors under the usual limit of 1024.
const IDLE: usize = 1_500;
/// The limit of descriptors that the agent of the test gets.
const USUAL_LIMIT: u64 = 1_024;

/// Opens connections as nobody; every other one sends the beginning of a request. They stay open until they are dropped.
fn hold_connections(from: &NetNs, to: SocketAddr) -> Result<Vec<TcpStream>, LabError> {
    from.enter_as_nobody(|| {
        let connect = |n: usize| -> std::io::Result<TcpStream> {
            let mut stream = TcpStream::connect_timeout(&to, BOUND)?;
            if n.is_multiple_of(2) {
                // The agent may have closed the connection for a newer one.
                let _ = stream.write_all(b"GET / HTTP/1.1\r\nX: ");
            }
            Ok(stream)
        };
        let held: std::io::Result<Vec<TcpStream>> = (0..IDLE).map(connect).collect();
        held.map_err(LabError::io(format!("connecting to {to} again and again")))
    })
}

/// The names and locks that a process without privileges can hold.
#[derive(Default)]
struct Held {
    _names: Vec<UnixDatagram>,
    locks: Vec<Flock<File>>,
}

/// Takes the abstract names of earlier versions, and a lock on each file and folder that nobody can open.
fn hold_names_and_locks(ns: &NetNs, tops: &[PathBuf]) -> Result<Held, LabError> {
    ns.enter_as_nobody(|| {
        let mut held = Held::default();
        for n in 0..16 {
            let name = SocketAddrUnix::from_abstract_name(format!("heddle/hdanchor{n}"));
            let bound = name.and_then(|name| UnixDatagram::bind_addr(&name));
            held._names.push(bound.map_err(LabError::io("taking a name"))?);
        }
        let mut paths = tops.to_vec();
        while let Some(path) = paths.pop() {
            if let Ok(entries) = fs::read_dir(&path) {
                paths.extend(entries.flatten().map(|entry| entry.path()));
            }
            if let Ok(file) = File::open(&path)
                && let Ok(lock) = Flock::lock(file, FlockArg::LockExclusiveNonblock)
            {
                held.locks.push(lock);
            }
        }
        Ok(held)
    })
}

/// Raises the limit of open files of this process, which holds the connections.
fn raise_open_files() -> Result<(), LabError> {
    let limit = getrlimit(Resource::RLIMIT_NOFILE);
    let raised = limit.and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    raised.map_err(LabError::nix("raising the limit of open files"))
}

fn health(from: &NetNs, to: SocketAddr) -> Result<String, LabError> {
    from.enter(|| {
        let ask = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect_timeout(&to, BOUND)?;
            stream.set_read_timeout(Some(BOUND))?;
            stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: node\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer.lines().next().unwrap_or_default().to_owned())
        };
        Ok(ask().unwrap_or_else(|e| e.to_string()))
    })
}

/// Returns the number of the agent's open descriptors.
fn descriptors(shop: &Shop) -> Result<usize, LabError> {
    let pid = shop.node.agent().map_or(0, heddle_lab::Process::id);
    let dir = format!("/proc/{pid}/fd");
    let entries = fs::read_dir(&dir).map_err(LabError::io(format!("listing {dir}")))?;
    Ok(entries.count())
}

#[test]
fn idle_connections_to_a_health_check_take_nothing_from_pods_and_other_clients() -> Result<(), LabError> {
    let mut plan = NodePlan::new("node", 1);
    plan.open_files = Some(USUAL_LIMIT);
    let mut shop = Shop::start(binaries()?, plan)?;
    let mut service = manifests::service("shop", "front", &[[10, 96, 0, 81].into()], 80, 8080);
    service["spec"]["type"] = json!("LoadBalancer");
    service["spec"]["externalTrafficPolicy"] = json!("Local");
    service["spec"]["healthCheckNodePort"] = json!(HEALTH_PORT);
    shop.node.apply(&service)?;
    let endpoints = [(shop.member("web-1")?.attached.ip(false)?, "web-1")];
    let mut slice = manifests::endpoint_slice("shop", "front", false, 8080, &endpoints);
    slice["endpoints"][0]["nodeName"] = json!(shop.node.name());
    shop.node.apply(&slice)?;
    let node_ip = shop.node.internal_ips()[0];
    let to = SocketAddr::new(node_ip, HEALTH_PORT);
    let is_ok = |from: &NetNs| -> Result<bool, LabError> { Ok(health(from, to)? == "HTTP/1.1 200 OK") };
    wait_until("the health check answers", || is_ok(shop.lab.outside()))?;
    let before = descriptors(&shop)?;

    // From outside, and from a pod.
    raise_open_files()?;
    let _outside = hold_connections(shop.lab.outside(), to)?;
    let _pod = hold_connections(shop.member("db")?.pod.ns(), to)?;

    // Another client, and one of the same address: each is answered.
    let web = shop.member("web-1")?.attached.ip(false)?;
    for from in [shop.node.ns(), shop.member("client")?.pod.ns(), shop.lab.outside()] {
        assert_eq!(health(from, to)?, "HTTP/1.1 200 OK");
    }
    assert_eq!(traffic::ping(shop.member("client")?.pod.ns(), web, 5)?, 5);
    let during = descriptors(&shop)?;
    assert!(during < before + 128, "{before} descriptors became {during}");
    // A new pod is attached, and the agent has lost nothing.
    shop.add_pod("late", "any")?;
    assert_eq!(traffic::ping(shop.member("late")?.pod.ns(), web, 5)?, 5);
    let status = shop.node.status()?;
    let attachments = status["attachments"].as_array().map_or(&[][..], Vec::as_slice);
    assert!(
        attachments.len() == 5 && attachments.iter().all(|one| one["state"] == "forwarding"),
        "{status}"
    );
    Ok(())
}

#[test]
fn a_port_takes_as_many_descriptors_as_the_agent_plans_for() -> Result<(), LabError> {
    let mut shop = Shop::start(binaries()?, NodePlan::new("node", 1))?;
    let before = descriptors(&shop)?;
    for n in 0..4 {
        shop.add_pod(&format!("more-{n}"), "any")?;
    }
    // The answer to the last ADD may still hold its connection to the socket.
    wait_until("three descriptors for each new port", || {
        Ok(descriptors(&shop)? <= before + 12)
    })?;
    assert!(before < 72, "an agent with four pods has {before} descriptors");
    Ok(())
}

#[test]
fn a_limit_of_descriptors_without_room_is_refused_with_the_numbers() -> Result<(), LabError> {
    let lab = Lab::new(binaries()?)?;
    let node = lab.node(NodePlan::new("node", 1))?;
    let refused = node.ns().enter(|| {
        let mut run = Command::new("prlimit");
        run.arg("--nofile=256:256")
            // Without CAP_SYS_RESOURCE, which would raise the limit.
            .args(["setpriv", "--bounding-set=-sys_resource", "--inh-caps=-sys_resource"])
            .arg(node.heddle("run").get_program())
            .args(["run", "--node", "node", "--cores", "0", "--run-dir"])
            .arg(node.run_dir())
            .arg("--state-dir")
            .arg(node.state_dir())
            .arg("--manifests")
            .arg(node.manifests());
        run_with_input(&mut run, "")
    })?;
    assert!(
        !refused.ok && refused.stderr.contains("RLIMIT_NOFILE) is 256") && refused.stderr.contains("LimitNOFILE="),
        "{}",
        refused.stderr
    );
    Ok(())
}

#[test]
fn an_unprivileged_process_holds_nothing_that_the_agent_needs() -> Result<(), LabError> {
    let mut shop = Shop::new(binaries()?, NodePlan::new("node", 1))?;
    // An agent has run before, so that all files and folders of an agent are there; one lock file is of an earlier version.
    shop.node.start_agent()?;
    shop.node.stop_agent(Signal::SIGKILL)?;
    let lock = shop.node.state_dir().join("agent.lock");
    fs::remove_file(&lock).map_err(LabError::io("removing a lock file"))?;
    fs::write(&lock, "").map_err(LabError::io("writing a lock file that everybody may read"))?;
    let (run_dir, state_dir) = (shop.node.run_dir(), shop.node.state_dir());
    let tops = [run_dir, state_dir, PathBuf::from("/run/heddle-netns")];
    let held = hold_names_and_locks(shop.node.ns(), &tops)?;
    assert!(
        !held.locks.is_empty(),
        "nobody can lock at least the folder and the old file"
    );
    shop.node.start_agent()?;
    // While the agent runs, and for the next start.
    let _again = hold_names_and_locks(shop.lab.outside(), &tops)?;
    shop.node.stop_agent(Signal::SIGTERM)?;
    shop.node.start_agent()?;
    shop.add_pod("one", "any")?;
    shop.node.stop_agent(Signal::SIGTERM)?;
    let out = shop.node.cleanup()?;
    assert!(out.ok, "{}{}", out.stdout, out.stderr);
    Ok(())
}

#[test]
fn a_namespace_has_one_agent_whatever_its_directories() -> Result<(), LabError> {
    let shop = Shop::start(binaries()?, NodePlan::new("node", 1))?;
    let other = |name: &str| shop.lab.dir().join(format!("other-{name}"));
    let pid = shop.node.agent().map_or(0, heddle_lab::Process::id);
    let named = format!("(pid {pid})");
    let client = shop.member("client")?.pod.ns();
    let web = shop.member("web-1")?.attached.ip(false)?;
    let heddle = shop.node.heddle("run").get_program().to_owned();

    let mut cleanup = Command::new(&heddle);
    cleanup
        .arg("cleanup")
        .arg("--run-dir")
        .arg(other("run"))
        .arg("--state-dir")
        .arg(other("state"));
    let mut second = Command::new(&heddle);
    second
        .args(["run", "--node", "node", "--cores", "0,1", "--run-dir"])
        .arg(other("run"))
        .arg("--state-dir")
        .arg(other("state"))
        .arg("--manifests")
        .arg(shop.node.manifests());
    for mut command in [cleanup, second] {
        let refused = shop.node.ns().enter(|| run_with_input(&mut command, ""))?;
        assert!(
            !refused.ok && refused.stderr.contains(&named) && refused.stderr.contains("network namespace"),
            "{command:?}: {}",
            refused.stderr
        );
        assert!(!other("run").exists() && !other("state").exists());
        assert_eq!(traffic::ping(client, web, 2)?, 2);
    }
    Ok(())
}
