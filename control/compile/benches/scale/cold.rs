//! The time until the first tables of a cluster are built, in parts.

use std::cell::RefCell;
use std::time::Duration;

use criterion::Criterion;
use heddle_model::Object;

use crate::cluster::World;
use crate::report::{Report, cpu_time, median, millis, time};

const PARTS: [&str; 3] = ["model", "taking changes in", "build"];

/// A timed case: its name and size in the report, and the word (`whose`) that precedes its parts there.
pub struct Case<'a> {
    pub name: &'a str,
    pub size: &'a str,
    pub whose: &'a str,
}

/// Times the work from `objects` to the first tables. `attach` attaches the local pods.
pub fn run(
    criterion: &mut Criterion,
    report: &mut Report,
    case: &Case<'_>,
    objects: impl Fn() -> Vec<Object>,
    attach: impl Fn(&mut World),
) {
    let parts: RefCell<[Vec<Duration>; PARTS.len()]> = RefCell::default();
    time(criterion, report, (case.name, case.size), || {
        let objects = objects();
        let mut world = World::new();
        let began = cpu_time();
        let changes = world.apply(objects);
        let applied = cpu_time() - began;
        world.record(&changes);
        drop(changes);
        attach(&mut world);
        let taken = cpu_time() - began;
        world.compiler.rebuild();
        let built = cpu_time() - began;
        let took = [applied, taken - applied, built - taken];
        parts
            .borrow_mut()
            .iter_mut()
            .zip(took)
            .for_each(|(part, took)| part.push(took));
        built
    });
    for (part, times) in PARTS.iter().zip(&mut parts.into_inner()) {
        if !times.is_empty() {
            report.add(&format!("  {}of it {part}", case.whose), millis(median(times)));
        }
    }
}
