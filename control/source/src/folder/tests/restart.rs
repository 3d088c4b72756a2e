//! A restart between any two changes: the last good versions that were kept serve again, and nothing else is allowed.

use heddle_model::NetworkPolicy;

use super::*;
use crate::manifest::ParseError;

/// The content of a file in these tests.
#[derive(Clone, Debug)]
enum Text {
    Gone,
    Broken,
    /// Policies, by number and port. Port 65537 is refused.
    Policies(Vec<(u8, u32)>),
    /// The same with a document that may be meant as a policy.
    Guess(Vec<(u8, u32)>),
}

impl Text {
    fn content(&self, name: &str) -> Content {
        let policies = |objects: &[(u8, u32)]| -> String {
            let texts = objects.iter().map(|(n, port)| policy(&format!("p{n}"), *port));
            texts.collect()
        };
        let entries = |text: String| Content::Entries(parse(name, &text).unwrap());
        match self {
            Text::Gone => Content::Gone,
            Text::Broken => Content::Unreadable {
                error: ParseError {
                    line: None,
                    message: "no YAML".to_owned(),
                },
                may_have_policies: true,
            },
            Text::Policies(objects) => entries(policies(objects)),
            Text::Guess(objects) => entries(policies(objects) + "kind: networkPolicy\nmetadata: {name: x}\n"),
        }
    }
}

/// The files, and a process that has read them.
struct Process {
    files: BTreeMap<Arc<str>, Text>,
    state: State,
    cluster: Cluster,
}

impl Process {
    fn new() -> Process {
        Process {
            files: BTreeMap::new(),
            state: State::default(),
            cluster: Cluster::new(),
        }
    }

    fn update(&mut self, files: BTreeMap<Arc<str>, Text>) {
        let contents = files.iter().map(|(name, text)| (Arc::clone(name), text.content(name)));
        for event in self.state.update(contents.collect()) {
            self.cluster.apply(event);
        }
        self.files.extend(files);
        self.files.retain(|_, text| !matches!(text, Text::Gone));
    }

    fn write(&mut self, name: &str, text: Text) {
        self.update([(name.into(), text)].into());
    }

    /// Returns a process that starts with the versions that this one keeps, after changes of files that no process has seen.
    fn restart(&self, changes: &[(&str, Text)]) -> Process {
        let kept = self.cluster.kept();
        let mut next = Process {
            files: BTreeMap::new(),
            state: State::with_files(&kept.contents_of_files()),
            cluster: Cluster::with_kept(&kept),
        };
        // As the watch does: files that are known but not there are gone.
        let known = next.state.files().map(|name| (Arc::clone(name), Text::Gone));
        let mut files: BTreeMap<Arc<str>, Text> = known.collect();
        files.extend(self.files.clone());
        files.extend(changes.iter().map(|(name, text)| ((*name).into(), text.clone())));
        next.update(files);
        for kind in Kind::ALL {
            next.cluster.apply(Event::Synced(kind));
        }
        next
    }

    fn port(&self, name: &str) -> Option<String> {
        port(&self.cluster, name)
    }

    fn closes_everything(&self) -> bool {
        self.cluster.cluster_policies().next().is_some()
    }
}

fn good(port: u32) -> Text {
    Text::Policies(vec![(0, port)])
}

#[test]
fn a_file_that_does_not_parse_keeps_its_objects_over_a_restart() {
    let mut process = Process::new();
    process.write("a.yaml", good(1));
    process.write("a.yaml", Text::Broken);
    let first = process.port("p0");
    for _ in 0..2 {
        process = process.restart(&[]);
        assert_eq!(
            (process.port("p0"), process.closes_everything()),
            (first.clone(), false)
        );
        let messages = causes(&process.cluster);
        assert!(messages[0].1.contains("its earlier objects stay"), "{messages:?}");
    }
    assert!(first.is_some());
    // The file is gone, before the next start or after it.
    assert_eq!(process.restart(&[("a.yaml", Text::Gone)]).cluster.policies().len(), 0);
    process.write("a.yaml", Text::Gone);
    assert_eq!(process.cluster.policies().len(), 0);
    assert!(process.cluster.kept().is_empty());
}

