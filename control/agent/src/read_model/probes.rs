//! The checks of `/livez` and `/readyz`.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::model::{ReadModel, lock};
use super::view::View;
use crate::cni_files::FilesState;
use crate::probes::{Check, ProbeReport, Probed};

/// The longest time between two turns of the control thread or of a worker. Both turn at least once a second.
const TURN_WITHIN: Duration = Duration::from_secs(30);
/// The longest time that the workers may take for new tables.
const TABLES_WITHIN: Duration = Duration::from_secs(5);

impl Probed for ReadModel {
    fn live(&self) -> ProbeReport {
        ProbeReport {
            probe: "livez",
            checks: self.turn_checks(),
        }
    }

    fn ready(&self) -> ProbeReport {
        let view = self.view();
        let mut checks = vec![
            Check::new("objects", self.objects_check(&view)),
            Check::new("tables", self.tables_check(&view)),
        ];
        checks.extend(self.turn_checks());
        let host = match self.host.borrow().problem() {
            None => Ok("as planned".to_owned()),
            Some(problem) => Err(problem),
        };
        checks.push(Check::new("host-port", host));
        let addable = self.can_add.borrow().clone();
        checks.push(Check::new("attachments", addable.map(|()| "ADD is served".to_owned())));
        if let Some(files) = self.cni_files.get() {
            let outcome = match &*files.borrow() {
                FilesState::Waiting => Err("they are written when ADD can be served".to_owned()),
                FilesState::Installed => Ok("installed".to_owned()),
                FilesState::Failed(why) => Err(why.clone()),
            };
            checks.push(Check::new("cni-files", outcome));
        }
        if let Some(age) = self.api_server_age() {
            checks.push(Check::new("api-server", Ok(age)));
        }
        ProbeReport {
            probe: "readyz",
            checks,
        }
    }
}

impl ReadModel {
    /// Checks that the control thread and every worker turn.
    fn turn_checks(&self) -> Vec<Check> {
        let meters = lock(&self.meters);
        let controller = ("controller".to_owned(), meters.sampled_at);
        let workers = self.workers.iter().zip(&meters.samples);
        let workers = workers.map(|(worker, sample)| (format!("worker {}", worker.id.0), sample.turned_at));
        std::iter::once(controller)
            .chain(workers)
            .map(|(name, at)| Check::new(name, turns(at.elapsed())))
            .collect()
    }

    /// Checks that every kind of object was read.
    fn objects_check(&self, view: &View) -> Result<String, String> {
        if let Some(at) = view.synced_at {
            return Ok(format!("every kind was read {} s ago", at.elapsed().as_secs()));
        }
        // The kinds that are missing, with the error of the first one that has one.
        let kinds = self.api_server.get().map(|server| server.health.all());
        let missing: Vec<_> = kinds.into_iter().flatten().filter(|(_, kind)| !kind.synced).collect();
        let names: Vec<String> = missing.iter().map(|(kind, _)| kind.to_string()).collect();
        let error = missing.iter().find_map(|(_, kind)| kind.error.as_deref());
        Err(match (names.is_empty(), error) {
            (true, _) => "not every kind was read yet".to_owned(),
            (false, None) => format!("not read yet: {}", names.join(", ")),
            (false, Some(error)) => format!("not read yet: {}: {error}", names.join(", ")),
        })
    }

    /// Checks that tables are published, and that every worker has them.
    fn tables_check(&self, view: &View) -> Result<String, String> {
        let (version, taken) = (view.version(), self.acknowledged.load(Ordering::Relaxed));
        match view.published_at.map(|at| at.elapsed()) {
            _ if version == 0 => Err("none were published yet".to_owned()),
            Some(age) if taken < version && age > TABLES_WITHIN => Err(format!(
                "a worker still has version {taken}; version {version} was published {} s ago",
                age.as_secs()
            )),
            _ => Ok(format!("version {version}")),
        }
    }

    /// Returns the age of the API server's state with the first error of a kind; `None` for a folder.
    fn api_server_age(&self) -> Option<String> {
        let health = &self.api_server.get()?.health;
        let age = health.current_as_of().elapsed().unwrap_or_default().as_secs();
        let error = health.all().into_iter().find_map(|(_, kind)| kind.error);
        Some(match error {
            None => format!("the state is {age} s old"),
            Some(error) => format!("the state is {age} s old and serves: {error}"),
        })
    }
}

/// Judges the time since the last turn.
fn turns(since: Duration) -> Result<String, String> {
    let seconds = since.as_secs();
    if since > TURN_WITHIN {
        Err(format!("no turn for {seconds} s"))
    } else {
        Ok(format!("turned {seconds} s ago"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_without_turns_fails_after_the_bound() {
        assert_eq!(turns(TURN_WITHIN), Ok("turned 30 s ago".to_owned()));
        assert_eq!(
            turns(TURN_WITHIN + Duration::from_secs(1)),
            Err("no turn for 31 s".to_owned())
        );
    }
}
