//! `POST /v1/drops`: the packets that were dropped last, with reason and policy.
//!
//! Each worker numbers its drops. An answer contains the position where it ended ([`DropCursor`]). The next request
//! continues there, and its answer contains the number of drops that were overwritten in between. Newer drops overwrite
//! older ones, so the newest are always in the answer.

use serde::{Deserialize, Deserializer, Serialize};

use crate::attachment::at_most;
use crate::object::{End, Named, Policy, PolicyName};

/// The maximum number of drops in one answer.
pub const MAX_DROPS: u32 = 2048;
/// The maximum number of workers in a cursor.
const MAX_WORKERS: usize = 256;
/// The longest name of a reason or a class, in bytes.
const MAX_NAME: usize = 64;

/// A request for dropped packets: a position and filters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DropsRequest {
    /// Only drops after this position.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<DropCursor>,
    /// The maximum number of drops, counted from the newest; at most [`MAX_DROPS`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Only drops of packets from or to this pod, or denied by its policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Named>,
    /// Only drops for this reason.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "short_name")]
    pub reason: Option<String>,
    /// Only drops for a reason of this class.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "short_name")]
    pub class: Option<String>,
    /// Only drops that this policy decided.
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

/// The position of a reader. It is valid for the agent process that gave it; another process starts at its oldest drop.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DropCursor {
    /// The agent process.
    pub agent: u64,
    /// The next drop number of each worker.
    #[serde(deserialize_with = "at_most::<_, _, MAX_WORKERS>")]
    pub next: Vec<u64>,
}

/// The answer: the drops that match the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drops {
    /// The drops, oldest first.
    pub drops: Vec<DroppedPacket>,
    /// Drops after the cursor (without one: since the agent's start) that newer ones overwrote before they were read. Filters do
    /// not apply to this number.
    pub overwritten: u64,
    /// Older drops that match and were left out because of the limit.
    pub left_out: u64,
    /// The position for the next request.
    pub cursor: DropCursor,
}

/// A packet that was dropped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DroppedPacket {
    /// The time in the format of RFC 3339: the beginning of the worker's turn.
    pub time: String,
    /// The worker.
    pub worker: u8,
    /// The drop's number at this worker.
    pub number: u64,
    /// The port where the packet came in: `pod:NS/NAME`, `host`, or the port's number if it is closed now.
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
    /// The source, with the names that are valid now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<End>,
    /// The destination before translation; for a Service, the Service's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<End>,
    /// The length of the packet with its Ethernet header.
    pub bytes: u32,
    /// If policy decided: `ingress` or `egress`, from the view of the pod whose policy it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direction: Option<String>,
    /// The pod whose policy decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Named>,
    /// The policy that decided. `None`: no policy decided, or see `policy_gone`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<Policy>,
    /// True if the policy that decided was deleted so long ago that its name is not known any more.
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
