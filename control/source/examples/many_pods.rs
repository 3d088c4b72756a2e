//! Measures the memory and time of a folder of many pods: `cargo run --release -p heddle-source --example many_pods -- 60000`.
//!
//! The pods are in one file for each thousand, on one node, as an unlucky cluster would have them. Prints the resident memory
//! after the objects are read and applied, and the time that deleting all of them takes.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::io::Write as _;
use std::ops::ControlFlow;
use std::sync::mpsc;
use std::time::Instant;

use heddle_model::{Cluster, Event, Kind};
use heddle_source::folder;

/// Pods in one file.
const PER_FILE: u32 = 1000;

fn main() -> Result<(), Box<dyn Error>> {
    let count: u32 = std::env::args().nth(1).map_or(Ok(60_000), |text| text.parse())?;
    let directory = std::env::temp_dir().join(format!("heddle-many-pods-{}", std::process::id()));
    fs::create_dir(&directory)?;
    for first in (0..count).step_by(PER_FILE as usize) {
        let mut text = String::new();
        (first..count.min(first + PER_FILE)).for_each(|n| text += &pod(n));
        fs::write(directory.join(format!("{first:06}.yaml")), text)?;
    }
    let begin = Instant::now();
    let (sender, batches) = mpsc::channel();
    let watch = folder::watch_batches(&directory, &BTreeMap::new(), move |events| match sender.send(events) {
        Ok(()) => ControlFlow::Continue(()),
        Err(_) => ControlFlow::Break(()),
    })?;
    let mut cluster = Cluster::new();
    while !cluster.is_synced() {
        batches.recv()?.into_iter().for_each(|event| drop(cluster.apply(event)));
    }
    let out = &mut std::io::stdout();
    writeln!(
        out,
        "{} pods read in {:.1?}, {}",
        cluster.count(Kind::Pod),
        begin.elapsed(),
        memory()?
    )?;
    let gone: Vec<Event> = cluster
        .pods()
        .map(|pod| Event::Delete(heddle_model::ObjectRef::new(Kind::Pod, pod.key.clone())))
        .collect();
    let begin = Instant::now();
    gone.into_iter().for_each(|event| drop(cluster.apply(event)));
    writeln!(out, "deleted in {:.1?}", begin.elapsed())?;
    drop(watch);
    fs::remove_dir_all(directory)?;
    Ok(())
}

fn pod(n: u32) -> String {
    let (high, low) = (n / 250, n % 250 + 1);
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: app-{}-{n:06}\n  namespace: team-{}\n  uid: 0b1a7a2e-0000-4000-8000-{n:012}\n  \
         labels: {{app: app-{}, pod-template-hash: 7c5ddbdf{}, tier: backend, release: stable}}\nspec:\n  nodeName: node-1\n  \
         containers:\n  - ports: [{{name: http, containerPort: 8080}}, {{name: metrics, containerPort: 9090}}]\n\
         status:\n  phase: Running\n  podIPs: [{{ip: 10.{}.{}.{low}}}, {{ip: 'fd00::{high:x}:{low:x}'}}]\n---\n",
        n % 600,
        n % 50,
        n % 600,
        n % 600,
        high / 256,
        high % 256,
    )
}

/// Returns the resident memory, now and at its highest, as the kernel has it.
fn memory() -> Result<String, Box<dyn Error>> {
    let status = fs::read_to_string("/proc/self/status")?;
    let lines = status
        .lines()
        .filter(|line| line.starts_with("VmRSS") || line.starts_with("VmHWM"));
    Ok(lines
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect::<Vec<_>>()
        .join(", "))
}
