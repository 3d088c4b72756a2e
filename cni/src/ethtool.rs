//! Switching a pod's transmit checksum offload off (`ethtool -K IF tx off`), by the ethtool generic netlink family
//! (kernel documentation, networking/ethtool-netlink.rst, "FEATURES_SET").
//!
//! Two messages on a socket of the calling thread's namespace, written by hand: no more of generic netlink is needed.

use std::fs::File;
use std::io::{self, Read, Write};

use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, setsockopt, socket, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::kernel::KernelError;
use crate::rtnl::Link;

const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLMSG_ERROR: u16 = 2;
const NLA_F_NESTED: u16 = 1 << 15;
const NLMSG_HEADER: usize = 16;
const GENL_HEADER: usize = 4;

const GENL_ID_CTRL: u16 = 0x10;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;

const ETHTOOL_MSG_FEATURES_SET: u8 = 12;
const ETHTOOL_A_FEATURES_HEADER: u16 = 1;
const ETHTOOL_A_FEATURES_WANTED: u16 = 3;
const ETHTOOL_A_HEADER_DEV_INDEX: u16 = 1;
const ETHTOOL_A_HEADER_FLAGS: u16 = 3;
const ETHTOOL_FLAG_OMIT_REPLY: u32 = 2;
const ETHTOOL_A_BITSET_BITS: u16 = 3;
const ETHTOOL_A_BITSET_BITS_BIT: u16 = 1;
const ETHTOOL_A_BITSET_BIT_NAME: u16 = 2;

/// What a veth leaves to its receiver, and what it must compute itself from now on.
const FEATURES: [&str; 2] = ["tx-checksum-ip-generic", "tx-checksum-sctp"];

/// Switches the offload off, in the calling thread's namespace.
///
/// # Errors
/// The kernel's.
pub fn tx_off(link: &Link) -> Result<(), KernelError> {
    set(link).map_err(KernelError::step(format!(
        "switching transmit checksum offload of {} off",
        link.name
    )))
}

fn set(link: &Link) -> io::Result<()> {
    let fd = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkGeneric,
    )?;
    setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::seconds(5))?;
    let mut socket = File::from(fd);

    let name = attribute(CTRL_ATTR_FAMILY_NAME, b"ethtool\0");
    let answer = exchange(
        &mut socket,
        &message(GENL_ID_CTRL, CTRL_CMD_GETFAMILY, NLM_F_REQUEST, &name),
    )?;
    let family = find_u16(
        answer.get(NLMSG_HEADER + GENL_HEADER..).unwrap_or_default(),
        CTRL_ATTR_FAMILY_ID,
    )
    .ok_or_else(|| io::Error::new(io::ErrorKind::Unsupported, "the kernel has no ethtool netlink family"))?;

    let mut header = attribute(ETHTOOL_A_HEADER_DEV_INDEX, &link.index.to_ne_bytes());
    header.extend(attribute(
        ETHTOOL_A_HEADER_FLAGS,
        &ETHTOOL_FLAG_OMIT_REPLY.to_ne_bytes(),
    ));
    // A bit that is listed without the value flag is to be cleared; bits that are not listed stay.
    let bits: Vec<u8> = FEATURES
        .iter()
        .flat_map(|name| {
            let name = attribute(ETHTOOL_A_BITSET_BIT_NAME, &[name.as_bytes(), &[0]].concat());
            attribute(ETHTOOL_A_BITSET_BITS_BIT | NLA_F_NESTED, &name)
        })
        .collect();
    let mut body = attribute(ETHTOOL_A_FEATURES_HEADER | NLA_F_NESTED, &header);
    body.extend(attribute(
        ETHTOOL_A_FEATURES_WANTED | NLA_F_NESTED,
        &attribute(ETHTOOL_A_BITSET_BITS | NLA_F_NESTED, &bits),
    ));
    exchange(
        &mut socket,
        &message(family, ETHTOOL_MSG_FEATURES_SET, NLM_F_REQUEST | NLM_F_ACK, &body),
    )
    .map(drop)
}

/// Sends a message and gives the first one of the answer, unless that is an error.
fn exchange(socket: &mut File, message: &[u8]) -> io::Result<Vec<u8>> {
    socket.write_all(message)?;
    let mut answer = vec![0; 16 * 1024];
    let len = socket.read(&mut answer)?;
    answer.truncate(len);
    let kind = answer.get(4..6).and_then(|b| b.try_into().ok()).map(u16::from_ne_bytes);
    match kind {
        Some(NLMSG_ERROR) => {
            let code = answer
                .get(NLMSG_HEADER..NLMSG_HEADER + 4)
                .and_then(|b| b.try_into().ok())
                .map_or(0, i32::from_ne_bytes);
            if code == 0 {
                Ok(answer)
            } else {
                Err(io::Error::from_raw_os_error(-code))
            }
        }
        Some(_) => Ok(answer),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// A generic netlink message: header, command, attributes.
fn message(family: u16, command: u8, flags: u16, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(NLMSG_HEADER + GENL_HEADER + body.len()).unwrap_or(u32::MAX);
    let mut message = Vec::new();
    message.extend(len.to_ne_bytes());
    message.extend(family.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend([0; 8]); // sequence number and port id: one request at a time, answered to this socket
    message.extend([command, 1, 0, 0]); // version 1
    message.extend(body);
    message
}

/// An attribute with its padding.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let len = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut attribute = Vec::new();
    attribute.extend(len.to_ne_bytes());
    attribute.extend(kind.to_ne_bytes());
    attribute.extend(value);
    attribute.resize(attribute.len().next_multiple_of(4), 0);
    attribute
}

/// The first attribute of a kind.
fn find_u16(mut attributes: &[u8], wanted: u16) -> Option<u16> {
    loop {
        let len = usize::from(u16::from_ne_bytes(attributes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(attributes.get(2..4)?.try_into().ok()?);
        if kind == wanted {
            return attributes.get(4..6)?.try_into().ok().map(u16::from_ne_bytes);
        }
        attributes = attributes.get(len.max(4).next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_found() {
        let mut list = attribute(2, b"abcde\0");
        assert_eq!(list.len(), 12);
        list.extend(attribute(CTRL_ATTR_FAMILY_ID, &21u16.to_ne_bytes()));
        assert_eq!(find_u16(&list, CTRL_ATTR_FAMILY_ID), Some(21));
        assert_eq!(find_u16(&list, 9), None);
        assert_eq!(find_u16(&[3, 0], 9), None);
        assert_eq!(find_u16(&[0, 0, 1, 0], 9), None);
    }
}
