//! The servers on another node: packets to them leave by a VXLAN tunnel, and their answers come by it.

use std::sync::Arc;

use heddle_tables::{Exit, NextHop, NodePath, RemoteNode};
use heddle_wire::checksum::Sum;
use heddle_wire::vxlan::{OVERHEAD_V4, OuterHeader};
use heddle_wire::{Ip, MacAddr, parse};

use crate::frames::{self, Checksum, Ends};
use crate::node::{HOST, NETWORK, UPLINK_MAC};

/// The octets of the outer headers.
pub(crate) const OVERHEAD: usize = OVERHEAD_V4 as usize;

const OTHER_IP: Ip = Ip::from_v4([192, 0, 2, 2]);
const OTHER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0xff, 2]);
/// The Ethernet address of inner frames to the other node.
const OTHER_VTEP: MacAddr = MacAddr([2, 0, 0, 0, 0xff, 3]);
/// The outer source port of answers. The receiver does not look at it.
const SOURCE_PORT: u16 = 50_000;

/// The place of the servers, and the direction of the packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// The servers are on the same node.
    Local,
    /// The servers are on another node; packets to them leave by a VXLAN tunnel over IPv4.
    Encapsulated,
    /// The answers of such servers. Only for established connections.
    Decapsulated,
}

/// Returns the other node. `None` never happens: both addresses are IPv4, and the identifier has 24 bits.
pub(crate) fn other_node() -> Option<RemoteNode> {
    let outer = OuterHeader::new(HOST, OTHER_IP, NETWORK.port, NETWORK.vni)?;
    Some(RemoteNode {
        name: Arc::from("other"),
        address: Some(OTHER_IP),
        takes_own: true,
        takes_forwarded: true,
        path: Ok(NodePath {
            outer: Some(outer.with_macs(OTHER_MAC, UPLINK_MAC)),
            next_hop: NextHop {
                dst: OTHER_VTEP,
                src: MacAddr::GATEWAY,
                exit: Exit::Uplink,
            },
            mtu: 1500 - OVERHEAD_V4,
        }),
        path_v6: None,
    })
}

/// Returns the answer to a packet that has left by the tunnel, as it comes by the tunnel, of `size` octets without the outer headers;
/// `None` if `sent` is no such packet.
pub(crate) fn answer(sent: &[u8], size: usize) -> Option<Vec<u8>> {
    let inner = sent.get(OVERHEAD..)?;
    let p = parse(inner, inner.len()).ok()?;
    let ends = Ends {
        macs: (OTHER_VTEP, MacAddr::GATEWAY),
        ips: (p.dst, p.src),
        ports: (p.dport, p.sport),
    };
    let inner = frames::udp(&ends, size, Checksum::Finished);
    let outer = OuterHeader::new(OTHER_IP, HOST, NETWORK.port, NETWORK.vni)?.with_macs(UPLINK_MAC, OTHER_MAC);
    let mut frame = vec![0; outer.len()];
    let written = outer.write(&mut frame, inner.len() as u32, 0, SOURCE_PORT, Sum::default());
    frame.extend(inner);
    written.then_some(frame)
}
