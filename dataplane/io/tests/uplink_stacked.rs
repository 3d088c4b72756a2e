//! Uplinks whose packets come from a device below them: a macvlan, a bridge, a VLAN device and a bond. The program runs in generic
//! mode there. Each test is in namespaces of its own. They need root. A kernel without VLAN devices or bonds leaves their tests out.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

mod harness;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use harness::nic::{ALL, limits, nic, with_pins};
use harness::{SOON, Tap, context, index, ip};
use heddle_io::XdpMode;
use heddle_io::uplink::{Steering, Uplink};
use heddle_linux::Netlink;
use heddle_port::{Capabilities, PacketVec, Port, PortId, WorkerId, WorkerPool};
use heddle_wire::testing::{self, mac};

const LEFT_OUT: &str = "left out: this kernel has no such device";

fn steering() -> Steering {
    Steering {
        addresses: BTreeSet::from(["192.0.2.1".parse().unwrap()]),
        frontends: BTreeSet::from([("0.0.0.0".parse().unwrap(), 17, 30_000)]),
        ..Steering::default()
    }
}

/// Sends and receives by a device whose packets come from another one, in generic mode.
fn a_stacked_device_carries_packets(pins: &Path, frame_at_wire: impl Fn(Vec<u8>) -> Vec<u8>) {
    let mac_of = |name: &str| Netlink::open().unwrap().link(name).unwrap().unwrap().mac.unwrap();
    let mut uplink = Uplink::attach("stacked", index("stacked"), pins, &limits()).unwrap();
    assert_eq!(uplink.mode(), XdpMode::Generic);
    uplink.set(&steering()).unwrap();
    let mut context = context();
    let mut pool = WorkerPool::new(WorkerId(0), context.pool().clone());
    let mut port = context.open_uplink(&uplink, 0, PortId(0)).unwrap();
    // The kernel's receive offload may have joined segments.
    let joined = Capabilities {
        rx_large_segments: true,
        ..Capabilities::VETH
    };
    assert_eq!(port.capabilities(), joined);
    let (wire, kernel) = (Tap::new("nicp", ALL), Tap::new("stacked", ALL));
    let (src, dst) = (testing::ip("192.0.2.9"), testing::ip("192.0.2.1"));
    let to = |port| testing::udp(mac(1), mac_of("stacked"), src, dst, 4000, port, b"datagram");
    wire.send(&frame_at_wire(to(30_000)));
    let packet = harness::receive_one(&mut port, &mut pool);
    assert_eq!(packet.to_vec(context.store()), to(30_000));
    wire.send(&frame_at_wire(to(53)));
    assert_eq!(kernel.receive(SOON).unwrap(), to(53));
    // Out again, by the device below.
    while wire.receive(Duration::ZERO).is_some() {}
    harness::send(&mut port, &mut pool, PacketVec::from_iter([packet]));
    let left = std::iter::from_fn(|| wire.receive(SOON)).find(|frame| frame.ends_with(b"datagram"));
    assert!(left.is_some(), "the packet left by the device below");
    context.close(port);
    drop(pool);
    harness::assert_all_frames(&context);
}

/// Adds a device. Returns false if the kernel has no such kind.
fn can_add(arguments: &str) -> bool {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    let unknown = text.contains("not supported") || text.contains("Unknown device type");
    assert!(output.status.success() || unknown, "ip {arguments}: {text}");
    output.status.success()
}

#[test]
fn a_macvlan_is_an_uplink_in_generic_mode() {
    with_pins(|pins| {
        nic(XdpMode::Native);
        ip("link add name stacked link nic type macvlan mode private");
        ip("link set dev stacked up");
        a_stacked_device_carries_packets(pins, |frame| frame);
    });
}

#[test]
fn a_bridge_is_an_uplink_in_generic_mode() {
    with_pins(|pins| {
        nic(XdpMode::Native);
        ip("link add name stacked type bridge");
        ip("link set dev nic master stacked");
        ip("link set dev stacked up");
        a_stacked_device_carries_packets(pins, |frame| frame);
    });
}

#[test]
fn a_vlan_device_is_an_uplink_in_generic_mode() {
    with_pins(|pins| {
        nic(XdpMode::Native);
        if can_add("link add link nic name stacked type vlan id 5") {
            ip("link set dev stacked up");
            a_stacked_device_carries_packets(pins, |frame| [&frame[..12], &[0x81, 0, 0, 5], &frame[12..]].concat());
        }
    });
}

#[test]
fn a_bond_is_an_uplink_in_generic_mode() {
    with_pins(|pins| {
        nic(XdpMode::Native);
        if can_add("link add name stacked numtxqueues 1 numrxqueues 1 type bond mode active-backup miimon 10") {
            ip("link set dev nic down");
            ip("link set dev nic master stacked");
            ip("link set dev nic up");
            ip("link set dev stacked up");
            std::thread::sleep(Duration::from_millis(200));
            a_stacked_device_carries_packets(pins, |frame| frame);
        } else {
            eprintln!("{LEFT_OUT}");
        }
    });
}
