//! `POST /v1/drops`: the packets that were dropped last, and by what.
//!
//! Each worker numbers the drops that it makes. An answer says where it ended ([`DropCursor`]); the next request goes on from
//! there and is told how many were overwritten meanwhile. The newest are never missed.

use serde::{Deserialize, Deserializer, Serialize};

use crate::attachment::at_most;
use crate::object::{End, Named, Policy, PolicyName};

/// The most drops that one answer has.
pub const MAX_DROPS: u32 = 2048;
/// The most workers that a cursor speaks of.
const MAX_WORKERS: usize = 256;
/// The longest name of a reason or a class, in bytes.
const MAX_NAME: usize = 64;

/// What is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DropsRequest {
    /// Only those behind it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<DropCursor>,
    /// At most so many, the newest; more than [`MAX_DROPS`] are never sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Only those from or to this pod, or denied by its policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Named>,
    /// Only drops for this reason.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "short_name")]
    pub reason: Option<String>,
    /// Only drops for a reason of this class.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "short_name")]
    pub class: Option<String>,
    /// Only those that this policy decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<PolicyName>,
}

/// Decodes the name of a reason or a class, of at most [`MAX_NAME`] bytes.
fn short_name<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    let text = Option::<String>::deserialize(from)?;
    match text {
        Some(text) if text.len() > MAX_NAME => Err(serde::de::Error::custom(format_args!(
            "a name of {} bytes: at most {MAX_NAME} are allowed",
            text.len()
        ))),
        text => Ok(text),
    }
}

/// How far somebody has read. It means something to the agent that gave it alone; another one begins at its oldest drop.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DropCursor {
    /// The agent.
    pub agent: u64,
    /// The next number of each worker.
    #[serde(deserialize_with = "at_most::<_, _, MAX_WORKERS>")]
    pub next: Vec<u64>,
}

/// What there is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drops {
    /// The drops, oldest first.
    pub drops: Vec<DroppedPacket>,
    /// Drops behind the cursor (without one: since the agent's start) that were overwritten by newer ones before they could be
    /// read, whether they would have been wanted or not.
    pub overwritten: u64,
    /// Older ones that are wanted, and were left out for the limit.
    pub left_out: u64,
    /// Where to go on.
    pub cursor: DropCursor,
}

/// A packet that was dropped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DroppedPacket {
    /// When, as RFC 3339 has it: the beginning of the worker's turn.
    pub time: String,
    /// The worker.
    pub worker: u8,
    /// Its number among the worker's.
    pub number: u64,
    /// The port where it came in: `pod:NS/NAME`, `host`, or its number where it is closed by now.
    pub port: String,
    /// The drop reason, as the counters name it.
    pub reason: String,
    /// The reason's class (`policy`, `spoofing`, `capacity`, ...); empty from an agent of an earlier version.
    #[serde(default)]
    pub class: String,
    /// The reason in a sentence.
    pub meaning: String,
    /// The protocol; `None` where the packet could not be parsed, and for ARP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// From whom, by the names of now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<End>,
    /// To whom: a Service's address is not translated yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<End>,
    /// The length of the packet with its Ethernet header.
    pub bytes: u32,
    /// Where policy decided: `ingress` or `egress`, seen from the pod whose policy it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direction: Option<String>,
    /// That pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Named>,
    /// The policy that decided. `None`: it was none, or `policy_gone`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<Policy>,
    /// Whether a policy decided that is gone for so long that its name is not known any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub policy_gone: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request;

    #[test]
    fn requests_are_bounded_and_survive_json() {
        let request = DropsRequest {
            after: Some(DropCursor {
                agent: u64::MAX,
                next: vec![1, u64::MAX],
            }),
            limit: Some(7),
            pod: Named::new("shop", "db"),
            reason: Some("policy-denied-ingress".to_owned()),
            class: Some("policy".to_owned()),
            policy: "shop/p".parse().ok(),
        };
        let text = serde_json::to_vec(&request).unwrap();
        assert_eq!(request::body::<DropsRequest>(&text), Ok(request));
        assert_eq!(request::body::<DropsRequest>(b"{}"), Ok(DropsRequest::default()));
        let long = |key| format!(r#"{{"{key}": "{}"}}"#, "x".repeat(MAX_NAME + 1));
        let many = format!(
            r#"{{"after": {{"agent": 1, "next": [{}0]}}}}"#,
            "0,".repeat(MAX_WORKERS)
        );
        for bad in [
            long("reason").as_str(),
            long("class").as_str(),
            many.as_str(),
            r#"{"pods": 1}"#,
            r#"{"pod": {"namespace": "a", "name": "/"}}"#,
        ] {
            assert!(request::body::<DropsRequest>(bad.as_bytes()).is_err(), "{bad:.60}");
        }
    }
}
