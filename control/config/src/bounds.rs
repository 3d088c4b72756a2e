//! The nested keys of the configuration, `fragments`, `vxlan` and `timeouts`, and their bounds; and the form of interface names.

use std::time::Duration;

use heddle_engine::FragmentConfig;
use heddle_flow::Timeouts;
use heddle_tables::{Tunnel, TunnelMode};
use heddle_wire::vxlan;
use serde::{Deserialize, Serialize};

use crate::error::ConfigError;

/// Bounds of fragment handling, for each worker separately.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Fragments {
    /// Maximum number of datagrams that are tracked at one time.
    pub datagrams: u16,
    /// Maximum number of frames held for fragments that arrive before the first of their datagram.
    pub held_frames: u16,
    /// Milliseconds that such a fragment is held.
    pub wait_millis: u32,
    /// Seconds that an incomplete datagram is tracked (Linux: ipfrag_time).
    pub fragment_timeout_seconds: u32,
}

impl Default for Fragments {
    fn default() -> Self {
        let of = FragmentConfig::default();
        Self {
            datagrams: of.datagrams,
            held_frames: of.held_frames,
            wait_millis: of.wait_ms,
            fragment_timeout_seconds: of.remember_ms / 1000,
        }
    }
}

impl Fragments {
    /// Checks every value.
    ///
    /// # Errors
    /// The first value that is impossible, by key.
    pub fn check(self) -> Result<FragmentConfig, ConfigError> {
        let within = |key, value: u32, least: u32, most: u32, why: &str| {
            if (least..=most).contains(&value) {
                return Ok(());
            }
            Err(ConfigError::value(
                key,
                value,
                format!("is not between {least} and {most}{why}"),
            ))
        };
        let (datagrams, held) = (self.datagrams.into(), self.held_frames.into());
        within("fragments.datagrams", datagrams, 4, 1 << 15, "")?;
        let why = " (a pod may have a quarter of them, and one fragment takes up to 16)";
        within("fragments.heldFrames", held, 64, 1 << 15, why)?;
        within("fragments.waitMillis", self.wait_millis, 1, 30_000, "")?;
        within(
            "fragments.fragmentTimeoutSeconds",
            self.fragment_timeout_seconds,
            1,
            300,
            "",
        )?;
        Ok(FragmentConfig {
            datagrams: self.datagrams,
            held_frames: self.held_frames,
            wait_ms: self.wait_millis,
            remember_ms: self.fragment_timeout_seconds * 1000,
        })
    }
}

/// The tunnels (VXLAN, RFC 7348).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Vxlan {
    /// The network identifier, the same on all nodes.
    pub vni: u32,
    /// The UDP port at which nodes receive, the same on all nodes.
    pub port: u16,
}

impl Default for Vxlan {
    fn default() -> Self {
        Self {
            vni: 1,
            port: vxlan::PORT,
        }
    }
}

impl Vxlan {
    /// Checks every value, and that nodes with Flannel can be reached if `flannelAnnotations` is true.
    ///
    /// # Errors
    /// The first value that is impossible, by key.
    pub fn check(self, mode: TunnelMode, flannel_annotations: bool) -> Result<Tunnel, ConfigError> {
        let Self { vni, port } = self;
        if vni > vxlan::MAX_VNI {
            let problem = format!("is not between 0 and {}: it has 24 bits", vxlan::MAX_VNI);
            return Err(ConfigError::value("vxlan.vni", vni, problem));
        }
        if port == 0 {
            return Err(ConfigError::value("vxlan.port", port, "is not between 1 and 65535"));
        }
        let of_flannel = |problem| Err(ConfigError::value("flannelAnnotations", true, problem));
        if flannel_annotations && mode == TunnelMode::None {
            return of_flannel("needs tunnels: set tunnel to vxlan or auto");
        }
        if flannel_annotations && vni > u32::from(u16::MAX) {
            return of_flannel("needs a vxlan.vni of at most 65535, the largest that Flannel has");
        }
        Ok(Tunnel { vni, port })
    }
}

