//! The work that the pod's kernel leaves to its interface.

use heddle_proto::Prepared;
use serde_json::json;

use crate::scene::{Scene, ip, prepared};

/// Returns the features of the pod's interface that are on.
fn active(scene: &Scene) -> Vec<String> {
    let features = scene.pod.run("ethtool", &["-k", "eth0"]).unwrap();
    features
        .lines()
        .filter_map(|line| line.trim().strip_suffix(": on"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_pods_kernel_passes_on_large_tcp_segments_and_nothing_else() {
    let scene = Scene::new();
    scene.add();
    let active = active(&scene);
    let mut segmentation: Vec<&str> = active
        .iter()
        .map(String::as_str)
        .filter(|name| name.starts_with("tx-") && (name.ends_with("-segmentation") || name.contains("gso")))
        .collect();
    segmentation.sort_unstable();
    assert_eq!(
        segmentation,
        ["tx-tcp-ecn-segmentation", "tx-tcp-segmentation", "tx-tcp6-segmentation"]
    );
    // The others stay.
    for feature in ["tx-checksum-ip-generic", "tx-scatter-gather"] {
        assert!(active.iter().any(|name| name == feature), "{feature}: {active:?}");
    }
    // The limits for IPv4 alone are not printed by ip(8) before 6.3.
    let eth0 = &ip(&scene.pod, "-d link show eth0")[0];
    for limit in ["gso_max_size", "gro_max_size"] {
        assert_eq!(eth0[limit], 65_536, "{limit}");
    }
    scene
        .agent()
        .with(|script| assert!(script.ready_request.unwrap().tcp_segments_only));
}

#[test]
fn a_smaller_limit_of_the_agent_is_kept() {
    let scene = Scene::new();
    let answer = Prepared {
        max_segment: Some(61_500),
        ..prepared()
    };
    scene
        .agent()
        .with(|script| script.prepare = Ok(json!(answer).to_string()));
    scene.add();
    let eth0 = &ip(&scene.pod, "-d link show eth0")[0];
    for limit in ["gso_max_size", "gro_max_size"] {
        assert_eq!(eth0[limit], 61_500, "{limit}");
    }
}

#[test]
fn for_an_agent_of_an_earlier_version_the_interface_stays_as_it_is() {
    let scene = Scene::new();
    let answer = Prepared {
        max_segment: None,
        ..prepared()
    };
    scene
        .agent()
        .with(|script| script.prepare = Ok(json!(answer).to_string()));
    scene.add();
    let active = active(&scene);
    assert!(active.iter().any(|name| name == "tx-udp-segmentation"), "{active:?}");
    scene
        .agent()
        .with(|script| assert!(!script.ready_request.unwrap().tcp_segments_only));
}
