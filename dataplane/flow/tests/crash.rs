//! A process is killed while several of its threads insert and remove, and the next one takes the file over.
//!
//! The child is this test binary again. It reports the progress of each thread on its standard output. So the test kills it at a
//! random moment, and still knows the connections that must be in the table.
#![cfg(not(any(loom, miri)))]

use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use heddle_flow::{
    BootId, Config, Egress, EndpointId, FlowFlags, FlowKey, FlowTable, Generation, InsertError, Millis, NewFlow,
    NodeId, Origin, Quotas, Rewrite, SlotId,
};
use heddle_wire::rewrite::Tuple;
use heddle_wire::{Ip, Proto, TcpFlags};

const FILE: &str = "HEDDLE_FLOW_CRASH_FILE";
const BOOT: BootId = BootId(42);
const NOW: Millis = Millis(1000);
const THREADS: u32 = 3;
const CAPACITY: u32 = 200_000;
/// One of this many connections is not removed.
const STANDING: u32 = 16;
/// The connections of a thread that live at a time, without the ones that are not removed.
const WINDOW: u32 = 100;
const REPORT: u32 = 200;

fn config() -> Config {
    Config {
        capacity: CAPACITY,
        quotas: Quotas::default(),
        ..Config::default()
    }
}

/// Completes the handshake of a connection. Returns false if the connection was displaced before.
fn touch(table: &FlowTable, slot: SlotId) -> bool {
    table.touch(slot.peer(), NOW, 1, TcpFlags::SYN | TcpFlags::ACK) && table.touch(slot, NOW, 1, TcpFlags::ACK)
}

/// Inserts a connection with a complete handshake: a full table does not displace it.
fn establish(table: &FlowTable, f: &NewFlow, r: &NewFlow) -> Result<SlotId, InsertError> {
    loop {
        let (slot, _) = table.insert(f, r, NOW)?;
        if touch(table, slot) {
            return Ok(slot);
        }
    }
}

/// Connection `n` of a thread: everything in it follows from the two numbers.
fn connection(thread: u32, n: u32) -> (NewFlow, NewFlow) {
    let arrives = Tuple {
        src: Ip::from_v4([10, thread as u8, 0, 1]),
        dst: Ip::from_v4(n.to_be_bytes()),
        sport: n as u16,
        dport: 80,
    };
    let leaves = Tuple {
        dport: !(n as u16),
        ..arrives
    };
    let direction = |tuple: Tuple, to: Tuple, origin, flags| {
        let key = FlowKey::opening(tuple, Proto::TCP, origin);
        NewFlow {
            key,
            rewrite: Rewrite::between(&key, to),
            egress: Egress::Node(NodeId(n as u16)),
            endpoints: [EndpointId(thread as u16 + 2); 2],
            generations: [Generation(n), Generation(n)],
            mss_clamp: n as u16,
            flags,
        }
    };
    let forward = direction(arrives, leaves, Origin::HOST, FlowFlags::NAT);
    (
        forward,
        direction(leaves.reversed(), arrives.reversed(), Origin::UPLINK, FlowFlags::REPLY),
    )
}

/// The child's part, which is no test by itself: it inserts and removes until it is killed or the table is full.
#[test]
fn child() {
    let Some(path) = std::env::var_os(FILE) else { return };
    let (table, _) = FlowTable::open(Path::new(&path), &config(), BOOT, NOW).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let table = &table;
            scope.spawn(move || {
                let mut window = std::collections::VecDeque::new();
                for n in 0.. {
                    let (f, r) = connection(thread, n);
                    match establish(table, &f, &r) {
                        Ok(slot) if n % STANDING != 0 => window.push_back(slot),
                        Ok(_) => {}
                        Err(InsertError::Full) => return,
                        Err(other) => panic!("{other}"),
                    }
                    if window.len() as u32 > WINDOW {
                        assert!(window.pop_front().is_some_and(|slot| table.remove(slot)));
                    }
                    if n % REPORT == 0 {
                        let mut out = std::io::stdout().lock();
                        writeln!(out, "progress {thread} {n}")
                            .and_then(|()| out.flush())
                            .unwrap();
                    }
                }
            });
        }
    });
}

