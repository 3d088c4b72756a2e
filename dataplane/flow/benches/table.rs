//! Benchmarks of the table with criterion: lookups in bursts, hit and miss, inserts and removals, in ticks of the time stamp
//! counter.
//!
//! Keys are random tuples of pods through a Service. The time includes the delivery of the whole entry, not the making of keys.
//! `cargo bench -p heddle-flow --bench table` runs all; `-- 1M` runs those with that in their name. The time of each burst is
//! recorded. The table at the end has the median and the tenth percentile, which depend less on other load of the machine than
//! criterion's mean.
//!
//! Tables use pages of 2 MiB: reserved ones if there are enough, else transparent ones. The end of the output names the pages and
//! says how to reserve some. `HEDDLE_BENCH_PAGES=4k` forbids large pages.

#![allow(clippy::print_stdout, reason = "a bench prints its result")]
#![allow(clippy::expect_used, reason = "a bench that cannot be set up has nothing to say")]

use std::cell::RefCell;
use std::hint::black_box;
use std::ops::Not;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use heddle_flow::{
    Config, Egress, EndpointId, FlowFlags, FlowKey, FlowTable, Generation, Hit, Millis, NewFlow, NodeId, Origin,
    Quotas, Rewrite,
};
use heddle_wire::rewrite::Tuple;
use heddle_wire::{Ip, Proto};
use quanta::Clock;

const NOW: Millis = Millis(1_000);
const SIZES: [(&str, u32); 3] = [("64k", 1 << 16), ("1M", 1 << 20), ("4M", 1 << 22)];
const MOST: usize = 64;
/// Connections beyond this number are in no table.
const ABSENT: u32 = 1 << 30;
/// Room for connections that are inserted before others are removed.
const ROOM: u32 = 4096;
/// Connections of one client.
const PORTS: u32 = 50_000;

fn arrives(n: u32) -> FlowKey {
    let tuple = Tuple {
        src: Ip::from_v4((0x0a00_0000 + n / PORTS).to_be_bytes()),
        dst: Ip::from_v4([10, 96, 0, (n % 16) as u8]),
        sport: 1024 + (n % PORTS) as u16,
        dport: 80,
    };
    FlowKey::opening(tuple, Proto::UDP, Origin::pod(EndpointId(2)))
}

fn connection(n: u32) -> (NewFlow, NewFlow) {
    let key = arrives(n);
    let leaves = Tuple {
        dst: Ip::from_v4([10, 1, 0, (n % 64) as u8]),
        dport: 8080,
        ..key.tuple
    };
    let reverse = FlowKey {
        tuple: leaves.reversed(),
        origin: Origin::node(NodeId(7)),
        ..key
    };
    let forward = NewFlow {
        key,
        rewrite: Rewrite::between(&key, leaves),
        egress: Egress::Node(NodeId(7)),
        endpoints: [EndpointId(2), EndpointId(1)],
        generations: [Generation(1), Generation(1)],
        mss_clamp: 1400,
        flags: FlowFlags::NAT,
    };
    let answer = NewFlow {
        key: reverse,
        rewrite: Rewrite::between(&reverse, key.tuple.reversed()),
        egress: Egress::Endpoint(EndpointId(2)),
        endpoints: [EndpointId(1), EndpointId(2)],
        flags: FlowFlags::NAT | FlowFlags::REPLY,
        ..forward
    };
    (forward, answer)
}

fn config(capacity: u32) -> Config {
    Config {
        capacity,
        quotas: Quotas::default(),
        huge_pages: std::env::var("HEDDLE_BENCH_PAGES")
            .is_ok_and(|pages| pages == "4k")
            .not(),
        ..Config::default()
    }
}

fn table(connections: u32, room: u32) -> FlowTable {
    let table = FlowTable::anonymous(&config(connections + room));
    for n in 0..connections {
        let (forward, reverse) = connection(n);
        table.insert(&forward, &reverse, NOW).expect("there is room");
    }
    table
}

/// A repeatable random number generator.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (((self.0 >> 32) * u64::from(limit)) >> 32) as u32
    }
}

struct Row {
    name: String,
    /// The ticks for one key or connection, one value for each burst.
    ticks: Vec<f64>,
}

struct Suite {
    criterion: Criterion,
    clock: Clock,
    ticks_per_ns: f64,
    rows: Vec<Row>,
    /// The pages that each table used.
    pages: Vec<String>,
}

impl Suite {
    fn new() -> Self {
        let clock = Clock::new();
        let (began, first) = (Instant::now(), clock.raw());
        while began.elapsed() < Duration::from_millis(100) {
            std::hint::spin_loop();
        }
        let ticks_per_ns = (clock.raw() - first) as f64 / began.elapsed().as_nanos() as f64;
        Self {
            criterion: Criterion::default()
                .sample_size(20)
                .warm_up_time(Duration::from_millis(300))
                .measurement_time(Duration::from_secs(1))
                .configure_from_args(),
            clock,
            ticks_per_ns,
            rows: Vec::new(),
            pages: Vec::new(),
        }
    }

