//! The pipeline in memory with criterion: time, ticks and allocations per packet.
//!
//! The `process` cases time each burst alone, without the writing of its frames. The `turn` cases time a whole worker; the cost of
//! the stand-in port is a case of its own. A table follows criterion's output.

#![allow(clippy::print_stdout, reason = "a bench prints its result")]
#![allow(clippy::expect_used, reason = "a bench without its setup has no result")]

use std::cell::RefCell;
use std::time::Duration;

use criterion::{Criterion, Throughput};
use heddle_bench::frames::Checksum;
use heddle_bench::memory::turn::Turn;
use heddle_bench::memory::{Burst, Connections, FRAME_SIZE, Load, ROTATION, Way};
use heddle_bench::ticks::Ticks;
use heddle_bench::{Machine, stats};

/// The number of bursts over which allocations are counted.
const COUNTED: u64 = 1000;
/// The most bursts whose times are kept.
const SAMPLES: usize = 1 << 20;
/// The rounds of the comparison of tunnels: each round times one burst of each way.
const ROUNDS: usize = 20_000;
/// The filter that selects the comparison of tunnels alone.
const TUNNELS: &str = "tunnels";

struct Row {
    name: String,
    /// The ticks of each burst, sorted.
    ticks: Vec<u32>,
    burst: usize,
    allocations: f64,
}

struct Suite {
    criterion: Criterion,
    ticks: Ticks,
    rows: Vec<Row>,
}

impl Suite {
    /// Times a closure that runs a burst and returns its ticks. `make` runs only if criterion's filter selects the case.
    fn case<F: FnMut() -> u64>(&mut self, name: &str, burst: usize, make: impl FnOnce(&Ticks) -> F) {
        let (mut make, mut made) = (Some(make), None);
        let samples = RefCell::new(Vec::with_capacity(SAMPLES));
        let ticks = &self.ticks;
        let mut group = self.criterion.benchmark_group("pipeline");
        group.throughput(Throughput::Elements(burst as u64));
        group.bench_function(name, |b| {
            if let Some(make) = make.take() {
                made = Some(make(ticks));
            }
            let Some(once) = &mut made else { return };
            b.iter_custom(|bursts| {
                let mut samples = samples.borrow_mut();
                let mut total = 0;
                for _ in 0..bursts {
                    let took = once();
                    total += took;
                    if samples.len() < SAMPLES {
                        samples.push(took as u32);
                    }
                }
                ticks.duration(total)
            });
        });
        group.finish();
        let Some(mut once) = made else { return };
        let counted = allocation_counter::measure(|| {
            for _ in 0..COUNTED {
                once();
            }
        });
        let allocations = counted.count_total as f64 / (COUNTED as f64 * burst as f64);
        let mut ticks = samples.into_inner();
        ticks.sort_unstable();
        self.rows.push(Row {
            name: name.to_owned(),
            ticks,
            burst,
            allocations,
        });
    }

    fn process(&mut self, name: &str, load: Load) {
        self.case(name, load.burst, |ticks| {
            let ticks = ticks.clone();
            let mut burst = Burst::new(load).expect("the pipeline in memory");
            move || {
                burst.prepare();
                let before = ticks.now();
                burst.process();
                let after = ticks.now();
                burst.finish_burst().expect("every packet is forwarded");
                after.wrapping_sub(before)
            }
        });
    }

    fn turn(&mut self, name: &str, load: Load) {
        self.case(&format!("turn/{name}"), load.burst, |ticks| {
            let ticks = ticks.clone();
            let mut turn = Turn::new(load).expect("a worker in memory");
            move || {
                let before = ticks.now();
                turn.turn();
                let after = ticks.now();
                turn.check().expect("every packet is forwarded");
                after.wrapping_sub(before)
            }
        });
        self.case(&format!("turn/{name}, the stand-in port alone"), load.burst, |ticks| {
            let ticks = ticks.clone();
            let mut turn = Turn::new(load).expect("a worker in memory");
            move || {
                let before = ticks.now();
                turn.stand_in();
                ticks.now().wrapping_sub(before)
            }
        });
    }

