//! The invariants of the plugin's input, asserted by the fuzz target, the replay of its corpus and a property test.
//!
//! The function panics when an invariant is broken. Only tests and fuzzers call it.

#![allow(clippy::panic, reason = "an invariant that is broken has to stop the fuzzer")]

use std::collections::HashMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use crate::env::Call;
use crate::port_mappings;
use crate::version::CniVersion;
use crate::{Input, error_json, input};

/// Reads `data` as the plugin's input: lines `NAME=VALUE` up to an empty line are the environment, the rest is standard
/// input. Asserts that the outcome is a valid call, or a short error with a code that input can cause and JSON that the
/// runtime can parse.
///
/// # Panics
/// When an invariant is broken.
pub fn check_input(data: &[u8]) {
    // Split the input into the environment and standard input.
    let mut variables: HashMap<&[u8], &[u8]> = HashMap::new();
    let mut rest = data;
    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
        let line = &rest[..end];
        rest = &rest[end + 1..];
        if line.is_empty() {
            break;
        }
        if let Some(equals) = line.iter().position(|byte| *byte == b'=') {
            variables.insert(&line[..equals], &line[equals + 1..]);
        }
    }
    let variable = |name: &str| {
        variables
            .get(name.as_bytes())
            .map(|value| OsString::from_vec(value.to_vec()))
    };
    // Read it, and check the invariants of each outcome.
    let mut spoken = CniVersion::LATEST;
    match input(&variable, &mut &*rest, &mut spoken) {
        Ok(Input::Version(answer)) => {
            assert!(serde_json::from_str::<serde_json::Value>(&answer).is_ok(), "{answer}");
        }
        Ok(Input::Call(valid)) => {
            let (call, conf) = *valid;
            assert_eq!(conf.version, spoken);
            assert!(conf.socket().is_absolute() && conf.socket().as_os_str().len() < 108);
            match port_mappings::of(&conf) {
                Ok(mappings) => assert!(mappings.iter().all(|m| m.host_port > 0 && m.container_port > 0)),
                Err(e) => assert!(e.code.0 == 7 && e.msg.len() < 2000, "{} bytes: {e}", e.msg.len()),
            }
            assert!(conf.mtu.is_none_or(|mtu| (1280..=65_535).contains(&mtu)));
            if let Call::Add(target, _) | Call::Del(target, _) | Call::Check(target, _) = call {
                assert!((1..=15).contains(&target.ifname.as_str().len()));
                assert!(!target.ifname.as_str().contains(['/', ':']) && !target.container.as_str().contains('/'));
            }
        }
        Err(e) => {
            assert!((1..=7).contains(&e.code.0), "{e}");
            // A message quotes only a bounded part of the input.
            assert!(!e.msg.is_empty() && e.msg.len() < 40_000, "{} bytes", e.msg.len());
            assert!(serde_json::from_str::<serde_json::Value>(&error_json(spoken, &e)).is_ok());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    #[test]
    fn the_corpus_is_replayed() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/cni");
        let files: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(files.len() >= 8);
        files.iter().for_each(|file| check_input(&fs::read(file).unwrap()));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes(data in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            check_input(&data);
        }

        #[test]
        fn any_values(
            command in "ADD|DEL|CHECK|STATUS|VERSION|GC|.{0,8}",
            container in ".{0,40}", ifname in ".{0,20}", netns in ".{0,40}", args in "(K8S_POD_NAME=|;|.){0,10}",
            config in "(\\{\"cniVersion\":\"1.1.0\",\"name\":\"n\"\\})|.{0,60}",
        ) {
            let text = format!(
                "CNI_COMMAND={command}\nCNI_CONTAINERID={container}\nCNI_IFNAME={ifname}\nCNI_NETNS={netns}\nCNI_ARGS={args}\n\n{config}"
            );
            check_input(text.as_bytes());
        }
    }
}
