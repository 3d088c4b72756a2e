//! The writes that fail.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::super::error::{causes, first_words};

/// The writes that fail.
#[derive(Clone, Debug, Default)]
pub(super) struct Faults(Arc<Mutex<BTreeMap<&'static str, String>>>);

impl Faults {
    /// Returns the present faults, by resource.
    pub(super) fn all(&self) -> BTreeMap<&'static str, String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends the fault of a resource to which nothing is to be written.
    pub(super) fn clear(&self, resource: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(resource);
    }

    /// Records the result of a write, and logs a new fault and its end.
    pub(super) fn record(&self, verb: &str, resource: &'static str, result: Result<(), &kube::Error>) {
        let fault = result.err().map(|error| fault(verb, resource, error));
        let mut faults = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match fault {
            Some(fault) if faults.get(resource) == Some(&fault) => {}
            Some(fault) => {
                tracing::warn!("{fault}; heddle tries again");
                faults.insert(resource, fault);
            }
            None => {
                if faults.remove(resource).is_some() {
                    tracing::info!("{resource} are written to the API server again");
                }
            }
        }
    }
}

/// Returns a fault in the words of an operator.
fn fault(verb: &str, resource: &str, error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if status.code == 403 => format!(
            "the agent's account may not {verb} {resource}: give it the verb {verb} on {resource} (403: {})",
            first_words(&status.message)
        ),
        kube::Error::Api(status) => format!(
            "cannot {verb} {resource} ({}): {}",
            status.code,
            first_words(&status.message)
        ),
        other => format!("cannot {verb} {resource}: {}", first_words(&causes(other))),
    }
}
