//! `heddle status --watch`: prints the status once, and then the rates since the previous poll.
//!
//! It ends at Ctrl-C, when the reader closes the pipe, and with an error when the agent stops answering.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use heddle_proto::status::Status;
use heddle_proto::{API_SOCKET, Client};
use serde::Serialize;

use crate::args::OutputFormat;
use crate::polling::Polling;
use crate::status::{StatusError, text};
use crate::table::{finish, left, table};

/// A failure that ended the watch.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The agent does not answer, or its answer cannot be written.
    #[error(transparent)]
    Status(#[from] StatusError),
    /// Standard output or the signal handler failed.
    #[error("cannot watch the status: {0}")]
    System(#[from] io::Error),
}

/// Rates between two polls, per second.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Rates {
    /// Seconds between the two polls.
    pub seconds: f64,
    /// The ports that existed at both polls, in the order of the status.
    pub ports: Vec<PortRates>,
    /// The workers.
    pub workers: Vec<WorkerRates>,
}

/// The rates of one port.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PortRates {
    /// The port's number.
    pub port: u16,
    /// The port's name.
    pub name: String,
    /// Packets received.
    pub rx_pps: f64,
    /// Bits received, without the preamble and gap between frames.
    pub rx_bps: f64,
    /// Packets sent.
    pub tx_pps: f64,
    /// Bits sent.
    pub tx_bps: f64,
    /// Packets received here and dropped by heddle.
    pub dropped_pps: f64,
    /// Packets that the kernel could not pass to the socket: the fill ring was empty or the RX ring full.
    pub kernel_dropped_pps: f64,
}

/// The rates of one worker.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WorkerRates {
    /// The worker's number.
    pub worker: u8,
    /// Turns of its loop.
    pub turns: f64,
    /// The share of turns that found a packet, 0 to 1.
    pub busy_ratio: f64,
    /// The number of times that it went to sleep.
    pub sleeps: f64,
    /// The number of times that it was woken.
    pub wakeups: f64,
    /// Packets per burst. `None`: there was no burst.
    pub packets_per_burst: Option<f64>,
}

/// One poll as JSON: the status with the rates.
#[derive(Serialize)]
struct Poll<'a> {
    #[serde(flatten)]
    status: &'a Status,
    /// `null` at the first poll.
    rates: Option<&'a Rates>,
}

/// Prints status and rates until Ctrl-C, or until the reader closes the pipe.
///
/// # Errors
/// The agent does not answer, or standard output fails.
pub async fn run(
    run_dir: &Path,
    format: OutputFormat,
    every: Duration,
    out: &mut (impl Write + Send),
) -> Result<(), WatchError> {
    let mut polling = Polling::start(every)?;
    let mut before: Option<(Status, Instant)> = None;
    loop {
        if !polling.next().await {
            return Ok(());
        }
        let status = poll(run_dir).await?;
        let now = Instant::now();
        let rates = before
            .as_ref()
            .map(|(status_before, at)| rates(status_before, &status, now.duration_since(*at)));
        let shown = match (format, &rates) {
            (OutputFormat::Json, rates) => {
                let poll = Poll {
                    status: &status,
                    rates: rates.as_ref(),
                };
                serde_json::to_string(&poll).map_err(StatusError::from)? + "\n"
            }
            (OutputFormat::Text, None) => text(&status),
            (OutputFormat::Text, Some(rates)) => rates_text(rates),
        };
        match out.write_all(shown.as_bytes()).and_then(|()| out.flush()) {
            // The reader has closed the pipe.
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            other => other?,
        }
        before = Some((status, now));
    }
}

/// Asks the agent for its status.
async fn poll(run_dir: &Path) -> Result<Status, StatusError> {
    Ok(Client::connect(run_dir.join(API_SOCKET)).await?.status().await?)
}

