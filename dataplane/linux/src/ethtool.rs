//! Device features and channels, by the ethtool family of generic netlink (kernel documentation, networking/ethtool-netlink.rst,
//! sections FEATURES_GET, FEATURES_SET and CHANNELS_GET).

use std::io;

use netlink_packet_core::{
    DecodeError, DefaultNla, Emitable, NLA_F_NESTED, Nla, NlasIterator, Parseable, ParseableParametrized,
};
use netlink_packet_generic::ctrl::nlas::GenlCtrlAttrs;
use netlink_packet_generic::ctrl::{GenlCtrl, GenlCtrlCmd};
use netlink_packet_generic::{GenlFamily, GenlHeader, GenlMessage};
use netlink_sys::protocols::NETLINK_GENERIC;
use nix::libc::{ENOENT, EOPNOTSUPP};

use crate::error::{LinuxError, absent_is_none};
use crate::link::Link;
use crate::socket::Socket;

// include/uapi/linux/ethtool_netlink.h
const ETHTOOL_MSG_FEATURES_GET: u8 = 11;
const ETHTOOL_MSG_FEATURES_SET: u8 = 12;
const ETHTOOL_MSG_CHANNELS_GET: u8 = 17;
const ETHTOOL_A_FEATURES_HEADER: u16 = 1;
const ETHTOOL_A_FEATURES_HW: u16 = 2;
const ETHTOOL_A_FEATURES_WANTED: u16 = 3;
const ETHTOOL_A_FEATURES_ACTIVE: u16 = 4;
const ETHTOOL_A_HEADER_DEV_INDEX: u16 = 1;
const ETHTOOL_A_HEADER_FLAGS: u16 = 3;
const ETHTOOL_FLAG_OMIT_REPLY: u32 = 2;
const ETHTOOL_A_BITSET_NOMASK: u16 = 1;
const ETHTOOL_A_BITSET_BITS: u16 = 3;
const ETHTOOL_A_BITSET_BITS_BIT: u16 = 1;
const ETHTOOL_A_BITSET_BIT_NAME: u16 = 2;
const ETHTOOL_A_BITSET_BIT_VALUE: u16 = 3;
const ETHTOOL_A_CHANNELS_HEADER: u16 = 1;
const ETHTOOL_A_CHANNELS_RX_COUNT: u16 = 6;
const ETHTOOL_A_CHANNELS_COMBINED_COUNT: u16 = 9;

/// The features of a device, by the names of `ethtool -k`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// The features that can be switched.
    pub changeable: Vec<String>,
    /// The features that are on.
    pub active: Vec<String>,
}

impl Features {
    /// Returns `true` if the feature is on.
    #[must_use]
    pub fn is_active(&self, feature: &str) -> bool {
        self.active.iter().any(|name| name == feature)
    }
}

/// Reads the features of a device of the calling thread's network namespace.
///
/// # Errors
/// The kernel has no ethtool netlink family, or could not be asked.
pub fn features(link: &Link) -> Result<Features, LinuxError> {
    read_features(link).map_err(LinuxError::step(format!(
        "reading the features of interface {}",
        link.name
    )))
}

/// Switches features of a device of the calling thread's network namespace on; other features stay as they are.
///
/// # Errors
/// The kernel has no ethtool netlink family, does not know a feature, or refuses.
pub fn switch_on(link: &Link, features: &[&str]) -> Result<(), LinuxError> {
    set_features(link, features, true).map_err(LinuxError::step(format!(
        "switching {} of interface {} on",
        features.join(", "),
        link.name
    )))
}

/// Switches features of a device of the calling thread's network namespace off; other features stay as they are.
///
/// # Errors
/// The kernel has no ethtool netlink family, does not know a feature, or refuses.
pub fn switch_off(link: &Link, features: &[&str]) -> Result<(), LinuxError> {
    set_features(link, features, false).map_err(LinuxError::step(format!(
        "switching {} of interface {} off",
        features.join(", "),
        link.name
    )))
}

/// Returns the number of receive queues that a device of the calling thread's network namespace uses: its receive channels and
/// its combined channels. Returns `None` if the driver has no channels.
///
/// # Errors
/// The kernel has no ethtool netlink family, or could not be asked.
pub fn receive_channels(link: &Link) -> Result<Option<u32>, LinuxError> {
    channels(link).map_err(LinuxError::step(format!(
        "reading the channels of interface {}",
        link.name
    )))
}

/// Returns the number of receive queues of a device of the calling thread's network namespace: as [`receive_channels`], or all
/// that it has if its driver has no channels.
///
/// # Errors
/// The kernel has no ethtool netlink family, or could not be asked.
pub fn receive_queues(link: &Link) -> Result<u32, LinuxError> {
    let channels = receive_channels(link)?.filter(|count| *count > 0);
    Ok(channels.unwrap_or(link.rx_queues.max(1)))
}

