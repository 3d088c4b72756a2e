//! The cases through the code of `heddle simulate`.

use std::collections::BTreeSet;

use heddle_offline::simulate::path;

use crate::every_case;
use crate::suite::{Case, ExpectedProbe};

/// Returns the differences from the expected answers, one line each.
fn play(case: &Case) -> Vec<String> {
    let mut tables = case.tables();
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
    every_case(play, |suite, good| {
        println!(
            "{}: {} cases, {} probes: {good} pass",
            suite.suite,
            suite.cases.len(),
            suite.probes()
        );
    });
}
