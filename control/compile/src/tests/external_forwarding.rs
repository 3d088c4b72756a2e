//! Direct server return: the frontends that have it, and their backends on this node.

use heddle_model::ExternalForwarding::{self, Dsr, Masquerade};
use heddle_model::TrafficPolicy;
use heddle_tables::Backend;

use super::frontends::{BALANCER, NODE, balanced, found, here};
use super::services::slice;
use super::*;

#[test]
fn external_forwarding_follows_the_annotation_or_else_the_configuration() {
    let ends = [
        ("10.0.0.5", "here", 'r'),
        ("10.0.1.2", "there", 'r'),
        (NODE, "here", 'r'),
    ];
    type Case = (ExternalForwarding, Option<ExternalForwarding>, TrafficPolicy, bool);
    let cases: [Case; 5] = [
        (Masquerade, None, TrafficPolicy::Cluster, false),
        (Dsr, None, TrafficPolicy::Cluster, true),
        (Masquerade, Some(Dsr), TrafficPolicy::Cluster, true),
        (Dsr, Some(Masquerade), TrafficPolicy::Cluster, false),
        (Dsr, None, TrafficPolicy::Local, false),
    ];
    for (configured, annotated, policy, directly) in cases {
        let mut world = World::with(|config| config.external_forwarding = configured);
        let mut web = balanced("a/web", "10.96.0.1", policy);
        web.external_forwarding = annotated;
        world
            .put(here("a"))
            .put(web)
            .put(slice("a/s", "a/web", &[("", 8080)], &ends));
        let snapshot = world.build().snapshot;
        for (addr, port) in [(BALANCER, 80), (NODE, 30_080), ("10.96.0.1", 80)] {
            let frontend = found(&snapshot, addr, Proto::TCP, port).unwrap();
            let external = addr != "10.96.0.1";
            assert_eq!(
                frontend.returns_directly(),
                directly && external,
                "{addr} {configured:?}"
            );
            // Another node may forward whatever this node's configuration is. Its own processes are no backends then.
            let here = frontend.here.as_ref().map(|here| here.list().to_vec());
            let pod = Backend {
                ip: Ip::from(ip("10.0.0.5")),
                port: 8080,
            };
            let forwarded = external && policy == TrafficPolicy::Cluster;
            assert_eq!(here, forwarded.then(|| vec![pod]), "{addr}");
        }
    }
}
