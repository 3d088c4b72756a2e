//! A connection as one line for people.

use std::fmt::Write as _;

use heddle_proto::{Bytes, Flow};

use crate::table::duration;

/// Writes a connection for people.
pub(super) fn line(flow: &Flow, out: &mut String) {
    // Writing to a String cannot fail.
    let _ = write!(out, "{}  {}  {}", flow.protocol, flow.state, flow.client);
    if let Some(source) = &flow.translated_source {
        let _ = write!(out, " (as {source})");
    }
    if let Some(frontend) = &flow.frontend {
        let _ = write!(out, " -> {frontend}");
    }
    let _ = write!(
        out,
        " -> {}  age {}, idle {}, left {}, sent {} ({}), received {} ({})",
        flow.server,
        duration(flow.age_seconds),
        duration(flow.idle_seconds),
        duration(flow.left_seconds),
        flow.packets_sent,
        Bytes(flow.bytes_sent),
        flow.packets_received,
        Bytes(flow.bytes_received),
    );
    let marks: Vec<&str> = flow.marks().collect();
    if !marks.is_empty() {
        let _ = write!(out, "  [{}]", marks.join(", "));
    }
    out.push('\n');
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn flow(record: u32, id: &str, state: &str) -> Flow {
        serde_json::from_value(serde_json::json!({
            "id": id, "record": record, "protocol": "TCP", "state": state,
            "client": {"address": "10.0.0.4", "port": 40000, "pod": {"namespace": "shop", "name": "client"}},
            "frontend": {"address": "10.96.0.80", "port": 80, "service": {"namespace": "shop", "name": "web"}},
            "server": {"address": "10.0.0.5", "port": 8080, "pod": {"namespace": "shop", "name": "web-1"}},
            "age_seconds": 61, "idle_seconds": 2, "left_seconds": 432_000,
            "packets_sent": 7, "bytes_sent": 1536, "packets_received": 5, "bytes_received": 100,
            "masquerade": true, "current": true
        }))
        .unwrap()
    }

    #[test]
    fn a_line_shows_both_ends_and_the_service() {
        let mut out = String::new();
        line(&flow(1, "a", "established"), &mut out);
        assert_eq!(
            out,
            "TCP  established  shop/client 10.0.0.4:40000 -> service shop/web 10.96.0.80:80 -> shop/web-1 10.0.0.5:8080  \
             age 1 min 1 s, idle 2 s, left 5 d 0 h, sent 7 (1.5 KiB), received 5 (100 B)  [masquerade]\n"
        );
    }
}
