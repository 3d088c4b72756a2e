//! Last good versions, and a cluster that begins with the ones that another kept.

use super::*;
use crate::Kept;

fn reject(cluster: &mut Cluster, object: impl Into<Object>) -> Changes {
    cluster.apply(Event::Rejected(invalid(object, Some(closing()))))
}

/// A closing policy that covers more than [`policy`].
fn closing() -> NetworkPolicy {
    NetworkPolicy {
        egress: Some(Vec::new()),
        ..policy("p")
    }
}

fn unreadable(closes: Option<Object>) -> Rejection {
    Rejection {
        subject: Subject::Source,
        cause: Cause::Unreadable,
        closes,
        ..invalid(policy("p"), None)
    }
}

/// Returns the names of the kept versions.
fn kept_names(kept: &Kept) -> Vec<String> {
    kept.versions.keys().map(|object| object.key.name.to_string()).collect()
}

/// Returns what a cluster keeps that has a good policy `p` and a refused later version.
fn kept_policy() -> Kept {
    let mut cluster = Cluster::new();
    upsert(&mut cluster, policy("p"));
    assert!(cluster.kept().is_empty(), "nothing is refused");
    reject(&mut cluster, policy("p"));
    let kept = cluster.kept();
    assert_eq!((kept_names(&kept), kept.files.len()), (vec!["p".to_owned()], 0));
    upsert(&mut cluster, policy("p"));
    assert!(cluster.kept().is_empty(), "a good version ends it");
    reject(&mut cluster, policy("p"));
    delete(&mut cluster, policy("p"));
    assert!(cluster.kept().is_empty(), "so does the end of the object");
    kept
}

#[test]
fn a_refused_object_gets_its_kept_version_as_if_it_had_come_before() {
    let kept = kept_policy();
    let mut cluster = Cluster::with_kept(&kept);
    assert_eq!(cluster.count(Kind::NetworkPolicy), 0, "it is not refused yet");
    let changes = reject(&mut cluster, policy("p"));
    assert_eq!((names(&changes), changes.rejections), (vec!["p".to_owned()], true));
    assert_eq!(cluster.policy(&policy("p").key).map(Arc::as_ref), Some(&policy("p")));
    assert_eq!((cluster.kept(), cluster.rejected_total()), (kept.clone(), 1));
    // A later good version takes its place; a deletion removes it.
    upsert(&mut cluster, closing());
    assert!(cluster.policies().next().unwrap().egress.is_some());
    let mut cluster = Cluster::with_kept(&kept);
    reject(&mut cluster, policy("p"));
    delete(&mut cluster, policy("p"));
    assert_eq!(cluster.count(Kind::NetworkPolicy), 0);
    reject(&mut cluster, policy("p"));
    assert!(cluster.policies().next().unwrap().refused, "it is a new object now");
}

#[test]
fn a_kept_version_is_forgotten_when_its_object_is_good_or_gone() {
    let kept = kept_policy();
    let refused_later = |mut cluster: Cluster| {
        delete(&mut cluster, policy("p"));
        reject(&mut cluster, policy("p"));
        cluster.policies().next().unwrap().refused
    };
    // A good version came, or a deletion, or the source does not have the object when its kind has synced.
    let mut cluster = Cluster::with_kept(&kept);
    upsert(&mut cluster, closing());
    reject(&mut cluster, policy("p"));
    assert_eq!(cluster.policies().next().unwrap().as_ref(), &closing());
    assert!(refused_later(cluster));
    assert!(refused_later(Cluster::with_kept(&kept)));
    let mut cluster = Cluster::with_kept(&kept);
    cluster.apply(Event::Synced(Kind::Pod));
    assert!(!cluster.earlier.is_empty(), "another kind");
    cluster.apply(Event::Synced(Kind::NetworkPolicy));
    reject(&mut cluster, policy("p"));
    assert!(cluster.policies().next().unwrap().refused);
}

#[test]
fn duplicates_and_notes_are_no_refusals_and_closing_policies_are_not_kept() {
    let kept = kept_policy();
    let mut cluster = Cluster::with_kept(&kept);
    for cause in [Cause::Duplicate, Cause::Ignored] {
        let rejection = invalid(policy("p"), None);
        cluster.apply(Event::Rejected(Rejection { cause, ..rejection }));
        assert_eq!(cluster.count(Kind::NetworkPolicy), 0, "{cause:?}");
    }
    upsert(&mut cluster, policy("p"));
    assert!(cluster.kept().is_empty(), "the version in force is the source's");
    let mut cluster = Cluster::new();
    reject(&mut cluster, policy("p"));
    reject(&mut cluster, pod("x", &[]));
    assert!(cluster.kept().is_empty());
}

