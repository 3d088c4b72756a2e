//! The computations of the underlay: paths from the kernel's answers, the neighbor entries that the next hops need, and the
//! differences from the entries that there are. Nothing here reads or changes the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use heddle_linux::{Link, NeighborEntry, NeighborState, Resolved};
use heddle_wire::MacAddr;

use crate::observe::ROUTE_PROTOCOL;
use crate::underlay::{NoPath, NodePath, Underlay, UplinkFacts};

/// The protocol number that marks heddle's neighbor entries, the same one as for its routes.
pub(crate) const NEIGHBOR_PROTOCOL: u8 = ROUTE_PROTOCOL;

/// An interface's index and the address of a neighbor there.
pub(crate) type NeighborKey = (u32, IpAddr);
/// The entries of the kernel's neighbor tables.
pub(crate) type Entries = BTreeMap<NeighborKey, NeighborEntry>;
/// The paths to nodes without Ethernet addresses, or the reasons why there is none.
pub(crate) type Routes = BTreeMap<IpAddr, Result<NodePath, NoPath>>;

/// The owner of a neighbor entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// heddle has set it: managed, and with heddle's protocol number.
    Heddle,
    /// The kernel has made it for traffic, or it was one of heddle's and somebody has cleared its flags. heddle may manage it.
    Kernel,
    /// Somebody else has set it: an administrator (permanent), or another program (managed, learned, or with a protocol number).
    /// heddle uses it as it is.
    Other,
}

/// Returns the owner of an entry.
pub(crate) const fn owner_of(entry: &NeighborEntry) -> Owner {
    let is_set = matches!(entry.state, NeighborState::Permanent | NeighborState::NoArp);
    match entry.protocol {
        _ if is_set => Owner::Other,
        NEIGHBOR_PROTOCOL if entry.managed && entry.ext_learned => Owner::Heddle,
        0 | NEIGHBOR_PROTOCOL if !entry.managed && !entry.ext_learned => Owner::Kernel,
        _ => Owner::Other,
    }
}

/// The interfaces, as far as neighbors are concerned.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Interfaces {
    /// The interfaces without Ethernet neighbors.
    not_ethernet: BTreeSet<u32>,
    /// The interfaces on which neighbors can be resolved now: up and with a carrier.
    resolving: BTreeSet<u32>,
}

impl Interfaces {
    pub(crate) fn new(links: &[Link]) -> Self {
        let is_ethernet = |link: &&Link| !link.noarp && link.mac.is_some_and(|mac| mac.0 != [0; 6]);
        let (ethernet, others): (Vec<&Link>, Vec<&Link>) = links.iter().partition(is_ethernet);
        let resolving = ethernet.iter().filter(|link| link.up && link.carrier);
        Self {
            not_ethernet: others.iter().map(|link| link.index).collect(),
            resolving: resolving.map(|link| link.index).collect(),
        }
    }

    /// Returns the path that the kernel's answer means.
    pub(crate) fn path(&self, answer: Option<Resolved>) -> Result<NodePath, NoPath> {
        let hop = match answer {
            None => return Err(NoPath::NoRoute),
            Some(Resolved::Local) => return Err(NoPath::Local),
            Some(Resolved::Unreachable) => return Err(NoPath::Unreachable),
            Some(Resolved::Unicast(hop)) => hop,
        };
        if self.not_ethernet.contains(&hop.index) {
            return Err(NoPath::NotEthernet(hop.index));
        }
        Ok(NodePath {
            index: hop.index,
            source: hop.source.ok_or(NoPath::NoSource)?,
            gateway: hop.gateway,
            mtu: hop.mtu.map(|mtu| u16::try_from(mtu).unwrap_or(u16::MAX)),
            mac: None,
        })
    }

    /// Returns the neighbors that the paths need and that can be resolved now. On an interface without a carrier there are none:
    /// an entry that is set when the carrier is back is resolved at once, and one that has failed by then only after seconds.
    pub(crate) fn next_hops(&self, routes: &Routes) -> BTreeSet<NeighborKey> {
        let paths = routes.iter().filter_map(|(node, path)| Some((*node, path.ok()?)));
        paths
            .filter(|(_, path)| self.resolving.contains(&path.index))
            .map(|(node, path)| (path.index, path.next_hop(node)))
            .collect()
    }
}

