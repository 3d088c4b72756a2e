//! The conformance cases: every file of the project's own `tests/cases` and of `$HEDDLE_CASES` (by default `../shared/cases`
//! beside the repository, if it exists).
//!
//! - `answers`: step by step through the code of `heddle simulate`.
//! - `packets`: as packets in memory, through the pipeline of each node on their path, and back.
//!
//! An **exception** is a case that contradicts a sentence of the API documentation: see [`EXCEPTIONS`]. An exception
//! that passes fails the test, so that the list cannot become outdated. Every other case must pass.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test: a failure must end it, and it prints counts"
)]

mod answers;
mod node;
mod packets;
mod path;
mod suite;

/// Cases that contradict the API, by id, with the sentence.
const EXCEPTIONS: &[(&str, &str)] = &[];

/// Runs every case, and fails if one that is not an exception differs. `play` returns the differences of a case, one per line.
/// `done` is called after each suite with the number of cases that pass.
fn every_case(mut play: impl FnMut(&suite::Case) -> Vec<String>, mut done: impl FnMut(&suite::Suite, usize)) {
    let mut failures = Vec::new();
    let mut excepted = 0;
    for suite in suite::all() {
        let mut good = 0;
        for case in &suite.cases {
            let differences = play(case);
            if let Some((id, sentence)) = EXCEPTIONS.iter().find(|(id, _)| *id == case.id) {
                excepted += 1;
                println!("an exception: {id}: {sentence}");
                if differences.is_empty() {
                    failures.push(format!("{id} passes: remove it from the exceptions"));
                }
            } else {
                good += usize::from(differences.is_empty());
                failures.extend(differences);
            }
        }
        done(&suite, good);
    }
    // Without the suites of others, their exceptions do not occur.
    println!("exceptions met: {excepted}");
    assert!(
        failures.is_empty(),
        "{} differences:\n{}",
        failures.len(),
        failures.join("\n")
    );
}
