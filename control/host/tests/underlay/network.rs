//! The namespaces of the tests, and what they wait for. A namespace has no name and is removed with its thread.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

use heddle_host::{HostConfig, HostHandle, Nft, NoPath, NodePath, Report, Underlay, start};
use heddle_linux::{Monitor, NeighborEntry, Netlink, sysctl};
use heddle_wire::MacAddr;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use tempfile::TempDir;

/// The longest wait for an event. The kernel looks at managed neighbors every 5 seconds (INTERVAL_PROBE_TIME_MS of the initial
/// namespace), so one that fails or comes back is seen within two such intervals.
const SOON: Duration = Duration::from_secs(20);

pub(crate) const NODE_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
pub(crate) const PEER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
pub(crate) const ROUTER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xfe]);

/// Runs a test in a network namespace of its own, which goes with its threads.
pub(crate) fn in_namespace(f: impl FnOnce() + Send + 'static) {
    std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("needs CAP_SYS_ADMIN");
        f();
    })
    .join()
    .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

/// Runs `ip` with the words of a line in the namespace of the calling thread.
pub(crate) fn ip(line: &str) {
    let out = Command::new("ip").args(line.split_whitespace()).output().unwrap();
    assert!(
        out.status.success(),
        "ip {line}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
}

pub(crate) fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

type Job = Box<dyn FnOnce() + Send>;

/// Another network namespace: a thread inside it that runs what it is sent.
pub(crate) struct Space {
    jobs: Sender<Job>,
    /// The thread's id, by which `ip link set netns` finds the namespace.
    thread: i32,
}

impl Space {
    fn new() -> Self {
        let (jobs, received) = mpsc::channel::<Job>();
        let (thread_in, thread) = mpsc::channel();
        std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("needs CAP_SYS_ADMIN");
            thread_in.send(nix::unistd::gettid().as_raw()).unwrap();
            received.into_iter().for_each(|job| job());
        });
        Self {
            jobs,
            thread: thread.recv().unwrap(),
        }
    }

    /// Runs `f` inside and waits for its end.
    pub(crate) fn run(&self, f: impl FnOnce() + Send + 'static) {
        let (done_in, done) = mpsc::channel();
        self.jobs
            .send(Box::new(move || {
                f();
                done_in.send(()).unwrap();
            }))
            .unwrap();
        done.recv().expect("the job has failed");
    }

    /// Runs lines of `ip` inside.
    pub(crate) fn ip(&self, lines: &[&str]) {
        let lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        self.run(move || lines.iter().for_each(|line| ip(line)));
    }
}

/// The network: the calling thread's namespace is the node, with the interface `up0`. The router has a bridge with the addresses
/// `.254`, `fd00::fe` and `fe80::fe`; the peer, another node, has `.2` and `fd00::2`. The segment is 10.0.0.0/16 and fd00::/64.
pub(crate) struct Network {
    pub(crate) router: Space,
    pub(crate) peer: Space,
}

impl Network {
    pub(crate) fn new() -> Self {
        let (router, peer) = (Space::new(), Space::new());
        ip("link set lo up");
        ip(&format!("link add up0 address {NODE_MAC} type veth peer name port1"));
        ip(&format!("link set port1 netns {}", router.thread));
        let to_peer = peer.thread;
        router.run(move || {
            ip("link set lo up");
            ip(&format!("link add br0 address {ROUTER_MAC} type bridge"));
            ip(&format!("link add port2 type veth peer name eth0 address {PEER_MAC}"));
            ip(&format!("link set eth0 netns {to_peer}"));
            for port in ["port1", "port2"] {
                ip(&format!("link set {port} master br0"));
                ip(&format!("link set {port} up"));
            }
            // Verified addresses only slow the tests down.
            sysctl::write("net/ipv6/conf/br0/accept_dad", "0").unwrap();
            ip("link set br0 up");
            ip("address add 10.0.0.254/16 dev br0");
            ip("address add fd00::fe/64 dev br0 nodad");
            ip("address add fe80::fe/64 dev br0 nodad");
        });
        peer.run(|| {
            sysctl::write("net/ipv6/conf/eth0/accept_dad", "0").unwrap();
            ip("link set lo up");
            ip("link set eth0 up");
            ip("address add 10.0.0.2/16 dev eth0");
            ip("address add fd00::2/64 dev eth0 nodad");
        });
        sysctl::write("net/ipv6/conf/up0/accept_dad", "0").unwrap();
        ip("link set up0 up");
        ip("address add 10.0.0.1/16 dev up0");
        ip("address add fd00::1/64 dev up0 nodad");
        Self { router, peer }
    }
}

/// Lets the kernel verify the node's neighbors every half second instead of every half minute.
pub(crate) fn verify_often() {
    for family in ["ipv4", "ipv6"] {
        for (key, value) in [
            ("base_reachable_time_ms", "500"),
            ("delay_first_probe_time", "1"),
            ("retrans_time_ms", "50"),
        ] {
            sysctl::write(&format!("net/{family}/neigh/up0/{key}"), value).unwrap();
        }
    }
}

