//! `heddle status`: prints the status of the running agent, for people or as JSON.

mod nodes;
mod source;

use std::fmt::Write as _;
use std::path::Path;

use heddle_proto::status::{PortRole, Status};
use heddle_proto::{API_SOCKET, Bytes, Client, ClientError};

use crate::args::OutputFormat;
use crate::table::{duration, finish, left, ratio, table};

/// A status that cannot be read from the agent or printed.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// The agent does not answer, or refuses.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The answer cannot be written as JSON.
    #[error("cannot write the status as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// Asks the agent for its status and returns the text to print.
///
/// # Errors
/// No agent answers at that run directory.
pub async fn report(run_dir: &Path, format: OutputFormat) -> Result<String, StatusError> {
    let status = Client::connect(run_dir.join(API_SOCKET)).await?.status().await?;
    Ok(match format {
        OutputFormat::Json => serde_json::to_string_pretty(&status)? + "\n",
        OutputFormat::Text => text(&status),
    })
}

/// Renders the status for people.
#[must_use]
pub fn text(status: &Status) -> String {
    let mut out = String::new();
    head(status, &mut out);
    nodes::write(status, &mut out);
    workers(status, &mut out);
    ports(status, &mut out);
    drops(status, &mut out);
    denied(status, &mut out);
    rings(status, &mut out);
    attachments(status, &mut out);
    sizes(status, &mut out);
    rejections(status, &mut out);
    out
}

// Writing to a String cannot fail, hence the ignored results below.

/// Writes the agent, the source, the published tables and the node's own state.
fn head(status: &Status, out: &mut String) {
    let agent = &status.agent;
    let _ = writeln!(
        out,
        "node {}, heddle {}, process {}, up {}, start {}{}{}",
        agent.node,
        agent.version,
        agent.pid,
        duration(agent.uptime_seconds),
        agent.start,
        if agent.mode.is_empty() { "" } else { ", " },
        agent.mode,
    );
    source::write(&status.source, out);
    let snapshot = &status.snapshot;
    let behind = match snapshot.version == snapshot.acknowledged {
        true => String::new(),
        false => format!(", a worker still has version {}", snapshot.acknowledged),
    };
    let _ = writeln!(
        out,
        "tables: version {}, published {} ago{behind}",
        snapshot.version,
        duration(snapshot.age_seconds)
    );
    source::write_change_times(&snapshot.change_times, out);
    let host = &status.host;
    let verified = match host.verified_seconds {
        Some(seconds) => format!("verified {} ago", duration(seconds)),
        None => "never verified".to_owned(),
    };
    let repaired = match host.repaired {
        0 => String::new(),
        n => format!(", {n} changes by others repaired"),
    };
    let works = if host.works { "as planned" } else { "NOT as planned" };
    let _ = writeln!(out, "host port: {works}, {verified}{repaired}");
    for difference in &host.differences {
        let _ = writeln!(out, "  {difference}");
    }
    nodes::head(status, out);
    if let Some(why) = &status.state_not_kept {
        let _ = writeln!(out, "state NOT kept, a reboot would lose its last changes: {why}");
    }
    for check in status.checks.iter().filter(|check| !check.ok) {
        let _ = writeln!(out, "warning: {}: {}: {}", check.what, check.value, check.advice);
    }
}

/// Writes the table of workers.
fn workers(status: &Status, out: &mut String) {
    let mut table = table(
        "workers",
        &[
            "worker",
            "core",
            "ports",
            "turns",
            "busy",
            "sleeps",
            "woken",
            "packets a burst",
            "handed over",
            "tables",
        ],
        out,
    );
    for worker in &status.workers {
        let received: u64 = status
            .ports
            .iter()
            .filter(|p| p.worker == worker.worker)
            .map(|p| p.rx_packets)
            .sum();
        let bursts: u64 = worker.bursts.values().sum();
        table.add_row(vec![
            worker.worker.to_string(),
            worker.core.map_or("not pinned".to_owned(), |core| core.to_string()),
            worker.ports.to_string(),
            worker.turns.to_string(),
            format!("{:.1} %", worker.busy_ratio * 100.0),
            worker.sleeps.to_string(),
            worker.wakeups.to_string(),
            ratio(received, bursts),
            worker.handed_over.to_string(),
            worker.snapshot.to_string(),
        ]);
    }
    finish(&table, 1, out);
}

