//! Instructions per packet, counted by callgrind: the gate against regressions. The counts are the same on every machine with the
//! same compiler.
//!
//! Each bench runs one burst of 64 packets through the stages. `budget.toml` contains the limits. Needs valgrind and
//! gungraun-runner.

#![allow(missing_docs, reason = "gungraun's macros generate these items")]
#![allow(clippy::expect_used, reason = "a bench without its setup has no result")]

use gungraun::prelude::*;
use gungraun::{Callgrind, EventKind};
use heddle_bench::frames::Checksum;
use heddle_bench::memory::{Burst, Connections, Load, Way};
use serde::Deserialize;

const BUDGET: &str = include_str!("../budget.toml");

#[derive(Deserialize)]
struct Budget {
    tolerance_percent: f64,
    instructions_per_packet: std::collections::BTreeMap<String, f64>,
}

/// Returns the configuration with the limit of one bench, for its burst of 64.
fn limit(name: &str) -> LibraryBenchmarkConfig {
    let budget: Budget = toml::from_str(BUDGET).expect("budget.toml can be read");
    let allowed = budget
        .instructions_per_packet
        .get(name)
        .expect("the bench stands in budget.toml");
    let burst = allowed * 64.0 * (1.0 + budget.tolerance_percent / 100.0);
    let mut config = LibraryBenchmarkConfig::default();
    config.tool(Callgrind::default().hard_limits([(EventKind::Ir, burst as u64)]));
    config
}

/// Returns a prepared burst, after 32 earlier ones have warmed up caches and tables. It is boxed, so that a move copies only a
/// pointer and is not counted.
fn ready(load: Load) -> Box<Burst> {
    let mut burst = Box::new(Burst::new(load).expect("the pipeline in memory"));
    for _ in 0..32 {
        burst.prepare();
        burst.process();
        burst.finish_burst().expect("every packet is forwarded");
    }
    burst.prepare();
    burst
}

fn established() -> Box<Burst> {
    ready(Load::new(Connections::Established(1000)))
}

fn partial() -> Box<Burst> {
    ready(Load {
        checksum: Checksum::Partial,
        ..Load::new(Connections::Established(1000))
    })
}

fn tunnelled(way: Way) -> Box<Burst> {
    ready(Load {
        way,
        ..Load::new(Connections::Established(1000))
    })
}

fn leaving() -> Box<Burst> {
    tunnelled(Way::Encapsulated)
}

fn answers() -> Box<Burst> {
    tunnelled(Way::Decapsulated)
}

fn fresh() -> Box<Burst> {
    ready(Load::new(Connections::New(8192)))
}

#[library_benchmark(config = limit("hit"))]
#[bench::burst_of_64(setup = established)]
fn hit(mut burst: Box<Burst>) -> Box<Burst> {
    burst.process();
    burst
}

#[library_benchmark(config = limit("hit_partial"))]
#[bench::burst_of_64(setup = partial)]
fn hit_partial(mut burst: Box<Burst>) -> Box<Burst> {
    burst.process();
    burst
}

#[library_benchmark(config = limit("encapsulated"))]
#[bench::burst_of_64(setup = leaving)]
fn encapsulated(mut burst: Box<Burst>) -> Box<Burst> {
    burst.process();
    burst
}

#[library_benchmark(config = limit("decapsulated"))]
#[bench::burst_of_64(setup = answers)]
fn decapsulated(mut burst: Box<Burst>) -> Box<Burst> {
    burst.process();
    burst
}

#[library_benchmark(config = limit("new"))]
#[bench::burst_of_64(setup = fresh)]
fn new(mut burst: Box<Burst>) -> Box<Burst> {
    burst.process();
    burst
}

library_benchmark_group!(
    name = pipeline,
    benchmarks = [hit, hit_partial, encapsulated, decapsulated, new]
);
gungraun::main!(library_benchmark_groups = pipeline);