fn channels(link: &Link) -> io::Result<Option<u32>> {
    let answer = absent_is_none(
        get(link, ETHTOOL_MSG_CHANNELS_GET, ETHTOOL_A_CHANNELS_HEADER),
        &[EOPNOTSUPP],
    )?;
    Ok(answer.map(|attributes| receive_count(&attributes)))
}

/// Asks for one thing about a device. `header` is the number of the request's header attribute.
fn get(link: &Link, command: u8, header: u16) -> io::Result<Vec<DefaultNla>> {
    let (socket, family) = open()?;
    let header = nested(
        header,
        &[DefaultNla::new(
            ETHTOOL_A_HEADER_DEV_INDEX,
            link.index.to_ne_bytes().to_vec(),
        )],
    );
    let mut message = GenlMessage::from_payload(Message {
        command,
        attributes: vec![header],
    });
    message.set_resolved_family_id(family);
    Ok(socket.get(message)?.payload.attributes)
}

fn read_features(link: &Link) -> io::Result<Features> {
    let attributes = get(link, ETHTOOL_MSG_FEATURES_GET, ETHTOOL_A_FEATURES_HEADER)?;
    let invalid = |error: DecodeError| io::Error::new(io::ErrorKind::InvalidData, error.to_string());
    let mut features = Features::default();
    for attribute in &attributes {
        let names = match attribute.kind() & !NLA_F_NESTED {
            // This bitset has a mask: every feature is listed, and the changeable ones have the value flag.
            ETHTOOL_A_FEATURES_HW => &mut features.changeable,
            // This one is a list of the features that are on.
            ETHTOOL_A_FEATURES_ACTIVE => &mut features.active,
            _ => continue,
        };
        *names = set_bits(&value_of(attribute)).map_err(invalid)?;
    }
    Ok(features)
}

/// Returns the names of the bits that are set in a bitset in verbose form.
fn set_bits(bitset: &[u8]) -> Result<Vec<String>, DecodeError> {
    let bitset = parsed(bitset)?;
    // A list has no mask, and each of its bits is set.
    let is_list = bitset.iter().any(|part| part.kind() == ETHTOOL_A_BITSET_NOMASK);
    let mut names = Vec::new();
    for bits in bitset
        .iter()
        .filter(|part| part.kind() & !NLA_F_NESTED == ETHTOOL_A_BITSET_BITS)
    {
        for bit in parsed(&value_of(bits))? {
            let bit = parsed(&value_of(&bit))?;
            let has = |kind: u16| bit.iter().any(|part| part.kind() == kind);
            let name = bit.iter().find(|part| part.kind() == ETHTOOL_A_BITSET_BIT_NAME);
            if let Some(name) = name.filter(|_| is_list || has(ETHTOOL_A_BITSET_BIT_VALUE)) {
                let bytes = value_of(name);
                let text = bytes.strip_suffix(&[0]).unwrap_or(&bytes);
                names.push(String::from_utf8_lossy(text).into_owned());
            }
        }
    }
    Ok(names)
}

/// Splits a payload into its attributes.
fn parsed(payload: &[u8]) -> Result<Vec<DefaultNla>, DecodeError> {
    NlasIterator::new(payload)
        .map(|attribute| DefaultNla::parse(&attribute?))
        .collect()
}

/// Returns the value of an attribute.
fn value_of(attribute: &DefaultNla) -> Vec<u8> {
    let mut value = vec![0; attribute.value_len()];
    attribute.emit_value(&mut value);
    value
}

/// Adds up the channels that receive. The kernel leaves out the count of a kind that the driver does not have.
fn receive_count(attributes: &[DefaultNla]) -> u32 {
    attributes
        .iter()
        .filter(|attribute| {
            matches!(
                attribute.kind(),
                ETHTOOL_A_CHANNELS_RX_COUNT | ETHTOOL_A_CHANNELS_COMBINED_COUNT
            )
        })
        .filter_map(|attribute| value_of(attribute).try_into().ok().map(u32::from_ne_bytes))
        .sum()
}

/// Opens a socket and finds the number of the ethtool family.
fn open() -> io::Result<(Socket, u16)> {
    let socket = Socket::open(NETLINK_GENERIC)?;
    let family = family_id(&socket)?
        .ok_or_else(|| io::Error::new(io::ErrorKind::Unsupported, "the kernel has no ethtool netlink family"))?;
    Ok((socket, family))
}

