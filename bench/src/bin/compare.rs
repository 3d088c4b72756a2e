//! `heddle-compare`: the pipeline on veths beside a bare AF_XDP forwarder and the kernel, interleaved, in namespaces that
//! it makes and removes.

use std::error::Error;
use std::fs;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use heddle_bench::latency::{self, Rhythm};
use heddle_bench::load::{self, Cores, Packets};
use heddle_bench::plane::{Kind, Plane};
use heddle_bench::report::{Report, Series};
use heddle_bench::veth::{Offload, Scene};
use heddle_bench::{BenchError, Machine, node, tcp};
use heddle_io::XdpConfig;
use heddle_port::BURST;

/// Measures the pipeline on veths beside a bare AF_XDP forwarder and the kernel. Needs root; two free cores help.
#[derive(Parser, Debug)]
#[command(version)]
struct Arguments {
    /// What to measure
    #[arg(long, value_delimiter = ',', default_values_t = [Part::Packets, Part::Tcp, Part::Latency])]
    only: Vec<Part>,
    /// Rounds, in each of which every way has its turn
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Seconds of each run
    #[arg(long, default_value_t = 2.0, value_parser = seconds)]
    seconds: f64,
    /// MTU of the veths
    #[arg(long, default_value_t = 1500)]
    mtu: u32,
    /// Octets of a generated frame, without FCS
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(44..=1514))]
    frame: u32,
    /// Connections that the generator's frames belong to
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u16).range(1..=60_000))]
    flows: u16,
    /// Core of the worker and of the bare forwarder
    #[arg(long, default_value_t = 0)]
    core: usize,
    /// Core of the generator
    #[arg(long, default_value_t = 1)]
    generator_core: usize,
    /// Where to write the report as JSON as well
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Part {
    Packets,
    Tcp,
    Latency,
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Packets => "packets",
            Self::Tcp => "tcp",
            Self::Latency => "latency",
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
            // Nobody may be listening.
            let _ = writeln!(io::stderr(), "heddle-compare: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let scene = Scene::new(arguments.mtu)?;
    let config = XdpConfig::default();
    let time = Duration::from_secs_f64(arguments.seconds);
    let mut report = Report {
        machine: Machine::look(),
        mode: "veth, native XDP, AF_XDP copy mode",
        batch: BURST,
        memory: (config.frame_size, config.frames),
        mtu: arguments.mtu,
        cores: Cores {
            plane: arguments.core,
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
    };
    for part in &arguments.only {
        say(&format!("{part} ..."));
        match part {
            Part::Packets => packets(&scene, &mut report, arguments.rounds)?,
            Part::Tcp => streams(&scene, &mut report, arguments.rounds, time)?,
            Part::Latency => ping_pong(&scene, &mut report, arguments.rounds, time)?,
        }
    }
    if let Some(path) = &arguments.json {
        fs::write(path, serde_json::to_string_pretty(&report)? + "\n")
            .map_err(|error| format!("writing {}: {error}", path.display()))?;
    }
    write!(io::stdout(), "{report}")?;
    Ok(())
}

/// Progress, on standard error, so that the report stays alone.
fn say(what: &str) {
    // Nobody may be listening.
    let _ = writeln!(io::stderr(), "{what}");
}

fn series<T>(ways: &[&str]) -> Vec<Series<T>> {
    ways.iter()
        .map(|way| Series {
            way: (*way).to_owned(),
            runs: Vec::new(),
        })
        .collect()
}

fn push<T>(all: &mut [Series<T>], way: &str, run: T) {
    if let Some(series) = all.iter_mut().find(|s| s.way == way) {
        series.runs.push(run);
    }
}

fn packets(scene: &Scene, report: &mut Report, rounds: u32) -> Result<(), BenchError> {
    const WAYS: [(&str, Kind); 2] = [("bare", Kind::Bare), ("pipeline", Kind::Polling)];
    report.load = series(&WAYS.map(|(way, _)| way));
    let _deaf = load::deafen(scene)?;
    for _ in 0..rounds {
        for (way, kind) in WAYS {
            let run = load::run(scene, kind, report.packets, report.cores)?;
            say(&format!(
                "  {way}: {:.3} Mpps of {:.3} offered",
                run.received / 1e6,
                run.offered / 1e6
            ));
            push(&mut report.load, way, run);
        }
    }
    Ok(())
}

/// By which way packets go, and to which address.
struct Way {
    name: &'static str,
    plane: Option<Kind>,
    to: SocketAddr,
}

/// The ways: the server's own address by each, and through a Service by the pipeline.
fn ways(scene: &Scene, kinds: &[(&'static str, Kind)], service: bool) -> Result<Vec<Way>, BenchError> {
    let server = scene.server();
    let pod = SocketAddr::new(server.pod.ip.to_std(), node::TARGET_PORT);
    let mut ways: Vec<Way> = kinds
        .iter()
        .map(|(name, kind)| Way {
            name,
            plane: Some(*kind),
            to: pod,
        })
        .collect();
    if service {
        let to = SocketAddr::new(node::service_ip(0).to_std(), node::SERVICE_PORT);
        ways.push(Way {
            name: "pipeline, ClusterIP",
            plane: Some(Kind::Polling),
            to,
        });
    }
    let kernel: IpAddr = server.kernel_ip.parse().map_err(|_| BenchError::Unexpected {
        what: "the server's address on the kernel's way".to_owned(),
        expected: "an address".to_owned(),
        got: server.kernel_ip.clone(),
    })?;
    ways.push(Way {
        name: "kernel",
        plane: None,
        to: SocketAddr::new(kernel, node::TARGET_PORT),
    });
    Ok(ways)
}

/// Runs something with a way's plane in place.
fn by<T>(
    scene: &Scene,
    way: &Way,
    core: usize,
    measure: impl FnOnce() -> Result<T, BenchError>,
) -> Result<T, BenchError> {
    // The bare forwarder does not look at checksums: the pod finishes them.
    scene.offload(if way.plane == Some(Kind::Bare) {
        Offload::Off
    } else {
        Offload::On
    })?;
    let plane = way.plane.map(|kind| Plane::start(scene, kind, core)).transpose()?;
    let result = measure()?;
    if let Some(plane) = plane {
        let seen = plane.finish()?;
        for (reason, count) in seen.drops {
            say(&format!("  {}: dropped {reason}: {count}", way.name));
        }
    }
    Ok(result)
}

fn streams(scene: &Scene, report: &mut Report, rounds: u32, time: Duration) -> Result<(), BenchError> {
    let ways = ways(scene, &[("bare", Kind::Bare), ("pipeline", Kind::Polling)], true)?;
    report.tcp = series(&ways.iter().map(|way| way.name).collect::<Vec<_>>());
    for _ in 0..rounds {
        for way in &ways {
            let measure = || tcp::stream(scene, way.to, node::TARGET_PORT, time);
            let rate = by(scene, way, report.cores.plane, measure)?;
            say(&format!("  {}: {:.2} Gbit/s", way.name, rate / 1e9));
            push(&mut report.tcp, way.name, rate);
        }
    }
    Ok(())
}

fn ping_pong(scene: &Scene, report: &mut Report, rounds: u32, time: Duration) -> Result<(), BenchError> {
    const PAUSE: Duration = Duration::from_millis(5);
    let kinds = [
        ("bare", Kind::Bare),
        ("pipeline", Kind::Polling),
        ("pipeline, may sleep", Kind::Sleeping),
    ];
    let ways = ways(scene, &kinds, false)?;
    let paced = |way: &Way| format!("{}, after {} ms", way.name, PAUSE.as_millis());
    let names: Vec<String> = ways
        .iter()
        .map(|way| way.name.to_owned())
        .chain(ways.iter().map(paced))
        .collect();
    report.latency = series(&names.iter().map(String::as_str).collect::<Vec<_>>());
    // So many rounds that they take about the time asked for.
    let rapid = Rhythm {
        rounds: (time.as_secs_f64() * 20_000.0) as usize,
        pause: Duration::ZERO,
    };
    let slow = Rhythm {
        rounds: (time.as_secs_f64() / 0.0055) as usize,
        pause: PAUSE,
    };
    for _ in 0..rounds {
        for way in &ways {
            for (name, rhythm) in [(way.name.to_owned(), rapid), (paced(way), slow)] {
                let measure = || latency::ping_pong(scene, way.to, node::TARGET_PORT, rhythm);
                let times = by(scene, way, report.cores.plane, measure)?;
                say(&format!("  {name}: p50 {:.1} us, p99 {:.1} us", times.p50, times.p99));
                push(&mut report.latency, &name, times);
            }
        }
    }
    Ok(())
}
