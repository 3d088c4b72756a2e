//! Clients of the operator's socket that stop in the middle block nobody: neither those that never read their answers nor those
//! that never finish their requests.

mod common;

use std::io::{ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use common::binaries;
use heddle_lab::{Lab, LabError, Node, NodePlan, traffic};
use nix::sys::signal::Signal;

/// The bound of an answer: far below any timeout of a client, and far above an ADD on a busy machine.
const PROMPT: Duration = Duration::from_secs(5);
/// The number of clients of each kind: more than the agent has threads that serve connections.
const CLIENTS: usize = 8;
/// The time after which a write that makes no progress counts as blocked.
const BLOCKED: Duration = Duration::from_millis(500);
/// The number of requests after which a client that is still not blocked makes the test fail. Answers are a few kilobytes
/// each, and a socket's buffer takes a few hundred.
const MOST_REQUESTS: usize = 100_000;

const STATUS: &str = "GET /v1/status HTTP/1.1\r\nhost: heddle\r\n\r\n";
/// The beginning of a request line.
const HALF_HEAD: &str = "GET /v1/sta";
/// A whole head, and the first of the 100 octets of its body.
const HALF_BODY: &str =
    "POST /v1/drops HTTP/1.1\r\nhost: heddle\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{";

fn connect(node: &Node) -> Result<UnixStream, LabError> {
    let path = node.run_dir().join("api.sock");
    let client = UnixStream::connect(&path).map_err(LabError::io(format!("connecting to {}", path.display())))?;
    client
        .set_write_timeout(Some(BLOCKED))
        .map_err(LabError::io("setting a write timeout"))?;
    Ok(client)
}

/// Connects a client that has sent `text` and nothing more.
fn client_that_stops(node: &Node, text: &str) -> Result<UnixStream, LabError> {
    let mut client = connect(node)?;
    client
        .write_all(text.as_bytes())
        .map_err(LabError::io("sending a part of a request"))?;
    Ok(client)
}

/// Connects a client that sends requests and reads no answer, until the agent takes no further request of it: the agent then
/// waits in the middle of an answer.
fn client_that_never_reads(node: &Node) -> Result<UnixStream, LabError> {
    let mut client = connect(node)?;
    for _ in 0..MOST_REQUESTS {
        match client.write_all(STATUS.as_bytes()) {
            Ok(()) => {}
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return Ok(client),
            Err(e) => return Err(LabError::io("sending requests without reading")(e)),
        }
    }
    Err(LabError::Timeout {
        what: format!("a blocked answer after {MOST_REQUESTS} requests"),
        seconds: BLOCKED.as_secs(),
        detail: String::new(),
    })
}

/// Runs `step` and asserts that it took less than [`PROMPT`].
#[track_caller]
fn promptly<T>(what: &str, step: impl FnOnce() -> Result<T, LabError>) -> Result<T, LabError> {
    let start = Instant::now();
    let result = step()?;
    let took = start.elapsed();
    assert!(took < PROMPT, "{what} took {took:?} while clients were stuck");
    Ok(result)
}

#[test]
fn stuck_clients_of_the_operators_socket_block_nobody() -> Result<(), LabError> {
    let lab = Lab::new(binaries()?)?;
    let mut node = lab.node(NodePlan::new("node", 1))?;
    node.start_agent()?;
    let first = lab.pod("stuck", "first", &[])?;
    let to = node.start_pod(&first)?.ip(false)?;

    // The clients stay connected until the end of the test.
    let mut stuck = vec![client_that_never_reads(&node)?];
    for _ in 0..CLIENTS {
        stuck.push(client_that_stops(&node, HALF_HEAD)?);
        stuck.push(client_that_stops(&node, HALF_BODY)?);
    }
    for _ in 1..CLIENTS {
        stuck.push(client_that_never_reads(&node)?);
    }

    let status = promptly("heddle status", || node.status())?;
    assert_eq!(status["attachments"].as_array().map(Vec::len), Some(1), "{status}");
    let second = lab.pod("stuck", "second", &[])?;
    promptly("ADD", || node.start_pod(&second))?;
    assert_eq!(traffic::ping(second.ns(), to, 2)?, 2);
    let status = promptly("heddle status after the ADD", || node.status())?;
    assert_eq!(status["attachments"].as_array().map(Vec::len), Some(2), "{status}");
    promptly("the end of the agent after SIGTERM", || {
        node.stop_agent(Signal::SIGTERM)
    })?;
    drop(stuck);
    Ok(())
}
