//! Short runs of the measurements on veths: packets pass on every path. The figures are not checked. Needs root.

use std::net::SocketAddr;
use std::time::Duration;

use heddle_bench::cpu::CpuMeter;
use heddle_bench::datagrams::{self, Datagrams};
use heddle_bench::forwarder::{Forwarder, ForwarderKind};
use heddle_bench::latency::{self, PingPace};
use heddle_bench::load::{self, Cores, Packets};
use heddle_bench::veth::{Offload, Scene};
use heddle_bench::{BenchError, node, tcp};

const CORE: usize = 0;
const SHORT: Duration = Duration::from_millis(200);

fn pod(scene: &Scene) -> SocketAddr {
    SocketAddr::new(scene.server().pod.ip.to_std(), node::TARGET_PORT)
}

#[test]
fn generated_frames_pass_both_forwarders() {
    let scene = Scene::new(1500).unwrap();
    let _dropping = load::drop_arrivals(&scene).unwrap();
    let packets = Packets {
        frame: 64,
        flows: 100,
        time: SHORT,
    };
    for kind in [ForwarderKind::Bare, ForwarderKind::Polling] {
        let run = load::run(
            &scene,
            kind,
            packets,
            Cores {
                forwarder: CORE,
                generator: CORE,
            },
        )
        .unwrap();
        assert!(run.offered > 0.0 && run.received > 0.0, "{kind:?}: {run:?}");
        assert_eq!(
            run.drops.iter().filter(|(reason, _)| reason != "tx-ring-full").count(),
            0,
            "{:?}",
            run.drops
        );
    }
}

#[test]
fn streams_and_datagrams_pass_every_forwarder() {
    let scene = Scene::new(1500).unwrap();
    let service = SocketAddr::new(node::service_ip(0).to_std(), node::SERVICE_PORT);
    let meter = CpuMeter::new([]).unwrap();
    let datagrams = Datagrams {
        connections: 4,
        rate: Some(1000),
        time: SHORT,
    };
    let pace = PingPace {
        rounds: 20,
        pause: Duration::from_millis(3),
    };
    for (kind, offload, to) in [
        (ForwarderKind::Bare, Offload::Off, pod(&scene)),
        (ForwarderKind::Polling, Offload::On, pod(&scene)),
        (ForwarderKind::Sleeping, Offload::On, service),
    ] {
        scene.offload(offload).unwrap();
        let forwarder = Forwarder::start(&scene, kind, CORE).unwrap();
        let run = tcp::stream(scene.ends(), to, node::TARGET_PORT, SHORT, &meter).unwrap();
        let times = latency::ping_pong(scene.ends(), to, node::TARGET_PORT, pace).unwrap();
        let arrivals = datagrams::send(scene.ends(), to, node::TARGET_PORT, datagrams, &meter).unwrap();
        let seen = forwarder.finish().unwrap();
        assert!((500.0..1100.0).contains(&arrivals.offered), "{kind:?}: {arrivals:?}");
        assert!(
            arrivals.received > 0.0 && (0.0..1.0).contains(&arrivals.loss),
            "{kind:?}: {arrivals:?}"
        );
        assert!(run.rate > 0.0 && times.p50 > 0.0, "{kind:?}: {run:?} {times:?}");
        assert!(seen.ports.iter().all(|port| port.rx_packets > 0), "{kind:?}: {seen:?}");
    }
    let kernel = SocketAddr::new(scene.server().kernel_ip.parse().unwrap(), node::TARGET_PORT);
    let run = tcp::stream(scene.ends(), kernel, node::TARGET_PORT, SHORT, &meter).unwrap();
    assert!(run.rate > 0.0 && !run.cpu.is_zero(), "{run:?}");
}

#[test]
fn a_scene_out_of_range_is_refused_by_name() {
    let error = Scene::new(70_000).unwrap_err().to_string();
    assert_eq!(error, "mtu = 70000 cannot be: between 576 and 61000");
    let scene = Scene::new(1500).unwrap();
    let error = Forwarder::start(&scene, ForwarderKind::Bare, 1000).err();
    assert!(
        matches!(
            error,
            Some(BenchError::BadValue {
                what: "core",
                value: 1000,
                ..
            })
        ),
        "{error:?}"
    );
}
