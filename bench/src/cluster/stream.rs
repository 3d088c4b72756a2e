//! The changes of a busy cluster, one after the other.

use heddle_model::Kind;

use super::plan::mix;
use super::state::{Revision, Stage, State};

/// The type of a watch event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// A new object.
    Added,
    /// A new version.
    Modified,
    /// The object is gone.
    Deleted,
}

impl Verb {
    /// Returns the word of the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

/// One change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// The object's kind.
    pub kind: Kind,
    /// Its index.
    pub index: u32,
    /// The version that the watch shows.
    pub revision: Revision,
    /// The kind of change.
    pub verb: Verb,
}

/// The changes with their shares in hundredths.
const SHARES: [(u64, What); 8] = [
    (35, What::PodStatus),
    (25, What::PodLife),
    (20, What::Endpoints),
    (13, What::NodeStatus),
    (3, What::PodLabels),
    (2, What::LocalPodStatus),
    (1, What::NamespaceLabels),
    (1, What::Policy),
];

#[derive(Clone, Copy, Debug)]
enum What {
    PodStatus,
    /// One of the four changes by which another pod takes a pod's place.
    PodLife,
    Endpoints,
    NodeStatus,
    PodLabels,
    LocalPodStatus,
    NamespaceLabels,
    Policy,
}

/// Makes changes from a seed.
#[derive(Debug)]
pub struct Stream {
    seed: u64,
    made: u64,
    /// Pods whose place passes to another pod.
    changing: Vec<u32>,
}

impl Stream {
    /// Returns a stream that begins with a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self {
            seed,
            made: 0,
            changing: Vec::new(),
        }
    }

    /// Makes one change.
    pub fn next(&mut self, state: &mut State) -> Event {
        let plan = std::sync::Arc::clone(&state.plan);
        let mut wanted = self.random() % 100;
        let mut what = What::PodStatus;
        for (share, each) in SHARES {
            what = each;
            if wanted < share {
                break;
            }
            wanted -= share;
        }
        match what {
            What::PodStatus => {
                let pod = self.foreign_pod(state);
                self.modify(state, Kind::Pod, pod, |revision| revision.status += 1)
            }
            What::PodLabels => {
                let pod = self.foreign_pod(state);
                self.modify(state, Kind::Pod, pod, |revision| revision.content += 1)
            }
            What::LocalPodStatus => {
                let pod = plan.local_pod(self.below(plan.local));
                self.modify(state, Kind::Pod, pod, |revision| revision.status += 1)
            }
            What::PodLife => self.step(state),
            What::Endpoints => {
                let slice = self.below(plan.count(Kind::EndpointSlice) - 1);
                self.modify(state, Kind::EndpointSlice, slice, |revision| revision.content += 1)
            }
            What::NodeStatus => {
                let node = 1 + self.below(plan.nodes - 1);
                self.modify(state, Kind::Node, node, |revision| revision.status += 1)
            }
            What::NamespaceLabels => {
                let namespace = self.below(plan.namespaces);
                self.modify(state, Kind::Namespace, namespace, |revision| revision.content += 1)
            }
            What::Policy => {
                let policy = self.below(plan.policies);
                self.modify(state, Kind::NetworkPolicy, policy, |revision| revision.content += 1)
            }
        }
    }

    /// Replaces the endpoints of the bench's own Service.
    pub fn probe(state: &mut State, endpoints: Vec<std::net::IpAddr>) -> Event {
        state.probe = endpoints;
        let index = state.plan.count(Kind::EndpointSlice) - 1;
        let revision = state.change(Kind::EndpointSlice, index, |revision| revision.content += 1);
        Event {
            kind: Kind::EndpointSlice,
            index,
            revision,
            verb: Verb::Modified,
        }
    }

    /// Takes a pod whose place changes one step further, or begins with another pod.
    fn step(&mut self, state: &mut State) -> Event {
        // Some hundred pods change at a time.
        const AT_ONCE: usize = 400;
        let at = if self.changing.len() < AT_ONCE {
            let pod = self.foreign_pod(state);
            self.changing.push(pod);
            self.changing.len() - 1
        } else {
            self.below(AT_ONCE as u32) as usize
        };
        let pod = self.changing.get(at).copied().unwrap_or_default();
        let mut verb = Verb::Modified;
        let revision = state.change(Kind::Pod, pod, |revision| match revision.stage {
            Stage::Running => revision.stage = Stage::Terminating,
            Stage::Terminating => (revision.stage, verb) = (Stage::Gone, Verb::Deleted),
            Stage::Gone => {
                (revision.stage, verb) = (Stage::Unscheduled, Verb::Added);
                revision.life += 1;
            }
            Stage::Unscheduled => revision.stage = Stage::Scheduled,
            Stage::Scheduled => revision.stage = Stage::Running,
        });
        if revision.stage == Stage::Running {
            self.changing.swap_remove(at);
        }
        Event {
            kind: Kind::Pod,
            index: pod,
            revision,
            verb,
        }
    }

    fn modify(&self, state: &mut State, kind: Kind, index: u32, edit: impl FnOnce(&mut Revision)) -> Event {
        Event {
            kind,
            index,
            revision: state.change(kind, index, edit),
            verb: Verb::Modified,
        }
    }

    /// Returns a running pod of another node.
    fn foreign_pod(&mut self, state: &State) -> u32 {
        loop {
            let pod = self.below(state.plan.pods);
            let runs = state.revision(Kind::Pod, pod).stage == Stage::Running;
            if runs && state.plan.local_number(pod).is_none() {
                return pod;
            }
        }
    }

    fn below(&mut self, end: u32) -> u32 {
        (self.random() % u64::from(end.max(1))) as u32
    }

    fn random(&mut self) -> u64 {
        self.made += 1;
        mix(self.seed ^ self.made.rotate_left(24))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::cluster::Plan;
    use crate::cluster::object::write_revision;

    #[test]
    fn a_stream_is_the_same_each_time_and_its_objects_are_accepted() {
        let plan = Plan {
            nodes: 40,
            pods: 3000,
            local: 20,
            attached: 5,
            services: 210,
            endpoints: 3000,
            policies: 50,
            namespaces: 60,
            dual_stack: false,
            seed: 3,
            node: "here".to_owned(),
        };
        let run = || {
            let mut state = State::new(plan.clone());
            let mut stream = Stream::new(7);
            let mut verbs: BTreeMap<&str, u32> = BTreeMap::new();
            let mut texts = String::new();
            for _ in 0..4000 {
                let event = stream.next(&mut state);
                let mut text = String::new();
                write_revision(&state, event.kind, event.index, event.revision, &mut text);
                let value: serde_json::Value = serde_json::from_str(&text).unwrap();
                heddle_source::decode::decode(&value).unwrap();
                *verbs.entry(event.verb.as_str()).or_default() += 1;
                texts.push_str(&text);
            }
            (verbs, texts)
        };
        let (verbs, texts) = run();
        assert!(verbs["ADDED"] > 50 && verbs["DELETED"] > 50, "{verbs:?}");
        assert!(run() == (verbs, texts));
    }
}
