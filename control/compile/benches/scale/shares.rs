//! The share of new connections that go to another backend when a Service gains or loses one endpoint. The numbers of
//! endpoints include those at which the lookup table becomes larger. Live connections never move, because the flow
//! table keeps their backend.

use std::cell::Cell;

use criterion::{BatchSize, Criterion};
use heddle_tables::{Backend, Backends, Choice};
use heddle_wire::Ip;

/// The number of connections that are evaluated.
const ASKED: u64 = 1 << 18;
/// The maximum number of endpoints that are removed from each Service, one at a time.
const TAKEN: usize = 65;

fn endpoints(count: u32) -> Vec<Backend> {
    let endpoint = |n: u32| Backend {
        ip: Ip::from_v4((0x0a80_0000 + n * 7).to_be_bytes()),
        port: 8080,
    };
    (0..count).map(endpoint).collect()
}

/// Returns well-mixed hashes, the same at every call (Steele, Lea, Flood: SplitMix64, OOPSLA 2014).
fn hashes() -> impl Iterator<Item = u64> + Clone {
    (1..=ASKED).map(|n| {
        let mut x = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ x >> 31
    })
}

fn chosen(backends: &Backends) -> Vec<Backend> {
    hashes()
        .filter_map(|hash| match backends.pick(hash) {
            Choice::Backend(backend) => Some(*backend),
            Choice::Reject | Choice::Drop => None,
        })
        .collect()
}

fn table(backends: &Backends) -> String {
    match backends.table_size() {
        0 => "weighed one by one".to_owned(),
        size => format!("{size} slots"),
    }
}

/// Returns, for the connections whose backend before passes `of`, the share that have another backend afterwards, in
/// percent.
fn moved(before: &[Backend], after: &[Backend], of: impl Fn(&Backend) -> bool) -> f64 {
    let (mut all, mut moved) = (0u64, 0u64);
    for (was, is) in before.iter().zip(after).filter(|(was, _)| of(was)) {
        all += 1;
        moved += u64::from(was != is);
    }
    moved as f64 * 100.0 / all as f64
}

/// Times the choice of a backend, and prints the shares unless criterion's filter excludes them.
pub fn run(criterion: &mut Criterion) {
    let wanted = Cell::new(false);
    for count in [4, 64, 65] {
        criterion.bench_function(&format!("choice/among {count}"), |b| {
            wanted.set(true);
            let backends = Backends::new(endpoints(count), false);
            let mut all = hashes().cycle();
            b.iter_batched(
                || all.next().unwrap_or_default(),
                |hash| matches!(backends.pick(hash), Choice::Backend(_)),
                BatchSize::SmallInput,
            );
        });
    }
    if wanted.get() {
        print();
    }
}

fn print() {
    println!("\nnew connections that move when one endpoint is added, of {ASKED}; the new one's own share is 100 / n");
    for count in [3u32, 16, 64, 65, 100, 163, 164, 655, 656, 2621, 2622] {
        let (few, more) = (
            Backends::new(endpoints(count), false),
            Backends::new(endpoints(count + 1), false),
        );
        let share = moved(&chosen(&few), &chosen(&more), |_| true);
        let (from, to) = (table(&few), table(&more));
        let step = if from == to {
            String::new()
        } else {
            format!(": {from} -> {to}")
        };
        println!("  {count:>5} -> {:<5} {share:>7.3} %{step}", count + 1);
    }
    println!("\nand of the others' when one is removed, for up to {TAKEN} of them; at most 5 % is demanded");
    println!("  endpoints   median       most");
    for count in [2u32, 3, 16, 64, 66, 100, 163, 165, 400, 655, 1000] {
        let all = endpoints(count);
        let before = chosen(&Backends::new(all.iter().copied(), false));
        let mut shares: Vec<f64> = (0..all.len())
            .step_by(all.len().div_ceil(TAKEN))
            .map(|gone| {
                let rest = all.iter().enumerate().filter(|(n, _)| *n != gone).map(|(_, b)| *b);
                let after = chosen(&Backends::new(rest, false));
                moved(&before, &after, |was| *was != all[gone])
            })
            .collect();
        shares.sort_by(f64::total_cmp);
        let most = shares.last().copied().unwrap_or_default();
        println!("  {count:>9} {:>6.3} %  {most:>7.3} %", shares[shares.len() / 2]);
        assert!(most <= 5.0, "{count} endpoints");
    }
}
