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