/// Writes the table of ports.
fn ports(status: &Status, out: &mut String) {
    let mut table = table(
        "ports",
        &[
            "port",
            "name",
            "interface",
            "XDP",
            "worker",
            "received",
            "bytes",
            "sent",
            "bytes",
            "forwarded",
            "answered",
            "absorbed",
            "dropped",
            "frames",
        ],
        out,
    );
    for port in &status.ports {
        let interface = match port.role {
            PortRole::Pod => port.interface.clone(),
            PortRole::Host | PortRole::Uplink => format!("{} queue {}", port.interface, port.queue),
        };
        table.add_row(vec![
            port.port.to_string(),
            port.name.clone(),
            interface,
            if port.xdp_mode.is_empty() { "-" } else { &port.xdp_mode }.to_owned(),
            port.worker.to_string(),
            port.rx_packets.to_string(),
            Bytes(port.rx_bytes).to_string(),
            port.tx_packets.to_string(),
            Bytes(port.tx_bytes).to_string(),
            port.forwarded.to_string(),
            port.answered.to_string(),
            port.absorbed.to_string(),
            port.dropped_total().to_string(),
            port.frames.to_string(),
        ]);
    }
    for column in [1, 2, 3] {
        left(&mut table, column);
    }
    finish(&table, 0, out);
}

/// Writes the drops: by port and reason, and by class.
fn drops(status: &Status, out: &mut String) {
    if status.ports.iter().any(|port| !port.dropped.is_empty()) {
        port_drops(status, out);
    }
    if !status.drops_by_class.is_empty() {
        let classes: Vec<String> = status
            .drops_by_class
            .iter()
            .map(|(class, n)| format!("{class} {n}"))
            .collect();
        let _ = writeln!(
            out,
            "
drops by class, closed ports included: {}",
            classes.join(", ")
        );
    }
}

/// Writes the table of drops by port and reason.
fn port_drops(status: &Status, out: &mut String) {
    let mut table = table(
        "drops, by the port where the packet came in",
        &["name", "class", "reason", "packets"],
        out,
    );
    for port in &status.ports {
        for (reason, count) in &port.dropped {
            let class = status.class_of(reason).unwrap_or("-");
            table.add_row(vec![
                port.name.clone(),
                class.to_owned(),
                reason.clone(),
                count.to_string(),
            ]);
        }
    }
    for column in [0, 1] {
        left(&mut table, column);
    }
    finish(&table, 0, out);
}

/// The maximum number of rows of denied packets; the rules that denied most are shown.
const DENIED_ROWS: usize = 20;

/// Writes the table of packets that policies denied.
fn denied(status: &Status, out: &mut String) {
    if status.denied.is_empty() && status.denied_by_others == 0 {
        return;
    }
    let mut table = table(
        "denied by policy (heddle drops shows the packets)",
        &["pod", "decided by", "packets"],
        out,
    );
    let mut all: Vec<_> = status.denied.iter().collect();
    all.sort_by_key(|denied| std::cmp::Reverse(denied.packets));
    let (shown, rest) = all.split_at(all.len().min(DENIED_ROWS));
    for denied in shown {
        table.add_row(vec![
            denied.pod.as_ref().map_or("-".to_owned(), ToString::to_string),
            denied.policy.says.clone(),
            denied.packets.to_string(),
        ]);
    }
    let others = rest.iter().map(|denied| denied.packets).sum::<u64>() + status.denied_by_others;
    if others > 0 {
        table.add_row(vec!["-".to_owned(), "others".to_owned(), others.to_string()]);
    }
    for column in [0, 1] {
        left(&mut table, column);
    }
    finish(&table, 0, out);
}

