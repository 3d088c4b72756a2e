//! `POST /v1/flows`: a page of the connections in the flow table.
//!
//! Pages follow the order of the table's records. An answer has a bounded number of rows, comes from a bounded number of
//! records, and contains the position of the next page, so neither side ever has the whole table in memory. A connection that
//! exists during all requests is in exactly one page; one that begins or ends meanwhile may be in one or in none.

use std::net::IpAddr;

use serde::{Deserialize, Deserializer, Serialize};

use crate::object::{End, Named};

/// The maximum number of rows in one answer.
pub const MAX_FLOWS: u32 = 1024;
/// The longest name of a state or protocol, in bytes.
const MAX_WORD: usize = 32;

/// A request for a page of connections: a position and filters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlowsRequest {
    /// The record where the page begins: [`Flows::next`] of the page before.
    #[serde(default)]
    pub from: u32,
    /// The maximum number of rows; at most [`MAX_FLOWS`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Only connections that this pod opened or receives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Named>,
    /// Only connections through this Service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<Named>,
    /// Only connections in this state.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "word")]
    pub state: Option<String>,
    /// Only connections with this address on either side, before or after translation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// Only connections of this protocol: `TCP`, `UDP`, `SCTP`, `ICMP`, `ICMPv6`, or a number.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "word")]
    pub protocol: Option<String>,
}

/// Decodes the name of a state or protocol, of at most [`MAX_WORD`] bytes.
fn word<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    match Option::<String>::deserialize(from)? {
        Some(text) if text.len() > MAX_WORD => Err(serde::de::Error::custom(format_args!(
            "a name of {} bytes: at most {MAX_WORD} are allowed",
            text.len()
        ))),
        text => Ok(text),
    }
}

/// The answer: a page of connections.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flows {
    /// The connections, in the order of their records.
    pub flows: Vec<Flow>,
    /// The record where the next page begins. `None`: this is the last page.
    pub next: Option<u32>,
}

/// A connection with both its directions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// The connection's identifier, unique while it exists.
    pub id: String,
    /// The table's record that contains it.
    pub record: u32,
    /// `TCP`, `UDP`, `SCTP`, `ICMP`, `ICMPv6`, or the number.
    pub protocol: String,
    /// The state: `syn-sent`, `established`, …; `new` or `replied` for protocols without states.
    pub state: String,
    /// The side that opened it.
    pub client: End,
    /// The Service's frontend that the client sends to, if it uses one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frontend: Option<End>,
    /// The side that receives it, after translation.
    pub server: End,
    /// The source that the server sees, if that is not the client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub translated_source: Option<End>,
    /// Seconds since it was opened.
    pub age_seconds: u64,
    /// Seconds since its last packet.
    pub idle_seconds: u64,
    /// Seconds until it expires if no further packet arrives.
    pub left_seconds: u64,
    /// Packets from the client.
    pub packets_sent: u64,
    /// Their bytes.
    pub bytes_sent: u64,
    /// Packets from the server.
    pub packets_received: u64,
    /// Their bytes.
    pub bytes_received: u64,
    /// True if it was adopted in mid-stream, after a start without a flow table.
    #[serde(default)]
    pub adopted: bool,
    /// True if a pod reaches itself through a Service.
    #[serde(default)]
    pub hairpin: bool,
    /// True if the client's address is masqueraded.
    #[serde(default)]
    pub masquerade: bool,
    /// True if it is forwarded to the server's node without translation, and answered from there directly.
    #[serde(default)]
    pub forwarded: bool,
    /// True if it was judged by the current tables. If not, its next packet is judged by them.
    #[serde(default)]
    pub current: bool,
}

impl Flow {
    /// Returns the names of its properties, for people.
    pub fn marks(&self) -> impl Iterator<Item = &'static str> {
        [
            (self.adopted, "adopted"),
            (self.hairpin, "hairpin"),
            (self.masquerade, "masquerade"),
            (self.forwarded, "forwarded"),
            (!self.current, "stale"),
        ]
        .into_iter()
        .filter_map(|(is, name)| is.then_some(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request;

    #[test]
    fn requests_are_bounded_and_survive_json() {
        let request = FlowsRequest {
            from: u32::MAX,
            limit: Some(5),
            pod: Named::new("shop", "db"),
            service: Named::new("shop", "web"),
            state: Some("established".to_owned()),
            address: "fd00::1".parse().ok(),
            protocol: Some("tcp".to_owned()),
        };
        let text = serde_json::to_vec(&request).unwrap();
        assert_eq!(request::body::<FlowsRequest>(&text), Ok(request));
        assert_eq!(request::body::<FlowsRequest>(b"{}"), Ok(FlowsRequest::default()));
        let long = format!(r#"{{"state": "{}"}}"#, "x".repeat(MAX_WORD + 1));
        for bad in [
            long.as_str(),
            r#"{"from": -1}"#,
            r#"{"address": "x"}"#,
            r#"{"port": 1}"#,
        ] {
            assert!(request::body::<FlowsRequest>(bad.as_bytes()).is_err(), "{bad:.60}");
        }
    }
}
