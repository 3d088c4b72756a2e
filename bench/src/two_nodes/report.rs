//! The results of the comparison on two nodes, for people and as JSON.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::plan::{NodesPlan, PAUSE};
use crate::datagrams::Arrivals;
use crate::latency::RoundTrips;
use crate::stats;
use crate::tcp::StreamRun;

/// The results of one path, one of each kind for each round.
#[derive(Clone, Debug, Serialize)]
pub struct PathRuns {
    /// The path.
    pub path: &'static str,
    /// One TCP stream.
    pub streams: Vec<StreamRun>,
    /// Datagrams at each of the report's rates.
    pub datagrams: Vec<Vec<Arrivals>>,
    /// Round trips, back to back.
    pub rapid: Vec<RoundTrips>,
    /// Round trips after a pause each.
    pub slow: Vec<RoundTrips>,
}

impl PathRuns {
    /// Returns the runs of datagrams at the rate with an index.
    fn arrivals(&self, rate: usize) -> &[Arrivals] {
        self.datagrams.get(rate).map_or(&[], Vec::as_slice)
    }
}

/// All results on two nodes.
#[derive(Clone, Debug, Serialize)]
pub struct NodesReport {
    /// The cores of the workers of the two nodes.
    pub cores: [usize; 2],
    /// The MTU of the network between the nodes.
    pub mtu: u32,
    /// The duration of each run.
    pub time: Duration,
    /// The rates of datagrams, a second; `None` for as many as one thread sends.
    pub rates: Vec<Option<u32>>,
    /// The connections of the datagrams.
    pub connections: u16,
    /// The results of each path.
    pub paths: Vec<PathRuns>,
}

/// Returns the median of a number of each run.
fn median<T>(runs: &[T], number: impl Fn(&T) -> f64) -> f64 {
    stats::median(&runs.iter().map(number).collect::<Vec<f64>>())
}

/// Returns the least and the greatest value of a number of the runs.
fn range<T>(runs: &[T], number: impl Fn(&T) -> f64) -> String {
    let (least, most) = stats::range(&runs.iter().map(number).collect::<Vec<f64>>());
    format!("{least:.2} - {most:.2}")
}

impl NodesReport {
    /// Makes a report without runs.
    pub(super) fn new(plan: &NodesPlan, rates: &[Option<u32>], connections: u16, paths: &[&'static str]) -> Self {
        let path = |path: &&'static str| PathRuns {
            path,
            streams: Vec::new(),
            datagrams: vec![Vec::new(); rates.len()],
            rapid: Vec::new(),
            slow: Vec::new(),
        };
        Self {
            cores: plan.cores,
            mtu: plan.mtu,
            time: plan.time,
            rates: rates.to_vec(),
            connections,
            paths: paths.iter().map(path).collect(),
        }
    }

    /// Returns the results of a path.
    #[must_use]
    pub fn path(&self, name: &str) -> Option<&PathRuns> {
        self.paths.iter().find(|runs| runs.path == name)
    }

    /// Returns the ratio of a path's figure to the one of the kernel's path with the same kind of address.
    fn ratio(&self, runs: &PathRuns, figure: impl Fn(&PathRuns) -> f64) -> f64 {
        let peer = match runs.path {
            "heddle, ClusterIP" | "kernel, DNAT" => "kernel, DNAT",
            _ => "kernel",
        };
        self.path(peer).map_or(f64::NAN, |peer| figure(runs) / figure(peer))
    }

