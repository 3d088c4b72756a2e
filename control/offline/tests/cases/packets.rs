//! The cases as packets in memory: each probe is the first packet of a connection. It passes through the pipeline of every
//! node on its path, with the tables that the node's agent would have published, and its answer passes back.
//!
//! - Pods send by their own ports, nodes by their host ports. Packets of other nodes and their pods come in by the uplink, in
//!   those nodes' tunnels, and packets from outside by the uplink as they are. What leaves for another node leaves in the
//!   tunnel, and goes on at that node.
//! - Connections that no worker receives (of a pod with itself, of a node with another node) are only counted.
//! - The set of backends is observed: further connections from other ports are opened, at least 32, until every
//!   expected backend was reached. None may reach another backend. Each backend's answer passes back. If a Service has
//!   session affinity, the client must stay with one backend.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use heddle_offline::simulate::path::SOURCE_PORT;
use heddle_offline::simulate::resolve::{ResolvedProbe, resolve};
use heddle_offline::simulate::{ClusterTables, Verdict};
use heddle_tables::{Affinity, Frontend, ServiceLookup};
use heddle_wire::Ip;

use crate::every_case;
use crate::path::{End, Entrance, Nodes, PacketPath, travel};
use crate::suite::{self, Case, Expected};

/// The minimum number of connections to a Service with backends.
const AT_LEAST: u16 = 32;
/// The maximum number of connections until each backend was reached.
const AT_MOST: u16 = 4096;

/// The counts that are printed for a suite.
#[derive(Default)]
struct Tally {
    counts: BTreeMap<String, usize>,
}

impl Tally {
    fn count(&mut self, what: impl Into<String>) {
        *self.counts.entry(what.into()).or_default() += 1;
    }

    fn print(&mut self, suite: &str, good: usize, cases: usize) {
        println!("{suite}: {good} of {cases} cases");
        for (what, n) in std::mem::take(&mut self.counts) {
            println!("    {n:6} {what}");
        }
    }
}

/// A probe that is being evaluated.
struct Attempt<'a> {
    tables: &'a mut ClusterTables,
    nodes: &'a mut Nodes,
    asked: ResolvedProbe,
    expect: &'a Expected,
    tally: &'a mut Tally,
}