#[test]
fn a_version_that_waits_for_a_claim_leaves_the_kept_one_in_force() {
    let mut cluster = Cluster::new();
    upsert(&mut cluster, service("holder", "10.96.0.9", Some(30009)));
    upsert(&mut cluster, service("a", "10.96.0.1", Some(30001)));
    upsert(&mut cluster, service("a", "10.96.0.9", Some(30001)));
    let kept = cluster.kept();
    assert_eq!(kept_names(&kept), ["a"]);

    let mut cluster = Cluster::with_kept(&kept);
    upsert(&mut cluster, service("holder", "10.96.0.9", Some(30009)));
    upsert(&mut cluster, service("a", "10.96.0.9", Some(30001)));
    let served = |cluster: &Cluster| cluster.services_at(ip("10.96.0.1")).count();
    assert_eq!((served(&cluster), cluster.rejections().count()), (1, 1));
    assert_eq!(cluster.kept(), kept);
    assert_eq!(
        names(&delete(&mut cluster, service("holder", "10.96.0.9", None))),
        ["holder", "a"]
    );
    assert_eq!((served(&cluster), cluster.kept().is_empty()), (0, true));

    // Its own claims may belong to others by now; and the new version may need none that is taken.
    let mut cluster = Cluster::with_kept(&kept);
    upsert(&mut cluster, service("new", "10.96.0.1", Some(30001)));
    upsert(&mut cluster, service("holder", "10.96.0.9", Some(30009)));
    upsert(&mut cluster, service("a", "10.96.0.9", Some(30005)));
    assert_eq!((cluster.count(Kind::Service), cluster.rejections().count()), (2, 1));
    assert_eq!(cluster.rejected_total(), 1, "the kept version does not wait");
    let mut cluster = Cluster::with_kept(&kept);
    upsert(&mut cluster, service("new", "10.96.0.1", Some(30001)));
    reject(&mut cluster, service("a", "10.96.0.9", None));
    assert_eq!(cluster.rejections().count(), 1, "nor does it here");
    assert_eq!(names(&delete(&mut cluster, service("new", "10.96.0.1", None))), ["new"]);
    let mut cluster = Cluster::with_kept(&kept);
    let changes = upsert(&mut cluster, service("a", "10.96.0.9", Some(30001)));
    assert_eq!((names(&changes).len(), served(&cluster)), (1, 0));
}

#[test]
fn all_objects_of_a_file_that_does_not_parse_are_kept() {
    let mut cluster = Cluster::new();
    upsert(&mut cluster, policy("p"));
    upsert(&mut cluster, pod("x", &[]));
    let other = Event::Upsert {
        origin: "b.yaml".into(),
        object: pod("y", &[]).into(),
    };
    cluster.apply(other);
    cluster.apply(Event::Rejected(unreadable(None)));
    let kept = cluster.kept();
    assert_eq!(kept_names(&kept), ["x", "p"]);
    assert_eq!(
        kept.contents_of_files()
            .keys()
            .map(AsRef::as_ref)
            .collect::<Vec<&str>>(),
        ["a.yaml"]
    );
    assert_eq!(kept.contents_of_files()["a.yaml"].len(), 2);
    // An object that moves to another file is not this file's any more, even if it is the same.
    let moved = Event::Upsert {
        origin: "b.yaml".into(),
        object: policy("p").into(),
    };
    assert!(cluster.apply(moved).objects.is_empty());
    assert_eq!(kept_names(&cluster.kept()), ["x"]);
    // The file itself, a document or an object of it may have closed traffic.
    for subject in [
        Subject::Source,
        Subject::Document(3),
        Subject::Object(Object::from(policy("q")).object_ref()),
    ] {
        let mut cluster = Cluster::new();
        upsert(&mut cluster, policy("p"));
        cluster.apply(Event::Rejected(unreadable(None)));
        assert_eq!(cluster.kept().files.len(), 1);
        let rejection = unreadable(Some(policy("q").into()));
        cluster.apply(Event::Rejected(Rejection { subject, ..rejection }));
        let kept = cluster.kept();
        assert_eq!((kept.versions.len(), kept.files.len()), (1, 0));
    }
    // If nothing of a file is in force, it is not known to have been read.
    let mut cluster = Cluster::new();
    cluster.apply(Event::Rejected(unreadable(None)));
    assert!(cluster.kept().is_empty());
}
