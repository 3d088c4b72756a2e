//! The client against a listener that answers with prepared bytes.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;

use super::*;
use crate::ErrorCode;

fn answer(status: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Listens, answers the first request of the n-th connection with the n-th text, and closes. Returns the requests.
fn serve(dir: &tempfile::TempDir, answers: Vec<String>) -> (PathBuf, tokio::task::JoinHandle<Vec<String>>) {
    let socket = dir.path().join("cni.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let task = tokio::spawn(async move {
        let mut requests = Vec::new();
        for text in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            let mut buffer = [0; 4096];
            while !complete(&request) {
                let n = stream.read(&mut buffer).await.unwrap();
                assert_ne!(n, 0, "the client went away");
                request.extend_from_slice(&buffer[..n]);
            }
            requests.push(String::from_utf8(request).unwrap());
            stream.write_all(text.as_bytes()).await.unwrap();
        }
        requests
    });
    (socket, task)
}

fn complete(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request);
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return false;
    };
    let length = head
        .lines()
        .find_map(|l| l.strip_prefix("content-length: "))
        .map_or(0, |n| n.parse().unwrap());
    body.len() >= length
}

#[tokio::test]
async fn a_call_sends_json_and_reads_json() {
    let dir = tempfile::tempdir().unwrap();
    let (socket, task) = serve(&dir, vec![answer("200 OK", r#"{"attachment":3,"took_ms":12}"#)]);
    let mut client = Client::connect(&socket).await.unwrap();
    let (container, ifname) = (ContainerId::new("c1").unwrap(), IfName::new("eth0").unwrap());
    let mac = heddle_wire::MacAddr::GATEWAY;
    let request = ReadyRequest {
        tcp_segments_only: false,
        attachment: 3,
        host_ifindex: 9,
        host_mac: mac,
        pod_mac: mac,
    };
    assert_eq!(
        client.ready(&container, &ifname, &request).await.unwrap(),
        Ready {
            attachment: 3,
            took_ms: 12
        }
    );
    let requests = task.await.unwrap();
    let (head, body) = requests[0].split_once("\r\n\r\n").unwrap();
    assert!(
        head.starts_with("POST /v1/attachments/c1/eth0/ready HTTP/1.1\r\n"),
        "{head}"
    );
    assert_eq!(
        serde_json::from_str::<Value>(body).unwrap(),
        json!({"attachment": 3, "host_ifindex": 9, "host_mac": "02:68:65:64:64:6c", "pod_mac": "02:68:65:64:64:6c"})
    );
}

#[tokio::test]
async fn no_socket_and_nobody_behind_it_are_an_absent_agent() {
    let dir = tempfile::tempdir().unwrap();
    let missing = Client::connect(dir.path().join("cni.sock")).await.unwrap_err();
    assert!(
        matches!(missing, ClientError::Absent { .. }) && missing.is_transient(),
        "{missing}"
    );

    let stale = dir.path().join("stale.sock");
    drop(UnixListener::bind(&stale).unwrap());
    let refused = Client::connect(&stale).await.unwrap_err();
    assert!(matches!(refused, ClientError::Absent { .. }), "{refused}");

    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let other = Client::connect(&file).await.unwrap_err();
    assert!(refused.to_string().contains("heddle run"), "{refused}");
    assert!(
        matches!(other, ClientError::Absent { .. } | ClientError::Connect { .. }),
        "{other}"
    );
}

#[tokio::test]
async fn an_error_of_the_agent_keeps_its_code() {
    let dir = tempfile::tempdir().unwrap();
    let body = r#"{"code":11,"msg":"pod a/b is not known yet","details":"waited 20 s"}"#;
    let (socket, _task) = serve(&dir, vec![answer("503 Service Unavailable", body)]);
    let mut client = Client::connect(&socket).await.unwrap();
    let e = client
        .send::<Value, CniError>(Method::GET, "/v1/x", None)
        .await
        .unwrap_err();
    let refused = e.refused().unwrap();
    assert_eq!(
        (refused.code, refused.details.as_str()),
        (ErrorCode::TRY_AGAIN_LATER, "waited 20 s")
    );
    assert!(!e.is_transient());
}

#[tokio::test]
async fn malformed_and_long_answers_are_errors() {
    for (status, body, part) in [
        ("200 OK", "[1", "EOF"),
        ("500 Internal Server Error", "<html>", "<html>"),
        ("404 Not Found", "", "404"),
        ("200 OK", &"1".repeat(5000), "longer than 4096 bytes"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let (socket, _task) = serve(&dir, vec![answer(status, body)]);
        let mut client = Client::connect(&socket).await.unwrap().with_max_answer(4096);
        let e = client
            .send::<Vec<u8>, CniError>(Method::GET, "/v1/x", None)
            .await
            .unwrap_err();
        assert!(
            matches!(e, ClientError::Answer { .. }) && e.to_string().contains(part),
            "{e}"
        );
    }
}

#[tokio::test]
async fn an_agent_that_does_not_answer_is_a_timeout_and_the_next_call_connects_again() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("cni.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let mut client = Client::connect_within(&socket, Duration::from_millis(50))
        .await
        .unwrap();
    let (silent, _) = listener.accept().await.unwrap();
    let e = client
        .send::<Value, CniError>(Method::GET, "/v1/x", None)
        .await
        .unwrap_err();
    assert!(matches!(e, ClientError::Timeout { .. }) && e.is_transient(), "{e}");
    drop((silent, listener));

    std::fs::remove_file(&socket).unwrap();
    let (_, task) = serve(&dir, vec![answer("200 OK", "7")]);
    assert_eq!(
        client.send::<u8, CniError>(Method::GET, "/v1/y", None).await.unwrap(),
        7
    );
    assert!(task.await.unwrap()[0].starts_with("GET /v1/y "));
}

#[tokio::test]
async fn a_connection_that_breaks_before_the_answer_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let (socket, _task) = serve(&dir, vec![String::new()]);
    let mut client = Client::connect(&socket).await.unwrap();
    let e = client
        .send::<Value, CniError>(Method::GET, "/v1/x", None)
        .await
        .unwrap_err();
    assert!(matches!(e, ClientError::Broken { .. }) && e.is_transient(), "{e}");
}

#[tokio::test]
async fn a_request_that_is_too_large_is_not_sent() {
    let dir = tempfile::tempdir().unwrap();
    let (socket, _task) = serve(&dir, vec![answer("200 OK", "7")]);
    let mut client = Client::connect(&socket).await.unwrap();
    let e = client
        .send::<u8, CniError>(Method::POST, "/v1/x", Some(vec![b'x'; MAX_REQUEST + 1]))
        .await
        .unwrap_err();
    assert!(e.to_string().contains("at most 65536"), "{e}");
    assert_eq!(
        client.send::<u8, CniError>(Method::GET, "/v1/y", None).await.unwrap(),
        7
    );
}

#[tokio::test]
async fn an_agent_that_restarts_between_two_calls_is_not_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let (socket, task) = serve(&dir, vec![answer("200 OK", "7")]);
    let mut client = Client::connect(&socket).await.unwrap();
    assert_eq!(
        client.send::<u8, CniError>(Method::GET, "/v1/x", None).await.unwrap(),
        7
    );
    task.await.unwrap();
    let gone = client
        .send::<u8, CniError>(Method::GET, "/v1/y", None)
        .await
        .unwrap_err();
    assert!(matches!(gone, ClientError::Absent { .. }), "{gone}");
    std::fs::remove_file(&socket).unwrap();
    let (_, task) = serve(&dir, vec![answer("200 OK", "8")]);
    assert_eq!(
        client.send::<u8, CniError>(Method::GET, "/v1/z", None).await.unwrap(),
        8
    );
    assert_eq!(task.await.unwrap().len(), 1);
}
