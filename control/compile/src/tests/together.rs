//! Endpoints that change to policies with other rules and the same default denial, so that their groups change the key.
//! Several groups change in one rebuild.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use proptest::prelude::*;

const STAGES: [&str; 3] = ["a", "b", "c"];

/// The stages that a pod is in.
type Stages = [bool; 3];

#[derive(Clone, Debug)]
enum Step {
    Pod(u16, Stages),
    Detach(u16),
    /// Sets the port of a stage's policy, or removes the policy.
    Policy(usize, Option<u16>),
    Build,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (2u16..7, any::<Stages>()).prop_map(|(id, stages)| Step::Pod(id, stages)),
        1 => (2u16..7).prop_map(Step::Detach),
        3 => (0usize..3, prop::option::weighted(0.8, 81u16..87)).prop_map(|(of, port)| Step::Policy(of, port)),
        3 => Just(Step::Build),
    ]
}

fn the_pod(id: u16, stages: Stages) -> Pod {
    let set = STAGES.into_iter().zip(stages).filter(|(_, is)| *is);
    let its_labels: Vec<String> = set.map(|(stage, _)| format!("{stage}=1")).collect();
    let ip = format!("10.0.1.{id}");
    pod(&format!("shop/p{id}"), "here", &[&ip], &its_labels.join(","))
}

fn the_policy(of: usize, number: u16) -> NetworkPolicy {
    let (name, selector) = (format!("shop/of-{}", STAGES[of]), format!("{}=1", STAGES[of]));
    let rules = vec![rule(vec![pods("app=web")], vec![tcp(number)])];
    policy(&name, &selector, Some(rules), None)
}

proptest! {
    #[test]
    fn endpoints_that_change_in_one_build_get_their_own_policy(steps in prop::collection::vec(step(), 1..60)) {
        let mut world = World::new();
        world.put(namespace("shop", "")).put(pod("shop/web", "there", &["10.0.2.9"], "app=web"));
        // All endpoints have the same default denial.
        world.put(policy("shop/all", "", Some(vec![]), None));
        let mut attached = BTreeMap::<u16, Stages>::new();
        let mut ports = [None; 3];
        for step in steps.into_iter().chain([Step::Build]) {
            match step {
                Step::Pod(id, stages) => {
                    let pod = the_pod(id, stages);
                    if attached.insert(id, stages).is_none() {
                        world.local(id, &pod);
                    } else {
                        world.put(pod);
                    }
                }
                Step::Detach(id) => {
                    attached.remove(&id);
                    world.compiler.detach(EndpointId(id));
                }
                Step::Policy(of, port) => {
                    ports[of] = port;
                    match port {
                        Some(number) => world.put(the_policy(of, number)),
                        None => world.delete(Kind::NetworkPolicy, "shop", &format!("of-{}", STAGES[of])),
                    };
                }
                Step::Build => {
                    let snapshot = world.build().snapshot;
                    let opens = |stages: &Stages| -> BTreeSet<(usize, u16)> {
                        let of = |at: usize| stages[at].then_some((at, ports[at]?));
                        (0..3).filter_map(of).collect()
                    };
                    for (id, stages) in &attached {
                        let open = opens(stages);
                        for number in 81..87 {
                            let want = open.iter().any(|(_, port)| *port == number);
                            prop_assert_eq!(admits(&snapshot, *id, "10.0.2.9", number), want, "{} at {}", id, number);
                        }
                    }
                    let groups: BTreeSet<_> = attached.values().map(opens).collect();
                    prop_assert_eq!(world.compiler.policy_count(), groups.len(), "no group outlives its last endpoint");
                }
            }
        }
    }
}