fn set_features(link: &Link, features: &[&str], on: bool) -> io::Result<()> {
    let (socket, family) = open()?;
    let header = nested(
        ETHTOOL_A_FEATURES_HEADER,
        &[
            DefaultNla::new(ETHTOOL_A_HEADER_DEV_INDEX, link.index.to_ne_bytes().to_vec()),
            DefaultNla::new(ETHTOOL_A_HEADER_FLAGS, ETHTOOL_FLAG_OMIT_REPLY.to_ne_bytes().to_vec()),
        ],
    );
    // A listed bit is set if it has the value flag, and cleared otherwise; bits that are not listed stay.
    let bits: Vec<DefaultNla> = features
        .iter()
        .map(|feature| {
            let name = [feature.as_bytes(), &[0]].concat();
            let mut bit = vec![DefaultNla::new(ETHTOOL_A_BITSET_BIT_NAME, name)];
            bit.extend(on.then(|| DefaultNla::new(ETHTOOL_A_BITSET_BIT_VALUE, Vec::new())));
            nested(ETHTOOL_A_BITSET_BITS_BIT, &bit)
        })
        .collect();
    let wanted = nested(ETHTOOL_A_FEATURES_WANTED, &[nested(ETHTOOL_A_BITSET_BITS, &bits)]);
    let mut message = GenlMessage::from_payload(Message {
        command: ETHTOOL_MSG_FEATURES_SET,
        attributes: vec![header, wanted],
    });
    message.set_resolved_family_id(family);
    socket.change(message, 0)
}

/// Returns the number of the ethtool family; `None` if the kernel has none.
fn family_id(socket: &Socket) -> io::Result<Option<u16>> {
    let request = GenlMessage::from_payload(GenlCtrl {
        cmd: GenlCtrlCmd::GetFamily,
        nlas: vec![GenlCtrlAttrs::FamilyName("ethtool".to_owned())],
    });
    let answer = absent_is_none(socket.get(request), &[ENOENT])?;
    Ok(answer.and_then(|message| {
        message.payload.nlas.iter().find_map(|attribute| {
            if let GenlCtrlAttrs::FamilyId(id) = attribute {
                Some(*id)
            } else {
                None
            }
        })
    }))
}

/// Nests attributes in one attribute.
fn nested(kind: u16, attributes: &[DefaultNla]) -> DefaultNla {
    let mut value = vec![0; attributes.buffer_len()];
    attributes.emit(&mut value);
    DefaultNla::new(kind | NLA_F_NESTED, value)
}

/// A message of the ethtool family, as its command and its attributes.
#[derive(Debug, Clone)]
struct Message {
    command: u8,
    attributes: Vec<DefaultNla>,
}

impl GenlFamily for Message {
    fn family_name() -> &'static str {
        "ethtool"
    }

    fn version(&self) -> u8 {
        1
    }

    fn command(&self) -> u8 {
        self.command
    }
}

impl Emitable for Message {
    fn buffer_len(&self) -> usize {
        self.attributes.as_slice().buffer_len()
    }

    fn emit(&self, buffer: &mut [u8]) {
        self.attributes.as_slice().emit(buffer);
    }
}

impl ParseableParametrized<[u8], GenlHeader> for Message {
    fn parse_with_param(payload: &[u8], header: GenlHeader) -> Result<Self, DecodeError> {
        Ok(Self {
            command: header.cmd,
            attributes: parsed(payload)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_nested() {
        let name = DefaultNla::new(ETHTOOL_A_BITSET_BIT_NAME, b"abcd\0".to_vec());
        let bit = nested(ETHTOOL_A_BITSET_BITS_BIT, &[name]);
        let mut bytes = vec![0; bit.buffer_len()];
        bit.emit(&mut bytes);
        let kind = (ETHTOOL_A_BITSET_BITS_BIT | NLA_F_NESTED).to_ne_bytes();
        assert_eq!(bytes[..2], 16u16.to_ne_bytes());
        assert_eq!(bytes[2..4], kind);
        assert_eq!(&bytes[8..], b"abcd\0\0\0\0");
    }

    #[test]
    fn the_set_bits_of_both_kinds_of_bitsets() {
        let bit = |name: &str, set: bool| {
            let mut parts = vec![DefaultNla::new(
                ETHTOOL_A_BITSET_BIT_NAME,
                [name.as_bytes(), &[0]].concat(),
            )];
            parts.extend(set.then(|| DefaultNla::new(ETHTOOL_A_BITSET_BIT_VALUE, Vec::new())));
            nested(ETHTOOL_A_BITSET_BITS_BIT, &parts)
        };
        let bits = nested(ETHTOOL_A_BITSET_BITS, &[bit("a", true), bit("b", false)]);
        let masked = nested(0, std::slice::from_ref(&bits));
        assert_eq!(set_bits(&value_of(&masked)).unwrap(), ["a"]);
        let list = nested(0, &[DefaultNla::new(ETHTOOL_A_BITSET_NOMASK, Vec::new()), bits]);
        assert_eq!(set_bits(&value_of(&list)).unwrap(), ["a", "b"]);
        assert!(set_bits(&[9, 0, 0]).is_err());
    }

    #[test]
    fn receive_and_combined_channels_receive() {
        let count = |kind, n: u32| DefaultNla::new(kind, n.to_ne_bytes().to_vec());
        let all = [
            count(ETHTOOL_A_CHANNELS_RX_COUNT, 2),
            count(7, 16),
            count(ETHTOOL_A_CHANNELS_COMBINED_COUNT, 3),
            DefaultNla::new(ETHTOOL_A_CHANNELS_RX_COUNT, vec![1]),
        ];
        assert_eq!(receive_count(&all), 5);
        assert_eq!(receive_count(&[]), 0);
    }
}