/// Writes the rings of the ports, if there is a port.
fn rings(status: &Status, out: &mut String) {
    if status.ports.is_empty() {
        return;
    }
    let mut table = table(
        "rings: entries that wait now, and the kernel's counters of the socket",
        &["name", "rx", "fill", "tx", "completion", "kernel"],
        out,
    );
    for port in &status.ports {
        let rings = &port.rings;
        let segments = &port.segments;
        let kernel: Vec<String> = port
            .xsk
            .iter()
            .map(|(name, n)| (&**name, *n))
            .chain([
                ("segments_sent", segments.sent),
                ("segments_refused", segments.refused),
                ("segments_invalid", segments.invalid),
            ])
            .filter(|(_, n)| *n > 0)
            .map(|(name, n)| format!("{name} {n}"))
            .collect();
        let mut row = vec![port.name.clone()];
        row.extend([rings.rx, rings.fill, rings.tx, rings.completion].map(|n| n.to_string()));
        row.push(if kernel.is_empty() {
            "-".to_owned()
        } else {
            kernel.join(", ")
        });
        table.add_row(row);
    }
    for column in [0, 5] {
        left(&mut table, column);
    }
    finish(&table, 0, out);
}

/// Writes the table of attachments.
fn attachments(status: &Status, out: &mut String) {
    if status.attachments.is_empty() {
        return;
    }
    let mut table = table(
        "attachments",
        &["number", "pod", "container", "interface", "addresses", "state"],
        out,
    );
    for attachment in &status.attachments {
        let addresses: Vec<String> = attachment.addresses.iter().map(ToString::to_string).collect();
        let why = if attachment.why.is_empty() {
            String::new()
        } else {
            format!(": {}", attachment.why)
        };
        table.add_row(vec![
            attachment.attachment.to_string(),
            attachment.pod.as_ref().map_or("-".to_owned(), ToString::to_string),
            attachment.container.as_str().chars().take(13).collect(),
            attachment.host_ifname.to_string(),
            addresses.join(" "),
            format!("{}{why}", attachment.state),
        ]);
    }
    for column in 1..6 {
        left(&mut table, column);
    }
    finish(&table, 0, out);
}

/// Writes table sizes, flows, fragments and frames.
fn sizes(status: &Status, out: &mut String) {
    let sizes: Vec<String> = status.tables.iter().map(|(name, n)| format!("{name} {n}")).collect();
    let _ = writeln!(out, "\ntables: {}", sizes.join(", "));
    let flows = &status.flows;
    let share = if flows.capacity == 0 {
        0.0
    } else {
        flows.used as f64 * 100.0 / flows.capacity as f64
    };
    let _ = writeln!(
        out,
        "flows: {} of {} ({share:.1} %), {} inserted, {} expired, {} refused (full), {} refused (quota), {} displaced, {} taken over, {} discarded",
        flows.used,
        flows.capacity,
        flows.inserted,
        flows.expired,
        flows.refused_full,
        flows.refused_quota,
        flows.displaced,
        flows.taken_over,
        flows.discarded
    );
    let fragments = &status.fragments;
    if fragments.first + fragments.waited > 0 {
        let _ = writeln!(
            out,
            "fragments: {} first, {} followed, {} held; {} of {} datagrams tracked, {} of {} frames held now",
            fragments.first,
            fragments.followed,
            fragments.waited,
            fragments.datagrams,
            fragments.datagrams_most,
            fragments.held_frames,
            fragments.held_frames_most,
        );
    }
    let frames = &status.frames;
    let holders: Vec<String> = frames
        .holders
        .iter()
        .map(|h| format!("{} {}", h.holder, h.frames))
        .collect();
    let _ = writeln!(
        out,
        "frames: {} of {} B, for at most {} pods: {}",
        frames.total,
        frames.frame_size,
        frames.max_pods,
        holders.join(", ")
    );
}

