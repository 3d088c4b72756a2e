//! The cost of a cluster for the control thread, for three sizes, each ten times the one before: the first tables,
//! single changes, memory; the time until workers answer by a change; and the share of new connections that go to
//! another backend when the number of endpoints changes.
//!
//! `cargo bench -p heddle-compile --bench scale`; with `-- policy`, `-- services`, `-- visible` or `-- choice` only the
//! cases with that word in their names. Each change is timed from the object that the source passes on to the snapshot
//! that could be published; `visible` also includes the workers. If a change affects no local endpoint, the bench
//! asserts that no page was copied and no generation raised.

#![allow(clippy::print_stdout, reason = "a bench prints its result")]
#![allow(clippy::expect_used, reason = "a bench that cannot be set up has nothing to say")]

mod cluster;
mod cold;
mod policy;
mod report;
mod services;
mod shares;
mod visible;
mod workers;

use std::time::Duration;

use criterion::Criterion;

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(1))
        .measurement_time(Duration::from_secs(2))
        .without_plots()
        .configure_from_args();
    let mut report = report::Report::default();
    policy::run(&mut criterion, &mut report);
    services::run(&mut criterion, &mut report);
    visible::run(&mut criterion, &mut report);
    report.print();
    shares::run(&mut criterion);
    criterion.final_summary();
}