/// A change of the kernel's neighbor entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Removes one of heddle's entries that no path needs.
    Remove(NeighborKey),
    /// Sets a managed entry where there is none.
    Add(NeighborKey),
    /// Makes one of the kernel's entries managed.
    Manage(NeighborKey),
}

/// Returns the changes that bring the entries to the needed ones, removals first. Without `removes`, no entry is removed.
pub(crate) fn steps(needed: &BTreeSet<NeighborKey>, entries: &Entries, removes: bool) -> Vec<Step> {
    let leftovers = entries
        .iter()
        .filter(|(key, entry)| removes && owner_of(entry) == Owner::Heddle && !needed.contains(*key))
        .map(|(key, _)| Step::Remove(*key));
    let missing = needed.iter().filter_map(|key| match entries.get(key).map(owner_of) {
        None => Some(Step::Add(*key)),
        Some(Owner::Kernel) => Some(Step::Manage(*key)),
        Some(Owner::Heddle | Owner::Other) => None,
    });
    leftovers.chain(missing).collect()
}

/// Returns the underlay with the Ethernet addresses that the entries have now.
pub(crate) fn compose(uplink: Option<UplinkFacts>, routes: &Routes, entries: &Entries) -> Underlay {
    let mac_of = |key: &NeighborKey| -> Option<MacAddr> { entries.get(key)?.usable_mac() };
    let paths = routes.iter().map(|(node, path)| {
        let resolved = path.map(|path| NodePath {
            mac: mac_of(&(path.index, path.next_hop(*node))),
            ..path
        });
        (*node, resolved)
    });
    let paths = paths.collect();
    let on_uplink = entries
        .values()
        .filter(|entry| uplink.as_ref().is_some_and(|uplink| uplink.index == entry.index));
    let neighbors = on_uplink
        .filter_map(|entry| Some((entry.address, entry.usable_mac()?)))
        .collect();
    Underlay {
        uplink,
        paths,
        neighbors,
    }
}

/// Returns `true` if an announced entry differs from the known one in something that the underlay has or that heddle has set.
/// Nearly all announcements only say that the kernel has verified a neighbor.
pub(crate) fn is_news(
    key: &NeighborKey,
    announced: Option<&NeighborEntry>,
    known: &Entries,
    needed: &BTreeSet<NeighborKey>,
    uplink: Option<u32>,
) -> bool {
    let known = known.get(key);
    let has_other_mac = announced.and_then(NeighborEntry::usable_mac) != known.and_then(NeighborEntry::usable_mac);
    let has_other_owner = announced.map(owner_of) != known.map(owner_of);
    if needed.contains(key) {
        has_other_mac || has_other_owner
    } else {
        uplink == Some(key.0) && has_other_mac
    }
}

/// Returns `true` if a needed neighbor is a gateway, not a node on the link.
///
/// The kernel may choose between several gateways by their neighbor entries (`fib_multipath_use_neigh`; IPv6 hosts without
/// forwarding, RFC 4191), without a notification about a route. So a change of a gateway asks for the routes again.
pub(crate) fn is_gateway(key: &NeighborKey, routes: &Routes) -> bool {
    let on_link = routes.get(&key.1).copied();
    !on_link.is_some_and(|path| path.is_ok_and(|path| path.is_on_link() && path.index == key.0))
}

/// Returns the gateways of the last look that have failed since. Their entries are kept although no path needs them now: without
/// an entry, the kernel would take a failed gateway for a good one and choose it again, and without a managed one, nobody would see
/// it come back. `routes` are the last look's.
pub(crate) fn failed_gateways<'a>(
    needed: &'a BTreeSet<NeighborKey>,
    routes: &'a Routes,
    entries: &'a Entries,
) -> impl Iterator<Item = NeighborKey> + 'a {
    let has_failed = |key: &NeighborKey| {
        entries
            .get(key)
            .is_some_and(|entry| owner_of(entry) == Owner::Heddle && entry.usable_mac().is_none())
    };
    needed
        .iter()
        .copied()
        .filter(move |key| has_failed(key) && is_gateway(key, routes))
}

