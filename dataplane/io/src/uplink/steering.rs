//! The packets that the uplink's program redirects to heddle, and the writing of the differences into its maps.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use heddle_wire::MacAddr;
use ipnet::IpNet;

use super::keys;
use super::object::Maps;
use super::syscall::Map;
use crate::error::XdpError;

/// The packets at the node's NIC that are heddle's. The program passes all others to the kernel.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Steering {
    /// The addresses of this node.
    pub addresses: BTreeSet<IpAddr>,
    /// The UDP port of the tunnel at this node's addresses (VXLAN: 4789); `None` without a tunnel.
    pub tunnel_port: Option<u16>,
    /// The source ports and ICMP identifiers of what heddle masquerades to this node's addresses. Port 0 is never one of them.
    pub masquerade_ports: Option<RangeInclusive<u16>>,
    /// The address, IP protocol number and port of each frontend. The unspecified address of a family means every address of that
    /// family in `addresses`: a node port.
    pub frontends: BTreeSet<(IpAddr, u8, u16)>,
    /// The pod ranges of this node, if other nodes route to them directly.
    pub pods: BTreeSet<IpNet>,
    /// The pod ranges of nodes that are routed directly. Their packets to this node's addresses are heddle's.
    pub peers: BTreeSet<IpNet>,
    /// The own addresses of nodes that forward connections to this node without a tunnel, with the node's Ethernet address.
    pub forwarders: BTreeSet<(IpAddr, MacAddr)>,
}

/// The difference between a map and the keys that it should have.
#[derive(PartialEq, Eq, Debug)]
struct Difference {
    missing: Vec<Vec<u8>>,
    stale: Vec<Vec<u8>>,
}

fn difference(present: Vec<Vec<u8>>, wanted: &BTreeSet<Vec<u8>>) -> Difference {
    let present: BTreeSet<_> = present.into_iter().collect();
    Difference {
        missing: wanted.difference(&present).cloned().collect(),
        stale: present.difference(wanted).cloned().collect(),
    }
}

/// A map, its name, the keys that it should have, and what to do when it is full.
struct Table<'a> {
    name: &'static str,
    map: &'a Map,
    wanted: BTreeSet<Vec<u8>>,
    remedy: &'static str,
}

impl Table<'_> {
    /// Adds keys. Returns those for which the map has no room.
    fn add(&self, keys: Vec<Vec<u8>>) -> io::Result<Vec<Vec<u8>>> {
        let mut left = Vec::new();
        for key in keys {
            match self.map.update(&key, &[1]) {
                Ok(()) => {}
                // A full hash map returns E2BIG, a full LPM map ENOSPC.
                Err(error) if matches!(error.raw_os_error(), Some(libc::E2BIG | libc::ENOSPC)) => left.push(key),
                Err(error) => return Err(error),
            }
        }
        Ok(left)
    }

    fn delete(&self, keys: &[Vec<u8>]) -> io::Result<()> {
        keys.iter().try_for_each(|key| self.map.delete(key).map(drop))
    }

    fn failed(&self, error: io::Error) -> XdpError {
        XdpError::kernel(format!("write the uplink's map {}", self.name), error)
    }

    fn full(&self) -> XdpError {
        XdpError::UplinkMapFull {
            map: self.name,
            limit: self.map.definition().entries,
            wanted: self.wanted.len(),
            remedy: self.remedy,
        }
    }
}

/// The first error. Later ones are logged.
#[derive(Default)]
struct FirstError(Option<XdpError>);

impl FirstError {
    fn note(&mut self, error: XdpError) {
        if self.0.is_some() {
            tracing::warn!(%error, "the uplink's maps");
        } else {
            self.0 = Some(error);
        }
    }
}

/// Writes the differences between the maps and `steering`: first what is missing, in all maps, then the configuration, then the
/// deletions. So a packet that was heddle's and still is never meets a gap. What does not fit is tried again after the
/// deletions.
///
/// # Errors
/// The first map that is full or that the kernel refuses to write. The others are written.
pub(super) fn write(maps: &Maps, steering: &Steering) -> Result<(), XdpError> {
    let tables = tables(maps, steering);
    let mut errors = FirstError::default();
    let mut rest = Vec::new();
    for table in &tables {
        let outcome = table.map.keys().and_then(|present| {
            let Difference { missing, stale } = difference(present, &table.wanted);
            Ok((table.add(missing)?, stale))
        });
        match outcome {
            Ok((left, stale)) => rest.push((table, left, stale)),
            Err(error) => errors.note(table.failed(error)),
        }
    }
    if let Err(error) = write_config(&maps.config, steering) {
        errors.note(XdpError::kernel("write the uplink's map config", error));
    }
    for (table, left, stale) in rest {
        match table.delete(&stale).and_then(|()| table.add(left)) {
            Ok(left) if left.is_empty() => {}
            Ok(_) => errors.note(table.full()),
            Err(error) => errors.note(table.failed(error)),
        }
    }
    errors.0.map_or(Ok(()), Err)
}

fn write_config(map: &Map, steering: &Steering) -> io::Result<()> {
    let (key, value) = (
        0u32.to_ne_bytes(),
        keys::config_value(steering.tunnel_port, steering.masquerade_ports.as_ref()),
    );
    if map.lookup(&key, 1)?.is_some_and(|present| present == value) {
        return Ok(());
    }
    map.update(&key, &value)
}

fn tables<'a>(maps: &'a Maps, steering: &Steering) -> [Table<'a>; 5] {
    [
        Table {
            name: "addresses",
            map: &maps.addresses,
            wanted: steering.addresses.iter().copied().map(keys::address_key).collect(),
            remedy: "remove addresses from the node",
        },
        Table {
            name: "frontends",
            map: &maps.frontends,
            wanted: steering.frontends.iter().copied().map(keys::frontend_key).collect(),
            remedy: "have fewer node ports, load balancer and external addresses in Services",
        },
        Table {
            name: "pods",
            map: &maps.pods,
            wanted: steering.pods.iter().copied().map(keys::network_key).collect(),
            remedy: "give the node fewer pod ranges",
        },
        Table {
            name: "peers",
            map: &maps.peers,
            wanted: steering.peers.iter().copied().map(keys::network_key).collect(),
            remedy: "route fewer nodes directly (use the tunnel)",
        },
        Table {
            name: "forwarders",
            map: &maps.forwarders,
            wanted: steering.forwarders.iter().copied().map(keys::forwarder_key).collect(),
            remedy: "route fewer nodes directly (use the tunnel)",
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(keys: &[u8]) -> Vec<Vec<u8>> {
        keys.iter().map(|key| vec![*key]).collect()
    }

    #[test]
    fn only_differences_are_written() {
        let wanted: BTreeSet<_> = keys(&[1, 2, 3]).into_iter().collect();
        let Difference { missing, stale } = difference(keys(&[4, 3, 2, 5]), &wanted);
        assert_eq!((missing, stale), (keys(&[1]), keys(&[4, 5])));
        let Difference { missing, stale } = difference(keys(&[3, 1, 2, 1]), &wanted);
        assert_eq!((missing, stale), (keys(&[]), keys(&[])));
    }

    #[test]
    fn the_first_error_is_returned() {
        let error = |what: &str| XdpError::kernel(what, io::Error::from_raw_os_error(libc::ENOMEM));
        let mut errors = FirstError::default();
        errors.note(error("one"));
        errors.note(error("two"));
        assert!(errors.0.unwrap().to_string().contains("one"));
    }
}