#[test]
fn a_repaired_file_counts_and_not_what_was_kept_of_it() {
    let mut process = Process::new();
    process.write("a.yaml", Text::Policies(vec![(0, 1), (1, 1)]));
    process.write("a.yaml", Text::Broken);
    let after = process.restart(&[("a.yaml", good(2))]);
    assert!(after.port("p0").unwrap().contains('2') && after.port("p1").is_none());
    let mut process = process.restart(&[]);
    assert!(process.port("p1").is_some());
    process.write("a.yaml", good(65537));
    assert!(process.port("p0").unwrap().contains('1') && process.port("p1").is_none());
}

#[test]
fn a_file_that_cannot_be_kept_whole_closes_everything_after_a_restart() {
    let mut process = Process::new();
    process.write("a.yaml", Text::Guess(vec![(0, 1)]));
    process.write("a.yaml", Text::Broken);
    assert!(!process.closes_everything());
    assert!(process.restart(&[]).closes_everything());
    // So does a file that never parsed, and one that was kept under a name that no file of a folder has.
    let mut process = Process::new();
    process.write("a.yaml", Text::Broken);
    assert!(process.closes_everything() && process.restart(&[]).closes_everything());
    let odd = State::with_files(&[("../a.yaml".into(), Vec::new())].into());
    assert_eq!(odd.files().count(), 0);
}

#[test]
fn a_refused_object_returns_and_one_that_is_gone_does_not() {
    let mut process = Process::new();
    process.write("a.yaml", good(1));
    process.write("a.yaml", good(65537));
    let kept = process.cluster.kept();
    let first = process.port("p0");
    process = process.restart(&[]);
    assert_eq!((process.port("p0"), process.cluster.kept()), (first.clone(), kept));
    // It may be refused in another file now.
    let moved = process.restart(&[("a.yaml", Text::Gone), ("b.yaml", good(65537))]);
    assert_eq!(moved.port("p0"), first);
    assert_eq!(process.restart(&[("a.yaml", Text::Gone)]).cluster.policies().len(), 0);
    assert!(
        process
            .restart(&[("a.yaml", good(2))])
            .port("p0")
            .unwrap()
            .contains('2')
    );
    process.write("a.yaml", Text::Gone);
    assert_eq!(process.cluster.policies().len(), 0);
}

fn texts() -> impl Strategy<Value = Text> {
    let objects = || proptest::collection::vec((0..3u8, prop_oneof![3 => 1..3u32, 2 => Just(65537u32)]), 0..3);
    prop_oneof![
        1 => Just(Text::Gone),
        2 => Just(Text::Broken),
        6 => objects().prop_map(Text::Policies),
        1 => objects().prop_map(Text::Guess),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// Every policy that was in force is in force after a restart, or traffic is closed in its place; no other policy is.
    #[test]
    fn a_restart_allows_nothing_more(
        steps in proptest::collection::vec((0..3u8, texts()), 1..12),
        restarts in proptest::collection::vec(any::<bool>(), 12),
    ) {
        let mut process = Process::new();
        for ((file, text), restarts) in steps.into_iter().zip(restarts) {
            process.write(&format!("{file}.yaml"), text);
            let next = process.restart(&[]);
            if !next.closes_everything() {
                let all = |process: &Process| process.cluster.policies().cloned().collect::<Vec<Arc<NetworkPolicy>>>();
                let (before, after) = (all(&process), all(&next));
                for policy in &before {
                    let stays = after.iter().any(|other| other == policy || other.key == policy.key && other.refused);
                    prop_assert!(stays, "{policy:?} is gone: {after:#?}");
                }
                for policy in after.iter().filter(|policy| !policy.refused) {
                    prop_assert!(before.contains(policy), "{policy:?} is new: {before:#?}");
                }
            }
            if restarts {
                process = next;
            }
        }
    }
}
