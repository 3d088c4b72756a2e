//! The cases through the code of `heddle simulate`.

use std::collections::BTreeSet;

use heddle_offline::simulate::{ClusterTables, path};

use crate::every_case;
use crate::suite::{Case, ExpectedProbe};

/// Returns the differences from the expected answers, one line each. `tables` has the objects of the start.
fn play(case: &Case, mut tables: ClusterTables) -> Vec<String> {
    let mut differences = Vec::new();
    for (number, step) in case.steps.iter().enumerate() {
        step.change(&mut tables);
        for ExpectedProbe { probe, expect } in &step.probes {
            let at = format!("{} step {number} {}", case.id, probe.id);
            let answer = match path::answer(&mut tables, probe, case.node.as_deref()) {
                Ok(answer) => answer,
                Err(error) => {
                    differences.push(format!("{at}: {error}"));
                    continue;
                }
            };
            let backends: BTreeSet<String> = answer.backends.iter().cloned().collect();
            let same = answer.verdict == expect.verdict
                && expect.backends.as_ref().is_none_or(|wanted| *wanted == backends)
                && expect.masquerade.is_none_or(|wanted| wanted == answer.masquerade);
            if !same {
                differences.push(format!(
                    "{at}: {} -> {} {:?} {:?}: {} {:?} {}, expected {} {:?} {:?} ({})",
                    probe.src,
                    probe.dst,
                    probe.protocol,
                    probe.port,
                    answer.verdict.as_str(),
                    backends,
                    answer.masquerade,
                    expect.verdict.as_str(),
                    expect.backends,
                    expect.masquerade,
                    answer.policy,
                ));
            }
        }
    }
    differences
}

#[test]
fn the_cases_are_answered_as_expected() {
    every_case(
        |case| play(case, case.tables()),
        |suite, good| {
            println!(
                "{}: {} cases, {} probes: {good} pass",
                suite.suite,
                suite.cases.len(),
                suite.probes()
            );
        },
    );
}

/// Sources send kinds in any order, and objects more than once.
#[test]
fn the_order_of_the_objects_changes_no_answer() {
    let mut played = 0_usize;
    every_case(
        |case| {
            let mut differences = Vec::new();
            for seed in 1..=3 {
                if let Some(tables) = case.tables_in_another_order(seed) {
                    played += 1;
                    let found = play(case, tables).into_iter();
                    differences.extend(found.map(|difference| format!("order {seed}: {difference}")));
                }
            }
            differences
        },
        |_, _| {},
    );
    assert!(played > 100, "{played} orders");
}