/// Returns the rates between two polls. Counters of a port that was reopened and of an agent that was restarted begin at 0.
fn rates(before: &Status, now: &Status, time: Duration) -> Rates {
    let seconds = time.as_secs_f64().max(0.001);
    let per_second = |now: u64, before: u64| now.checked_sub(before).unwrap_or(now) as f64 / seconds;
    let earlier: BTreeMap<_, _> = before.ports.iter().map(|port| (port.port, port)).collect();
    let ports = now.ports.iter().filter_map(|port| {
        let old = earlier.get(&port.port).filter(|old| old.name == port.name)?;
        Some(PortRates {
            port: port.port,
            name: port.name.clone(),
            rx_pps: per_second(port.rx_packets, old.rx_packets),
            rx_bps: 8.0 * per_second(port.rx_bytes, old.rx_bytes),
            tx_pps: per_second(port.tx_packets, old.tx_packets),
            tx_bps: 8.0 * per_second(port.tx_bytes, old.tx_bytes),
            dropped_pps: per_second(port.dropped_total(), old.dropped_total()),
            kernel_dropped_pps: per_second(kernel_drops(&port.xsk), kernel_drops(&old.xsk)),
        })
    });
    let earlier: BTreeMap<_, _> = before.workers.iter().map(|worker| (worker.worker, worker)).collect();
    let received = |status: &Status, worker: u8| -> u64 {
        let ports = status.ports.iter().filter(|port| port.worker == worker);
        ports.map(|port| port.rx_packets).sum()
    };
    let workers = now.workers.iter().filter_map(|worker| {
        let old = earlier.get(&worker.worker)?;
        let turns = per_second(worker.turns, old.turns);
        let bursts = per_second(worker.bursts.values().sum(), old.bursts.values().sum());
        let packets = per_second(received(now, worker.worker), received(before, worker.worker));
        Some(WorkerRates {
            worker: worker.worker,
            turns,
            busy_ratio: if turns > 0.0 {
                per_second(worker.busy_turns, old.busy_turns) / turns
            } else {
                0.0
            },
            sleeps: per_second(worker.sleeps, old.sleeps),
            wakeups: per_second(worker.wakeups, old.wakeups),
            packets_per_burst: (bursts > 0.0).then(|| packets / bursts),
        })
    });
    Rates {
        seconds,
        ports: ports.collect(),
        workers: workers.collect(),
    }
}

/// Returns the packets that the kernel dropped. `rx_dropped` includes those for an empty fill ring.
fn kernel_drops(xsk: &BTreeMap<String, u64>) -> u64 {
    ["rx_dropped", "rx_ring_full"]
        .iter()
        .filter_map(|name| xsk.get(*name))
        .sum()
}

/// Renders the rates for people.
fn rates_text(rates: &Rates) -> String {
    let mut out = String::new();
    let mut workers = table(
        &format!("the last {:.1} s", rates.seconds),
        &["worker", "busy", "turns/s", "sleeps/s", "woken/s", "packets a burst"],
        &mut out,
    );
    for worker in &rates.workers {
        workers.add_row(vec![
            worker.worker.to_string(),
            format!("{:.1} %", worker.busy_ratio * 100.0),
            format!("{:.0}", worker.turns),
            format!("{:.0}", worker.sleeps),
            format!("{:.0}", worker.wakeups),
            worker.packets_per_burst.map_or("-".to_owned(), |n| format!("{n:.1}")),
        ]);
    }
    finish(&workers, 1, &mut out);
    let mut ports = table(
        "",
        &[
            "name",
            "in pkt/s",
            "bit/s",
            "out pkt/s",
            "bit/s",
            "dropped/s",
            "dropped by kernel/s",
        ],
        &mut out,
    );
    for port in &rates.ports {
        let mut row = vec![port.name.clone()];
        row.extend(
            [
                port.rx_pps,
                port.rx_bps,
                port.tx_pps,
                port.tx_bps,
                port.dropped_pps,
                port.kernel_dropped_pps,
            ]
            .map(scaled),
        );
        ports.add_row(row);
    }
    left(&mut ports, 0);
    finish(&ports, 1, &mut out);
    out
}

