//! `heddle-compare`: compares the pipeline on veths with a bare AF_XDP forwarder and with the kernel, and two nodes with VXLAN between
//! them with two nodes of the kernel, in interleaved rounds. It makes and removes its own namespaces.

use std::error::Error;
use std::fs;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use heddle_bench::cpu::CpuMeter;
use heddle_bench::forwarder::{Forwarder, ForwarderKind};
use heddle_bench::latency::{self, PingPace};
use heddle_bench::load::{self, Cores, Packets};
use heddle_bench::one_node::{self, NodePathsPlan};
use heddle_bench::report::{Report, Series};
use heddle_bench::two_nodes::{self, NodesPlan};
use heddle_bench::veth::{Offload, Scene};
use heddle_bench::{BenchError, Machine, modes, node, tcp};
use heddle_io::XdpConfig;
use heddle_port::BURST;

/// Compares the pipeline on veths with a bare AF_XDP forwarder and with the kernel. Needs root; two free cores help.
#[derive(Parser, Debug)]
#[command(version)]
struct Arguments {
    /// Parts to measure
    #[arg(long, value_delimiter = ',', default_values_t = [Part::Packets, Part::Tcp, Part::Latency])]
    only: Vec<Part>,
    /// Rounds; every path has a turn in each
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Seconds for each run
    #[arg(long, default_value_t = 2.0, value_parser = seconds)]
    seconds: f64,
    /// MTU of the veths, and of the network between two nodes
    #[arg(long, default_value_t = 1500)]
    mtu: u32,
    /// Octets of a generated frame, without FCS
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(44..=1514))]
    frame: u32,
    /// Connections that the generator's frames belong to
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u16).range(1..=60_000))]
    flows: u16,
    /// Core of the worker and of the bare forwarder; of the first node's worker
    #[arg(long, default_value_t = 0)]
    core: usize,
    /// Core of the generator; of the second node's worker
    #[arg(long, default_value_t = 1)]
    generator_core: usize,
    /// Numbers of TCP streams side by side (part `streams`)
    #[arg(long, value_delimiter = ',', default_values_t = [1, 8])]
    streams: Vec<usize>,
    /// Keys of the agents' configuration, as KEY: VALUE (parts `streams` and `nodes`)
    #[arg(long)]
    set: Vec<String>,
    /// Also write the report as JSON to this file
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Part {
    Packets,
    Tcp,
    Latency,
    /// Pods' ports in native and in generic mode, small packets
    Modes,
    /// Two nodes; needs `heddle` and `heddle-cni` in the folder of this binary
    Nodes,
    /// TCP streams of one node's pods, with each other and with the outside; needs the same
    Streams,
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Packets => "packets",
            Self::Tcp => "tcp",
            Self::Latency => "latency",
            Self::Modes => "modes",
            Self::Nodes => "nodes",
            Self::Streams => "streams",
        })
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(value) if (0.1..=60.0).contains(&value) => Ok(value),
        _ => Err("between 0.1 and 60".to_owned()),
    }
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Standard error may be closed.
            let _ = writeln!(io::stderr(), "heddle-compare: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let mut scene = Scene::new(arguments.mtu)?;
    let config = XdpConfig::default();
    let time = Duration::from_secs_f64(arguments.seconds);
    let mut report = Report {
        machine: Machine::detect(),
        mode: "veth, native XDP, AF_XDP copy mode",
        batch: BURST,
        memory: (config.frame_size, config.frames),
        mtu: arguments.mtu,
        cores: Cores {
            forwarder: arguments.core,
            generator: arguments.generator_core,
        },
        packets: Packets {
            frame: arguments.frame as usize,
            flows: arguments.flows,
            time,
        },
        load: Vec::new(),
        tcp: Vec::new(),
        latency: Vec::new(),
        nodes: None,
        streams: None,
        modes: None,
    };
    let config: String = arguments.set.iter().map(|key| format!("{key}\n")).collect();
    let paths = NodePathsPlan {
        core: arguments.core,
        config: config.clone(),
        rounds: arguments.rounds,
        time,
        streams: arguments.streams.clone(),
    };
    let nodes = NodesPlan {
        cores: [arguments.core, arguments.generator_core],
        mtu: arguments.mtu,
        rounds: arguments.rounds,
        time,
    };
    for part in &arguments.only {
        print_progress(&format!("{part} ..."));
        match part {
            Part::Packets => packets(&scene, &mut report, arguments.rounds)?,
            Part::Tcp => streams(&scene, &mut report, arguments.rounds, time)?,
            Part::Latency => ping_pong(&scene, &mut report, arguments.rounds, time)?,
            Part::Modes => {
                let (rounds, core) = (arguments.rounds, arguments.core);
                report.modes = Some(modes::measure(&mut scene, rounds, time, core, &print_progress)?);
            }
            Part::Nodes => report.nodes = Some(two_nodes::measure(&nodes, &config, &print_progress)?),
            Part::Streams => report.streams = Some(one_node::measure(&paths, &print_progress)?),
        }
    }
    if let Some(path) = &arguments.json {
        fs::write(path, serde_json::to_string_pretty(&report)? + "\n")
            .map_err(|error| format!("writing {}: {error}", path.display()))?;
    }
    write!(io::stdout(), "{report}")?;
    Ok(())
}

/// Prints progress to standard error, so that standard output contains only the report.
fn print_progress(what: &str) {
    // Standard error may be closed.
    let _ = writeln!(io::stderr(), "{what}");
}

fn series<T>(paths: &[&str]) -> Vec<Series<T>> {
    paths
        .iter()
        .map(|path| Series {
            path: (*path).to_owned(),
            runs: Vec::new(),
        })
        .collect()
}