/// Returns the size that a neighbor table needs for the entries that it has and the missing ones: the next power of two, so that
/// some room is left.
pub(crate) fn table_size(entries: usize, missing: usize) -> usize {
    (entries + missing + 1).next_power_of_two()
}

#[cfg(test)]
mod tests {
    use heddle_linux::NextHop;
    use ipnet::IpNet;

    use super::*;

    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn link(index: u32) -> Link {
        Link {
            index,
            name: format!("eth{index}"),
            mac: Some(MAC),
            mtu: 1500,
            up: true,
            carrier: true,
            noarp: false,
            veth: false,
            bond: false,
            xdp_generic: false,
            peer_index: None,
            tx_queues: 1,
            rx_queues: 1,
            xdp_program: None,
        }
    }

    fn entry(index: u32, address: &str, state: NeighborState) -> NeighborEntry {
        NeighborEntry {
            index,
            address: ip(address),
            mac: Some(MAC),
            state,
            managed: false,
            ext_learned: false,
            protocol: 0,
        }
    }

    fn heddles(index: u32, address: &str, state: NeighborState) -> NeighborEntry {
        NeighborEntry {
            managed: true,
            ext_learned: true,
            protocol: NEIGHBOR_PROTOCOL,
            ..entry(index, address, state)
        }
    }

    fn table(entries: &[NeighborEntry]) -> Entries {
        entries
            .iter()
            .map(|entry| ((entry.index, entry.address), *entry))
            .collect()
    }

    fn hop(index: u32, gateway: Option<&str>) -> Option<Resolved> {
        Some(Resolved::Unicast(NextHop {
            index,
            gateway: gateway.map(ip),
            source: Some(ip("10.0.0.1")),
            mtu: None,
        }))
    }

    #[test]
    fn the_owner_follows_from_state_flags_and_protocol() {
        use NeighborState::{Failed, NoArp, Permanent, Reachable, Stale};
        let plain = entry(3, "10.0.0.2", Reachable);
        assert_eq!(owner_of(&plain), Owner::Kernel);
        assert_eq!(owner_of(&heddles(3, "10.0.0.2", Failed)), Owner::Heddle);
        // Somebody has replaced heddle's entry by an ordinary or a permanent one; the kernel keeps the protocol number.
        let cleared = NeighborEntry {
            protocol: NEIGHBOR_PROTOCOL,
            ..plain
        };
        assert_eq!(owner_of(&cleared), Owner::Kernel);
        assert_eq!(
            owner_of(&NeighborEntry {
                state: Permanent,
                ..cleared
            }),
            Owner::Other
        );
        for other in [
            entry(3, "10.0.0.2", Permanent),
            entry(3, "10.0.0.2", NoArp),
            NeighborEntry {
                managed: true,
                ext_learned: true,
                ..plain
            },
            NeighborEntry {
                ext_learned: true,
                protocol: NEIGHBOR_PROTOCOL,
                ..plain
            },
            NeighborEntry {
                protocol: 11,
                ..entry(3, "10.0.0.2", Stale)
            },
        ] {
            assert_eq!(owner_of(&other), Owner::Other, "{other:?}");
        }
    }

    #[test]
    fn answers_become_paths_or_reasons() {
        let tunnel = Link { noarp: true, ..link(4) };
        let loopback = Link {
            mac: Some(MacAddr([0; 6])),
            ..link(1)
        };
        let interfaces = Interfaces::new(&[link(3), tunnel, loopback]);
        let path = interfaces.path(hop(3, None)).unwrap();
        assert!(path.is_on_link() && path.mac.is_none() && path.mtu.is_none());
        assert_eq!(interfaces.path(None), Err(NoPath::NoRoute));
        assert_eq!(interfaces.path(Some(Resolved::Local)), Err(NoPath::Local));
        assert_eq!(interfaces.path(Some(Resolved::Unreachable)), Err(NoPath::Unreachable));
        assert_eq!(interfaces.path(hop(4, None)), Err(NoPath::NotEthernet(4)));
        assert_eq!(interfaces.path(hop(1, None)), Err(NoPath::NotEthernet(1)));
        let answer = |source, mtu| {
            Some(Resolved::Unicast(NextHop {
                index: 3,
                gateway: None,
                source,
                mtu,
            }))
        };
        assert_eq!(interfaces.path(answer(None, None)), Err(NoPath::NoSource));
        let mtu = |mtu| interfaces.path(answer(Some(ip("10.0.0.1")), Some(mtu))).unwrap().mtu;
        assert_eq!((mtu(1400), mtu(70_000)), (Some(1400), Some(65_535)));
    }

