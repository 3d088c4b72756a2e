//! Follows the underlay live: the uplink, its neighbors and the paths to the other nodes.
//!
//! A look asks the kernel for the route to each node, because only its own lookup follows policy rules and multipath (3 to 5 us
//! each), and dumps the neighbors (about 1 us for each entry). A look at the neighbors alone leaves the routes out. Looks follow the
//! kernel's notifications by some milliseconds, and a report follows only if the result differs. Notifications that only say that
//! a neighbor was verified cause no look.
//!
//! The kernel must keep the next hops resolved, although it never sees the packets that heddle sends to them. So each next hop has
//! a managed neighbor entry ([`heddle_linux::Netlink::manage_neighbor`]), marked with heddle's protocol number. Entries of others are
//! used as they are. heddle's entries stay when the agent ends; the next agent continues them, and removes those that it does not
//! need as soon as it knows the nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use heddle_linux::{Address, Link, LinuxError, Netlink, ethtool, sysctl};
use ipnet::IpNet;
use nix::libc::{EEXIST, ENOBUFS};
use tokio::sync::watch;

use crate::error::HostError;
use crate::netlink::Handle;
use crate::report::{HostStatus, Report, Reporter};
use crate::underlay::{NoPath, Underlay, UplinkFacts};
use crate::underlay_due::UnderlayDue;
use crate::underlay_plan::{
    Entries, Interfaces, NEIGHBOR_PROTOCOL, NeighborKey, Owner, Routes, Step, compose, failed_gateways, is_gateway,
    is_news, owner_of, steps, table_size,
};
use crate::uplink::{self, Finder};
use crate::watch::{Announced, Watch};

/// The inputs that the control thread hands over.
#[derive(Debug, Clone, Default)]
pub(crate) struct UnderlayInputs {
    /// The node's own addresses, by which the uplink is found.
    pub(crate) node_addresses: Vec<IpAddr>,
    /// The addresses of the other nodes; `None` until they are known. Until then no neighbor entry is removed, because an earlier
    /// agent's entries may be needed.
    pub(crate) nodes: Option<Arc<BTreeSet<IpAddr>>>,
}

/// The follower of the underlay, a part of the host task.
pub(crate) struct UnderlayTask {
    netlink: Handle,
    inputs: watch::Receiver<UnderlayInputs>,
    uplink: Finder,
    due: UnderlayDue,
    /// The uplink, the interfaces and the routes that the last whole look has seen.
    facts: Option<UplinkFacts>,
    interfaces: Interfaces,
    routes: Routes,
    /// The neighbors that are kept resolved, and all entries, of the last look.
    needed: BTreeSet<NeighborKey>,
    entries: Entries,
    reported: Option<Arc<Underlay>>,
    problems: Vec<String>,
    status: watch::Sender<HostStatus>,
    reports: Reporter,
}

impl UnderlayTask {
    pub(crate) fn new(
        netlink: Handle,
        inputs: watch::Receiver<UnderlayInputs>,
        uplink_name: Option<String>,
        status: watch::Sender<HostStatus>,
        reports: Reporter,
    ) -> Self {
        Self {
            netlink,
            inputs,
            uplink: Finder::new(uplink_name),
            due: UnderlayDue::new(Instant::now()),
            facts: None,
            interfaces: Interfaces::default(),
            routes: Routes::new(),
            needed: BTreeSet::new(),
            entries: Entries::new(),
            reported: None,
            problems: Vec::new(),
            status,
            reports,
        }
    }