impl Attempt<'_> {
    fn run(&mut self) -> Result<(), String> {
        self.tally.count("probes");
        let snapshot = Arc::clone(self.tables.node_tables(&self.asked.entry).snapshot());
        let entrance = Entrance::of(&snapshot, &self.asked);
        let path = self.travel(SOURCE_PORT)?;
        self.verdict(path.end)?;
        if path.end != End::NeverEnters {
            match entrance {
                Entrance::Uplink => self.tally.count("enter by the uplink"),
                Entrance::Tunnel(_) => self.tally.count("enter by a tunnel"),
                Entrance::Pod(_) | Entrance::Host => {}
            }
        }
        if path.nodes() > 1 {
            self.tally.count("cross a tunnel");
        }
        self.masquerade(&path, entrance)?;
        match self.frontend() {
            Some(frontend) if self.expect.verdict == Verdict::Allow => self.backends(&frontend, path),
            _ => self.arrive(&path),
        }
    }

    /// Returns the frontend at the destination, of the entry node or else of the node with that address.
    fn frontend(&mut self) -> Option<Arc<Frontend>> {
        let owner = self
            .tables
            .cluster()
            .node_at(self.asked.to)
            .map(|node| node.name.to_string());
        let nodes = std::iter::once(self.asked.entry.clone()).chain(owner);
        let (to, proto, port) = (Ip::from(self.asked.to), self.asked.proto, self.asked.port);
        nodes.into_iter().find_map(
            |node| match self.tables.node_tables(&node).snapshot().frontend(to, proto, port) {
                ServiceLookup::Frontend(frontend) => Some(Arc::clone(frontend)),
                ServiceLookup::NoSuchPort | ServiceLookup::NotAService => None,
            },
        )
    }

    fn travel(&mut self, sport: u16) -> Result<PacketPath, String> {
        self.tally.count("first packets");
        travel(self.tables, self.nodes, &self.asked, sport)
    }

    fn verdict(&mut self, end: End) -> Result<(), String> {
        let (verdict, what) = match end {
            End::Arrived => (Verdict::Allow, "arrive in a pod".to_owned()),
            End::Left => (Verdict::Allow, "leave by the host port".to_owned()),
            End::NeverEnters => (Verdict::Allow, "never reach a worker".to_owned()),
            End::Rejected => (Verdict::Reject, "are rejected".to_owned()),
            End::Dropped(reason) => (Verdict::Deny, format!("are dropped: {reason}")),
        };
        self.tally.count(what);
        if verdict == self.expect.verdict {
            Ok(())
        } else {
            Err(format!("{end:?}, expected {}", self.expect.verdict.as_str()))
        }
    }

    /// Compares masquerade at the first node with the expected one. For a node's own address it cannot be observed.
    fn masquerade(&mut self, path: &PacketPath, entrance: Entrance) -> Result<(), String> {
        let (Some(wanted), Some(source)) = (self.expect.masquerade, path.source()) else {
            return Ok(());
        };
        if entrance == Entrance::Host {
            self.tally.count("have the node's address already, masqueraded or not");
            return Ok(());
        }
        if (source != self.asked.from) == wanted {
            self.tally
                .count(if wanted { "are masqueraded" } else { "keep their source" });
            return Ok(());
        }
        Err(format!("it has the source {source}, expected masquerade: {wanted}"))
    }

    /// Checks a connection without a Service: it must reach its destination, and the answer must come back.
    fn arrive(&mut self, path: &PacketPath) -> Result<(), String> {
        if !matches!(path.end, End::Arrived | End::Left) {
            return Ok(());
        }
        let wanted = SocketAddr::new(self.asked.to, self.asked.port);
        if path.reached() != Some(wanted) {
            return Err(format!("it reaches {:?} instead of {wanted}", path.reached()));
        }
        self.answer(path)
    }

    fn answer(&mut self, path: &PacketPath) -> Result<(), String> {
        self.tally.count("answers come back");
        path.answer(self.tables, self.nodes, self.asked.proto)
    }

    /// Opens connections until every expected backend was reached. None may reach another one.
    fn backends(&mut self, frontend: &Frontend, first: PacketPath) -> Result<(), String> {
        let mut seen = BTreeSet::new();
        let mut path = first;
        let enough = |seen: &BTreeSet<String>, expect: &Expected, affinity: Option<Affinity>| {
            affinity.is_some() || expect.backends.as_ref().is_none_or(|wanted| wanted.is_subset(seen))
        };
        for tried in 1..=AT_MOST {
            let reached = path.reached().ok_or("it does not reach any backend")?.to_string();
            if self
                .expect
                .backends
                .as_ref()
                .is_some_and(|wanted| !wanted.contains(&reached))
            {
                return Err(format!("it reaches {reached}, which is none of its backends"));
            }
            if seen.insert(reached) && matches!(path.end, End::Arrived | End::Left) {
                self.answer(&path)?;
            }
            if tried >= AT_LEAST && enough(&seen, self.expect, frontend.affinity) {
                break;
            }
            path = self.travel(SOURCE_PORT + tried)?;
            if matches!(path.end, End::Dropped(_) | End::Rejected | End::NeverEnters) {
                return Err(format!("another connection to the Service: {:?}", path.end));
            }
        }
        let Some(wanted) = &self.expect.backends else {
            return Ok(());
        };
        if frontend.affinity.is_some() {
            self.tally.count("stay with one backend by session affinity");
            return if seen.len() == 1 {
                Ok(())
            } else {
                Err(format!("a client with affinity reaches {seen:?}"))
            };
        }
        self.tally.count("reach exactly their backends");
        if seen == *wanted {
            Ok(())
        } else {
            Err(format!("connections reach {seen:?}, expected {wanted:?}"))
        }
    }
}

/// Returns the differences from the expected results, one per line.
fn play(case: &Case, tally: &mut Tally) -> Vec<String> {
    let mut tables = case.tables();
    let mut nodes = Nodes::default();
    let mut differences = Vec::new();
    for (number, step) in case.steps.iter().enumerate() {
        step.change(&mut tables);
        for suite::ExpectedProbe { probe, expect } in &step.probes {
            let resolved = resolve(tables.cluster(), probe, case.node.as_deref());
            let done = resolved.map_err(|error| error.to_string()).and_then(|asked| {
                let (tables, nodes) = (&mut tables, &mut nodes);
                Attempt {
                    tables,
                    nodes,
                    asked,
                    expect,
                    tally,
                }
                .run()
            });
            nodes.remove_connections();
            if let Err(error) = done {
                let port = probe.port.map(|port| format!("/{port}")).unwrap_or_default();
                differences.push(format!(
                    "{} step {number} {}: {} -> {} {}{port}: {error}",
                    case.id,
                    probe.id,
                    probe.src,
                    probe.dst,
                    probe.protocol.as_str()
                ));
            }
        }
    }
    differences
}

#[test]
fn the_cases_are_answered_by_packets() {
    let tally = std::cell::RefCell::new(Tally::default());
    every_case(
        |case| play(case, &mut tally.borrow_mut()),
        |suite, good| tally.borrow_mut().print(&suite.suite, good, suite.cases.len()),
    );
}