/// A running host task of the node.
pub(crate) struct Node {
    pub(crate) handle: HostHandle,
    reports: Receiver<Arc<Underlay>>,
    pub(crate) state: TempDir,
}

impl Node {
    /// Starts the task. The uplink is found by the node's address 10.0.0.1.
    pub(crate) fn start() -> Self {
        let state = tempfile::tempdir().unwrap();
        let (sender, reports) = mpsc::channel();
        let config = HostConfig {
            queues: 1,
            mtu: 1500,
            state_dir: state.path().to_owned(),
            reserved_ports: 61_000..=65_535,
            uplink: None,
            nft: Nft::default(),
        };
        let (handle, _) = start(config, move |report| {
            if let Report::Underlay(underlay) = report {
                drop(sender.send(underlay));
            }
        })
        .unwrap();
        handle.set_node_addresses(vec![address("10.0.0.1")]);
        Self { handle, reports, state }
    }

    /// Starts the task and sets the other nodes.
    pub(crate) fn with_nodes(nodes: &[&str]) -> Self {
        let node = Self::start();
        node.set_nodes(nodes);
        node
    }

    pub(crate) fn set_nodes(&self, nodes: &[&str]) {
        self.handle.set_nodes(nodes.iter().map(|text| address(text)).collect());
    }

    /// Waits for a report that satisfies the condition and returns it. Each report differs from the one before.
    pub(crate) fn wait(&self, what: &str, is_it: impl Fn(&Underlay) -> bool) -> Arc<Underlay> {
        let until = Instant::now() + SOON;
        let mut last = None;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let Ok(report) = self.reports.recv_timeout(left) else {
                panic!(
                    "{what} was not reported; the last report: {last:#?}; {:?}",
                    self.handle.status()
                );
            };
            assert_ne!(last.as_ref(), Some(&report), "a report without a change");
            if is_it(&report) {
                return report;
            }
            last = Some(report);
        }
    }

    /// Waits until the path to a node satisfies the condition.
    pub(crate) fn wait_path(&self, node: &str, is_it: impl Fn(&Result<NodePath, NoPath>) -> bool) -> Arc<Underlay> {
        self.wait(&format!("the path to {node}"), |underlay| {
            underlay.paths.get(&address(node)).is_some_and(&is_it)
        })
    }

    /// Waits until the next hop of a node has this MAC.
    pub(crate) fn wait_mac(&self, node: &str, mac: Option<MacAddr>) -> Arc<Underlay> {
        self.wait_path(node, |path| path.is_ok_and(|path| path.mac == mac))
    }

    /// Ends the task, as an agent that is stopped.
    pub(crate) fn stop(self) {
        assert!(self.handle.stop(SOON));
    }

    /// Removes everything of heddle, as `heddle cleanup` does.
    pub(crate) fn clean_up(state: &Path) -> Vec<String> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let netlink = heddle_host::netlink::connect().unwrap();
        runtime.block_on(heddle_host::remove(&netlink, state)).unwrap()
    }
}

/// The neighbor entries of the node, as they change.
pub(crate) struct Neighbors {
    netlink: Netlink,
    monitor: Monitor,
}

/// The entries of `up0` by address.
pub(crate) type Table = BTreeMap<IpAddr, NeighborEntry>;

impl Neighbors {
    pub(crate) fn open() -> Self {
        Self {
            netlink: Netlink::open().unwrap(),
            monitor: Monitor::network().unwrap(),
        }
    }

    /// Returns the entries now.
    pub(crate) fn table(&self) -> Table {
        let up0 = self.netlink.link("up0").unwrap().unwrap();
        let entries = self.netlink.neighbors().unwrap().into_iter();
        entries
            .filter(|entry| entry.index == up0.index)
            .map(|entry| (entry.address, entry))
            .collect()
    }

    /// Waits until the entries satisfy the condition.
    pub(crate) fn wait(&self, what: &str, is_it: impl Fn(&Table) -> bool) -> Table {
        let until = Instant::now() + SOON;
        loop {
            // Before the dump, so that a later change ends the wait.
            let _ = self.monitor.drain();
            let table = self.table();
            if is_it(&table) {
                return table;
            }
            let left = until.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{what}: {table:#?}");
            let mut fds = [PollFd::new(self.monitor.as_fd(), PollFlags::POLLIN)];
            poll(&mut fds, PollTimeout::try_from(left).unwrap()).unwrap();
        }
    }

    /// Returns the addresses of heddle's entries.
    pub(crate) fn heddles(table: &Table) -> BTreeSet<IpAddr> {
        let ours = table
            .values()
            .filter(|entry| entry.managed && entry.ext_learned && entry.protocol == 104);
        ours.map(|entry| entry.address).collect()
    }
}

pub(crate) fn addresses(texts: &[&str]) -> BTreeSet<IpAddr> {
    texts.iter().map(|text| address(text)).collect()
}
