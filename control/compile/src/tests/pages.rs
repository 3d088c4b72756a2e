//! The work and the copied pages of a rebuild grow with the change, not with the cluster.

use super::services::{service, slice};
use super::*;

/// Makes thousands of pods, hundreds of Services, and a hundred local pods, half of them isolated.
fn large(pods: u32) -> World {
    let mut world = World::new();
    world
        .put(node("here", "192.168.0.1", "10.0.1.0/24"))
        .put(node("there", "192.168.0.2", "10.128.0.0/9"));
    for n in 0..20 {
        world.put(namespace(&format!("ns{n}"), "team=a"));
    }
    let mut all = heddle_model::Changes::default();
    for n in 0..pods {
        let [_, b, c, d] = n.to_be_bytes();
        let addr = format!("10.{}.{c}.{d}", 128 + b);
        let made = pod(
            &format!("ns{}/p{n}", n % 20),
            "there",
            &[&addr],
            &format!("app=a{},hash=h{n}", n % 7),
        );
        all.extend(world.cluster.apply(Event::Upsert {
            origin: "t".into(),
            object: made.into(),
        }));
    }
    for n in 0..pods / 10 {
        let [_, _, c, d] = n.to_be_bytes();
        let name = format!("ns1/s{n}");
        let made = service(&name, &[&format!("10.96.{c}.{d}")], &[("", 80)]);
        all.extend(world.cluster.apply(Event::Upsert {
            origin: "t".into(),
            object: made.into(),
        }));
        let made = slice(
            &format!("{name}-1"),
            &name,
            &[("", 80)],
            &[("10.128.0.1", "there", 'r')],
        );
        all.extend(world.cluster.apply(Event::Upsert {
            origin: "t".into(),
            object: made.into(),
        }));
    }
    world.record(&all);
    for n in 2..102u16 {
        world.local(
            n,
            &pod(
                &format!("ns0/l{n}"),
                "here",
                &[&format!("10.0.1.{n}")],
                &format!("app=l{}", n % 2),
            ),
        );
    }
    let rules = vec![rule(vec![pods_in("team=a", "app=a1")], vec![tcp(80)])];
    world.put(policy("ns0/half", "app=l1", Some(rules), None));
    world.build();
    world
}

fn pages(world: &mut World, change: impl FnOnce(&mut World)) -> u64 {
    change(world);
    world.build().pages_copied
}

fn all_changes(pods: u32) -> [u64; 6] {
    let world = &mut large(pods);
    let new = |app: &str, addr: &str| pod("ns3/new", "there", &[addr], &format!("app={app}"));
    [
        pages(world, |w| {
            w.put(new("zzz", "10.200.0.1"));
        }),
        pages(world, |w| {
            w.put(new("a1", "10.200.0.1"));
        }),
        pages(world, |w| {
            w.delete(Kind::Pod, "ns3", "new");
        }),
        pages(world, |w| {
            w.put(slice(
                "ns1/s5-1",
                "ns1/s5",
                &[("", 80)],
                &[("10.128.0.2", "there", 'r')],
            ));
        }),
        pages(world, |w| {
            w.compiler.set_attachment_port(EndpointId(50), PortId(9), WorkerId(0));
        }),
        pages(world, |_| ()),
    ]
}

#[test]
fn pages_copied_do_not_grow_with_the_cluster() {
    let (small, big) = (all_changes(500), all_changes(5000));
    for (n, (small, big)) in small.iter().zip(big).enumerate() {
        assert!(
            big <= small + 2,
            "change {n}: {small} pages among 500 pods, {big} among 5000"
        );
        assert!(big <= 16, "change {n}: {big} pages");
    }
    assert_eq!(big[5], 0, "nothing changed, nothing is copied");
    assert_eq!(big[3], 2, "one page of frontends and their root");
    assert_eq!(big[4], 4, "one page of endpoints, one of their exits, and the roots");
}

#[test]
fn labels_that_no_policy_refers_to_make_no_identities() {
    let world = large(2000);
    // 20 namespaces with 7 apps each, two classes of local pods, the outside.
    assert!(
        world.compiler.identity_count() <= 20 * 7 + 3,
        "{}",
        world.compiler.identity_count()
    );
}

#[test]
fn a_deleted_policy_leaves_nothing_behind() {
    let mut world = large(500);
    world.delete(Kind::NetworkPolicy, "ns0", "half");
    world.build();
    // All pods are one class, and so is the outside.
    assert_eq!((world.compiler.identity_count(), world.compiler.policy_count()), (2, 1));
    assert!(world.compiler.is_policy_idle());
}