/// Writes the refused objects.
fn rejections(status: &Status, out: &mut String) {
    let count = status.rejections.len();
    let _ = writeln!(
        out,
        "refused objects: {count} now, {} since the start",
        status.rejections_total
    );
    for rejection in &status.rejections {
        let field = if rejection.field.is_empty() {
            String::new()
        } else {
            format!(" {}:", rejection.field)
        };
        let serves = if rejection.last_good_serves {
            " (its last good version serves)"
        } else {
            ""
        };
        let _ = writeln!(
            out,
            "  {}: {}:{field} {}{serves}",
            rejection.origin, rejection.object, rejection.message
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_the_status_is_shown() {
        let status: Status = serde_json::from_value(serde_json::json!({
            "agent": {"version": "0.1.0", "node": "n1", "pid": 7, "uptime_seconds": 3725, "start": 2, "mode": "copy"},
            "source": {"kind": "manifests", "from": "/m", "synced_seconds": 61, "age_seconds": 0, "objects": {"Pod": 4, "Node": 0}},
            "snapshot": {"version": 9, "acknowledged": 8, "age_seconds": 1},
            "workers": [{"worker": 0, "core": 1, "turns": 10, "busy_turns": 5, "sleeps": 1, "busy_ratio": 0.5,
                "bursts": {"1": 2}, "snapshot": 9, "ports": 2, "handed_over": 0}],
            "ports": [{"port": 64, "name": "pod:a/b", "role": "pod", "interface": "hd2-x", "queue": 0, "xdp_mode": "generic", "worker": 0, "rx_packets": 4,
                "segments": {"sent": 9, "refused": 0, "invalid": 1},
                "rx_bytes": 4096, "tx_packets": 2, "tx_bytes": 200, "forwarded": 1, "answered": 1, "absorbed": 0,
                "dropped": {"spoofed-source": 2}, "xsk": {"rx_ring_full": 3}, "frames": 64}],
            "drops": [{"reason": "spoofed-source", "class": "spoofing", "packets": 2}, {"reason": "no-route", "class": "unreachable", "packets": 5}],
            "drops_by_class": {"spoofing": 2, "unreachable": 5},
            "tables": {"endpoints": 3},
            "flows": {"used": 2, "capacity": 4, "inserted": 2, "expired": 0, "refused_full": 0, "refused_quota": 0, "taken_over": 1, "discarded": 0},
            "fragments": {"first": 3, "followed": 5, "waited": 2, "datagrams": 1, "datagrams_most": 1024, "held_frames": 0, "held_frames_most": 512},
            "frames": {"total": 16384, "frame_size": 4096, "max_pods": 128, "holders": [{"holder": "shared pool", "frames": 16384}]},
            "rejections": [{"origin": "a.yaml", "object": "Pod a/b", "field": "spec.x", "message": "is bad", "last_good_serves": true}],
            "rejections_total": 5,
            "attachments": [{"attachment": 2, "container": "c", "ifname": "eth0", "netns": "/n", "pod": {"namespace": "a", "name": "b"},
                "host_ifname": "hd2-x", "mac": "02:00:00:00:00:01", "addresses": ["10.0.0.9"], "state": "waiting", "why": "no pod"}],
            "denied": (0..30).map(|n| serde_json::json!({"pod": {"namespace": "a", "name": format!("b{n}")}, "packets": 100 + n,
                "policy": {"kind": "NetworkPolicy", "namespace": "a", "name": "p", "direction": "ingress", "rule": null,
                    "says": format!("default deny because a/p{n} selects this pod for ingress")}})).collect::<Vec<_>>(),
            "denied_by_others": 7,
        }))
        .unwrap();
        let shown = text(&status);
        for part in [
            "node n1, heddle 0.1.0, process 7, up 1 h 2 min, start 2, copy",
            "manifests /m: synced 1 min 1 s ago; Pod 4\n",
            "version 9, published 1 s ago, a worker still has version 8",
            "50.0 %",
            "2.0",
            "pod:a/b",
            "4.0 KiB",
            "pod:a/b  spoofing  spoofed-source        2
",
            "
drops by class, closed ports included: spoofing 2, unreachable 5
",
            "a/b29  default deny because a/p29 selects this pod for ingress      129\n",
            // The ten rules that denied least, and the rules without a counter of their own.
            "  -      others ",
            " 1052\n",
            "rx_ring_full 3, segments_sent 9, segments_invalid 1",
            " hd2-x      generic ",
            "waiting: no pod",
            "flows: 2 of 4 (50.0 %)",
            "fragments: 3 first, 5 followed, 2 held; 1 of 1024 datagrams tracked, 0 of 512 frames held now\n",
            "shared pool 16384",
            "refused objects: 1 now, 5 since the start\n  a.yaml: Pod a/b: spec.x: is bad (its last good version serves)",
        ] {
            assert!(shown.contains(part), "{part:?} is missing in:\n{shown}");
        }
    }
}
