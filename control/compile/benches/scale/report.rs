//! The table at the end: one row a case, one column a size.

use std::cell::RefCell;
use std::time::Duration;

use criterion::Criterion;
use rustix::time::{ClockId, clock_gettime};

/// The measurements.
#[derive(Default)]
pub struct Report {
    rows: Vec<(String, Vec<String>)>,
}

impl Report {
    /// Adds a cell to the row of a case.
    pub fn add(&mut self, case: &str, cell: String) {
        match self.rows.iter_mut().find(|(name, _)| name == case) {
            Some((_, cells)) => cells.push(cell),
            None => self.rows.push((case.to_owned(), vec![cell])),
        }
    }

    pub fn print(&self) {
        println!(
            "\nprocessor time of one thread, median and least, by size of the cluster; `visible`: time of day, median, 99th of a hundred and most"
        );
        for (name, cells) in &self.rows {
            print!("{name:<64}");
            cells.iter().for_each(|cell| print!(" {cell:>26}"));
            println!();
        }
    }
}

/// Returns the CPU time of this thread. Other work on the machine adds little to it.
pub fn cpu_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// Returns a time in milliseconds, for people.
pub fn millis(time: Duration) -> String {
    format!("{:.3} ms", time.as_secs_f64() * 1000.0)
}

pub fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// Times `once` by criterion and notes the median of all calls. Does nothing if criterion's filter leaves the case out.
pub fn time(
    criterion: &mut Criterion,
    report: &mut Report,
    (case, size): (&str, &str),
    mut once: impl FnMut() -> Duration,
) {
    let times = RefCell::new(Vec::new());
    criterion.bench_function(&format!("{case}/{size}"), |b| {
        b.iter_custom(|n| {
            let mut sum = Duration::ZERO;
            for _ in 0..n {
                let took = once();
                times.borrow_mut().push(took);
                sum += took;
            }
            sum
        });
    });
    let mut times = times.into_inner();
    if !times.is_empty() {
        let middle = median(&mut times);
        report.add(
            case,
            format!(
                "{} ({})",
                millis(middle),
                millis(times.first().copied().unwrap_or_default())
            ),
        );
    }
}