    #[test]
    fn next_hops_are_gateways_and_nodes_on_the_link_where_there_is_a_carrier() {
        let interfaces = Interfaces::new(&[
            link(3),
            Link {
                carrier: false,
                ..link(5)
            },
            Link { up: false, ..link(6) },
        ]);
        let routes = Routes::from([
            (ip("10.0.0.2"), interfaces.path(hop(3, None))),
            (ip("10.1.0.2"), interfaces.path(hop(3, Some("10.0.0.254")))),
            (ip("10.1.0.3"), interfaces.path(hop(3, Some("10.0.0.254")))),
            (ip("10.2.0.2"), interfaces.path(hop(5, None))),
            (ip("10.3.0.2"), interfaces.path(hop(6, None))),
            (ip("fd00::2"), interfaces.path(hop(3, Some("fe80::1")))),
            (ip("fd00::3"), Err(NoPath::NoRoute)),
        ]);
        let expected = ["10.0.0.2", "10.0.0.254", "fe80::1"].map(|address| (3, ip(address)));
        assert_eq!(interfaces.next_hops(&routes), BTreeSet::from(expected));
    }

    #[test]
    fn steps_touch_only_what_is_heddles_or_the_kernels() {
        use NeighborState::{Permanent, Reachable};
        let needed = BTreeSet::from(["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5"].map(|text| (3, ip(text))));
        let foreign = NeighborEntry {
            managed: true,
            ..entry(3, "10.0.0.7", Reachable)
        };
        let entries = table(&[
            heddles(3, "10.0.0.2", Reachable),
            entry(3, "10.0.0.3", Reachable),
            entry(3, "10.0.0.4", Permanent),
            heddles(3, "10.0.0.6", Reachable),
            heddles(4, "10.0.0.2", Reachable),
            foreign,
            entry(3, "10.0.0.8", Reachable),
            entry(3, "10.0.0.9", Permanent),
        ]);
        let additions = [Step::Manage((3, ip("10.0.0.3"))), Step::Add((3, ip("10.0.0.5")))];
        let removals = [Step::Remove((3, ip("10.0.0.6"))), Step::Remove((4, ip("10.0.0.2")))];
        assert_eq!(steps(&needed, &entries, true), [removals, additions].concat());
        assert_eq!(steps(&needed, &entries, false), additions);
    }

    #[test]
    fn the_underlay_has_the_uplinks_usable_neighbors_and_the_next_hops_of_all_interfaces() {
        let uplink = UplinkFacts {
            name: "eth3".to_owned(),
            index: 3,
            mac: Some(MAC),
            mtu: 1500,
            up: true,
            addresses: BTreeSet::<IpNet>::new(),
            queues: Some(1),
        };
        let interfaces = Interfaces::new(&[link(3), link(4)]);
        let routes = Routes::from([
            (ip("10.0.0.2"), interfaces.path(hop(3, None))),
            (ip("10.0.0.3"), interfaces.path(hop(3, None))),
            (ip("10.4.0.2"), interfaces.path(hop(4, Some("10.4.0.1")))),
            (ip("10.5.0.2"), Err(NoPath::Local)),
        ]);
        let entries = table(&[
            entry(3, "10.0.0.2", NeighborState::Stale),
            entry(3, "10.0.0.3", NeighborState::Failed),
            entry(3, "10.0.0.9", NeighborState::Permanent),
            entry(4, "10.4.0.1", NeighborState::Reachable),
        ]);
        let underlay = compose(Some(uplink.clone()), &routes, &entries);
        let mac_of = |text| underlay.paths[&ip(text)].unwrap().mac;
        assert_eq!(
            (mac_of("10.0.0.2"), mac_of("10.0.0.3"), mac_of("10.4.0.2")),
            (Some(MAC), None, Some(MAC))
        );
        assert_eq!(underlay.paths[&ip("10.5.0.2")], Err(NoPath::Local));
        assert_eq!(
            underlay.neighbors,
            BTreeMap::from([(ip("10.0.0.2"), MAC), (ip("10.0.0.9"), MAC)])
        );
        assert_eq!(underlay.uplink, Some(uplink));
        assert!(compose(None, &routes, &entries).neighbors.is_empty());
    }

