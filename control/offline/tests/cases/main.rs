//! The conformance cases: every file of `$HEDDLE_CASES` (by default `../shared/cases` beside the repository, where it is
//! there) and of the project's own `tests/cases`.
//!
//! - `answers`: step by step through the code of `heddle simulate`.
//! - `packets`: the same as packets in memory, through the pipeline of each node on their path, and back.
//!
//! An **exception** is a case that we hold to be wrong, with the sentence of the API that it contradicts: see
//! [`EXCEPTIONS`]. One that passes fails the test, so that the list stays true. Every other case must pass; none is left
//! out.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test: a failure is to end it, and the counts are for the reader"
)]

mod answers;
mod node;
mod packets;
mod path;
mod suite;

/// Cases that contradict the API, by id, with the sentence.
const EXCEPTIONS: &[(&str, &str)] = &[];

/// Plays every case, and fails unless each shows no difference, but for the exceptions. `play` gives what differs, a line
/// each, and `done` says what a suite's cases were.
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
                    failures.push(format!("{id} passes: take it from the exceptions"));
                }
            } else {
                good += usize::from(differences.is_empty());
                failures.extend(differences);
            }
        }
        done(&suite, good);
    }
    // Someone who has no other suites than ours meets only the exceptions that they have.
    println!("exceptions met: {excepted}");
    assert!(
        failures.is_empty(),
        "{} differences:\n{}",
        failures.len(),
        failures.join("\n")
    );
}