    /// Follows the underlay until the handle of the host task is dropped.
    pub(crate) async fn run(mut self, mut notifications: Watch) {
        loop {
            tokio::select! {
                changed = self.inputs.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.due.notify_routes(Instant::now());
                }
                announced = notifications.changed() => self.record(&announced),
                () = tokio::time::sleep_until(self.due.next().into()) => self.look(),
            }
        }
    }

    /// Records notifications: the time of the next look.
    fn record(&mut self, announced: &Announced) {
        let now = Instant::now();
        if announced.network.others {
            self.due.notify_routes(now);
        }
        let uplink = self.facts.as_ref().map(|facts| facts.index);
        for (key, entry) in &announced.network.neighbors {
            if !is_news(key, entry.as_ref(), &self.entries, &self.needed, uplink) {
                continue;
            }
            self.due.notify_neighbors(now);
            if self.needed.contains(key) && is_gateway(key, &self.routes) {
                self.due.notify_routes(now);
            }
        }
    }

    /// Looks at the kernel's state, sets and removes neighbor entries, and reports the underlay if it has changed.
    fn look(&mut self) {
        let began = Instant::now();
        let mut problems = Problems::default();
        // A state that could not be read stays as it was, with nothing to report and nothing to change.
        let read = self
            .read(self.due.is_whole(began), &mut problems)
            .and_then(|()| self.reconcile_neighbors(&mut problems));
        if let Err(e) = read {
            problems.other(e);
        } else {
            let underlay = compose(self.facts.clone(), &self.routes, &self.entries);
            self.report(underlay);
        }
        let problems = problems.lines(&self.entries);
        self.due.looked(began, Instant::now(), !problems.is_empty());
        self.record_problems(problems);
    }

    /// Reads the uplink and the routes (in a whole look) and the neighbors.
    fn read(&mut self, is_whole: bool, problems: &mut Problems) -> Result<(), HostError> {
        if !is_whole {
            self.entries = read_entries(&self.netlink)?;
            return Ok(());
        }
        let inputs = self.inputs.borrow_and_update().clone();
        let held = self.netlink.addresses()?;
        let links = self.netlink.links()?;
        let uplink = self.uplink.find(&self.netlink, &inputs.node_addresses, &held)?;
        self.facts = uplink.map(|link| facts_of(link, &held));
        self.interfaces = Interfaces::new(&links);
        let routes = self.read_routes(&inputs.nodes.unwrap_or_default(), problems);
        self.entries = read_entries(&self.netlink)?;
        let mut needed = self.interfaces.next_hops(&routes);
        needed.extend(failed_gateways(&self.needed, &self.routes, &self.entries));
        (self.needed, self.routes) = (needed, routes);
        Ok(())
    }

    /// Asks for the route to each node. A node whose route cannot be asked for keeps the one that it had.
    fn read_routes(&self, nodes: &BTreeSet<IpAddr>, problems: &mut Problems) -> Routes {
        let mut route = |node: &IpAddr| match self.netlink.route_to(*node) {
            Ok(answer) => self.interfaces.path(answer),
            Err(e) => {
                problems.add(&e);
                self.routes.get(node).copied().unwrap_or(Err(NoPath::Unknown))
            }
        };
        nodes.iter().map(|node| (*node, route(node))).collect()
    }

    /// Sets the entries that the paths need and removes heddle's other ones.
    fn reconcile_neighbors(&mut self, problems: &mut Problems) -> Result<(), HostError> {
        let removes = self.inputs.borrow().nodes.is_some();
        let failed = self.take_steps(removes);
        // Traffic of the kernel may have created an entry since the dump, which then is there already: decide again.
        let was_overtaken = failed.iter().any(|(_, e)| e.errno() == Some(EEXIST));
        let failed = if was_overtaken {
            self.entries = read_entries(&self.netlink)?;
            self.take_steps(removes)
        } else {
            failed
        };
        for ((_, address), e) in failed {
            if e.errno() == Some(ENOBUFS) {
                problems.full_table(address);
            } else {
                problems.add(&e);
            }
        }
        Ok(())
    }

    /// Takes the steps from the entries to the needed ones, and returns those that failed.
    fn take_steps(&self, removes: bool) -> Vec<(NeighborKey, LinuxError)> {
        let mut failed = Vec::new();
        for step in steps(&self.needed, &self.entries, removes) {
            tracing::debug!(?step, "neighbor entry");
            let (key, taken) = match step {
                Step::Remove(key) => (key, self.netlink.remove_neighbor(key.0, key.1).map(drop)),
                Step::Add(key) => (key, self.netlink.manage_neighbor(key.0, key.1, NEIGHBOR_PROTOCOL, true)),
                Step::Manage(key) => (
                    key,
                    self.netlink.manage_neighbor(key.0, key.1, NEIGHBOR_PROTOCOL, false),
                ),
            };
            failed.extend(taken.err().map(|e| (key, e)));
        }
        failed
    }

    /// Reports the underlay if it has changed.
    fn report(&mut self, underlay: Underlay) {
        if self.reported.as_deref() == Some(&underlay) {
            return;
        }
        let underlay = Arc::new(underlay);
        self.reported = Some(underlay.clone());
        self.status
            .send_modify(|status| status.underlay = Some(underlay.clone()));
        self.reports.send(Report::Underlay(underlay));
    }

    /// Logs the problems that are new or gone, and shows the present ones.
    fn record_problems(&mut self, problems: Vec<String>) {
        if self.problems == problems {
            return;
        }
        for new in problems.iter().filter(|new| !self.problems.contains(new)) {
            tracing::warn!("the paths to other nodes may be incomplete: {new}");
        }
        if problems.is_empty() {
            tracing::info!("the paths to other nodes are complete again");
        }
        self.problems.clone_from(&problems);
        self.status.send_modify(|status| status.underlay_problems = problems);
    }
}

/// Removes heddle's entries from all interfaces of this network namespace, and returns their number.
///
/// # Errors
/// The kernel could not be asked, or refuses to remove one. Entries that were removed before stay removed.
pub(crate) fn remove_entries(netlink: &Netlink) -> Result<usize, HostError> {
    let mut removed = 0;
    for entry in netlink.neighbors()? {
        if owner_of(&entry) == Owner::Heddle && netlink.remove_neighbor(entry.index, entry.address)? {
            removed += 1;
        }
    }
    Ok(removed)
}

