//! Invariants that hold for any request. The fuzz target, the replay of its corpus and a property test assert them.
//!
//! The function panics when an invariant is broken. Only tests and fuzzers call it.

#![allow(clippy::panic, reason = "a broken invariant must stop the fuzzer")]

use std::fmt::Debug;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{CniError, DropsRequest, ErrorCode, FlowsRequest, PrepareRequest, ReadyRequest, path, request};

/// Reads `data` as a request of the agent's sockets, as the server does: `CONTAINER/IFNAME` up to the first newline,
/// then the body. Asserts that each part is either decoded, or refused with a short error of the right code, and that a
/// decoded request equals itself after it is written and read again.
///
/// # Panics
/// When an invariant is broken.
pub fn check_request(data: &[u8]) {
    let (line, body) = match data.iter().position(|byte| *byte == b'\n') {
        Some(end) => (&data[..end], &data[end + 1..]),
        None => (data, &[][..]),
    };
    let line = String::from_utf8_lossy(line);
    let (container, ifname) = line.split_once('/').unwrap_or((&line, ""));
    match request::names(container.to_owned(), ifname.to_owned()) {
        Ok((container, ifname)) => {
            let names = [("container", container.as_str()), ("ifname", ifname.as_str())];
            let path = path::fill("/v1/attachments/{container}/{ifname}/ready", &names);
            assert!(path.is_ascii() && path.matches('/').count() == 5, "{path}");
        }
        Err(e) => check_refusal(&e, ErrorCode::INVALID_ENVIRONMENT),
    }
    check_body::<PrepareRequest>(body);
    check_body::<ReadyRequest>(body);
    check_body::<DropsRequest>(body);
    check_body::<FlowsRequest>(body);
}

fn check_body<T: Serialize + DeserializeOwned + PartialEq + Debug>(bytes: &[u8]) {
    match request::body::<T>(bytes) {
        Ok(read) => {
            let written = serde_json::to_vec(&read).unwrap_or_default();
            assert_eq!(request::body::<T>(&written).as_ref(), Ok(&read));
        }
        Err(e) => check_refusal(&e, ErrorCode::DECODE),
    }
}

fn check_refusal(e: &CniError, code: ErrorCode) {
    assert_eq!(e.code, code, "{e}");
    assert!(!e.msg.is_empty() && e.msg.len() < 2000, "{} bytes: {e}", e.msg.len());
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    #[test]
    fn the_corpus_is_replayed() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/request");
        let files: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(files.len() >= 5);
        files.iter().for_each(|file| check_request(&fs::read(file).unwrap()));
    }

    #[test]
    fn errors_about_long_requests_stay_short() {
        let long = format!("c/eth0\n{{\"{}\": 1}}", "x".repeat(100_000));
        check_request(long.as_bytes());
        check_request("ä".repeat(100_000).as_bytes());
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_decoded_or_refused(data in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            check_request(&data);
        }

        #[test]
        fn any_field_values_are_decoded_or_refused(container in ".{0,80}", ifname in ".{0,20}", text in ".{0,40}", number: i64) {
            let body = serde_json::json!({"container": container, "ifname": ifname, "netns": text, "mtu": number});
            check_request(format!("{container}/{ifname}\n{body}").as_bytes());
            let body = serde_json::json!({"attachment": number, "host_ifindex": number, "host_mac": text, "pod_mac": text});
            check_request(format!("{container}/{ifname}\n{body}").as_bytes());
        }
    }
}
