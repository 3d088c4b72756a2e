//! The report about TCP streams of one node's pods.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::plan::NodePathsPlan;
use crate::stats;
use crate::tcp::StreamRun;

/// The results of one path with one number of streams, one for each round.
#[derive(Clone, Debug, Serialize)]
pub struct PathStreams {
    /// The path.
    pub path: &'static str,
    /// The kernel's path that it is compared with.
    pub peer: &'static str,
    /// The number of streams side by side.
    pub streams: usize,
    /// The streams.
    pub runs: Vec<StreamRun>,
    /// The segments that the sender sent again.
    pub repeated: Vec<u64>,
}

impl PathStreams {
    pub(super) const fn new(path: &'static str, peer: &'static str, streams: usize) -> Self {
        Self {
            path,
            peer,
            streams,
            runs: Vec::new(),
            repeated: Vec::new(),
        }
    }

    fn median(&self, figure: impl Fn(&StreamRun) -> f64) -> f64 {
        stats::median(&self.runs.iter().map(figure).collect::<Vec<f64>>())
    }
}

/// All results on one node.
#[derive(Clone, Debug, Serialize)]
pub struct NodeReport {
    /// The core of the worker.
    pub core: usize,
    /// The configuration of the agent.
    pub config: String,
    /// The duration of each run.
    pub time: Duration,
    /// The results of each path.
    pub paths: Vec<PathStreams>,
}

impl NodeReport {
    /// Makes a report without runs.
    pub(super) fn new(plan: &NodePathsPlan) -> Self {
        Self {
            core: plan.core,
            config: plan.config.clone(),
            time: plan.time,
            paths: Vec::new(),
        }
    }

    /// Returns the ratio of a path's figure to the kernel's path with as many streams.
    fn ratio(&self, path: &PathStreams, figure: impl Fn(&StreamRun) -> f64 + Copy) -> f64 {
        let peer = self
            .paths
            .iter()
            .find(|p| p.path == path.peer && p.streams == path.streams);
        peer.map_or(f64::NAN, |peer| path.median(figure) / peer.median(figure))
    }
}

impl fmt::Display for NodeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\nTCP streams of one node's pods; the network outside has MTU 1500; worker on core {}, where the ends run too; {:?} a run; \
             configuration: {}",
            self.core,
            self.time,
            self.config.trim().replace('\n', ", ")
        )?;
        let [rate, span, ratio, cpu, repeated] = ["Gbit/s", "range", "of kernel", "CPU s/GB", "repeated"];
        writeln!(
            f,
            "  {:<30} {:>7} {rate:>8} {span:>15} {ratio:>9} {cpu:>9} {ratio:>9} {repeated:>9}",
            "", "streams"
        )?;
        for path in &self.paths {
            let rates: Vec<f64> = path.runs.iter().map(|run| run.rate / 1e9).collect();
            let (least, most) = stats::range(&rates);
            let repeated: Vec<f64> = path.repeated.iter().map(|count| *count as f64).collect();
            writeln!(
                f,
                "  {:<30} {:>7} {:>8.2} {:>15} {:>9.2} {:>9.2} {:>9.2} {:>9.0}",
                path.path,
                path.streams,
                stats::median(&rates),
                format!("{least:.2} - {most:.2}"),
                self.ratio(path, |run| run.rate),
                path.median(StreamRun::seconds_a_gigabyte),
                self.ratio(path, StreamRun::seconds_a_gigabyte),
                stats::median(&repeated),
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_compared_with_the_kernels_with_as_many_streams() {
        let plan = NodePathsPlan {
            core: 0,
            config: String::new(),
            rounds: 1,
            time: Duration::from_secs(1),
            streams: vec![1, 8],
        };
        let mut report = NodeReport::new(&plan);
        for (streams, rates) in [(1, [4e9, 1e9]), (8, [8e9, 6e9])] {
            for (name, rate) in ["kernel", "heddle"].into_iter().zip(rates) {
                let mut path = PathStreams::new(name, "kernel", streams);
                path.runs.push(StreamRun {
                    rate,
                    bytes: 1_000_000_000,
                    cpu: Duration::from_secs(1),
                });
                path.repeated.push(3);
                report.paths.push(path);
            }
        }
        let ratios = report.paths.iter().map(|path| report.ratio(path, |run| run.rate));
        assert_eq!(ratios.collect::<Vec<_>>(), [1.0, 0.25, 1.0, 0.75]);
        assert!(report.to_string().contains("heddle"), "{report}");
    }
}