    /// Measures a function. `once` runs `burst` operations and returns their ticks.
    fn case(&mut self, name: &str, burst: usize, mut once: impl FnMut(&Clock) -> u64) {
        let samples = RefCell::new(Vec::new());
        let (clock, per_ns) = (&self.clock, self.ticks_per_ns);
        let mut group = self.criterion.benchmark_group("flow");
        group.throughput(Throughput::Elements(burst as u64));
        group.bench_function(name, |b| {
            b.iter_custom(|bursts| {
                let mut samples = samples.borrow_mut();
                let mut total = 0;
                for _ in 0..bursts {
                    let took = once(clock);
                    total += took;
                    samples.push(took as f64 / burst as f64);
                }
                Duration::from_nanos((total as f64 / per_ns) as u64)
            });
        });
        group.finish();
        let mut ticks = samples.into_inner();
        ticks.sort_unstable_by(f64::total_cmp);
        if !ticks.is_empty() {
            self.rows.push(Row {
                name: name.to_owned(),
                ticks,
            });
        }
    }

    fn lookups(&mut self, size: &str, table: &FlowTable, connections: u32) {
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        for (kind, first) in [("hit", 0), ("miss", ABSENT)] {
            for burst in [32, MOST] {
                let mut out: [Option<Hit>; MOST] = [None; MOST];
                self.case(&format!("{kind} {size} burst {burst}"), burst, |clock| {
                    let keys: [FlowKey; MOST] = std::array::from_fn(|_| {
                        let n = random.below(connections);
                        // Either direction, because both are found in the same way.
                        if n.is_multiple_of(2) {
                            arrives(first + n)
                        } else {
                            connection(first + n).1.key
                        }
                    });
                    let keys = black_box(&keys[..burst]);
                    let began = clock.raw();
                    table.lookup(keys, NOW, black_box(&mut out));
                    let took = clock.raw() - began;
                    let found = black_box(&out)[..burst].iter().flatten().count();
                    assert_eq!(found, if first == 0 { burst } else { 0 });
                    took
                });
            }
        }
    }

    /// Measures inserts of 32 connections at a time, with a prefetch as in a worker, and inserts one after the other.
    fn inserts(&mut self, size: &str, connections: u32) {
        const BURST: u32 = 32;
        let table = table(connections, ROOM);
        self.note_pages(size);
        let (mut next, mut oldest) = (connections, 0);
        let mut slots = Vec::new();
        table.for_each(|c| slots.push(c.slot));
        let mut removals = Vec::new();
        self.case(&format!("insert {size}"), BURST as usize, |clock| {
            let flows: [_; BURST as usize] = std::array::from_fn(|n| connection(next + n as u32));
            next += BURST;
            let flows = black_box(&flows);
            let began = clock.raw();
            for (forward, reverse) in flows {
                let (slot, _) = table.insert(forward, reverse, NOW).expect("there is room");
                slots.push(slot);
            }
            let took = clock.raw() - began;
            let began = clock.raw();
            for slot in &slots[oldest..oldest + BURST as usize] {
                assert!(table.remove(*slot));
            }
            removals.push((clock.raw() - began) as f64 / f64::from(BURST));
            oldest += BURST as usize;
            took
        });
        removals.sort_unstable_by(f64::total_cmp);
        if !removals.is_empty() {
            self.rows.push(Row {
                name: format!("remove {size}"),
                ticks: removals,
            });
        }
    }

    /// Records the pages that the existing table uses.
    fn note_pages(&mut self, size: &str) {
        let smaps = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap_or_default();
        let kib = |name: &str| {
            let line = smaps.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok())
                .unwrap_or(0)
        };
        self.pages.push(format!(
            "{size}: {} MiB on reserved pages of 2 MiB, {} MiB on others of 2 MiB, {} MiB resident in all",
            kib("Private_Hugetlb:") / 1024,
            kib("AnonHugePages:") / 1024,
            (kib("Rss:") + kib("Private_Hugetlb:")) / 1024
        ));
    }

    fn report(&self) {
        println!("\n{:<22} {:>8} {:>8}   TSC ticks each", "", "median", "p10");
        for row in &self.rows {
            let at = |share: f64| row.ticks[(row.ticks.len() as f64 * share) as usize];
            println!("{:<22} {:>8.1} {:>8.1}", row.name, at(0.5), at(0.1));
        }
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        println!("{:.0} MHz; load {}", self.ticks_per_ns * 1000.0, load.trim());
        self.pages.iter().for_each(|pages| println!("{pages}"));
        for (size, connections) in SIZES {
            let pages = config(connections + ROOM).file_bytes() >> 21;
            println!("to reserve pages of 2 MiB for {size}: sysctl vm.nr_hugepages={pages}");
        }
    }
}

fn main() {
    let only = std::env::args()
        .skip(1)
        .find(|a| !a.starts_with('-'))
        .unwrap_or_default();
    let mut suite = Suite::new();
    for (size, connections) in SIZES {
        let wanted = |kinds: &[&str]| {
            kinds
                .iter()
                .any(|k| format!("flow/{k} {size} burst 64 burst 32").contains(&only))
        };
        if wanted(&["hit", "miss"]) {
            let table = table(connections, 0);
            suite.note_pages(size);
            suite.lookups(size, &table, connections);
        }
        if wanted(&["insert", "insert alone"]) {
            suite.inserts(size, connections);
        }
    }
    suite.report();
}