/// Seconds after which a silent connection expires, by protocol and state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct TimeoutSeconds {
    /// TCP: a SYN that is not answered yet.
    pub tcp_syn_sent: u32,
    /// TCP: an answered SYN.
    pub tcp_syn_received: u32,
    /// TCP: the handshake is complete.
    pub tcp_established: u32,
    /// TCP: one side has sent FIN.
    pub tcp_fin_wait: u32,
    /// TCP: both sides have sent FIN.
    pub tcp_time_wait: u32,
    /// TCP: the connection was reset.
    pub tcp_closed: u32,
    /// UDP before the first reply.
    pub udp_new: u32,
    /// UDP after the first reply.
    pub udp_replied: u32,
    /// SCTP before the first reply.
    pub sctp_new: u32,
    /// SCTP after the first reply.
    pub sctp_replied: u32,
    /// Echo requests of ICMP and ICMPv6.
    pub icmp: u32,
    /// Protocols without ports.
    pub other: u32,
    /// TCP connections that were adopted in mid-stream, until packets of both sides have been seen.
    pub tcp_picked_up: u32,
}

impl Default for TimeoutSeconds {
    fn default() -> Self {
        let of = Timeouts::default();
        let seconds = |timeout: Duration| u32::try_from(timeout.as_secs()).unwrap_or(u32::MAX);
        Self {
            tcp_syn_sent: seconds(of.tcp_syn_sent),
            tcp_syn_received: seconds(of.tcp_syn_received),
            tcp_established: seconds(of.tcp_established),
            tcp_fin_wait: seconds(of.tcp_fin_wait),
            tcp_time_wait: seconds(of.tcp_time_wait),
            tcp_closed: seconds(of.tcp_closed),
            udp_new: seconds(of.udp_new),
            udp_replied: seconds(of.udp_replied),
            sctp_new: seconds(of.sctp_new),
            sctp_replied: seconds(of.sctp_replied),
            icmp: seconds(of.icmp),
            other: seconds(of.other),
            tcp_picked_up: seconds(of.tcp_adopted),
        }
    }
}

/// The longest timeout: ten times the longest default of Linux (five days for established TCP).
const MOST_SECONDS: u32 = 4_320_000;

impl TimeoutSeconds {
    /// Checks every value.
    ///
    /// # Errors
    /// The first value that is impossible, by key.
    pub fn check(self) -> Result<Timeouts, ConfigError> {
        let time = |key, seconds: u32| {
            if (1..=MOST_SECONDS).contains(&seconds) {
                return Ok(Duration::from_secs(seconds.into()));
            }
            let problem = format!("is not between 1 and {MOST_SECONDS} seconds");
            Err(ConfigError::value(key, seconds, problem))
        };
        Ok(Timeouts {
            tcp_syn_sent: time("timeouts.tcpSynSent", self.tcp_syn_sent)?,
            tcp_syn_received: time("timeouts.tcpSynReceived", self.tcp_syn_received)?,
            tcp_established: time("timeouts.tcpEstablished", self.tcp_established)?,
            tcp_fin_wait: time("timeouts.tcpFinWait", self.tcp_fin_wait)?,
            tcp_time_wait: time("timeouts.tcpTimeWait", self.tcp_time_wait)?,
            tcp_closed: time("timeouts.tcpClosed", self.tcp_closed)?,
            udp_new: time("timeouts.udpNew", self.udp_new)?,
            udp_replied: time("timeouts.udpReplied", self.udp_replied)?,
            sctp_new: time("timeouts.sctpNew", self.sctp_new)?,
            sctp_replied: time("timeouts.sctpReplied", self.sctp_replied)?,
            icmp: time("timeouts.icmp", self.icmp)?,
            other: time("timeouts.other", self.other)?,
            tcp_adopted: time("timeouts.tcpPickedUp", self.tcp_picked_up)?,
        })
    }
}

/// Returns true for a name that the kernel accepts for an interface (`dev_valid_name`).
pub(crate) fn is_interface_name(name: &str) -> bool {
    (1..=15).contains(&name.len())
        && name != "."
        && name != ".."
        && !name.bytes().any(|b| b == b'/' || b == b':' || b.is_ascii_whitespace())
}