    fn write_streams(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\n  TCP, one stream; CPU seconds for each gigabyte, of both nodes and both ends"
        )?;
        let [rate, span, ratio, cpu] = ["Gbit/s", "range", "of kernel", "CPU s/GB"];
        writeln!(f, "  {:<22} {rate:>8} {span:>15} {ratio:>9} {cpu:>9} {ratio:>9}", "")?;
        for runs in &self.paths {
            writeln!(
                f,
                "  {:<22} {:>8.2} {:>15} {:>9.2} {:>9.2} {:>9.2}",
                runs.path,
                median(&runs.streams, |run| run.rate / 1e9),
                range(&runs.streams, |run| run.rate / 1e9),
                self.ratio(runs, |runs| median(&runs.streams, |run| run.rate)),
                median(&runs.streams, StreamRun::seconds_a_gigabyte),
                self.ratio(runs, |runs| median(&runs.streams, StreamRun::seconds_a_gigabyte)),
            )?;
        }
        Ok(())
    }

    fn write_datagrams(&self, f: &mut fmt::Formatter<'_>, at: usize, rate: Option<u32>) -> fmt::Result {
        let connections = self.connections;
        match rate {
            Some(rate) => writeln!(
                f,
                "\n  UDP, frames of 64 octets, {connections} connections, {rate} a second"
            )?,
            None => writeln!(
                f,
                "\n  UDP, frames of 64 octets, {connections} connections, as many as one thread sends"
            )?,
        }
        let [received, span, ratio, offered, loss, cpu] =
            ["1000/s", "range", "of kernel", "offered", "lost", "CPU us each"];
        writeln!(
            f,
            "  {:<22} {received:>8} {span:>15} {ratio:>9} {offered:>8} {loss:>8} {cpu:>12}",
            ""
        )?;
        for runs in self.paths.iter().filter(|runs| !runs.arrivals(at).is_empty()) {
            let all = runs.arrivals(at);
            writeln!(
                f,
                "  {:<22} {:>8.1} {:>15} {:>9.2} {:>8.1} {:>6.2} % {:>12.2}",
                runs.path,
                median(all, |run| run.received / 1e3),
                range(all, |run| run.received / 1e3),
                self.ratio(runs, |runs| median(runs.arrivals(at), |run| run.received)),
                median(all, |run| run.offered / 1e3),
                median(all, |run| run.loss * 100.0),
                median(all, |run| run.cpu / 1e3),
            )?;
        }
        Ok(())
    }

    fn write_round_trips(
        &self,
        f: &mut fmt::Formatter<'_>,
        what: &str,
        series: fn(&PathRuns) -> &[RoundTrips],
    ) -> fmt::Result {
        writeln!(f, "\n  UDP request and answer, blocking ends, {what}; microseconds")?;
        writeln!(
            f,
            "  {:<22} {:>8} {:>9} {:>8} {:>9}",
            "", "p50", "of kernel", "p99", "of kernel"
        )?;
        for runs in self.paths.iter().filter(|runs| !series(runs).is_empty()) {
            writeln!(
                f,
                "  {:<22} {:>8.1} {:>9.2} {:>8.1} {:>9.2}",
                runs.path,
                median(series(runs), |times| times.p50),
                self.ratio(runs, |runs| median(series(runs), |times| times.p50)),
                median(series(runs), |times| times.p99),
                self.ratio(runs, |runs| median(series(runs), |times| times.p99)),
            )?;
        }
        Ok(())
    }
}

impl fmt::Display for NodesReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, second] = self.cores;
        writeln!(
            f,
            "\ntwo nodes, VXLAN over IPv4, MTU {} between them; workers on cores {first} and {second}, where the ends run too; {:?} \
             a run",
            self.mtu, self.time
        )?;
        self.write_streams(f)?;
        for (at, rate) in self.rates.iter().enumerate() {
            self.write_datagrams(f, at, *rate)?;
        }
        self.write_round_trips(f, "back to back", |runs| &runs.rapid)?;
        self.write_round_trips(f, &format!("after {} ms each", PAUSE.as_millis()), |runs| &runs.slow)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_compared_with_the_kernels_of_the_same_address() {
        let plan = NodesPlan {
            cores: [0, 1],
            mtu: 1500,
            rounds: 1,
            time: Duration::from_secs(1),
        };
        let names = ["heddle", "kernel", "heddle, ClusterIP", "kernel, DNAT"];
        let mut report = NodesReport::new(&plan, &[None], 1, &names);
        for (runs, rate) in report.paths.iter_mut().zip([1e9, 4e9, 1e9, 2e9]) {
            runs.streams.push(StreamRun {
                rate,
                bytes: 1_000_000_000,
                cpu: Duration::from_secs(2),
            });
        }
        let ratios = report
            .paths
            .iter()
            .map(|runs| report.ratio(runs, |runs| median(&runs.streams, |run| run.rate)));
        assert_eq!(ratios.collect::<Vec<_>>(), [0.25, 1.0, 0.5, 1.0]);
        let text = report.to_string();
        assert!(
            text.contains("heddle, ClusterIP          1.00     1.00 - 1.00      0.50      2.00      1.00"),
            "{text}"
        );
    }
}
