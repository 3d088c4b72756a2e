//! Frames that a test writes octet by octet, and a socket that sends them.

use std::io::{self, IoSlice};
use std::net::SocketAddrV4;
use std::os::fd::AsRawFd;

use heddle_lab::{LabError, NetNs};
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, sendmsg, socket};

pub type Mac = [u8; 6];

/// Returns an Ethernet frame with a UDP datagram over IPv4, without a UDP checksum.
pub fn udp_frame(to_mac: Mac, from_mac: Mac, from: SocketAddrV4, to: SocketAddrV4, data: &[u8]) -> Vec<u8> {
    let udp_len = (8 + data.len()) as u16;
    // Version and header length, no identification, DF, 64 hops, UDP; the header's checksum follows.
    let mut header = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0];
    header[2..4].copy_from_slice(&(20 + udp_len).to_be_bytes());
    header.extend(from.ip().octets());
    header.extend(to.ip().octets());
    let words = header
        .chunks(2)
        .map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
    let sum: u32 = words.sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut frame = [&to_mac[..], &from_mac, &[0x08, 0x00], &header].concat();
    for field in [from.port(), to.port(), udp_len, 0] {
        frame.extend(field.to_be_bytes());
    }
    frame.extend(data);
    frame
}

/// Returns the payload of a VXLAN packet (RFC 7348 section 5).
pub fn vxlan(vni: u32, inner: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x08, 0, 0, 0];
    packet.extend((vni << 8).to_be_bytes());
    packet.extend(inner);
    packet
}

/// Returns the Ethernet address of an interface.
pub fn mac_of(ns: &NetNs, interface: &str) -> Result<Mac, LabError> {
    ns.enter(|| link_address(interface)?.addr().ok_or_else(|| none(interface)))
}

/// Sends a frame by an interface.
pub fn send_frame(ns: &NetNs, interface: &str, frame: &[u8]) -> Result<(), LabError> {
    ns.enter(|| {
        let failed = LabError::nix("sending a frame");
        let link = link_address(interface)?;
        let sent = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None).and_then(|socket| {
            sendmsg(
                socket.as_raw_fd(),
                &[IoSlice::new(frame)],
                &[],
                MsgFlags::empty(),
                Some(&link),
            )
        });
        sent.map(drop).map_err(failed)
    })
}

fn link_address(interface: &str) -> Result<LinkAddr, LabError> {
    let mut all = getifaddrs().map_err(LabError::nix("the interfaces"))?;
    let found = all.find_map(|found| {
        let address = found.address.filter(|_| found.interface_name == interface)?;
        address.as_link_addr().copied()
    });
    found.ok_or_else(|| none(interface))
}

fn none(interface: &str) -> LabError {
    LabError::io(format!("the Ethernet address of {interface}"))(io::ErrorKind::NotFound.into())
}