    #[test]
    fn a_verified_neighbor_is_no_news() {
        use NeighborState::{Failed, Probe, Reachable, Stale};
        let (node, other, elsewhere) = ((3, ip("10.0.0.2")), (3, ip("10.0.0.3")), (4, ip("10.0.0.3")));
        let needed = BTreeSet::from([node]);
        let known = table(&[heddles(3, "10.0.0.2", Reachable), entry(3, "10.0.0.3", Reachable)]);
        let news =
            |key: &NeighborKey, announced: Option<&NeighborEntry>| is_news(key, announced, &known, &needed, Some(3));
        for state in [Stale, Probe, Reachable] {
            assert!(!news(&node, Some(&heddles(3, "10.0.0.2", state))));
            assert!(!news(&other, Some(&entry(3, "10.0.0.3", state))));
        }
        assert!(news(&node, Some(&heddles(3, "10.0.0.2", Failed))));
        assert!(
            news(&node, Some(&entry(3, "10.0.0.2", Reachable))),
            "somebody has cleared the flags"
        );
        assert!(news(&node, None) && news(&other, None));
        let moved = NeighborEntry {
            mac: Some(MacAddr::GATEWAY),
            ..heddles(3, "10.0.0.2", Reachable)
        };
        assert!(news(&node, Some(&moved)));
        assert!(
            !news(&elsewhere, Some(&entry(4, "10.0.0.3", Reachable))),
            "no path needs it"
        );
        assert!(!news(&(3, ip("10.0.0.4")), Some(&entry(3, "10.0.0.4", Failed))));
    }

    #[test]
    fn gateways_are_told_from_nodes_on_the_link() {
        let interfaces = Interfaces::new(&[link(3)]);
        let routes = Routes::from([
            (ip("10.0.0.2"), interfaces.path(hop(3, None))),
            (ip("10.0.0.3"), interfaces.path(hop(3, Some("10.0.0.254")))),
            (ip("10.0.0.4"), Err(NoPath::NoRoute)),
        ]);
        assert!(!is_gateway(&(3, ip("10.0.0.2")), &routes));
        for gateway in [(3, "10.0.0.254"), (3, "10.0.0.3"), (3, "10.0.0.4"), (4, "10.0.0.2")] {
            assert!(is_gateway(&(gateway.0, ip(gateway.1)), &routes), "{gateway:?}");
        }
    }

    #[test]
    fn failed_gateways_are_kept_and_failed_nodes_are_not() {
        use NeighborState::{Failed, Incomplete, Permanent, Reachable};
        let interfaces = Interfaces::new(&[link(3)]);
        let routes = Routes::from([(ip("10.0.0.2"), interfaces.path(hop(3, None)))]);
        let entries = table(&[
            NeighborEntry {
                mac: None,
                ..heddles(3, "10.0.0.2", Failed)
            },
            heddles(3, "10.0.0.251", Failed),
            heddles(3, "10.0.0.252", Incomplete),
            heddles(3, "10.0.0.253", Reachable),
            entry(3, "10.0.0.254", Permanent),
        ]);
        let needed = entries.keys().copied().chain([(3, ip("10.0.0.250"))]).collect();
        let kept: Vec<NeighborKey> = failed_gateways(&needed, &routes, &entries).collect();
        assert_eq!(kept, [(3, ip("10.0.0.251")), (3, ip("10.0.0.252"))]);
    }

    #[test]
    fn a_tables_size_leaves_room() {
        assert_eq!(table_size(1024, 0), 2048);
        assert_eq!(table_size(1000, 4000), 8192);
        assert_eq!(table_size(0, 0), 1);
    }
}
