//! A status survives JSON.

use super::*;

#[test]
fn a_status_survives_json() {
    let status = Status {
        agent: AgentStatus {
            version: "0.1.0".into(),
            node: "n1".into(),
            pid: 1,
            uptime_seconds: 2,
            start: 3,
            mode: "copy".into(),
        },
        source: SourceStatus {
            kind: "manifests".into(),
            from: "/m".into(),
            synced_seconds: Some(1),
            age_seconds: 0,
            objects: BTreeMap::from([("Pod".into(), 4)]),
            kinds: BTreeMap::new(),
            write_faults: [("events".into(), "forbidden".into())].into(),
        },
        snapshot: SnapshotStatus {
            version: 9,
            acknowledged: 9,
            age_seconds: 1,
            change_times: ChangeTimes::default(),
        },
        host: HostPortStatus {
            works: false,
            verified_seconds: Some(3),
            differences: vec!["no nft".into()],
            repaired: 1,
        },
        checks: vec![CheckStatus {
            what: "nft".into(),
            ok: true,
            value: "v1".into(),
            advice: String::new(),
        }],
        uplink: UplinkStatus {
            interface: Some("eth0".into()),
            mode: Some("native".into()),
            tunnel: "vxlan".into(),
            vtep: "02:00:00:00:00:07".into(),
            encapsulated: 7,
            decapsulated: 8,
            problems: Vec::new(),
        },
        nodes: vec![NodeStatus {
            name: "n2".into(),
            address: Some("192.0.2.2".into()),
            path: Some("tunnel".into()),
            via: Some("uplink".into()),
            mtu: 1450,
            problem: None,
        }],
        workers: vec![WorkerStatus {
            worker: 0,
            core: Some(1),
            turns: 10,
            busy_turns: 5,
            sleeps: 1,
            wakeups: 1,
            busy_ratio: 0.5,
            bursts: BTreeMap::from([(1, 2), (64, 3)]),
            snapshot: 9,
            ports: 2,
            handed_over: 0,
        }],
        ports: vec![PortStatus {
            port: 2,
            name: "pod:a/b".into(),
            role: PortRole::Pod,
            pod: None,
            interface: "hdl2".into(),
            queue: 0,
            xdp_mode: "native".into(),
            worker: 0,
            rx_packets: 4,
            rx_bytes: 400,
            tx_packets: 2,
            tx_bytes: 200,
            forwarded: 1,
            fragments: 0,
            fragments_lost: 0,
            answered: 1,
            absorbed: 0,
            dropped: BTreeMap::from([("spoofed".into(), 1), ("policy".into(), 1)]),
            xsk: BTreeMap::new(),
            segments: SegmentStatus::default(),
            rings: RingStatus::default(),
            frames: 64,
        }],
        drops: vec![ReasonDrops {
            reason: "spoofed".into(),
            class: "spoofing".into(),
            packets: 1,
        }],
        drops_by_class: BTreeMap::from([("spoofing".into(), 1)]),
        tables: BTreeMap::from([("endpoints".into(), 3)]),
        flows: FlowStatus {
            used: 2,
            capacity: 65536,
            inserted: 2,
            expired: 0,
            refused_full: 0,
            refused_quota: 0,
            displaced: 0,
            taken_over: 0,
            discarded: 0,
        },
        fragments: FragmentStatus {
            first: 1,
            ..FragmentStatus::default()
        },
        frames: FrameStatus {
            total: 16384,
            frame_size: 4096,
            max_pods: 128,
            holders: vec![FrameHolder {
                holder: "shared pool".into(),
                frames: 16384,
            }],
        },
        rejections: Vec::new(),
        rejections_total: 0,
        attachments: Vec::new(),
        state_not_kept: Some("no space".into()),
        denied: Vec::new(),
        denied_by_others: 0,
    };
    let text = serde_json::to_string(&status).unwrap();
    assert_eq!(serde_json::from_str::<Status>(&text).unwrap(), status);
    assert_eq!(status.ports[0].dropped_total(), 2);
    assert_eq!(status.class_of("spoofed"), Some("spoofing"));
    assert_eq!(status.class_of("policy"), None);
}