fn read_entries(netlink: &Netlink) -> Result<Entries, HostError> {
    let entries = netlink.neighbors()?.into_iter();
    Ok(entries.map(|entry| ((entry.index, entry.address), entry)).collect())
}

/// Returns the uplink's properties. `held` are the addresses of all interfaces.
fn facts_of(link: Link, held: &[Address]) -> UplinkFacts {
    let addresses: BTreeSet<IpNet> = held
        .iter()
        .filter(|address| address.index == link.index)
        .map(|address| address.address)
        .collect();
    UplinkFacts {
        index: link.index,
        mac: link.mac,
        mtu: uplink::mtu_of(&link),
        up: link.up && link.carrier,
        addresses,
        queues: ethtool::receive_queues(&link).ok(),
        name: link.name,
    }
}

/// The problems of one look. With thousands of nodes, one cause fails thousands of steps, so they are counted for each error number.
#[derive(Debug, Default)]
struct Problems {
    /// The first error of each number, and the number of further ones.
    by_number: BTreeMap<Option<i32>, (String, usize)>,
    /// The next hops that found no room in the tables of IPv4 and of IPv6.
    without_room: [usize; 2],
}

impl Problems {
    /// Adds a step or a question that failed.
    fn add(&mut self, e: &LinuxError) {
        let number = e.errno();
        self.count(number, e.to_string());
    }

    /// Adds a look that failed.
    fn other(&mut self, e: HostError) {
        match e {
            HostError::Linux(e) => self.add(&e),
            e => self.count(None, e.to_string()),
        }
    }

    fn count(&mut self, number: Option<i32>, line: String) {
        let known = self.by_number.entry(number);
        known.and_modify(|(_, more)| *more += 1).or_insert((line, 0));
    }

    /// Adds a next hop that found no room in its family's table.
    fn full_table(&mut self, next_hop: IpAddr) {
        self.without_room[usize::from(next_hop.is_ipv6())] += 1;
    }

    /// Returns a line for each kind of problem.
    fn lines(self, entries: &Entries) -> Vec<String> {
        let mut lines: Vec<String> = self
            .by_number
            .into_values()
            .map(|(line, more)| match more {
                0 => line,
                more => format!("{line} (and {more} more)"),
            })
            .collect();
        for (family, is_ipv6) in [("ipv4", false), ("ipv6", true)] {
            let missing = self.without_room[usize::from(is_ipv6)];
            if missing == 0 {
                continue;
            }
            let there = entries
                .keys()
                .filter(|(_, address)| address.is_ipv6() == is_ipv6)
                .count();
            let key = format!("net/{family}/neigh/default/gc_thresh3");
            // Only the initial network namespace has the key.
            let now = sysctl::read(&key).ok().flatten();
            let now = now.map_or_else(String::new, |now| format!(" (now {now})"));
            lines.push(format!(
                "the kernel's neighbor table for {family} has no room for {missing} next hops: set sysctl \
                 net.{family}.neigh.default.gc_thresh3 to {} or more{now}",
                table_size(there, missing)
            ));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use nix::libc::{EINVAL, ENOMEM};

    use super::*;

    #[test]
    fn problems_of_one_kind_are_one_line() {
        let mut problems = Problems::default();
        let error = |step: &str, number| LinuxError::step(step.to_owned())(io::Error::from_raw_os_error(number));
        for n in 0..5000 {
            problems.add(&error(&format!("step {n}"), EINVAL));
        }
        problems.other(error("a dump", ENOMEM).into());
        let lines = problems.lines(&Entries::new());
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(
            lines[1].starts_with("step 0: ") && lines[1].ends_with("(and 4999 more)"),
            "{lines:?}"
        );
        assert!(
            lines[0].starts_with("a dump: ") && !lines[0].contains("more"),
            "{lines:?}"
        );
    }

    #[test]
    fn a_full_table_names_the_sysctl_and_the_size() {
        let mut problems = Problems::default();
        for n in 0..4000u16 {
            let [high, low] = n.to_be_bytes();
            problems.full_table(IpAddr::from([10, 0, high, low]));
        }
        problems.full_table("fd00::1".parse().unwrap());
        let lines = problems.lines(&Entries::new());
        assert!(
            lines[0].contains("no room for 4000 next hops")
                && lines[0].contains("net.ipv4.neigh.default.gc_thresh3 to 4096 or more"),
            "{lines:?}"
        );
        assert!(
            lines[1].contains("net.ipv6.neigh.default.gc_thresh3 to 2 or more"),
            "{lines:?}"
        );
    }
}
