//! `heddle-pktgen`: measures how many frames per second one core can send into a veth on this machine.
//!
//! It makes its own namespaces. The bare forwarder receives the frames at the other end; its socket drops the excess.

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clap::Parser;
use heddle_bench::forwarder::{self, Forwarder, ForwarderKind};
use heddle_bench::frames::{self, Checksum, Ends};
use heddle_bench::veth::Scene;
use heddle_bench::{Machine, load, node};
use heddle_io::pktgen::{self, Traffic};
use heddle_wire::MacAddr;

/// Sends UDP frames into a veth by BPF_PROG_RUN on live frames and prints the rate. Needs root.
#[derive(Parser, Debug)]
#[command(version)]
struct Arguments {
    /// Octets of a frame, without FCS
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(44..=1514))]
    frame: u32,
    /// Connections, each with its own source port
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u16).range(1..=60_000))]
    flows: u16,
    /// Most frames to send
    #[arg(long, default_value_t = 100_000_000)]
    count: u64,
    /// Longest time to send, in seconds
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,
    /// Core of the generator
    #[arg(long, default_value_t = 1)]
    core: usize,
    /// Core of the forwarder at the other end
    #[arg(long, default_value_t = 0)]
    forwarder_core: usize,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Standard error may be closed.
            let _ = writeln!(io::stderr(), "heddle-pktgen: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let scene = Scene::new(1500)?;
    let _dropping = load::drop_arrivals(&scene)?;
    let forwarder = Forwarder::start(&scene, ForwarderKind::Bare, arguments.forwarder_core)?;
    let client = scene.client();
    let ends = Ends {
        macs: (client.pod.mac, MacAddr::GATEWAY),
        ips: (client.pod.ip, node::service_ip(0)),
        ports: (1024, node::SERVICE_PORT),
    };
    let frame = frames::udp(&ends, arguments.frame as usize, Checksum::Finished);
    let ifindex = client.ifindex()?;
    let before = scene.server().received()?;
    let sent = client.ns.enter(|| {
        let traffic = Traffic {
            ifindex,
            frame: &frame,
            first_port: 1024,
            ports: arguments.flows,
            count: arguments.count,
            time: Duration::from_secs(arguments.seconds),
        };
        Ok(forwarder::pin_to_core(arguments.core).map(|()| pktgen::send(&traffic, &AtomicBool::new(false))))
    })???;
    let forwarded = scene.server().received()? - before;
    forwarder.finish()?;
    let rate = sent.frames as f64 / sent.time.as_secs_f64() / 1e6;
    writeln!(
        io::stdout(),
        "{}\nveth, BPF_PROG_RUN live frames, {}-octet UDP frames, {} flows: {} frames in {:.3} s, {rate:.3} Mpps offered; \
         {forwarded} forwarded",
        Machine::detect(),
        arguments.frame,
        arguments.flows,
        sent.frames,
        sent.time.as_secs_f64()
    )?;
    Ok(())
}
