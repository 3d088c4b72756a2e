//! Counters of packets on the network between nodes, by the way that they take.

use std::process::Command;

use serde_json::Value;

use crate::{Lab, LabError, NetNs, Node, run_with_input};

/// The packets that a node has sent to other nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WireCount {
    /// The packets in VXLAN (RFC 7348: UDP port 4789).
    pub vxlan: u64,
    /// The packets from a pod to a pod without a tunnel.
    pub direct: u64,
}

/// A counter of the packets that a node sends, where its uplink meets the bridge. It stays until the laboratory is removed.
#[derive(Debug)]
pub struct WireCounter {
    bridge: NetNs,
    table: String,
}

impl WireCounter {
    /// Starts to count. All pods are in 10.244.0.0/16 and fd00::/16.
    ///
    /// # Errors
    /// `nft` cannot make the counters.
    pub fn start(lab: &Lab, node: &Node) -> Result<Self, LabError> {
        let (bridge, name) = (lab.outside().clone(), node.name());
        let table = format!("count-{name}");
        let rules = format!(
            r#"
table netdev {table} {{
    counter vxlan {{}}
    counter direct {{}}
    chain from-node {{
        type filter hook ingress device "to-{name}" priority 0;
        udp dport 4789 counter name vxlan
        ip saddr 10.244.0.0/16 ip daddr 10.244.0.0/16 counter name direct
        ip6 saddr fd00::/16 ip6 daddr fd00::/16 counter name direct
    }}
}}
"#
        );
        let out = bridge.enter(|| run_with_input(Command::new("nft").args(["-f", "-"]), &rules))?;
        if out.ok {
            return Ok(Self { bridge, table });
        }
        Err(LabError::Command {
            command: "nft -f -".to_owned(),
            status: out.status,
            stderr: out.stderr,
        })
    }

    /// Returns the packets since the last call, or since the start.
    ///
    /// # Errors
    /// `nft` cannot read the counters.
    pub fn take(&self) -> Result<WireCount, LabError> {
        let command = ["-j", "reset", "counters", "table", "netdev", &self.table];
        let text = self.bridge.run("nft", &command)?;
        let bad = |detail: String| LabError::Reply {
            what: "nft -j reset counters".to_owned(),
            detail,
        };
        let all: Value = serde_json::from_str(&text).map_err(|e| bad(format!("{e}: {text}")))?;
        let packets = |name: &str| {
            let mut objects = all["nftables"].as_array().into_iter().flatten();
            objects
                .find(|object| object["counter"]["name"] == name)
                .and_then(|object| object["counter"]["packets"].as_u64())
                .ok_or_else(|| bad(format!("it has no counter {name}: {text}")))
        };
        Ok(WireCount {
            vxlan: packets("vxlan")?,
            direct: packets("direct")?,
        })
    }
}