fn push<T>(all: &mut [Series<T>], path: &str, run: T) {
    if let Some(series) = all.iter_mut().find(|s| s.path == path) {
        series.runs.push(run);
    }
}

fn packets(scene: &Scene, report: &mut Report, rounds: u32) -> Result<(), BenchError> {
    const PATHS: [(&str, ForwarderKind); 2] = [("bare", ForwarderKind::Bare), ("pipeline", ForwarderKind::Polling)];
    report.load = series(&PATHS.map(|(path, _)| path));
    let _dropping = load::drop_arrivals(scene)?;
    for _ in 0..rounds {
        for (path, kind) in PATHS {
            let run = load::run(scene, kind, report.packets, report.cores)?;
            print_progress(&format!(
                "  {path}: {:.3} Mpps of {:.3} offered",
                run.received / 1e6,
                run.offered / 1e6
            ));
            push(&mut report.load, path, run);
        }
    }
    Ok(())
}

/// A path of the packets, and the address that they are sent to.
struct Path {
    name: &'static str,
    forwarder: Option<ForwarderKind>,
    to: SocketAddr,
}

/// Returns the paths: each forwarder to the server's own address, the pipeline also to a Service, and the kernel.
fn paths(scene: &Scene, kinds: &[(&'static str, ForwarderKind)], service: bool) -> Result<Vec<Path>, BenchError> {
    let server = scene.server();
    let pod = SocketAddr::new(server.pod.ip.to_std(), node::TARGET_PORT);
    let mut paths: Vec<Path> = kinds
        .iter()
        .map(|(name, kind)| Path {
            name,
            forwarder: Some(*kind),
            to: pod,
        })
        .collect();
    if service {
        let to = SocketAddr::new(node::service_ip(0).to_std(), node::SERVICE_PORT);
        paths.push(Path {
            name: "pipeline, ClusterIP",
            forwarder: Some(ForwarderKind::Polling),
            to,
        });
    }
    let kernel: IpAddr = server.kernel_ip.parse().map_err(|_| BenchError::Unexpected {
        what: "the server's address on the kernel's path".to_owned(),
        expected: "an address".to_owned(),
        got: server.kernel_ip.clone(),
    })?;
    paths.push(Path {
        name: "kernel",
        forwarder: None,
        to: SocketAddr::new(kernel, node::TARGET_PORT),
    });
    Ok(paths)
}

/// Runs `measure` while a path's forwarder runs.
fn with_forwarder<T>(
    scene: &Scene,
    path: &Path,
    core: usize,
    measure: impl FnOnce() -> Result<T, BenchError>,
) -> Result<T, BenchError> {
    // The bare forwarder does not finish checksums, so the pod has to.
    scene.offload(if path.forwarder == Some(ForwarderKind::Bare) {
        Offload::Off
    } else {
        Offload::On
    })?;
    let forwarder = path
        .forwarder
        .map(|kind| Forwarder::start(scene, kind, core))
        .transpose()?;
    let result = measure()?;
    if let Some(forwarder) = forwarder {
        let seen = forwarder.finish()?;
        for (reason, count) in seen.drops {
            print_progress(&format!("  {}: dropped {reason}: {count}", path.name));
        }
    }
    Ok(result)
}

fn streams(scene: &Scene, report: &mut Report, rounds: u32, time: Duration) -> Result<(), BenchError> {
    let paths = paths(
        scene,
        &[("bare", ForwarderKind::Bare), ("pipeline", ForwarderKind::Polling)],
        true,
    )?;
    let meter = CpuMeter::new([])?;
    report.tcp = series(&paths.iter().map(|path| path.name).collect::<Vec<_>>());
    for _ in 0..rounds {
        for path in &paths {
            let measure = || tcp::stream(scene.ends(), path.to, node::TARGET_PORT, time, &meter);
            let rate = with_forwarder(scene, path, report.cores.forwarder, measure)?.rate;
            print_progress(&format!("  {}: {:.2} Gbit/s", path.name, rate / 1e9));
            push(&mut report.tcp, path.name, rate);
        }
    }
    Ok(())
}

fn ping_pong(scene: &Scene, report: &mut Report, rounds: u32, time: Duration) -> Result<(), BenchError> {
    const PAUSE: Duration = Duration::from_millis(5);
    let kinds = [
        ("bare", ForwarderKind::Bare),
        ("pipeline", ForwarderKind::Polling),
        ("pipeline, may sleep", ForwarderKind::Sleeping),
    ];
    let paths = paths(scene, &kinds, false)?;
    let paced = |path: &Path| format!("{}, after {} ms", path.name, PAUSE.as_millis());
    let names: Vec<String> = paths
        .iter()
        .map(|path| path.name.to_owned())
        .chain(paths.iter().map(paced))
        .collect();
    report.latency = series(&names.iter().map(String::as_str).collect::<Vec<_>>());
    // The numbers of rounds make each run last about the requested time.
    let rapid = PingPace {
        rounds: (time.as_secs_f64() * 20_000.0) as usize,
        pause: Duration::ZERO,
    };
    let slow = PingPace {
        rounds: (time.as_secs_f64() / 0.0055) as usize,
        pause: PAUSE,
    };
    for _ in 0..rounds {
        for path in &paths {
            for (name, pace) in [(path.name.to_owned(), rapid), (paced(path), slow)] {
                let measure = || latency::ping_pong(scene.ends(), path.to, node::TARGET_PORT, pace);
                let times = with_forwarder(scene, path, report.cores.forwarder, measure)?;
                print_progress(&format!("  {name}: p50 {:.1} us, p99 {:.1} us", times.p50, times.p99));
                push(&mut report.latency, &name, times);
            }
        }
    }
    Ok(())
}