/// Starts the child, kills it after `reports` reports, and returns how many connections each thread had made at least.
fn run_and_kill(path: &Path, reports: u32) -> io::Result<[u32; THREADS as usize]> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(["--exact", "child", "--nocapture"])
        .env(FILE, path)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut made = [0; THREADS as usize];
    let mut note = |line: &str| {
        let progress = line.split_once("progress ").and_then(|(_, p)| p.split_once(' '));
        let numbers = progress.and_then(|(t, n)| t.parse::<usize>().ok().zip(n.parse::<u32>().ok()));
        numbers.inspect(|&(thread, n)| made[thread] = n + 1).is_some()
    };
    let mut lines = BufReader::new(child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?)
        .lines()
        .map_while(Result::ok);
    let mut seen = 0;
    while seen < reports {
        let line = lines
            .next()
            .ok_or_else(|| io::Error::other("the child ended by itself"))?;
        seen += u32::from(note(&line));
    }
    child.kill()?;
    child.wait()?;
    lines.for_each(|line| {
        note(&line);
    });
    Ok(made)
}

#[test]
fn a_table_whose_owner_was_killed_is_whole_again() {
    for round in 0..12 {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("flows");
        let made = run_and_kill(&path, 5 + 17 * round).unwrap();
        let (table, takeover) = FlowTable::open(&path, &config(), BOOT, NOW).unwrap();
        assert_eq!(takeover.fresh, None, "round {round}");
        // Each thread can have been in the middle of one insert or removal.
        let lost = takeover.discarded_torn + takeover.discarded_orphans;
        assert!(lost <= THREADS, "round {round}: {takeover:?}");
        assert_eq!(table.stats().used, takeover.entries_kept);

        // Every connection in the table is one that was inserted.
        let mut slots = Vec::new();
        table.for_each(|c| {
            slots.push(c.slot);
            let (thread, n) = (c.keys[0].tuple.src.v4_octets()[1], c.keys[0].tuple.dst.v4_octets());
            let (f, r) = connection(thread.into(), u32::from_be_bytes(n));
            for (direction, flow) in [f, r].into_iter().enumerate() {
                let mut out = [None];
                table.lookup(&[flow.key], NOW, &mut out);
                let hit = out[0].unwrap_or_else(|| panic!("round {round}: {:?} is not found", flow.key));
                assert_eq!(hit.slot, if direction == 0 { c.slot } else { c.slot.peer() });
                assert_eq!(hit.view, c.views[direction]);
                assert_eq!(
                    (
                        hit.view.rewrite,
                        hit.view.egress,
                        hit.view.generations,
                        hit.view.mss_clamp,
                        hit.view.flags
                    ),
                    (flow.rewrite, flow.egress, flow.generations, flow.mss_clamp, flow.flags)
                );
            }
        });
        assert_eq!(slots.len() as u32, takeover.entries_kept);

        // Every connection that was inserted before the last report, and never removed, is in the table.
        for (thread, made) in made.into_iter().enumerate() {
            for n in (0..made).step_by(STANDING as usize) {
                let key = connection(thread as u32, n).0.key;
                assert!(
                    table.find_tuple(&key, NOW).is_some(),
                    "round {round}: {thread}/{n} is lost"
                );
            }
        }

        // No slot is lost: every free one can be used.
        for n in 0..CAPACITY - takeover.entries_kept {
            let (f, r) = connection(200, n);
            establish(&table, &f, &r).unwrap_or_else(|e| panic!("round {round}, {n}: {e}"));
        }
        table.for_each(|c| {
            touch(&table, c.slot);
        });
        let (f, r) = connection(201, 0);
        assert_eq!(table.insert(&f, &r, NOW), Err(InsertError::Full));
    }
}
