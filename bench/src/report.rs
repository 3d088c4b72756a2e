//! The results, for people and as JSON.

use std::fmt;

use serde::Serialize;

use crate::latency::RoundTrips;
use crate::load::{Cores, Packets, Run};
use crate::modes::ModesReport;
use crate::one_node::NodeReport;
use crate::two_nodes::NodesReport;
use crate::{Machine, stats};

/// The results of one path.
#[derive(Clone, Debug, Serialize)]
pub struct Series<T> {
    /// The path: `bare`, `pipeline`, `kernel`, with its variant.
    pub path: String,
    /// One result for each round. The paths take turns within a round.
    pub runs: Vec<T>,
}

impl<T> Series<T> {
    /// Returns the median of a number of each run.
    pub fn median(&self, number: impl Fn(&T) -> f64) -> f64 {
        stats::median(&self.runs.iter().map(number).collect::<Vec<f64>>())
    }

    fn range(&self, number: impl Fn(&T) -> f64) -> (f64, f64) {
        stats::range(&self.runs.iter().map(number).collect::<Vec<f64>>())
    }
}

/// All results of one call.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The machine.
    pub machine: Machine,
    /// The driver mode of the devices.
    pub mode: &'static str,
    /// The most packets in a burst.
    pub batch: usize,
    /// The bytes of a frame of packet memory, and the number of frames.
    pub memory: (u32, u32),
    /// The MTU of the devices.
    pub mtu: u32,
    /// The cores of the threads.
    pub cores: Cores,
    /// The packets of the generator.
    pub packets: Packets,
    /// Packets per second.
    pub load: Vec<Series<Run>>,
    /// Bits per second of one TCP stream.
    pub tcp: Vec<Series<f64>>,
    /// Round-trip times.
    pub latency: Vec<Series<RoundTrips>>,
    /// Two nodes, if they were measured.
    pub nodes: Option<NodesReport>,
    /// TCP streams of one node's pods, if they were measured.
    pub streams: Option<NodeReport>,
    /// Both modes of the pods' ports, if they were measured.
    pub modes: Option<ModesReport>,
}

impl Report {
    /// Returns the path's median of received packets per second.
    #[must_use]
    pub fn received(&self, path: &str) -> Option<f64> {
        self.load
            .iter()
            .find(|s| s.path == path)
            .map(|s| s.median(|run| run.received))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.machine)?;
        let (size, frames) = self.memory;
        writeln!(
            f,
            "{}; batch {}; {frames} frames of {size} octets; MTU {}; forwarder on core {}; medians of interleaved rounds",
            self.mode, self.batch, self.mtu, self.cores.forwarder
        )?;
        self.write_load(f)?;
        self.write_tcp(f)?;
        self.write_latency(f)?;
        if let Some(modes) = &self.modes {
            modes.fmt(f)?;
        }
        if let Some(nodes) = &self.nodes {
            nodes.fmt(f)?;
        }
        if let Some(streams) = &self.streams {
            streams.fmt(f)?;
        }
        Ok(())
    }
}

impl Report {
    fn write_load(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(base) = self.load.first().map(|s| s.median(|run| run.received)) else {
            return Ok(());
        };
        let Packets { frame, flows, time } = self.packets;
        writeln!(
            f,
            "\npackets: {frame}-octet UDP frames, {flows} flows, {time:?} a round, generator on core {}",
            self.cores.generator
        )?;
        let [mpps, ns, offered, ratio] = ["Mpps", "ns/packet", "offered", "of first"];
        writeln!(
            f,
            "  {:<28} {mpps:>7} {:>15} {ns:>10} {offered:>9} {ratio:>9} {:>7}",
            "", "range", "vector"
        )?;
        for series in &self.load {
            let received = series.median(|run| run.received);
            let (least, most) = series.range(|run| run.received / 1e6);
            writeln!(
                f,
                "  {:<28} {:>7.3} {:>15} {:>10.0} {:>9.2} {:>9.2} {:>7.1}",
                series.path,
                received / 1e6,
                format!("{least:.3} - {most:.3}"),
                1e9 / received,
                series.median(|run| run.offered) / 1e6,
                received / base,
                series.median(|run| run.vector),
            )?;
            for (reason, count) in series.runs.iter().flat_map(|run| &run.drops) {
                writeln!(f, "    dropped {reason}: {count}")?;
            }
        }
        Ok(())
    }

    fn write_tcp(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(base) = self.tcp.first().map(|s| s.median(|rate| *rate)) else {
            return Ok(());
        };
        writeln!(f, "\nTCP, one stream")?;
        writeln!(f, "  {:<28} {:>7} {:>15} {:>9}", "", "Gbit/s", "range", "of first")?;
        for series in &self.tcp {
            let rate = series.median(|rate| *rate);
            let (least, most) = series.range(|rate| rate / 1e9);
            let range = format!("{least:.2} - {most:.2}");
            writeln!(
                f,
                "  {:<28} {:>7.2} {range:>15} {:>9.2}",
                series.path,
                rate / 1e9,
                rate / base
            )?;
        }
        Ok(())
    }

    fn write_latency(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.latency.is_empty() {
            return Ok(());
        }
        writeln!(f, "\nUDP ping-pong, blocking ends, microseconds a round trip")?;
        writeln!(f, "  {:<28} {:>8} {:>8} {:>8}", "", "p50", "p99", "p99.9")?;
        for series in &self.latency {
            let [p50, p99, p999] = [
                series.median(|t| t.p50),
                series.median(|t| t.p99),
                series.median(|t| t.p999),
            ];
            writeln!(f, "  {:<28} {p50:>8.1} {p99:>8.1} {p999:>8.1}", series.path)?;
        }
        Ok(())
    }
}
