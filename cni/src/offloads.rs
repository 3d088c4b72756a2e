//! The work that the pod's kernel leaves to its interface.
//!
//! A large packet that arrives at heddle whole has no boundaries of datagrams or inner packets in it, so the pod's kernel must cut
//! everything but TCP itself. It does so for every feature that the interface does not have. Only root in the pod can switch a
//! feature on again; then packets of this pod are too large for their path, and no other pod notices.

use std::io;

use heddle_linux::{Link, LinuxError, Netlink, ethtool};

/// The features that `ethtool -K IF tx off` switches off on a veth. Without them the pod's kernel computes its
/// checksums itself.
const TX_CHECKSUMS: [&str; 2] = ["tx-checksum-ip-generic", "tx-checksum-sctp"];
/// The features that heddle can do: TCP over IPv4 and IPv6, also with ECN.
const TCP_SEGMENTATION: [&str; 3] = ["tx-tcp-segmentation", "tx-tcp6-segmentation", "tx-tcp-ecn-segmentation"];

/// Lets the pod's kernel compute its checksums itself.
///
/// # Errors
/// The kernel refuses.
pub fn no_checksums(link: &Link) -> Result<(), LinuxError> {
    ethtool::switch_off(link, &TX_CHECKSUMS)
}

/// Lets the pod's kernel pass on nothing larger than the MTU but TCP segments, which have at most `max` bytes. Returns false if the
/// kernel has no interface for features (ethtool netlink).
///
/// # Errors
/// The kernel refuses.
pub fn tcp_segments_only(netlink: &Netlink, link: &Link, max: u32) -> Result<bool, LinuxError> {
    let features = match ethtool::features(link) {
        Err(e) if e.source.kind() == io::ErrorKind::Unsupported => return Ok(false),
        features => features?,
    };
    let others: Vec<&str> = features
        .changeable
        .iter()
        .map(String::as_str)
        .filter(|feature| is_segmentation(feature) && !TCP_SEGMENTATION.contains(feature))
        .collect();
    if !others.is_empty() {
        ethtool::switch_off(link, &others)?;
    }
    netlink.limit_segments(link, max)?;
    Ok(true)
}

/// Returns true if a feature leaves the cutting of packets to the interface (net/ethtool/common.c, `netdev_features_strings`).
fn is_segmentation(feature: &str) -> bool {
    feature.ends_with("-segmentation") || feature.starts_with("tx-gso-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_of_segmentation_by_their_names() {
        for feature in [
            "tx-tcp-segmentation",
            "tx-tcp-mangleid-segmentation",
            "tx-gre-csum-segmentation",
            "tx-ipxip4-segmentation",
            "tx-udp_tnl-segmentation",
            "tx-udp-segmentation",
            "tx-sctp-segmentation",
            "tx-gso-partial",
            "tx-gso-list",
        ] {
            assert!(is_segmentation(feature), "{feature}");
        }
        for feature in ["tx-scatter-gather", "tx-checksum-ip-generic", "rx-gro", "rx-gro-list"] {
            assert!(!is_segmentation(feature), "{feature}");
        }
    }
}
