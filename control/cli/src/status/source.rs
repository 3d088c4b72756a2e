//! The lines of `heddle status` about the source of objects.

use std::fmt::Write as _;

use heddle_proto::status::{ChangeTimes, SourceKindStatus, SourceStatus};

use crate::table::{duration, finish, table};

/// Writes the state of the source, and of each kind if it is an API server.
pub(super) fn write(source: &SourceStatus, out: &mut String) {
    let objects: Vec<String> = source
        .objects
        .iter()
        .filter(|(_, n)| **n > 0)
        .map(|(kind, n)| format!("{kind} {n}"))
        .collect();
    let synced = match source.synced_seconds {
        Some(seconds) => format!("synced {} ago", duration(seconds)),
        None => "NOT synced: nothing is published".to_owned(),
    };
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{} {}: {synced}; {}", source.kind, source.from, objects.join(", "));
    if source.kinds.values().any(|kind| kind.saved_seconds.is_some()) {
        let _ = writeln!(
            out,
            "  the API server has not sent its objects: the ones of {} ago are served",
            duration(source.age_seconds)
        );
    } else if source.age_seconds > 0 {
        let _ = writeln!(out, "  the objects are {} old", duration(source.age_seconds));
    }
    for (resource, fault) in &source.write_faults {
        let _ = writeln!(out, "  {resource}: {fault}");
    }
    if !source.kinds.is_empty() {
        write_kinds(source, out);
    }
}

/// Writes a row for each kind, and its fault below the table.
fn write_kinds(source: &SourceStatus, out: &mut String) {
    let mut table = table(
        "kinds",
        &[
            "kind",
            "objects",
            "rejected",
            "state",
            "last answer",
            "reconnects",
            "version",
        ],
        out,
    );
    for (name, kind) in &source.kinds {
        table.add_row(vec![
            name.clone(),
            kind.objects.to_string(),
            kind.rejected.to_string(),
            state(kind),
            kind.age_seconds
                .map_or("never".to_owned(), |age| format!("{} ago", duration(age))),
            kind.reconnects.to_string(),
            kind.resource_version.clone(),
        ]);
    }
    finish(&table, 1, out);
    for (name, kind) in &source.kinds {
        if let Some(error) = &kind.error {
            let _ = writeln!(out, "  {name}: {error}");
        }
    }
}

/// Returns the state of a kind in a few words.
fn state(kind: &SourceKindStatus) -> String {
    match (kind.saved_seconds, &kind.error) {
        (Some(seconds), _) => format!("as saved {} ago", duration(seconds)),
        (None, Some(_)) if kind.synced => "not current".to_owned(),
        (None, _) if kind.absent => "not on the server".to_owned(),
        (None, None) if kind.synced => "current".to_owned(),
        (None, _) => "not listed yet".to_owned(),
    }
}

/// Writes the times that changes took, if there were any.
pub(super) fn write_change_times(times: &ChangeTimes, out: &mut String) {
    if times.count == 0 {
        return;
    }
    let bound = |share| match times.quantile(share) {
        Some(micros) => format!("{} ms", f64::from(u32::try_from(micros).unwrap_or(u32::MAX)) / 1000.0),
        None => "more than 10 s".to_owned(),
    };
    let _ = writeln!(
        out,
        "changes: {} reached every worker, half of them within {}, 99 % within {}",
        times.count,
        bound(0.5),
        bound(0.99)
    );
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn text(source: serde_json::Value) -> String {
        let mut out = String::new();
        write(&serde_json::from_value(source).unwrap(), &mut out);
        // Columns are as wide as their widest cell.
        let lines = out
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
        lines.collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn each_kind_has_a_row_and_faults_follow() {
        let shown = text(json!({
            "kind": "kubernetes", "from": "https://192.0.2.1:6443", "synced_seconds": 61, "age_seconds": 5,
            "objects": {"Pod": 4},
            "kinds": {
                "ClusterNetworkPolicy": {"synced": true, "absent": true, "error": null, "reconnects": 0,
                    "resource_version": "", "age_seconds": 3},
                "Node": {"synced": false, "absent": false, "error": null, "reconnects": 0, "resource_version": "",
                    "age_seconds": null},
                "Pod": {"synced": true, "absent": false, "error": "cannot watch pods (503): away", "objects": 4, "rejected": 1,
                    "reconnects": 2, "resource_version": "77", "age_seconds": 5},
                "Service": {"synced": true, "absent": false, "error": null, "objects": 2, "reconnects": 0,
                    "resource_version": "70", "age_seconds": 0}
            },
            "write_faults": {"events": "the agent's account may not create events"}
        }));
        for line in [
            "kubernetes https://192.0.2.1:6443: synced 1 min 1 s ago; Pod 4",
            "the objects are 5 s old",
            "events: the agent's account may not create events",
            "ClusterNetworkPolicy 0 0 not on the server 3 s ago 0",
            "Node 0 0 not listed yet never 0",
            "Pod 4 1 not current 5 s ago 2 77",
            "Service 2 0 current 0 s ago 0 70",
            "Pod: cannot watch pods (503): away",
        ] {
            assert!(shown.lines().any(|shown| shown == line), "{line}\n{shown}");
        }
    }

    #[test]
    fn saved_objects_are_shown_with_their_age() {
        let shown = text(json!({
            "kind": "kubernetes", "from": "k", "synced_seconds": 1, "age_seconds": 3600,
            "kinds": {"Pod": {"synced": false, "absent": false, "error": null, "objects": 4, "reconnects": 0,
                "resource_version": "", "age_seconds": null, "saved_seconds": 3600}}
        }));
        assert!(shown.contains("the ones of 1 h"), "{shown}");
        assert!(shown.contains("Pod 4 0 as saved 1 h"), "{shown}");
    }

    #[test]
    fn the_times_of_changes_are_two_quantiles() {
        let mut out = String::new();
        write_change_times(&ChangeTimes::default(), &mut out);
        assert_eq!(out, "");
        let times = ChangeTimes {
            count: 100,
            sum_micros: 1,
            up_to_micros: vec![(2500, 60), (110_000, 99)],
        };
        write_change_times(&times, &mut out);
        assert_eq!(
            out,
            "changes: 100 reached every worker, half of them within 2.5 ms, 99 % within 110 ms\n"
        );
    }
}
