//! `heddle replay` as a command: captures and JSON as output, equal for equal input, and errors.

#![allow(clippy::unwrap_used, reason = "a test: a failure must end it")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use heddle_port::{MemPort, PacketVec, Port, PortId, Record, SharedPool, WorkerId, WorkerPool};
use heddle_wire::testing::{Packet, ip};
use heddle_wire::{MacAddr, TcpFlags};
use serde_json::{Value, json};

/// Returns the cluster of the golden packets.
fn cluster() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../offline/tests/replay/cluster"))
}

fn heddle(out: &Path, inputs: &[(&str, &Path)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_heddle"));
    command.args(["replay", "--node", "node-1", "--output", "json", "--manifests"]);
    command.arg(cluster()).arg("--out").arg(out);
    for (port, file) in inputs {
        command.arg("--in").arg(format!("{port}={}", file.display()));
    }
    command.output().unwrap()
}

fn json_of(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Writes a capture.
fn capture(path: PathBuf, frames: &[(u64, Vec<u8>)]) -> PathBuf {
    let shared = SharedPool::heap(64, 4096);
    let mut pool = WorkerPool::new(WorkerId(0), shared.clone());
    let (mut port, wire) = MemPort::new(PortId(0), shared.store());
    let mut record = Record::new(wire.clone(), fs::File::create(&path).unwrap());
    for (at, frame) in frames {
        wire.push(frame);
        let mut packets = PacketVec::new();
        port.rx(&mut pool, &mut packets);
        port.tx(&mut pool, &mut packets);
        port.flush(&mut pool);
        record.write(Duration::from_micros(*at)).unwrap();
    }
    record.finish().unwrap();
    port.close(&mut pool);
    path
}

/// Writes captures of two handshakes. The client's MAC is the source MAC of its frames. The server's MAC is the one that replay
/// derives from an address.
fn handshakes(dir: &Path) -> (PathBuf, PathBuf) {
    let mac = MacAddr([2, 9, 9, 9, 9, 9]);
    let syn = |port| {
        Packet::new(mac, MacAddr::GATEWAY, ip("10.1.0.10"), ip("10.96.0.80")).tcp(port, 80, TcpFlags::SYN, 1, 0, b"")
    };
    let answer = |port| {
        let server = MacAddr([2, 0, 10, 1, 0, 20]);
        Packet::new(server, MacAddr::GATEWAY, ip("10.1.0.20"), ip("10.1.0.10")).tcp(
            8080,
            port,
            TcpFlags::SYN | TcpFlags::ACK,
            1,
            2,
            b"",
        )
    };
    // Of two frames with the same time, the one of the capture that is named first comes first.
    let client = capture(
        dir.join("client.pcap"),
        &[(10, syn(1000)), (30, syn(1001)), (20, vec![0; 3])],
    );
    let web = capture(dir.join("web.pcap"), &[(10, answer(1000)), (31, answer(1001))]);
    (client, web)
}

#[test]
fn frames_run_in_the_order_of_their_times_with_reproducible_results() {
    let dir = tempfile::tempdir().unwrap();
    let (client, web) = handshakes(dir.path());
    let inputs = [("pod:shop/client", client.as_path()), ("pod:shop/web", web.as_path())];
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    let report = json_of(&heddle(&one, &inputs));
    assert_eq!(
        report["ports"]["pod:shop/client"],
        json!({"received": 3, "forwarded": 2, "answered": 0, "absorbed": 0,
               "dropped": {"ethernet-truncated": 1}, "sent": 2})
    );
    assert_eq!(report["ports"]["pod:shop/web"]["forwarded"], 2);
    let names: Vec<&String> = report["ports"].as_object().unwrap().keys().collect();
    assert_eq!(
        names,
        [
            "host",
            "pod:shop/client",
            "pod:shop/closed",
            "pod:shop/web",
            "pod:shop/web-2",
            "uplink"
        ]
    );
    assert_eq!(json_of(&heddle(&two, &inputs)), report);
    let files = |dir: &Path| -> Vec<(String, Vec<u8>)> {
        let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        let name = |file: &PathBuf| file.file_name().unwrap().to_string_lossy().into_owned();
        files.iter().map(|file| (name(file), fs::read(file).unwrap())).collect()
    };
    let written = files(&one);
    let names: Vec<&str> = written.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        ["pod_shop_client.pcap", "pod_shop_web.pcap"],
        "a port that sends nothing has no file"
    );
    assert_eq!(files(&two), written, "the same bytes");
    // Again over the old files, with the two simultaneous frames in the other order: the answer precedes the SYN.
    let turned = json_of(&heddle(&one, &[inputs[1], inputs[0]]));
    assert_eq!(turned["ports"]["pod:shop/web"]["forwarded"], 2, "adopted: {turned}");
}

#[test]
fn inputs_that_cannot_be_replayed_name_the_cause() {
    let dir = tempfile::tempdir().unwrap();
    let (client, _) = handshakes(dir.path());
    let (absent, garbage) = (dir.path().join("absent.pcap"), dir.path().join("garbage.pcap"));
    fs::write(&garbage, b"no capture").unwrap();
    let out = dir.path().join("out");
    for (port, file, words) in [
        (
            "pod:shop/nobody",
            &client,
            "it has: pod:shop/client, pod:shop/closed, pod:shop/web, pod:shop/web-2, host, uplink",
        ),
        ("pod:shop/client", &absent, "absent.pcap: No such file"),
        ("pod:shop/client", &garbage, "garbage.pcap: frame 0: "),
    ] {
        let output = heddle(&out, &[(port, file)]);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !output.status.success() && stderr.contains(words),
            "{port} {}: {stderr}",
            file.display()
        );
    }
}
