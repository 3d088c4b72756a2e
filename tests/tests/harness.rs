//! The laboratory's tools over the kernel's own network: their reports match what happened.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use heddle_lab::traffic::{self, Conversation, ProbeOutcome, ServerBehavior, Speaker, TcpServer};
use heddle_lab::{LabError, NetNs};

const BOUND: Duration = Duration::from_secs(5);

fn two_hosts() -> Result<(NetNs, NetNs, IpAddr), LabError> {
    let (left, right) = (NetNs::create("left")?, NetNs::create("right")?);
    let peer = right.path().display().to_string();
    left.run(
        "ip",
        &[
            "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", &peer,
        ],
    )?;
    for (ns, address) in [(&left, "198.51.100.1/24"), (&right, "198.51.100.2/24")] {
        ns.run("ip", &["address", "add", address, "dev", "eth0"])?;
        ns.run("ip", &["link", "set", "eth0", "up"])?;
    }
    Ok((left, right, IpAddr::from([198, 51, 100, 2])))
}

#[test]
fn a_request_distinguishes_an_answer_a_refusal_and_no_answer() -> Result<(), LabError> {
    let (left, right, ip) = two_hosts()?;
    let server = TcpServer::start(&right, 8080, ServerBehavior::Greet("hello".to_owned()))?;
    assert_eq!(
        traffic::tcp_request(&left, SocketAddr::new(ip, 8080), "", BOUND)?,
        ProbeOutcome::Answered("hello".to_owned())
    );
    assert_eq!(
        traffic::tcp_request(&left, SocketAddr::new(ip, 8081), "", BOUND)?,
        ProbeOutcome::Refused
    );
    assert_eq!(
        traffic::udp_request(&left, SocketAddr::new(ip, 8081), b"x", BOUND)?,
        ProbeOutcome::Refused
    );
    right.run("ip", &["link", "set", "eth0", "down"])?;
    let silence = traffic::tcp_request(&left, SocketAddr::new(ip, 8080), "", Duration::from_millis(200))?;
    assert_eq!(silence, ProbeOutcome::NoAnswer);
    drop(server);
    Ok(())
}

#[test]
fn pings_are_counted_and_bulk_bytes_compared() -> Result<(), LabError> {
    let (left, right, ip) = two_hosts()?;
    assert_eq!(traffic::ping(&left, ip, 3)?, 3);
    traffic::bulk(&left, &right, SocketAddr::new(ip, 5001), 5001, 10_000_000)?;
    right.run("ip", &["link", "set", "eth0", "down"])?;
    assert_eq!(traffic::ping(&left, ip, 1)?, 0);
    Ok(())
}

#[test]
fn a_conversation_makes_progress_and_notices_a_cut_link() -> Result<(), LabError> {
    let (left, right, ip) = two_hosts()?;
    let _echo = TcpServer::start(&right, 7, ServerBehavior::Echo)?;
    let _first = TcpServer::start(&right, 19, ServerBehavior::SpeakFirst)?;
    let asks = Conversation::start(&left, SocketAddr::new(ip, 7), Speaker::Client)?;
    let listens = Conversation::start(&left, SocketAddr::new(ip, 19), Speaker::Server)?;
    asks.wait_for_rounds(5, BOUND)?;
    listens.wait_for_rounds(5, BOUND)?;
    assert!(asks.finish()? >= 5);
    right.run("ip", &["link", "set", "eth0", "down"])?;
    // A round that is under way may still complete; after it, none does.
    let _ = listens.wait_for_rounds(1, Duration::from_millis(100));
    assert!(listens.wait_for_rounds(1, Duration::from_millis(300)).is_err());
    Ok(())
}

#[test]
fn dropping_the_guard_removes_the_namespace() -> Result<(), LabError> {
    let ns = NetNs::create("gone")?;
    let path = ns.path().to_owned();
    assert!(path.exists());
    drop(ns);
    assert!(!path.exists());
    Ok(())
}
