//! Scripts of frames for the node of `cluster`, and their transcripts: the verdict on each frame and the frames that left.

use std::collections::BTreeMap;
use std::fs;
use std::io::BufReader;
use std::path::Path;
use std::time::Duration;

use heddle_config::Config;
use heddle_offline::replay::input::{Input, Inputs};
use heddle_offline::replay::node::{Node, Shape};
use heddle_offline::replay::report::{PortReport, Report};
use heddle_offline::simulate::{ClusterTables, Rules};
use heddle_port::{Capture, Captured};
use heddle_wire::parse;
use heddle_wire::testing::{assert_valid, reassemble};

use super::render::render;
use super::tunnel::inner;

/// A frame that arrives.
pub struct Step {
    /// The label: the property that the frame tests.
    pub what: &'static str,
    /// The port.
    pub port: &'static str,
    /// The frame.
    pub frame: Vec<u8>,
    /// The time since the frame before it; a millisecond by default.
    pub after: Duration,
}

impl Step {
    /// Sets the time since the frame before it.
    pub fn after(self, seconds: u64) -> Self {
        Self {
            after: Duration::from_secs(seconds),
            ..self
        }
    }
}

/// Makes a step one millisecond after the one before it.
pub const fn step(what: &'static str, port: &'static str, frame: Vec<u8>) -> Step {
    Step {
        what,
        port,
        frame,
        after: Duration::from_millis(1),
    }
}

pub fn cluster() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/replay/cluster"))
}

/// Runs the steps and returns the transcript. etherparse verifies every frame that leaves, and every datagram whose
/// fragments all leave.
pub fn transcript(steps: &[Step]) -> String {
    let out = tempfile::tempdir().unwrap();
    let mut tables = ClusterTables::new();
    for event in heddle_source::folder::read(cluster()).unwrap() {
        tables.apply_event(event);
    }
    assert_eq!(tables.cluster().rejections().count(), 0);
    let shape = Shape {
        cluster: tables.cluster(),
        name: "node-1",
        rules: &Rules::default(),
        config: &Config::default(),
        out: out.path(),
    };
    let shown = tempfile::tempdir().unwrap();
    let mut node = Node::new(&shape, &show_uplink(steps, shown.path())).unwrap();
    let mut ends = Vec::new();
    let mut at = Duration::ZERO;
    for step in steps {
        let before = node.report();
        at += step.after;
        let captured = Captured {
            at,
            frame: step.frame.clone(),
        };
        node.receive(node.find(step.port).unwrap(), &captured).unwrap();
        ends.push((at, end(&before, &node.report(), step.port)));
    }
    node.finish().unwrap();
    let left = left(out.path());
    verify_datagrams(&left);
    let mut transcript = String::new();
    for (step, (at, end)) in steps.iter().zip(ends) {
        transcript += &format!("# {}\n{}: {}\n  {end}\n", step.what, step.port, render(&step.frame));
        for (port, captured) in left.iter().filter(|(_, captured)| captured.at == at) {
            assert_valid(&captured.frame);
            if let Some(inner) = inner(&captured.frame) {
                assert_valid(inner);
            }
            transcript += &format!("  {port}: {}\n", render(&captured.frame));
        }
    }
    transcript
}

/// Returns the captures that `Node::new` reads the Ethernet addresses of the uplink's link from: the first frame at the uplink, if
/// there is one.
fn show_uplink(steps: &[Step], folder: &Path) -> Inputs {
    let Some(step) = steps.iter().find(|step| step.port == "uplink") else {
        return Inputs::open(&[]).unwrap();
    };
    let file = folder.join("uplink.pcap");
    let len = u32::try_from(step.frame.len()).unwrap();
    // The header of the file and of the one record (draft-ietf-opsawg-pcap), in the byte order of the magic number.
    let words = [0xa1b2_c3d4, 0x0002_0004, 0, 0, 65_535, 1, 0, 0, len, len];
    let mut bytes: Vec<u8> = words.iter().flat_map(|word: &u32| word.to_be_bytes()).collect();
    bytes.extend_from_slice(&step.frame);
    fs::write(&file, bytes).unwrap();
    let port = step.port.to_owned();
    Inputs::open(&[Input { port, file }]).unwrap()
}

/// Reassembles the fragments that left by one port for one datagram, in a tunnel or not, and verifies the checksum of the datagram. Skips datagrams
/// whose last fragment did not leave.
fn verify_datagrams(left: &[(String, Captured)]) {
    let mut datagrams = BTreeMap::<_, (Vec<Vec<u8>>, bool)>::new();
    for (port, captured) in left {
        let frame = inner(&captured.frame).unwrap_or(&captured.frame);
        let p = parse(frame, frame.len()).unwrap();
        if p.is_fragment() {
            let datagram = (port, p.src, p.dst, p.fragment_id);
            let (fragments, ended) = datagrams.entry(datagram).or_default();
            fragments.push(frame.to_vec());
            *ended |= !p.more_fragments;
        }
    }
    for (fragments, _) in datagrams.values().filter(|(_, ended)| *ended) {
        assert_valid(&reassemble(fragments).expect("all fragments of what left"));
    }
}

/// Returns the verdict on the one frame that arrived between two reports.
fn end(before: &Report, after: &Report, port: &str) -> String {
    let (a, b): (&PortReport, &PortReport) = (&before.ports[port], &after.ports[port]);
    assert_eq!(b.received, a.received + 1, "the frame is counted where it came in");
    let dropped = b.dropped.iter().find(|(reason, n)| a.dropped.get(*reason) != Some(n));
    match dropped {
        Some((reason, _)) => format!("dropped: {reason}"),
        None if b.forwarded > a.forwarded => "forwarded".to_owned(),
        None if b.answered > a.answered => "answered".to_owned(),
        None if b.absorbed > a.absorbed => "absorbed".to_owned(),
        None => "waits".to_owned(),
    }
}

/// Reads the captures of the frames that left.
fn left(out: &Path) -> Vec<(String, Captured)> {
    let mut files: Vec<_> = fs::read_dir(out).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut left = Vec::new();
    for file in files {
        let name = file.file_stem().unwrap().to_string_lossy().into_owned();
        let port = match name.split('_').collect::<Vec<_>>()[..] {
            ["pod", namespace, pod] => format!("pod:{namespace}/{pod}"),
            _ => name,
        };
        let mut capture = Capture::new(BufReader::new(fs::File::open(&file).unwrap())).unwrap();
        while let Some(captured) = capture.take().unwrap() {
            left.push((port.clone(), captured));
        }
    }
    left
}