/// Returns a number with a decimal prefix, such as `1.25 M`.
fn scaled(value: f64) -> String {
    let mut value = value;
    for unit in ["", " k", " M", " G"] {
        if value < 1000.0 {
            return if unit.is_empty() {
                format!("{value:.0}")
            } else {
                format!("{value:.2}{unit}")
            };
        }
        value /= 1000.0;
    }
    format!("{value:.2} T")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(rx: u64, bytes: u64, turns: u64, bursts: u64, name: &str) -> Status {
        serde_json::from_value(serde_json::json!({
            "agent": {"version": "0.1.0", "node": "n1", "pid": 7, "uptime_seconds": 1, "start": 1},
            "source": {"kind": "manifests", "from": "/m", "synced_seconds": 1, "age_seconds": 0},
            "snapshot": {"version": 1, "acknowledged": 1, "age_seconds": 1},
            "workers": [{"worker": 0, "core": 1, "turns": turns, "busy_turns": turns / 2, "sleeps": 3, "wakeups": 2,
                "busy_ratio": 0.5, "bursts": {"64": bursts}, "snapshot": 1, "ports": 1, "handed_over": 0}],
            "ports": [{"port": 64, "name": name, "role": "pod", "interface": "hd2-x", "queue": 0, "worker": 0,
                "rx_packets": rx, "rx_bytes": bytes, "tx_packets": 0, "tx_bytes": 0, "forwarded": rx, "answered": 0,
                "absorbed": 0, "dropped": {"spoofed-source": rx}, "xsk": {"rx_ring_full": rx}, "frames": 64}],
            "tables": {},
            "flows": {"used": 0, "capacity": 4, "inserted": 0, "expired": 0, "refused_full": 0, "refused_quota": 0, "taken_over": 0, "discarded": 0},
            "frames": {"total": 16384, "frame_size": 4096, "max_pods": 128, "holders": []},
            "rejections": [], "rejections_total": 0, "attachments": [],
        }))
        .unwrap()
    }

    #[test]
    fn rates_are_differences_divided_by_time() {
        let two = Duration::from_secs(2);
        let found = rates(
            &status(10, 1000, 100, 5, "a"),
            &status(2_000_010, 129_001_000, 300, 40_005, "a"),
            two,
        );
        let port = &found.ports[0];
        assert_eq!(
            (
                port.rx_pps,
                port.rx_bps,
                port.tx_pps,
                port.dropped_pps,
                port.kernel_dropped_pps
            ),
            (1e6, 516e6, 0.0, 1e6, 1e6)
        );
        let worker = &found.workers[0];
        assert_eq!((worker.turns, worker.busy_ratio, worker.sleeps), (100.0, 0.5, 0.0));
        assert_eq!(worker.packets_per_burst, Some(50.0));
        let shown = rates_text(&found);
        for part in ["the last 2.0 s", "1.00 M", "516.00 M", "50.0 %", "50.0"] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
    }

    #[test]
    fn reset_counters_count_from_zero_and_ports_of_other_pods_are_left_out() {
        let one = Duration::from_secs(1);
        let found = rates(&status(10, 1000, 100, 5, "a"), &status(4, 40, 10, 0, "a"), one);
        assert_eq!(found.ports[0].rx_pps, 4.0);
        assert_eq!(found.workers[0].packets_per_burst, None);
        assert_eq!(rates(&status(1, 1, 1, 1, "a"), &status(2, 2, 2, 2, "b"), one).ports, []);
    }

    #[test]
    fn rates_are_shown_with_prefixes() {
        assert_eq!(
            [0.4, 999.0, 1500.0, 2.5e6, 14.7e9, 3e12].map(scaled),
            ["0", "999", "1.50 k", "2.50 M", "14.70 G", "3.00 T"]
        );
    }
}
