//! Small packets with pods' ports in native and in generic mode. Sockets send them, because the generator's frames enter a veth only
//! if its driver runs a program. The server drops what arrives in an nftables hook.
//!
//! The mode decides what the sender's system call costs: the kernel runs the XDP program, and copies the packet into the port's ring,
//! within it. So the figure that other work on the machine disturbs least is the processor time of the sender's thread.

use std::fmt;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use heddle_io::XdpMode;
use heddle_lab::LabError;
use nix::time::{ClockId, clock_gettime};
use serde::Serialize;

use crate::forwarder::{Forwarder, ForwarderKind};
use crate::latency::{self, PingPace, RoundTrips};
use crate::veth::{Offload, Scene};
use crate::{BenchError, load, node, stats};

/// The modes in their turn.
const MODES: [XdpMode; 2] = [XdpMode::Native, XdpMode::Generic];
/// Connections of the datagrams.
const CONNECTIONS: usize = 64;
/// The octets of a datagram: with UDP, IPv4 and Ethernet headers a frame of 64 octets, without FCS.
const SIZE: usize = 22;
/// The time before the measurement, in which connections open and rings grow.
const WARM_UP: Duration = Duration::from_millis(200);

/// One run in one mode.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ModeRun {
    /// Processor time of the sender's thread for each packet, in nanoseconds.
    pub sender: f64,
    /// Packets sent a second.
    pub offered: f64,
    /// Packets a second that the server's interface received.
    pub received: f64,
    /// Round trips.
    pub trips: RoundTrips,
}

/// The results of both modes.
#[derive(Clone, Debug, Serialize)]
pub struct ModesReport(Vec<ModeRuns>);

/// The runs of one mode.
#[derive(Clone, Debug, Serialize)]
struct ModeRuns {
    mode: String,
    runs: Vec<ModeRun>,
}

impl ModeRuns {
    fn median(&self, number: impl Fn(&ModeRun) -> f64) -> f64 {
        stats::median(&self.runs.iter().map(number).collect::<Vec<f64>>())
    }
}

/// Measures the pipeline between the scene's pods in both modes, in turn.
///
/// # Errors
/// AF_XDP or a socket cannot be used.
pub fn measure(
    scene: &mut Scene,
    rounds: u32,
    time: Duration,
    core: usize,
    progress: &dyn Fn(&str),
) -> Result<ModesReport, BenchError> {
    scene.offload(Offload::On)?;
    let mut all: Vec<ModeRuns> = MODES
        .iter()
        .map(|mode| ModeRuns {
            mode: mode.to_string(),
            runs: Vec::new(),
        })
        .collect();
    for _ in 0..rounds {
        for (mode, all) in MODES.into_iter().zip(&mut all) {
            scene.mode = mode;
            let run = one_run(scene, time, core)?;
            progress(&format!(
                "  {mode}: sender {:.0} ns a packet, {:.3} Mpps of {:.3} offered, p50 {:.1} us",
                run.sender,
                run.received / 1e6,
                run.offered / 1e6,
                run.trips.p50
            ));
            all.runs.push(run);
        }
    }
    scene.mode = XdpMode::Native;
    Ok(ModesReport(all))
}

/// Measures the scene's mode once.
fn one_run(scene: &Scene, time: Duration, core: usize) -> Result<ModeRun, BenchError> {
    let to = SocketAddr::new(scene.server().pod.ip.to_std(), node::TARGET_PORT);
    let forwarder = Forwarder::start(scene, ForwarderKind::Polling, core)?;
    let sockets = scene.client().ns.enter(|| {
        let connected = (0..CONNECTIONS).map(|_| {
            let socket = UdpSocket::bind(SocketAddr::from(([0, 0, 0, 0], 0))).map_err(LabError::io("a UDP socket"))?;
            socket.connect(to).map_err(LabError::io(format!("UDP to {to}")))?;
            Ok(socket)
        });
        connected.collect::<Result<Vec<_>, LabError>>()
    })?;
    let io = |error| BenchError::io(format!("datagrams to {to}"))(error);
    let dropping = load::drop_arrivals(scene)?;
    burst(&sockets, WARM_UP).map_err(io)?;
    let (before, began) = (scene.server().received()?, Instant::now());
    let cpu = thread_time()?;
    let sent = burst(&sockets, time).map_err(io)?;
    let cpu = thread_time()?.saturating_sub(cpu);
    let took = began.elapsed().as_secs_f64();
    let received = scene.server().received()? - before;
    drop(dropping);
    let pace = PingPace {
        rounds: (time.as_secs_f64() * 10_000.0) as usize,
        pause: Duration::ZERO,
    };
    let trips = latency::ping_pong(scene.ends(), to, node::TARGET_PORT, pace)?;
    forwarder.finish()?;
    Ok(ModeRun {
        sender: cpu.as_nanos() as f64 / sent as f64,
        offered: sent as f64 / took,
        received: received as f64 / took,
        trips,
    })
}

/// Sends for a time, by each socket in turn. Returns the number of datagrams.
fn burst(sockets: &[UdpSocket], time: Duration) -> std::io::Result<u64> {
    let began = Instant::now();
    let mut sent = 0_u64;
    for socket in sockets.iter().cycle() {
        if began.elapsed() >= time {
            break;
        }
        match socket.send(&[0x5a; SIZE]) {
            Ok(_) => sent += 1,
            // A queue on the way is full: the datagram was not sent.
            Err(error) if error.raw_os_error() == Some(nix::libc::ENOBUFS) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(sent)
}

/// Returns the processor time that the calling thread has used.
fn thread_time() -> Result<Duration, BenchError> {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)
        .map(Duration::from)
        .map_err(BenchError::nix("CLOCK_THREAD_CPUTIME_ID"))
}

impl fmt::Display for ModesReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\nmodes of the pods' ports: the pipeline, 64-octet UDP frames from sockets, {CONNECTIONS} connections"
        )?;
        let [sender, offered, received, p50, p99] =
            ["sender ns/packet", "offered Mpps", "received Mpps", "p50 us", "p99 us"];
        writeln!(
            f,
            "  {:<10} {sender:>16} {offered:>13} {received:>13} {p50:>8} {p99:>8}",
            ""
        )?;
        for mode in &self.0 {
            writeln!(
                f,
                "  {:<10} {:>16.0} {:>13.3} {:>13.3} {:>8.1} {:>8.1}",
                mode.mode,
                mode.median(|run| run.sender),
                mode.median(|run| run.offered) / 1e6,
                mode.median(|run| run.received) / 1e6,
                mode.median(|run| run.trips.p50),
                mode.median(|run| run.trips.p99),
            )?;
        }
        Ok(())
    }
}