    fn print(&self) {
        let tsc = if self.ticks.is_tsc() {
            "TSC"
        } else {
            "no TSC: the clock's nanoseconds"
        };
        println!("\n{}", Machine::detect());
        println!(
            "in memory, no system call; 64-octet UDP frames without FCS in frames of {FRAME_SIZE} octets, {ROTATION} in \
             rotation; bursts of 64; {tsc} {:.0} MHz; per packet, from the times of single bursts",
            self.ticks.mhz()
        );
        let head = ["ns", "ticks", "ticks p10", "ticks p90", "Mpps", "allocations"];
        let [ns, ticks, low, high, mpps, allocations] = head;
        println!(
            "{:<48} {ns:>7} {ticks:>7} {low:>10} {high:>10} {mpps:>7} {allocations:>12}",
            ""
        );
        for Row {
            name,
            ticks,
            burst,
            allocations,
        } in &self.rows
        {
            let [low, median, high] =
                [0.1, 0.5, 0.9].map(|p| f64::from(stats::percentile::<u32>(ticks, p)) / *burst as f64);
            let ns = self.ticks.nanos(median);
            let mpps = 1000.0 / ns;
            println!("{name:<48} {ns:>7.1} {median:>7.1} {low:>10.1} {high:>10.1} {mpps:>7.2} {allocations:>12}");
        }
    }
}

/// Times flow hits through Services to servers of this node, to servers behind a tunnel, and of their answers, burst by burst in turn,
/// and prints the ticks of a packet and their ratio to the first.
fn compare_tunnels(ticks: &Ticks) -> Result<(), heddle_bench::BenchError> {
    println!(
        "\nflow hits with and without a VXLAN tunnel over IPv4, one burst of each in turn, {ROUNDS} rounds; medians"
    );
    println!(
        "{:<32} {:>7} {:>10} {:>10} {:>7}",
        "", "ticks", "ticks p10", "ticks p90", "ratio"
    );
    for flows in [1000, 100_000] {
        let ways = [
            ("local", Way::Local),
            ("encapsulated", Way::Encapsulated),
            ("decapsulated", Way::Decapsulated),
        ];
        let mut bursts = Vec::new();
        for (_, way) in ways {
            let connections = Connections::Established(flows);
            let burst = Burst::new(Load {
                way,
                ..Load::new(connections)
            })?;
            bursts.push((burst, Vec::with_capacity(ROUNDS)));
        }
        for _ in 0..ROUNDS {
            for (burst, samples) in &mut bursts {
                burst.prepare();
                let before = ticks.now();
                burst.process();
                let after = ticks.now();
                burst.finish_burst()?;
                samples.push(after.wrapping_sub(before) as u32);
            }
        }
        let mut first = None;
        for ((name, _), (burst, samples)) in ways.into_iter().zip(&mut bursts) {
            samples.sort_unstable();
            let [low, median, high] =
                [0.1, 0.5, 0.9].map(|p| f64::from(stats::percentile::<u32>(samples, p)) / burst.burst() as f64);
            let ratio = median / *first.get_or_insert(median);
            let name = format!("{flows} flows, {name}");
            println!("{name:<32} {median:>7.1} {low:>10.1} {high:>10.1} {ratio:>7.2}");
        }
    }
    Ok(())
}

fn main() {
    let criterion = Criterion::default()
        .sample_size(40)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .without_plots()
        .configure_from_args();
    let mut suite = Suite {
        criterion,
        ticks: Ticks::calibrate(),
        rows: Vec::new(),
    };
    for (name, flows) in [("1k", 1000), ("100k", 100_000), ("1M", 1_000_000)] {
        suite.process(
            &format!("process/{name} flows"),
            Load::new(Connections::Established(flows)),
        );
    }
    let partial = Load {
        checksum: Checksum::Partial,
        ..Load::new(Connections::Established(1000))
    };
    suite.process("process/1k flows, unfinished checksums", partial);
    suite.process("process/first packets", Load::new(Connections::New(262_144)));
    for services in [100, 3_000, 30_000] {
        let load = Load {
            services,
            ..Load::new(Connections::New(262_144))
        };
        suite.process(&format!("process/first packets, {services} Services"), load);
    }
    suite.turn("1k flows", Load::new(Connections::Established(1000)));
    suite.turn("1M flows", Load::new(Connections::Established(1_000_000)));
    suite.print();
    // With another filter, criterion's cases are wanted alone.
    let mut filters = std::env::args().skip(1).filter(|argument| !argument.starts_with("--"));
    if filters.all(|filter| filter == TUNNELS) {
        compare_tunnels(&suite.ticks).expect("the pipeline in memory");
    }
    suite.criterion.final_summary();
}
