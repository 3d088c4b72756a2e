//! `POST /v1/flows`: a page of the connections in the flow table.
//!
//! The table is walked in the order of its records. An answer holds a bounded number of rows and comes from a bounded number of
//! records, and says where the next one begins; so neither side ever has the whole table in memory. A connection that
//! stands all the while is in exactly one page; what comes and goes meanwhile may be in one or in none.

use std::net::IpAddr;

use serde::{Deserialize, Deserializer, Serialize};

use crate::object::{End, Named};

/// The most rows that one answer has.
pub const MAX_FLOWS: u32 = 1024;
/// The longest name of a state or protocol.
const MAX_WORD: usize = 32;

/// What is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlowsRequest {
    /// The record to begin at: [`Flows::next`] of the page before.
    #[serde(default)]
    pub from: u32,
    /// At most so many rows; more than [`MAX_FLOWS`] are never sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Only those that this pod has opened or that reach it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Named>,
    /// Only those through this Service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<Named>,
    /// Only those in this state.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "word")]
    pub state: Option<String>,
    /// Only those with this address on any side, before or after translation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// Only those of this protocol: `TCP`, `UDP`, `SCTP`, `ICMP`, `ICMPv6`, or a number.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "word")]
    pub protocol: Option<String>,
}

fn word<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    match Option::<String>::deserialize(from)? {
        Some(text) if text.len() > MAX_WORD => Err(serde::de::Error::custom("the word is too long")),
        text => Ok(text),
    }
}

/// A page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flows {
    /// The connections, in the order of their records.
    pub flows: Vec<Flow>,
    /// Where the next page begins. `None`: this was the last one.
    pub next: Option<u32>,
}

/// A connection, both directions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// Names the connection for as long as it stands.
    pub id: String,
    /// The record that it lies in.
    pub record: u32,
    /// `TCP`, `UDP`, `SCTP`, `ICMP`, `ICMPv6`, or the number.
    pub protocol: String,
    /// How far it has come: `syn-sent`, `established`, …; `new` or `replied` where the protocol knows no states.
    pub state: String,
    /// Who opened it.
    pub client: End,
    /// Where the client sends to, where that is a Service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frontend: Option<End>,
    /// Whom it reaches.
    pub server: End,
    /// What the server sees as its source, where that is not the client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub translated_source: Option<End>,
    /// Seconds since it was opened.
    pub age_seconds: u64,
    /// Seconds since its last packet.
    pub idle_seconds: u64,
    /// Seconds until it expires if nothing more comes.
    pub left_seconds: u64,
    /// Packets from the client.
    pub packets_sent: u64,
    /// Their bytes.
    pub bytes_sent: u64,
    /// Packets from the server.
    pub packets_received: u64,
    /// Their bytes.
    pub bytes_received: u64,
    /// It was picked up in its middle, after a start without a table.
    #[serde(default)]
    pub adopted: bool,
    /// A pod that reaches itself through its Service.
    #[serde(default)]
    pub hairpin: bool,
    /// The client's address is hidden behind one of the node's.
    #[serde(default)]
    pub masquerade: bool,
    /// Whether it has been judged by the tables that stand now; else its next packet is.
    #[serde(default)]
    pub current: bool,
}

impl Flow {
    /// Its marks, for people.
    pub fn marks(&self) -> impl Iterator<Item = &'static str> {
        [
            (self.adopted, "adopted"),
            (self.hairpin, "hairpin"),
            (self.masquerade, "masquerade"),
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
