//! Real folders, watched by inotify; and, without files, that the events of any sequence of changes lead
//! to what the files say.

mod restart;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use heddle_model::{Cause, Cluster, Kind, ObjectKey, Subject};
use proptest::prelude::*;
use tempfile::TempDir;

use super::state::{Content, State};
use super::*;
use crate::manifest::parse;

/// An event that does not come within this never does.
const PATIENCE: Duration = Duration::from_secs(20);

fn policy(name: &str, port: u32) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{namespace: shop, name: {name}}}\n\
         spec:\n  podSelector: {{matchLabels: {{app: {name}}}}}\n  ingress: [{{ports: [{{port: {port}}}]}}]\n---\n"
    )
}

struct Followed {
    folder: TempDir,
    cluster: Cluster,
    events: Receiver<Event>,
    _watch: Watch,
}

impl Followed {
    fn new(files: &[(&str, String)]) -> Followed {
        let folder = TempDir::new().unwrap();
        for (name, text) in files {
            fs::write(folder.path().join(name), text).unwrap();
        }
        let (watch, events) = watch(folder.path()).unwrap();
        let mut followed = Followed {
            folder,
            cluster: Cluster::new(),
            events,
            _watch: watch,
        };
        followed.until(Cluster::is_synced);
        followed
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// Applies events until the cluster meets a condition, and returns them.
    fn until(&mut self, condition: impl Fn(&Cluster) -> bool) -> Vec<Event> {
        let mut seen = Vec::new();
        while !condition(&self.cluster) {
            let event = self.events.recv_timeout(PATIENCE);
            let event = event.unwrap_or_else(|_| panic!("nothing more came after {seen:#?}"));
            self.cluster.apply(event.clone());
            seen.push(event);
        }
        seen
    }

    /// Returns all events that were reported before a change that this function makes.
    fn drain(&mut self) -> Vec<Event> {
        self.write("zz-mark.yaml", &policy("mark", 1));
        let mut seen = self.until(|cluster| cluster.policy(&ObjectKey::new("shop", "mark")).is_some());
        seen.pop();
        fs::remove_file(self.path("zz-mark.yaml")).unwrap();
        self.until(|cluster| cluster.policy(&ObjectKey::new("shop", "mark")).is_none());
        seen
    }
}

fn has(cluster: &Cluster, name: &str) -> bool {
    cluster.policy(&ObjectKey::new("shop", name)).is_some()
}

fn port(cluster: &Cluster, name: &str) -> Option<String> {
    let policy = cluster.policy(&ObjectKey::new("shop", name))?;
    let rule = policy.ingress.as_ref()?.first()?;
    Some(format!("{:?}", rule.ports.first()?.ports))
}

fn causes(cluster: &Cluster) -> Vec<(Cause, String)> {
    cluster
        .rejections()
        .map(|rejection| (rejection.cause, rejection.to_string()))
        .collect()
}

#[test]
fn objects_come_change_and_go_with_their_files() {
    let mut followed = Followed::new(&[
        ("a.yaml", policy("a", 1) + &policy("b", 2)),
        ("README.md", "no".to_owned()),
    ]);
    assert!(has(&followed.cluster, "a") && has(&followed.cluster, "b"));
    let before = port(&followed.cluster, "a");
    followed.write("a.yaml", &(policy("a", 3) + &policy("b", 2)));
    let events = followed.until(|cluster| port(cluster, "a") != before);
    assert_eq!(events.len(), 1, "only what changed is reported: {events:?}");
    followed.write("a.yaml", &policy("a", 3));
    followed.until(|cluster| !has(cluster, "b"));
    followed.write(
        "c.json",
        r#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"shop"}}"#,
    );
    followed.until(|cluster| cluster.namespace("shop").is_some());
    fs::remove_file(followed.path("a.yaml")).unwrap();
    followed.until(|cluster| !has(cluster, "a"));
    assert_eq!(
        (
            followed.cluster.count(Kind::Namespace),
            followed.cluster.rejected_total()
        ),
        (1, 0)
    );
}

#[test]
fn a_file_moved_into_place_counts_and_temporary_files_do_not() {
    let mut followed = Followed::new(&[("a.yaml", policy("a", 1))]);
    let before = port(&followed.cluster, "a");
    for name in [".a.yaml.swp", "a.yaml~", "#a.yaml#", "a.yaml.tmp"] {
        followed.write(name, &policy("never", 1));
    }
    followed.write(".new.yaml", &policy("a", 2));
    fs::rename(followed.path(".new.yaml"), followed.path("a.yaml")).unwrap();
    followed.until(|cluster| port(cluster, "a") != before);
    assert!(!has(&followed.cluster, "never"));
    // Renamed: the objects stay.
    fs::rename(followed.path("a.yaml"), followed.path("b.yaml")).unwrap();
    let events = followed.drain();
    assert!(
        !events.iter().any(|event| matches!(event, Event::Delete(_))),
        "{events:?}"
    );
    assert!(has(&followed.cluster, "a"));
}

#[test]
fn half_a_file_is_never_taken_for_a_whole_one() {
    let mut followed = Followed::new(&[("a.yaml", policy("a", 1) + &policy("b", 2))]);
    let before = port(&followed.cluster, "b");
    let mut file = fs::File::create(followed.path("a.yaml")).unwrap();
    file.write_all(policy("a", 1).as_bytes()).unwrap();
    file.sync_all().unwrap();
    // Other files change meanwhile, and are seen.
    let events = followed.drain();
    assert!(events.is_empty() && has(&followed.cluster, "b"), "{events:?}");
    file.write_all(policy("b", 3).as_bytes()).unwrap();
    drop(file);
    let events = followed.until(|cluster| port(cluster, "b") != before);
    assert!(matches!(events.as_slice(), [Event::Upsert { .. }]), "{events:?}");
}

#[test]
fn a_file_that_does_not_parse_keeps_its_objects_and_says_where() {
    let mut followed = Followed::new(&[("a.yaml", policy("a", 1))]);
    followed.write("a.yaml", &(policy("a", 2) + "kind: [\n"));
    followed.until(|cluster| cluster.rejections().count() == 1);
    let rejection = followed.cluster.rejections().next().unwrap().clone();
    assert_eq!(
        (rejection.cause, rejection.subject, rejection.origin.as_ref()),
        (Cause::Unreadable, Subject::Source, "a.yaml")
    );
    assert!(rejection.line.is_some_and(|line| line >= 7), "{:?}", rejection.line);
    let before = port(&followed.cluster, "a");
    assert!(before.is_some());
    followed.write("a.yaml", &policy("a", 2));
    followed.until(|cluster| cluster.rejections().count() == 0 && port(cluster, "a") != before);
    assert_eq!(followed.cluster.rejected_total(), 1);
}

#[test]
fn an_object_that_turns_bad_keeps_its_last_good_version_and_a_new_bad_policy_closes() {
    let mut followed = Followed::new(&[("a.yaml", policy("a", 1))]);
    let before = port(&followed.cluster, "a");
    followed.write("a.yaml", &(policy("a", 65537) + &policy("b", 65537)));
    followed.until(|cluster| cluster.rejections().count() == 2);
    let rejections = causes(&followed.cluster);
    let text =
        "a.yaml:1: NetworkPolicy shop/a: spec.ingress[0].ports[0].port: 65537: must be a port number, 1 to 65535";
    assert_eq!(rejections[0], (Cause::Invalid, text.to_owned()));
    assert!(
        rejections[1].1.starts_with("a.yaml:8: NetworkPolicy shop/b: "),
        "{rejections:?}"
    );
    assert_eq!(port(&followed.cluster, "a"), before);
    assert!(
        followed
            .cluster
            .policies_in("shop")
            .any(|policy| policy.refused && policy.key.name.as_ref() == "b")
    );
    followed.write("a.yaml", "");
    followed.until(|cluster| cluster.count(Kind::NetworkPolicy) == 0);
    assert_eq!(followed.cluster.rejections().count(), 0);
}

#[test]
fn a_policy_without_a_readable_header_closes_until_it_is_repaired() {
    let misspelt = policy("a", 1).replace("kind: NetworkPolicy", "kind: networkPolicy");
    let mut followed = Followed::new(&[("a.yaml", "---\n".to_owned() + &misspelt)]);
    let closing = |cluster: &Cluster| {
        let names = cluster.policies_in("shop").filter(|policy| policy.refused);
        names.map(|policy| policy.key.name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(closing(&followed.cluster), ["a.yaml#1"]);
    assert_eq!(followed.cluster.rejections().count(), 1);
    followed.write("a.yaml", &(policy("b", 1) + &misspelt));
    followed.until(|cluster| closing(cluster) == ["a.yaml#2"]);
    followed.write("a.yaml", &(policy("b", 1) + &policy("a", 1)));
    followed.until(|cluster| cluster.rejections().count() == 0);
    assert!(has(&followed.cluster, "a") && has(&followed.cluster, "b"));
    assert_eq!(closing(&followed.cluster), [""; 0]);
}

#[test]
fn a_file_that_never_parsed_denies_everything_if_it_may_have_policies() {
    let broken = policy("a", 1) + "kind: [\n";
    let mut followed = Followed::new(&[("a.yaml", broken), ("b.yaml", "kind: [\n".to_owned())]);
    let closing = |cluster: &Cluster| {
        let all = cluster.cluster_policies();
        all.map(|policy| (policy.name.to_string(), policy.refused))
            .collect::<Vec<_>>()
    };
    assert_eq!(closing(&followed.cluster), [("a.yaml#0".to_owned(), true)]);
    assert_eq!(followed.cluster.rejections().count(), 2);
    followed.write("a.yaml", &policy("a", 1));
    followed.until(|cluster| cluster.rejections().count() == 1);
    assert_eq!(closing(&followed.cluster), []);
    // Once it was good, its objects stay, and nothing else is closed.
    followed.write("a.yaml", &(policy("a", 1) + "kind: [\n"));
    followed.until(|cluster| cluster.rejections().count() == 2);
    assert!(has(&followed.cluster, "a"));
    assert_eq!(closing(&followed.cluster), []);
    // Bytes that are no text may be anything.
    fs::write(followed.path("c.yaml"), b"\xff\xfe").unwrap();
    followed.until(|cluster| cluster.rejections().count() == 3);
    assert_eq!(closing(&followed.cluster), [("c.yaml#0".to_owned(), true)]);
    fs::remove_file(followed.path("c.yaml")).unwrap();
    followed.until(|cluster| cluster.rejections().count() == 2);
    assert_eq!(closing(&followed.cluster), []);
}

#[test]
fn an_ignored_part_is_noted_as_long_as_it_is_there_and_the_rest_is_used() {
    let node = |external: &str, cidr: &str| {
        format!(
            "apiVersion: v1\nkind: Node\nmetadata: {{name: node-1}}\nspec: {{podCIDRs: [{cidr}]}}\nstatus: {{addresses: \
             [{{type: ExternalIP, address: '{external}'}}, {{type: InternalIP, address: 192.0.2.1}}]}}\n"
        )
    };
    let cidr = |cluster: &Cluster| cluster.node("node-1").map(|node| node.pod_cidrs[0].to_string());
    let mut followed = Followed::new(&[("a.yaml", node("", "10.1.0.0/24"))]);
    let note = "a.yaml:1: Node node-1: status.addresses[0].address: \"\": is no IP address: this part is ignored, and the rest \
                is used";
    assert_eq!(causes(&followed.cluster), [(Cause::Ignored, note.to_owned())]);
    assert_eq!(cidr(&followed.cluster).as_deref(), Some("10.1.0.0/24"));
    followed.write("a.yaml", &node("", "10.2.0.0/24"));
    followed.until(|cluster| cidr(cluster).as_deref() == Some("10.2.0.0/24"));
    assert_eq!(causes(&followed.cluster).len(), 1);
    followed.write("a.yaml", &node("192.0.2.2", "10.2.0.0/24"));
    followed.until(|cluster| cluster.rejections().count() == 0);
    assert_eq!(followed.cluster.node("node-1").unwrap().external_ips.len(), 1);
}

#[test]
fn the_first_of_two_places_counts_and_the_second_takes_over_when_it_goes() {
    let mut followed = Followed::new(&[("a.yaml", policy("p", 1)), ("b.yaml", policy("p", 2))]);
    assert!(port(&followed.cluster, "p").unwrap().contains('1'));
    let duplicates = causes(&followed.cluster);
    assert!(
        matches!(duplicates.as_slice(), [(Cause::Duplicate, text)] if text.contains("is in a.yaml:1 too")),
        "{duplicates:?}"
    );
    fs::remove_file(followed.path("a.yaml")).unwrap();
    followed.until(|cluster| cluster.rejections().count() == 0);
    assert!(port(&followed.cluster, "p").unwrap().contains('2'));
}

#[test]
fn a_folder_that_goes_leaves_everything_until_it_is_back() {
    let parent = TempDir::new().unwrap();
    let folder = parent.path().join("manifests");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("a.yaml"), policy("a", 1)).unwrap();
    let (_watch, events) = watch(&folder).unwrap();
    let mut cluster = Cluster::new();
    let mut until = |condition: &dyn Fn(&Cluster) -> bool| {
        while !condition(&cluster) {
            cluster.apply(events.recv_timeout(PATIENCE).expect("the event that was awaited"));
        }
        cluster.count(Kind::NetworkPolicy)
    };
    until(&Cluster::is_synced);
    fs::rename(&folder, parent.path().join("away")).unwrap();
    assert_eq!(until(&|cluster| cluster.rejections().count() == 1), 1);
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("b.yaml"), policy("b", 1)).unwrap();
    until(&|cluster| cluster.rejections().count() == 0 && has(cluster, "b") && !has(cluster, "a"));
    fs::write(folder.join("c.yaml"), policy("c", 1)).unwrap();
    until(&|cluster| has(cluster, "c"));
}

#[test]
fn a_mounted_config_map_is_watched() {
    let folder = TempDir::new().unwrap();
    let version = |name: &str, port| {
        fs::create_dir(folder.path().join(name)).unwrap();
        fs::write(folder.path().join(name).join("a.yaml"), policy("a", port)).unwrap();
        let link = folder.path().join("..data_tmp");
        std::os::unix::fs::symlink(name, &link).unwrap();
        fs::rename(link, folder.path().join("..data")).unwrap();
    };
    version("..1", 1);
    std::os::unix::fs::symlink("..data/a.yaml", folder.path().join("a.yaml")).unwrap();
    let (_watch, events) = watch(folder.path()).unwrap();
    let mut cluster = Cluster::new();
    while !cluster.is_synced() {
        cluster.apply(events.recv_timeout(PATIENCE).expect("the first reading"));
    }
    let before = port(&cluster, "a");
    version("..2", 2);
    while port(&cluster, "a") == before {
        cluster.apply(events.recv_timeout(PATIENCE).expect("the second version"));
    }
}

#[test]
fn reading_once_gives_the_same_and_kinds_that_are_not_read_are_counted() {
    let folder = TempDir::new().unwrap();
    let deployment = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\n---\n".repeat(2);
    fs::write(folder.path().join("a.yaml"), deployment + &policy("a", 1)).unwrap();
    fs::create_dir(folder.path().join("sub.yaml")).unwrap();
    let mut cluster = Cluster::new();
    for event in read(folder.path()).unwrap() {
        cluster.apply(event);
    }
    assert!(cluster.is_synced() && has(&cluster, "a") && cluster.rejections().count() == 0);
    let (watch, events) = watch(folder.path()).unwrap();
    while events.recv_timeout(PATIENCE).expect("the first reading") != Event::Synced(Kind::NetworkPolicy) {}
    assert_eq!(watch.ignored(), BTreeMap::from([("apps/v1 Deployment".to_owned(), 2)]));
    assert!(read(&folder.path().join("none")).is_err() && super::watch(Path::new("/nonexistent")).is_err());
}

proptest! {
    /// After any sequence of changes, what was reported bit by bit is what a fresh reading of the files reports, as
    /// long as no version was refused and no file broken (for which the past counts).
    #[test]
    fn the_events_add_up_to_what_the_files_say(
        steps in proptest::collection::vec(
            (0..3u8, proptest::option::weighted(0.8, proptest::collection::vec((0..4u8, 1..3u32), 0..4))),
            1..20,
        ),
    ) {
        let mut state = State::default();
        let mut cluster = Cluster::new();
        let mut files: BTreeMap<Arc<str>, String> = BTreeMap::new();
        for (file, objects) in steps {
            let name: Arc<str> = format!("{file}.yaml").into();
            let content = match objects {
                None => {
                    files.remove(&name);
                    Content::Gone
                }
                Some(objects) => {
                    let text: String = objects.iter().map(|(n, port)| policy(&format!("p{n}"), *port)).collect();
                    files.insert(Arc::clone(&name), text.clone());
                    Content::Entries(parse(&name, &text).unwrap())
                }
            };
            for event in state.update([(name, content)].into()) {
                cluster.apply(event);
            }
            let mut fresh = Cluster::new();
            let all = files.iter().map(|(name, text)| (Arc::clone(name), Content::Entries(parse(name, text).unwrap())));
            for event in State::default().update(all.collect()) {
                fresh.apply(event);
            }
            prop_assert!(cluster.policies().eq(fresh.policies()));
            prop_assert!(cluster.rejections().eq(fresh.rejections()));
        }
    }
}
